"""`vboot build` and `vboot compose`, run for real."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import gguf
import pytest

from tests.support.vboot import STEPS, Vboot, write_gguf, write_key


def test_build_writes_the_image_and_its_manifest(image: Path) -> None:
    manifest = json.loads((image / "manifest.json").read_text())
    assert set(manifest["outputs"]) == {
        "vector_boot.rts",
        "vectorland.gguf",
        "initramfs.cpio",
        "vmlinuz",
        "sbom.cdx.json",
    }
    for name, entry in manifest["outputs"].items():
        data = (image / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["inputs"]["compose"]["source"] == "tiny"
    assert manifest["inputs"]["rts"]["security_version"] == 7
    assert len(manifest["inputs"]["executable"]["sha256"]) == 64
    assert manifest["configuration"]["image"]["signing_key"] == "key.pem"
    assert str(image) not in (image / "manifest.json").read_text()


def test_build_with_nothing_to_do(vboot: Vboot, image: Path) -> None:
    arguments = ["build", "--model", "tiny", "--output", str(image), "--security-version", "7"]
    answer = vboot.json(*arguments, "--signing-key", image.parent / "key.pem")
    assert [(step["name"], step["ran"]) for step in answer["steps"]] == [(name, False) for name in STEPS]
    assert "image file: up to date" in vboot.err


def test_the_end_names_a_model_that_was_kept_from_the_last_build(
    vboot: Vboot, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAKELEVEL", raising=False)
    again = ("build", "--output", image, "--signing-key", image.parent / "key.pem")
    for words, option in ((again, "--model minilm"), ((*again, "--model", "tiny"), None)):
        assert vboot(*words) == 0
        kept = f"model     tiny (kept from the last build; {option} builds the default)"
        assert (vboot.out.splitlines()[-2] == kept) is (option is not None)
        monkeypatch.setenv("MAKELEVEL", "1")
    assert vboot(*again) == 0
    assert "(kept from the last build; MODEL=minilm builds the default)\nnext: " in vboot.out


def test_build_is_the_same_elsewhere(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "key.pem")
    (tmp_path / "appliance.toml").write_text(
        '[model]\nsource = "tiny"\n[image]\nsecurity_version = 7\nsigning_key = "key.pem"\noutput = "elsewhere"\n'
    )
    before = os.umask(0o077)
    try:
        assert vboot("build") == 0
    finally:
        os.umask(before)
    for name in ("vector_boot.rts", "vectorland.gguf", "initramfs.cpio", "vmlinuz", "sbom.cdx.json", "manifest.json"):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (image / name).read_bytes()
    assert "7 of 7 parts built" in vboot.out


def test_dry_run_names_the_reason_and_writes_nothing(vboot: Vboot, tmp_path: Path) -> None:
    answer = vboot.json("build", "--dry-run", "--model", "tiny")
    assert {step["name"]: step["ran"] for step in answer["steps"]} == dict.fromkeys(STEPS, True)
    assert list(tmp_path.iterdir()) == []
    assert vboot("build", "--dry-run", "--model", "tiny") == 0
    assert "model file         would be built  vectorland.gguf is missing" in vboot.out


def test_model_comes_from_flag_environment_or_file(
    vboot: Vboot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def steps() -> set[str]:
        return {step["name"] for step in vboot.json("build", "--dry-run")["steps"]}

    assert "weights" in steps()
    (tmp_path / "appliance.toml").write_text('[model]\nsource = "tiny"\n')
    assert "weights" not in steps()
    monkeypatch.setenv("MODEL", "a model of another program")
    assert "weights" not in steps()
    monkeypatch.setenv("VBOOT_MODEL", "minilm")
    assert "weights" in steps()
    assert "weights" not in {step["name"] for step in vboot.json("build", "--dry-run", "--model", "tiny")["steps"]}


def test_an_unknown_model_from_the_environment_names_the_variable(
    vboot: Vboot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBOOT_MODEL", "minlm")
    assert vboot("build") == 1
    assert vboot.err == (
        "vboot: error: environment variable VBOOT_MODEL (MODEL= of make): "
        "model.source = 'minlm' is neither a built-in model nor a file; did you mean minilm?\n"
    )
    assert vboot("build", "--model", "minlm") == 1
    assert "VBOOT_MODEL" not in vboot.err


def test_unknown_model(vboot: Vboot) -> None:
    assert vboot("build", "--model", "minlm") == 1
    assert vboot.err == (
        "vboot: error: model.source = 'minlm' is neither a built-in model nor a file; did you mean minilm?\n"
    )


def test_unusable_key(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    assert vboot("build", "--model", "tiny", "--output", "o", "--signing-key", "key.pem") == 1
    assert "vboot: error: the key key.pem holds no PEM key" in vboot.last_error()
    assert not (tmp_path / "o/vector_boot.rts").exists()


def test_compose_a_model_of_the_user(vboot: Vboot, tmp_path: Path) -> None:
    write_gguf(tmp_path / "own.gguf")
    assert vboot("compose", "--model", "own.gguf", "-o", "out.gguf") == 0
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors]
    assert names[0] == "weights"
    assert {"hw.mmio", "cortex_journal", "kernel.0", "evolved.7"} <= set(names)
    assert vboot("compose", "--model", "own.gguf", "-o", "out.gguf") == 0
    assert "everything was up to date" in vboot.out


def test_compose_runs_the_rust_check_first(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(16))
    assert vboot("compose", "--model", "bad.gguf", "-o", "out.gguf") == 1
    assert "bad.gguf: R2: version: offset 4" in vboot.last_error()
    assert not (tmp_path / "out.gguf").exists()
