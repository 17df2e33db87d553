"""RTS files on disk: write, verify, extract, repack."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import shutil
import struct
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image.rts import RtsError, pack_header
from image.rts_file import elf_end, extract, key_id, repack, verify_rts, write_rts
from tests.support.rts_vectors import ELF, GGUF
from vboot.errors import InputError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    """A real executable: this Python's own interpreter is one on every machine that runs the tests."""
    return Path(shutil.copy(os.path.realpath(sys.executable), tmp_path / "init"))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """Larger than a chunk, and of an odd length."""
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUF + random.Random(1).randbytes(3_000_001))
    return path


def test_write_and_verify(tmp_path: Path, elf: Path, gguf: Path) -> None:
    output = tmp_path / "out.rts"
    header = write_rts(output, binary=elf, tensors=gguf, security_version=3)
    data = output.read_bytes()
    padding = -(512 + elf.stat().st_size) % 4096
    binary = elf.read_bytes() + bytes(padding)
    assert data == pack_header(header) + binary + gguf.read_bytes()
    assert header.bootable
    assert (header.binary_sha256, header.security_version) == (hashlib.sha256(binary).digest(), 3)
    assert header.tensor_sha256 == hashlib.sha256(gguf.read_bytes()).digest()
    assert verify_rts(output) == header
    assert not header.signed


def test_same_inputs_same_bytes(tmp_path: Path, elf: Path, gguf: Path) -> None:
    for name in ("a", "b"):
        write_rts(tmp_path / name, binary=elf, tensors=gguf, signing_key=KEY)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_signature(tmp_path: Path, elf: Path, gguf: Path) -> None:
    output = tmp_path / "out.rts"
    header = write_rts(output, binary=elf, tensors=gguf, signing_key=KEY)
    assert header.key_id == key_id(KEY.public_key())
    assert verify_rts(output, public_key=KEY.public_key()) == header
    with pytest.raises(RtsError) as caught:
        verify_rts(output, public_key=OTHER_KEY.public_key())
    assert caught.value.field == "key_id"
    assert str(output) in str(caught.value)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("section", ["binary_sha256", "tensor_sha256"])
def test_a_flipped_bit_is_found(tmp_path: Path, elf: Path, gguf: Path, section: str, where: str) -> None:
    output = tmp_path / "out.rts"
    header = write_rts(output, binary=elf, tensors=gguf)
    start, size = (
        (512, header.binary_size) if section == "binary_sha256" else (header.tensor_offset, header.tensor_size)
    )
    offset = start + {"first": 16, "middle": size // 2, "last": size - 1}[where]
    with output.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(RtsError) as caught:
        verify_rts(output)
    assert caught.value.field == section
    with pytest.raises(RtsError):
        extract(output, binary=tmp_path / "elf.out", tensors=tmp_path / "gguf.out")
    assert not (tmp_path / "elf.out").exists()
    assert not (tmp_path / "gguf.out").exists()


def test_extract_gives_both_inputs_back(tmp_path: Path, elf: Path, gguf: Path) -> None:
    output = tmp_path / "out.rts"
    header = write_rts(output, binary=elf, tensors=gguf)
    assert extract(output, binary=tmp_path / "elf.out", tensors=tmp_path / "gguf.out") == header
    assert (tmp_path / "elf.out").read_bytes() == elf.read_bytes()
    assert os.access(tmp_path / "elf.out", os.X_OK)
    assert (tmp_path / "gguf.out").read_bytes() == gguf.read_bytes()


@pytest.mark.parametrize("tail", [b"", b"appended payload", bytes(5000)])
def test_extract_keeps_what_no_table_explains(tmp_path: Path, elf: Path, gguf: Path, tail: bytes) -> None:
    """An ELF may carry appended data; stripping must never cut into it."""
    elf.write_bytes(elf.read_bytes() + tail)
    write_rts(tmp_path / "out.rts", binary=elf, tensors=gguf)
    extract(tmp_path / "out.rts", binary=tmp_path / "elf.out")
    extracted = (tmp_path / "elf.out").read_bytes()
    assert extracted.startswith(elf.read_bytes())
    assert extracted.strip(b"\0") == elf.read_bytes().strip(b"\0")
    assert (len(extracted) == len(elf.read_bytes())) == (tail == b"")


def test_extract_keeps_all_of_an_elf_without_tables(tmp_path: Path, elf: Path, gguf: Path) -> None:
    elf.write_bytes(ELF + b"code")
    write_rts(tmp_path / "out.rts", binary=elf, tensors=gguf)
    extract(tmp_path / "out.rts", binary=tmp_path / "elf.out")
    assert (tmp_path / "elf.out").read_bytes() == (ELF + b"code").ljust(3584, b"\0")


def test_elf_end_of_broken_tables_is_unknown(elf: Path) -> None:
    data = elf.read_bytes()
    assert elf_end(data + bytes(999)) == len(data)
    assert elf_end(data[:-1]) is None
    for offset, garbage in ((0x28, 2**63), (0x20, 2**64 - 8), (0x28, len(data) - 10)):
        broken = data[:offset] + garbage.to_bytes(8, "little") + data[offset + 8 :]
        assert elf_end(broken) is None
    for length in range(0, 64, 7):
        assert elf_end(data[:length]) is None


def test_elf_end_ignores_sections_without_file_contents() -> None:
    """A .bss section has an offset and a size, and no bytes in the file."""
    header = bytearray(ELF)
    header[0x28:0x30] = (64).to_bytes(8, "little")
    header[0x3C:0x3E] = (1).to_bytes(2, "little")
    for kind, end in ((8, 128), (1, None)):
        section = struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, 100, 5000, 0, 0, 0, 0)
        assert elf_end(bytes(header) + section + bytes(999)) == end


@pytest.mark.parametrize("half", ["binary", "tensors"])
def test_repack_replaces_one_half(tmp_path: Path, elf: Path, gguf: Path, half: str) -> None:
    old = write_rts(tmp_path / "old.rts", binary=elf, tensors=gguf, security_version=9, signing_key=OTHER_KEY)
    replacement = tmp_path / "new"
    replacement.write_bytes(ELF + bytes(70) if half == "binary" else GGUF)
    new_binary = replacement if half == "binary" else None
    new_tensors = replacement if half == "tensors" else None
    header = repack(tmp_path / "old.rts", tmp_path / "new.rts", binary=new_binary, tensors=new_tensors, signing_key=KEY)
    assert verify_rts(tmp_path / "new.rts", public_key=KEY.public_key()) == header
    assert header.security_version == 9
    kept = "tensor_sha256" if half == "binary" else "binary_sha256"
    assert getattr(header, kept) == getattr(old, kept)
    # The same bytes as writing from both files.
    expected = write_rts(
        tmp_path / "direct.rts",
        binary=new_binary or elf,
        tensors=new_tensors or gguf,
        security_version=9,
        signing_key=KEY,
    )
    assert header == expected
    assert (tmp_path / "new.rts").read_bytes() == (tmp_path / "direct.rts").read_bytes()
    assert not repack(tmp_path / "old.rts", tmp_path / "plain.rts", binary=new_binary, tensors=new_tensors).signed


def test_repack_does_not_hide_damage_in_the_half_kept(tmp_path: Path, elf: Path, gguf: Path) -> None:
    write_rts(tmp_path / "old.rts", binary=elf, tensors=gguf)
    with (tmp_path / "old.rts").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x00" if gguf.read_bytes()[-1] else b"\x01")
    repack(tmp_path / "old.rts", tmp_path / "new.rts", binary=elf)
    with pytest.raises(RtsError) as caught:
        verify_rts(tmp_path / "new.rts")
    assert caught.value.field == "tensor_sha256"


def test_repack_pads_and_hashes_what_the_old_file_did_not(tmp_path: Path, elf: Path, gguf: Path) -> None:
    header = write_rts(tmp_path / "padded.rts", binary=elf, tensors=gguf)
    bare = dataclasses.replace(header, binary_size=elf.stat().st_size, binary_sha256=bytes(32), tensor_sha256=bytes(32))
    (tmp_path / "bare.rts").write_bytes(pack_header(bare) + elf.read_bytes() + gguf.read_bytes())
    unpadded = dataclasses.replace(
        bare, binary_sha256=hashlib.sha256(elf.read_bytes()).digest(), tensor_sha256=header.tensor_sha256
    )
    (tmp_path / "unpadded.rts").write_bytes(pack_header(unpadded) + elf.read_bytes() + gguf.read_bytes())
    for old in (tmp_path / "bare.rts", tmp_path / "unpadded.rts"):
        assert not verify_rts(old).bootable
        assert repack(old, tmp_path / "1.rts", tensors=gguf) == header
        assert repack(old, tmp_path / "2.rts", binary=elf) == header
        assert verify_rts(tmp_path / "1.rts") == verify_rts(tmp_path / "2.rts") == header


def test_output_that_is_an_input_is_refused(tmp_path: Path, elf: Path, gguf: Path) -> None:
    rts_path = tmp_path / "out.rts"
    write_rts(rts_path, binary=elf, tensors=gguf)
    link = tmp_path / "link"
    link.symlink_to(elf)
    hard = tmp_path / "hard"
    hard.hardlink_to(gguf)
    for output in (elf, gguf, link, hard):
        with pytest.raises(InputError, match="both input and output"):
            write_rts(output, binary=elf, tensors=gguf)
    with pytest.raises(InputError, match="both input and output"):
        repack(rts_path, rts_path, binary=elf)
    with pytest.raises(InputError, match="both input and output"):
        extract(rts_path, binary=rts_path)
    with pytest.raises(InputError):
        extract(rts_path, binary=tmp_path / "same", tensors=tmp_path / "same")


def test_unusable_inputs_are_refused_and_nothing_is_written(tmp_path: Path, elf: Path, gguf: Path) -> None:
    output = tmp_path / "out.rts"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for binary in (gguf, tmp_path / "missing", tmp_path, fifo):
        with pytest.raises(InputError, match=str(binary)):
            write_rts(output, binary=binary, tensors=gguf)
    for tensors in (elf, tmp_path / "missing"):
        with pytest.raises(InputError, match=str(tensors)):
            write_rts(output, binary=elf, tensors=tensors)
    with pytest.raises(InputError, match="security version"):
        write_rts(output, binary=elf, tensors=gguf, security_version=2**64)
    for half in (None, elf):
        with pytest.raises(InputError, match="one section"):
            repack(output, tmp_path / "other.rts", binary=half, tensors=half)
    with pytest.raises(InputError):
        extract(output)
    assert not output.exists()


def test_the_model_is_checked_first(tmp_path: Path, elf: Path, gguf: Path) -> None:
    def refuse(path: Path) -> None:
        raise InputError(f"judged {path}")

    with pytest.raises(InputError, match=f"judged {gguf}"):
        write_rts(tmp_path / "out.rts", binary=elf, tensors=gguf, check=refuse)
    write_rts(tmp_path / "out.rts", binary=elf, tensors=gguf)
    with pytest.raises(InputError, match=f"judged {gguf}"):
        repack(tmp_path / "out.rts", tmp_path / "new.rts", tensors=gguf, check=refuse)
    repack(tmp_path / "out.rts", tmp_path / "new.rts", binary=elf, check=refuse)


def test_progress_reaches_the_total(tmp_path: Path, elf: Path, gguf: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    header = write_rts(tmp_path / "out.rts", binary=elf, tensors=gguf, progress=lambda *call: calls.append(call))
    verify_rts(tmp_path / "out.rts", progress=lambda *call: calls.append(call))
    total = header.binary_size + header.tensor_size
    for phase in ("write", "verify"):
        done = [call[1] for call in calls if call[0] == phase]
        assert done == sorted(done)
        assert (done[-1], {call[2] for call in calls}) == (total, {total})
