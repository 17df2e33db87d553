from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.config import load_config
from builder.manifest import Manifest, OutputFile, configuration_of, parse_outputs, read_manifest, render_manifest
from builder.settings import Config, Value
from tests.support.vboot import KEY
from vboot.errors import InputError

OUTPUTS = [OutputFile("b.rts", 5, "22"), OutputFile("a.gguf", 3, "11")]


def render(signing_key: Ed25519PrivateKey | None = None) -> bytes:
    return render_manifest(
        outputs=OUTPUTS,
        inputs={"rts": {"security_version": 7}, "compose": {"name": "modèle"}, "silent": {}},
        tools={"rustc": "1.88"},
        configuration={"model": {"source": "tiny", "type": None}},
        signing_key=signing_key,
    )


def test_manifest_says_everything() -> None:
    document = json.loads(render())
    assert document.pop("seal").keys() == {"sha256"}
    assert document == {
        "version": 1,
        "outputs": {"a.gguf": {"bytes": 3, "sha256": "11"}, "b.rts": {"bytes": 5, "sha256": "22"}},
        "inputs": {"compose": {"name": "modèle"}, "rts": {"security_version": 7}},
        "tools": {"rustc": "1.88"},
        "configuration": {"model": {"source": "tiny", "type": None}},
    }


def test_keys_are_sorted_and_the_last_line_ends() -> None:
    text = render().decode()
    assert text.index('"configuration"') < text.index('"inputs"') < text.index('"outputs"') < text.index('"tools"')
    assert text.index("a.gguf") < text.index("b.rts")
    assert text.endswith("}\n")


def test_every_flipped_bit_breaks_the_seal() -> None:
    data = render(signing_key=KEY)
    assert read_manifest(data, origin="m").inputs["rts"] == {"security_version": 7}
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            manifest = read_manifest(bytes(flipped), origin="m")
        except InputError as error:
            assert str(error).startswith("m ")  # noqa: PT017 -- 13,000 cases
        else:
            # The signature and its key are not under the seal, but the signature says when they are wrong.
            assert manifest.key_id != read_manifest(data, origin="m").key_id or not is_signed(manifest)


def is_signed(manifest: Manifest) -> bool:
    try:
        manifest.require_signature(KEY.public_key(), origin="m")
    except InputError:
        return False
    return True


def test_a_signature_is_by_one_key() -> None:
    manifest = read_manifest(render(signing_key=KEY), origin="m")
    assert is_signed(manifest)
    assert not is_signed(read_manifest(render(signing_key=Ed25519PrivateKey.generate()), origin="m"))
    assert not is_signed(read_manifest(render(), origin="m"))


def test_outputs_are_read_back() -> None:
    assert parse_outputs(render(), origin="m") == {output.path: output for output in OUTPUTS}


def config(**flags: Value) -> Config:
    return load_config(
        flags={name.replace("__", "."): value for name, value in flags.items()}, environment={}, file=None
    )


def test_the_configuration_holds_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = config(
        model__source="own.gguf", image__signing_key=Path("k.pem"), kernel__source="bz", kernel__config=Path("c")
    )
    there = config(
        model__source="/x/own.gguf",
        image__output=Path("/x/out"),
        image__signing_key=Path("/x/k.pem"),
        kernel__source="/x/bz",
        kernel__config=Path("/x/c"),
        machine__cpus=9,
    )
    assert configuration_of(here) == configuration_of(there)
    assert json.loads(json.dumps(configuration_of(here)))["image"]["signing_key"] == "k.pem"


def test_configuration_tells_images_apart() -> None:
    plain = configuration_of(config())
    for flags in (
        {"model__source": "tiny"},
        {"model__type": "F32"},
        {"image__security_version": 1},
        {"image__signing_key": Path("k")},
        {"kernel__source": "bz"},
        {"kernel__modules": Path("m")},
        {"runtime__heartbeat_ms": 50},
        {"runtime__onfail": "hold"},
        {"runtime__energy": "off"},
        {"runtime__fault": 1},
    ):
        assert configuration_of(config(**flags)) != plain


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b"null", b'{"version": 1}', b'{"version": 1, "outputs": []}', b"\xff", b"[" * 5000,
     b'{"version": 1, "outputs": {"a": {}}}', b'{"version": 1, "outputs": {"a": {"bytes": "1", "sha256": "x"}}}'],
)  # fmt: skip
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"build/manifest\.json is not a manifest; run `vboot build` again"):
        parse_outputs(data, origin="build/manifest.json")


def test_newer_version_is_refused() -> None:
    with pytest.raises(InputError, match="of version 2, expected 1"):
        parse_outputs(b'{"version": 2, "outputs": {}}', origin="m")


@given(st.integers(0, len(render()) - 1), st.binary(max_size=3), st.integers(0, 9))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_damage_gives_outputs_or_an_input_error(position: int, replacement: bytes, removed: int) -> None:
    data = render()
    with contextlib.suppress(InputError):
        for output in parse_outputs(data[:position] + replacement + data[position + removed :], origin="m").values():
            assert isinstance(output.size, int)
            assert isinstance(output.sha256, str)
