"""RTS files on disk: write, verify, extract, repack. Data are streamed; no section is read into memory as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from image import rts
from image.rts import RtsError, RtsHeader
from image.streams import (
    Progress,
    consume,
    copy_range,
    is_block_device,
    open_input,
    read_chunks,
    refuse_same_file,
    size_of,
)
from vboot.errors import InputError
from vboot.files import atomic_write

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_SHT_NOBITS = 8
_PN_XNUM = 0xFFFF


@dataclass(frozen=True)
class _Section:
    """Bytes of an open file that become a section, then `padding` zeros; `sha256` only if it is known already."""

    file: BinaryIO
    offset: int
    size: int
    padding: int = 0
    sha256: bytes | None = None


def write_rts(
    output: Path,
    *,
    binary: Path,
    tensors: Path,
    security_version: int = 0,
    signing_key: Ed25519PrivateKey | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> RtsHeader:
    """Write an RTS file of the executable `binary` and the GGUF `tensors`, and return its header.

    The executable is padded with zeros so that the tensors start on a page. `check` is called with the GGUF first
    (only its magic is checked here) and raises if it is not acceptable. Raises InputError for unusable inputs or
    output.
    """
    refuse_same_file(output, binary)
    refuse_same_file(output, tensors)
    if check is not None:
        check(tensors)
    with open_input(binary, what="executable") as elf, open_input(tensors, what="model") as gguf:
        sections = _new_binary(elf, path=binary), _new_tensors(gguf, path=tensors)
        return _write(output, *sections, security_version=security_version, signing_key=signing_key, progress=progress)


def repack(
    path: Path,
    output: Path,
    *,
    binary: Path | None = None,
    tensors: Path | None = None,
    signing_key: Ed25519PrivateKey | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> RtsHeader:
    """Write a copy of the RTS file `path` with one section replaced, and return the new header.

    The other section is copied inside the kernel and keeps its stated digest, so `verify_rts` still detects damage in
    it. The security version is kept. The old signature would be wrong, so the copy is unsigned without a
    `signing_key`. Raises InputError (RtsError for a broken `path`).
    """
    replacement = binary or tensors
    if replacement is None or (binary is not None and tensors is not None):
        raise InputError("repack replaces one section", remedy="give either a binary or tensors")
    refuse_same_file(output, path)
    refuse_same_file(output, replacement)
    if check is not None and tensors is not None:
        check(tensors)
    with open_input(path, what="RTS file") as old, open_input(replacement, what="replacement") as new:
        header = _read_header(old, path=path)
        if binary is not None:
            first = _new_binary(new, path=replacement)
            second = _kept(old, offset=header.tensor_offset, size=header.tensor_size, stated=header.tensor_sha256)
        else:
            kept = _kept(old, offset=rts.HEADER_SIZE, size=header.binary_size, stated=header.binary_sha256)
            first = _padded(kept)
            second = _new_tensors(new, path=replacement)
        return _write(
            output,
            first,
            second,
            security_version=header.security_version,
            signing_key=signing_key,
            progress=progress,
        )


def verify_rts(
    path: Path, *, public_key: Ed25519PublicKey | None = None, progress: Progress | None = None
) -> RtsHeader:
    """Check an RTS file (or block device) and return its header.

    Checked, in this order: the header; with `public_key` the key id, the presence of both digests and the signature
    (which covers the header alone, so without digests it would say nothing about the sections); the magic of both
    sections; the digests that are present. Raises RtsError for the first rule broken, InputError if unreadable.
    """
    with open_input(path, what="RTS file") as file:
        return verify_open(
            file, path=path, block_device=is_block_device(file), public_key=public_key, progress=progress
        )


def verify_open(
    file: BinaryIO,
    *,
    block_device: bool,
    path: Path | None = None,
    public_key: Ed25519PublicKey | None = None,
    tensors: bool = True,
    progress: Progress | None = None,
) -> RtsHeader:
    """`verify_rts` for an open unbuffered file, which errors call `path`; with `block_device` bytes after the sections
    are ignored, without `tensors` the digest of the tensor section is.
    """
    with _naming(path) if path else contextlib.nullcontext():
        head = os.pread(file.fileno(), rts.HEADER_SIZE, 0)
        header = rts.parse_header(head, file_size=size_of(file), block_device=block_device)
        if public_key is not None:
            _check_signature(header, public_key)
        _check_magic(file, header)
        parts = [("binary_sha256", rts.HEADER_SIZE, header.binary_size, header.binary_sha256)]
        if tensors:
            parts.append(("tensor_sha256", header.tensor_offset, header.tensor_size, header.tensor_sha256))
        total, before = sum(part[2] for part in parts), 0
        for field, offset, size, stated in parts:
            if stated != rts.ABSENT_DIGEST:
                report = _reporter(progress, "verify", before=before, total=total)
                actual = consume(read_chunks(file, offset=offset, size=size), progress=report)
                rts.check_digest(field, stated=stated, actual=actual)
            before += size
    return header


def extract(path: Path, *, binary: Path | None = None, tensors: Path | None = None) -> RtsHeader:
    """Copy one or both sections of an RTS file out, checking their digests on the way, and return the header.

    The tensors come out byte for byte. The zero padding of the executable is cut off if its own tables state its
    length, and its mode is executable. After an error no output is written. Raises RtsError or InputError.
    """
    outputs = [output for output in (binary, tensors) if output is not None]
    for output in outputs:
        refuse_same_file(output, path)
    if not outputs or len({os.path.realpath(output) for output in outputs}) < len(outputs):
        raise InputError("extract needs one or two different outputs", remedy="name a file for each section wanted")
    with open_input(path, what="RTS file") as file, contextlib.ExitStack() as stack:
        header = _read_header(file, path=path)
        stack.enter_context(_naming(path))
        if binary is not None:
            target = stack.enter_context(atomic_write(binary))
            actual = consume(read_chunks(file, offset=rts.HEADER_SIZE, size=header.binary_size), target=target)
            rts.check_digest("binary_sha256", stated=header.binary_sha256, actual=actual)
            _strip_padding(target)
            # Executable for those who may read it, so the umask is respected.
            mode = os.fstat(target.fileno()).st_mode & 0o777
            os.fchmod(target.fileno(), mode | (mode & 0o444) >> 2)
        if tensors is not None:
            target = stack.enter_context(atomic_write(tensors))
            actual = consume(read_chunks(file, offset=header.tensor_offset, size=header.tensor_size), target=target)
            rts.check_digest("tensor_sha256", stated=header.tensor_sha256, actual=actual)
    return header


def key_id(public_key: Ed25519PublicKey) -> bytes:
    """The key id of an Ed25519 public key: SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(public_key.public_bytes_raw()).digest()


def _write(
    output: Path,
    binary: _Section,
    tensors: _Section,
    *,
    security_version: int,
    signing_key: Ed25519PrivateKey | None,
    progress: Progress | None,
) -> RtsHeader:
    if not 0 <= security_version < 2**64:
        raise InputError(f"security version {security_version} does not fit", remedy="use 0 to 2^64-1")
    total = binary.size + binary.padding + tensors.size
    with atomic_write(output) as target:
        target.write(bytes(rts.HEADER_SIZE))
        binary_sha256 = _append(binary, target, _reporter(progress, "write", before=0, total=total))
        before = binary.size + binary.padding
        tensor_sha256 = _append(tensors, target, _reporter(progress, "write", before=before, total=total))
        header = RtsHeader(
            binary_size=before,
            tensor_size=tensors.size,
            binary_sha256=binary_sha256,
            tensor_sha256=tensor_sha256,
            security_version=security_version,
        )
        if signing_key is not None:
            header = dataclasses.replace(header, key_id=key_id(signing_key.public_key()))
            signature = signing_key.sign(rts.pack_header(header)[: rts.SIGNED_SIZE])
            header = dataclasses.replace(header, signature=signature)
        target.seek(0)
        target.write(rts.pack_header(header))
    return header


def _append(section: _Section, target: BinaryIO, report: Callable[[int], None]) -> bytes:
    """Copy a section to the end of `target` and return its SHA-256."""
    if section.sha256 is not None:
        copy_range(section.file, target, offset=section.offset, size=section.size, progress=report)
        return section.sha256
    chunks: Iterator[bytes | memoryview] = read_chunks(section.file, offset=section.offset, size=section.size)
    if section.padding:
        chunks = itertools.chain(chunks, [bytes(section.padding)])
    return consume(chunks, target=target, progress=report)


def _new_binary(file: BinaryIO, *, path: Path) -> _Section:
    start = os.pread(file.fileno(), rts.ELF_IDENT_SIZE, 0)
    if len(start) < rts.ELF_IDENT_SIZE or start[:4] != rts.ELF_MAGIC:
        raise InputError(f"{path} is not an ELF executable", remedy="give the built vector_boot executable")
    return _padded(_Section(file, offset=0, size=size_of(file)))


def _new_tensors(file: BinaryIO, *, path: Path) -> _Section:
    if os.pread(file.fileno(), 4, 0) != rts.GGUF_MAGIC:
        raise InputError(f"{path} is not a GGUF file", remedy="give a composed vectorland.gguf")
    return _Section(file, offset=0, size=size_of(file))


def _kept(file: BinaryIO, *, offset: int, size: int, stated: bytes) -> _Section:
    """A section of an RTS file, unchanged, with the digest that its header states, if there is one."""
    return _Section(file, offset=offset, size=size, sha256=None if stated == rts.ABSENT_DIGEST else stated)


def _padded(section: _Section) -> _Section:
    """Pad so that the tensors start on a page; a known digest does not cover padding."""
    padding = -(rts.HEADER_SIZE + section.size) % rts.SECTION_ALIGNMENT
    return dataclasses.replace(section, padding=padding, sha256=None if padding else section.sha256)


def _read_header(file: BinaryIO, *, path: Path) -> RtsHeader:
    with _naming(path):
        head = os.pread(file.fileno(), rts.HEADER_SIZE, 0)
        header = rts.parse_header(head, file_size=size_of(file), block_device=is_block_device(file))
        _check_magic(file, header)
    return header


def _check_magic(file: BinaryIO, header: RtsHeader) -> None:
    binary_start = os.pread(file.fileno(), min(rts.ELF_IDENT_SIZE, header.binary_size), rts.HEADER_SIZE)
    tensor_start = os.pread(file.fileno(), min(4, header.tensor_size), header.tensor_offset)
    rts.check_sections(binary_start, tensor_start, header)


def _check_signature(header: RtsHeader, public_key: Ed25519PublicKey) -> None:
    expected = key_id(public_key)
    offsets = rts.FIELD_OFFSETS
    if header.key_id != expected:
        raise RtsError("key_id", offset=offsets["key_id"], value=header.key_id.hex(), expected=expected.hex())
    for field, digest in (("binary_sha256", header.binary_sha256), ("tensor_sha256", header.tensor_sha256)):
        if digest == rts.ABSENT_DIGEST:
            raise RtsError(field, offset=offsets[field], value="absent", expected="a digest, in a signed file")
    try:
        public_key.verify(header.signature, rts.pack_header(header)[: rts.SIGNED_SIZE])
    except InvalidSignature:
        raise RtsError(
            "signature",
            offset=offsets["signature"],
            value=f"{header.signature[:8].hex()}...",
            expected=f"a signature of bytes 0 to {rts.SIGNED_SIZE} by the key {expected.hex()}",
        ) from None


def _strip_padding(target: BinaryIO) -> None:
    """Cut off the zeros that our writer adds: less than a page, after the ELF's own end. Anything else is kept."""
    target.flush()
    with mmap.mmap(target.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        size = len(view)
        end = elf_end(view)
        padded = end is not None and size - end < rts.SECTION_ALIGNMENT and not any(view[end:])
    if end is not None and padded:
        target.truncate(end)


def elf_end(data: bytes | memoryview) -> int | None:
    """Return the length of the ELF file at the start of `data`, in bytes, or None if its tables do not state it.

    It is the largest end of the section header table, the program header table, and the file contents of every
    section and segment (System V ABI). Only 64-bit little-endian files are understood. None also stands for tables
    that leave `data`, for extended numbering, and for a file without any table.
    """
    if len(data) < _ELF_HEADER.size or bytes(data[:6]) != _ELF64_LITTLE_ENDIAN:
        return None
    fields = _ELF_HEADER.unpack_from(data)
    phoff, shoff, ehsize = fields[5], fields[6], fields[8]
    phentsize, phnum, shentsize, shnum = fields[9:13]
    ends = [ehsize]
    if phnum:
        if phnum == _PN_XNUM or phentsize != _PROGRAM_HEADER.size or phoff + phnum * phentsize > len(data):
            return None
        ends.append(phoff + phnum * phentsize)
        for index in range(phnum):
            segment = _PROGRAM_HEADER.unpack_from(data, phoff + index * phentsize)
            ends.append(segment[2] + segment[5])
    if shoff:
        if shnum == 0 or shentsize != _SECTION_HEADER.size or shoff + shnum * shentsize > len(data):
            return None
        ends.append(shoff + shnum * shentsize)
        for index in range(shnum):
            section = _SECTION_HEADER.unpack_from(data, shoff + index * shentsize)
            ends.append(0 if section[1] == _SHT_NOBITS else section[4] + section[5])
    end = max(ends)
    return end if len(ends) > 1 and end <= len(data) else None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to RTS errors raised inside."""
    try:
        yield
    except RtsError as error:
        raise error.in_file(path) from None


def _reporter(progress: Progress | None, phase: str, *, before: int, total: int) -> Callable[[int], None]:
    def report(done: int) -> None:
        if progress is not None:
            progress(phase, before + done, total)

    return report
