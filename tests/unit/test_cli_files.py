"""`vboot inspect`, `verify`, `extract` and `repack`, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.executable import executable_path
from tests.support.vboot import PUBLIC_HEX, Vboot, write_gguf, write_key
from vboot.check import CheckError, check_file


def flipped(source: Path, target: Path, offset: int) -> Path:
    data = bytearray(source.read_bytes())
    data[offset] ^= 1
    target.write_bytes(data)
    return target


def test_inspect_agrees_with_the_gguf_package(vboot: Vboot, image: Path) -> None:
    answer = vboot.json("inspect", image / "vectorland.gguf")
    expected = [
        {
            "name": tensor.name,
            "type": tensor.tensor_type.name,
            "shape": [int(n) for n in tensor.shape],
            "offset": tensor.data_offset,
            "bytes": tensor.n_bytes,
        }
        for tensor in gguf.GGUFReader(image / "vectorland.gguf").tensors
    ]
    assert answer["tensors"] == expected
    assert answer["gguf"]["architecture"] == "bert"


def test_inspect_shows_an_rts_file(vboot: Vboot, image: Path) -> None:
    answer = vboot.json("inspect", image / "vector_boot.rts")
    assert answer["tensors"] == vboot.json("inspect", image / "vectorland.gguf")["tensors"]
    assert answer["rts"]["security_version"] == 7
    assert vboot("inspect", image / "vector_boot.rts") == 0
    assert answer["rts"]["tensor_sha256"] in vboot.out
    assert f"by key {answer['rts']['key_id']}" in vboot.out
    assert "token_embd.weight" in vboot.out


def test_names_in_a_file_cannot_drive_the_terminal(vboot: Vboot, tmp_path: Path) -> None:
    write_gguf(tmp_path / "evil.gguf", name="a\x1b[31mb")
    assert vboot("inspect", "evil.gguf") == 0
    assert "\x1b" not in vboot.out
    assert r"a\x1b[31mb" in vboot.out


def test_inspect_refuses_what_the_rust_reader_refuses(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    flipped(image / "vector_boot.rts", tmp_path / "bad.rts", 0)
    error = vboot.json("inspect", "bad.rts", code=1)["error"]
    assert (error["type"], error["rule"], error["field"], error["offset"]) == ("CheckError", "RTS", "magic", 0)
    assert vboot.last_error().startswith("vboot: error: bad.rts: RTS: magic: offset 0")


def test_verify_a_sound_image(vboot: Vboot, image: Path) -> None:
    answer = vboot.json("verify", image / "vector_boot.rts", "--key", PUBLIC_HEX)
    assert (answer["readers"], answer["signature"], answer["manifest"]) == (["rust", "python"], "verified", "agrees")
    assert answer["digests"] == "of binary and tensor verified"
    assert vboot("verify", image / "vectorland.gguf") == 0
    assert "sound GGUF file, manifest agrees" in vboot.out


def test_verify_without_a_key_does_not_check_the_signature(vboot: Vboot, image: Path) -> None:
    assert vboot.json("verify", image / "vector_boot.rts")["signature"] == "not checked (give --key)"


@pytest.mark.parametrize("offset", [0, 4, 20, 41, 80, 105, 140, 150, 300, 600, -1])
def test_verify_finds_a_flipped_bit_anywhere(vboot: Vboot, image: Path, tmp_path: Path, offset: int) -> None:
    flipped(image / "vector_boot.rts", tmp_path / "bad.rts", offset)
    assert vboot("verify", "bad.rts", "--key", PUBLIC_HEX) == 1
    assert vboot.last_error().startswith("vboot: error: bad.rts: RTS: ")


def test_verify_needs_both_readers_to_accept(
    vboot: Vboot, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped(image / "vector_boot.rts", tmp_path / "bad.rts", -1)
    report = vboot.json("inspect", image / "vector_boot.rts") | {"ok": True}
    (tmp_path / "report").write_text(json.dumps(report))
    credulous = tmp_path / "credulous"
    credulous.write_text(f"#!/bin/sh\ncat {tmp_path}/report\n")
    credulous.chmod(0o755)
    monkeypatch.setattr("cli.verify.rust_reader", lambda _: credulous)
    assert vboot("verify", "bad.rts") == 1
    assert "tensor_sha256" in vboot.last_error()


def test_verify_with_another_key(vboot: Vboot, image: Path) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()
    assert vboot("verify", image / "vector_boot.rts", "--key", other) == 1
    assert "key_id" in vboot.last_error()


def test_verify_against_the_manifest_beside(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((image / "manifest.json").read_bytes())
    write_gguf(tmp_path / "vectorland.gguf")
    assert vboot("verify", "vectorland.gguf") == 1
    assert "manifest.json lists" in vboot.last_error()
    write_gguf(tmp_path / "unlisted.gguf")
    assert vboot.json("verify", "unlisted.gguf")["manifest"] is None


def test_extract_gives_back_what_was_packed(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    assert vboot("extract", image / "vector_boot.rts", "--binary", "elf", "--tensors", "gguf") == 0
    assert (tmp_path / "elf").read_bytes() == executable_path().read_bytes()
    assert (tmp_path / "gguf").read_bytes() == (image / "vectorland.gguf").read_bytes()
    assert vboot("extract", image / "vector_boot.rts") == 1
    assert "nothing to extract" in vboot.last_error()


def test_repack_replaces_one_half(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "new.gguf")
    key = write_key(tmp_path / "key.pem")
    rts = image / "vector_boot.rts"
    assert vboot("repack", rts, "--tensors", "new.gguf", "-o", "new.rts", "--signing-key", key) == 0
    assert vboot.json("verify", "new.rts", "--key", PUBLIC_HEX)["signature"] == "verified"
    assert vboot("extract", "new.rts", "--tensors", "again.gguf", "--binary", "elf") == 0
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()
    assert (tmp_path / "elf").read_bytes() == executable_path().read_bytes()
    assert vboot("repack", rts, "--binary", "elf", "-o", "unsigned.rts") == 0
    assert "unsigned" in vboot.out
    assert vboot.json("verify", "unsigned.rts")["signature"] == "none"


def test_repack_takes_no_bad_tensors(vboot: Vboot, image: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    assert vboot("repack", image / "vector_boot.rts", "--tensors", "bad.gguf", "-o", "new.rts") == 1
    assert "bad.gguf: R2" in vboot.last_error()
    assert not (tmp_path / "new.rts").exists()


def test_the_reader_finds_an_image_in_a_part_of_a_disk(image: Path, tmp_path: Path) -> None:
    rts = (image / "vector_boot.rts").read_bytes()
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096) + rts + b"hash tree")
    place = (4096, len(rts) + 9)
    whole = check_file(executable_path(), image / "vector_boot.rts")
    found = check_file(executable_path(), disk, public_key=bytes.fromhex(PUBLIC_HEX), part=place)
    assert found["rts"] == whole["rts"] | {"signature_verified": True}
    assert found["gguf"] == whole["gguf"]
    for part, why in (
        ((4095, len(rts)), "RTS: magic: offset 0"),
        ((4096, len(rts) - 1), "RTS: tensor_size"),
        ((4096, len(rts) + 10), rf"expected {len(rts) + 10} bytes from byte 4096"),
        ((2**64 - 1, 2), r"expected 2 bytes from byte 18446744073709551615"),
    ):
        with pytest.raises(CheckError, match=why):
            check_file(executable_path(), disk, part=part)
