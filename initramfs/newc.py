"""The "new ASCII" cpio archive that Linux unpacks as its first root file system. Pure functions on bytes.

Layout: Documentation/driver-api/early-userspace/buffer-format.rst in the Linux source. A record is a 110-byte header
(magic `070701` and thirteen 8-digit hexadecimal numbers), the name with a NUL, padding to 4, the data, padding to 4.

The encoding of a list of records is unique: owner 0:0, time 0, inode numbers counted from 1, no hard links,
the whole padded to 512 bytes. `read` accepts exactly what `archive` writes, so `archive(read(data)) == data`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vboot.errors import InputError

MAGIC = b"070701"
HEADER_SIZE = 110
TRAILER_NAME = "TRAILER!!!"
ARCHIVE_ALIGNMENT = 512

# The sizes are 8 hexadecimal digits wide; the kernel silently skips names and targets beyond PATH_MAX.
MAX_FILE_SIZE = 0xFFFF_FFFF
PATH_MAX = 4096
NAME_MAX = 255
# The kernel's dev_t: 12 bits of major number, 20 of minor.
MAX_MAJOR = 0xFFF
MAX_MINOR = 0xF_FFFF

FIELDS = (
    "inode", "mode", "uid", "gid", "nlink", "mtime", "file size",
    "device major", "device minor", "rdev major", "rdev minor", "name size", "checksum",
)  # fmt: skip
_FILE_SIZE, _NAME_SIZE = FIELDS.index("file size"), FIELDS.index("name size")
_MODE, _RDEV = FIELDS.index("mode"), FIELDS.index("rdev major")


@dataclass(frozen=True)
class Record:
    """One entry: path relative to the root, st_mode with the type bits, file contents or symlink target, device."""

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def directory(name: str, *, mode: int = 0o755) -> Record:
    """A directory; only needed when it is empty or has another mode, since missing parents are added."""
    return Record(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, *, mode: int = 0o644) -> Record:
    """A regular file."""
    return Record(name, stat.S_IFREG | mode, data)


def symlink(name: str, target: str) -> Record:
    """A symbolic link to `target`, which is not changed."""
    return Record(name, stat.S_IFLNK | 0o777, target.encode())


def char_device(name: str, major: int, minor: int, *, mode: int = 0o600) -> Record:
    """A character device node."""
    return Record(name, stat.S_IFCHR | mode, rdev=(major, minor))


def with_parents(records: Iterable[Record]) -> list[Record]:
    """Put each missing parent directory (0755) before its first child, and check the tree.

    The kernel creates no parents: a path whose directory is missing is dropped without a message.

    Raises:
        InputError: an invalid record, a name used twice, a parent that is not a directory or comes after its child.
    """
    modes: dict[str, int] = {}
    tree: list[Record] = []
    for record in records:
        _check(record)
        if record.name in modes:
            raise _refused(record.name, "the name is used by an earlier entry (or is the parent of one)")
        missing: list[str] = []
        parent = _parent(record.name)
        while parent and parent not in modes:
            missing.append(parent)
            parent = _parent(parent)
        if parent and not stat.S_ISDIR(modes[parent]):
            raise _refused(record.name, f"its parent {parent!r} is not a directory")
        tree += [directory(name) for name in reversed(missing)]
        modes |= dict.fromkeys(missing, stat.S_IFDIR | 0o755)
        modes[record.name] = record.mode
        tree.append(record)
    return tree


def pieces(records: Sequence[Record]) -> Iterator[bytes]:
    """Encode records, whose parents are present, without copying their data; the trailer is not among the pieces."""
    for number, record in enumerate(records, start=1):
        yield _aligned(_header(record, inode=number) + record.name.encode() + b"\0", 4)
        yield record.data
        yield bytes(-len(record.data) % 4)


def archive(records: Iterable[Record]) -> bytes:
    """The archive of `records`, in their order, with missing parents added.

    Raises:
        InputError: as `with_parents`.
    """
    parts = [*pieces(with_parents(records)), _TRAILER]
    return b"".join([*parts, bytes(-sum(map(len, parts)) % ARCHIVE_ALIGNMENT)])


def read(data: bytes) -> list[Record]:
    """The records of an archive that `archive` wrote, parents included.

    Raises:
        InputError: anything else; names the entry and the wrong field or offset.
    """
    records: list[Record] = []
    offset = 0
    while not data.startswith(_TRAILER, offset):
        record, offset = _read_record(data, offset, inode=len(records) + 1)
        records.append(record)
    if with_parents(records) != records:
        raise InputError("newc archive: an entry comes before its parent directory")
    end = offset + len(_TRAILER)
    if data[end:] != bytes(-end % ARCHIVE_ALIGNMENT):
        raise InputError(f"newc archive: offset {end}: expected zeros up to a multiple of {ARCHIVE_ALIGNMENT}")
    return records


def _read_record(data: bytes, offset: int, *, inode: int) -> tuple[Record, int]:
    """The record at `offset` and the offset after it."""
    header = data[offset : offset + HEADER_SIZE]
    where = f"newc archive: entry {inode} at offset {offset}"
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise InputError(f"{where}: no {MAGIC.decode()} header and no trailer")
    digits = [header[len(MAGIC) + 8 * i :][:8] for i in range(len(FIELDS))]
    if bad := [field for field, text in zip(FIELDS, digits, strict=True) if not _is_hexadecimal(text)]:
        raise InputError(f"{where}: {bad[0]} is not 8 hexadecimal digits")
    numbers = [int(text, 16) for text in digits]
    name_end = offset + HEADER_SIZE + numbers[_NAME_SIZE]
    body = name_end + -name_end % 4
    end = body + numbers[_FILE_SIZE]
    after = end + -end % 4
    if after > len(data):
        raise InputError(f"{where}: ends at offset {after}, past the archive's {len(data)} bytes")
    name = data[offset + HEADER_SIZE : name_end]
    try:
        text = name[:-1].decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the name is not UTF-8") from error
    record = Record(text, numbers[_MODE], data[body:end], (numbers[_RDEV], numbers[_RDEV + 1]))
    _check(record)
    expected = _header(record, inode=inode)
    if header != expected:
        wrong = next(f for i, f in enumerate(FIELDS) if digits[i] != expected[len(MAGIC) + 8 * i :][:8])
        raise _refused(text, f"{wrong} is not what our writer writes")
    if name[-1:] != b"\0" or any(data[name_end:body]) or any(data[end:after]):
        raise _refused(text, "the padding is not zero")
    return record, after


def _header(record: Record, *, inode: int) -> bytes:
    links = 2 if stat.S_ISDIR(record.mode) else 1
    name_size = len(record.name.encode()) + 1
    numbers = (inode, record.mode, 0, 0, links, 0, len(record.data), 0, 0, *record.rdev, name_size, 0)
    return MAGIC + b"".join(b"%08X" % number for number in numbers)


def _aligned(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def _trailer() -> bytes:
    numbers = (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(TRAILER_NAME) + 1, 0)
    header = MAGIC + b"".join(b"%08X" % number for number in numbers)
    return _aligned(header + TRAILER_NAME.encode() + b"\0", 4)


_TRAILER = _trailer()


def _parent(name: str) -> str:
    """The path one level up; the root's is empty."""
    return name.rpartition("/")[0]


def _is_hexadecimal(text: bytes) -> bool:
    return all(digit in b"0123456789ABCDEF" for digit in text)


def _refused(name: str, why: str) -> InputError:
    return InputError(f"newc archive: entry {name!r}: {why}")


def _check(record: Record) -> None:
    _check_name(record.name)
    kind = stat.S_IFMT(record.mode)
    if (
        kind not in {stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR}
        or record.mode != kind | record.mode & 0o7777
    ):
        raise _refused(record.name, f"mode {record.mode:#o} is not that of a directory, file, symlink or device node")
    if kind == stat.S_IFLNK and (not 0 < len(record.data) < PATH_MAX or b"\0" in record.data):
        raise _refused(record.name, f"a symlink's target has 1 to {PATH_MAX - 1} bytes and no NUL")
    if kind in {stat.S_IFDIR, stat.S_IFCHR} and record.data:
        raise _refused(record.name, "only files and symlinks have contents")
    if len(record.data) > MAX_FILE_SIZE:
        raise _refused(record.name, f"{len(record.data)} bytes; a file in this format stays below 4 GiB")
    major, minor = record.rdev
    if kind != stat.S_IFCHR and record.rdev != (0, 0):
        raise _refused(record.name, "only a device node has a device number")
    if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
        raise _refused(record.name, f"device {major}:{minor} is beyond {MAX_MAJOR}:{MAX_MINOR}")


def _check_name(name: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise _refused(name, "the name cannot be encoded as UTF-8") from error
    if name == TRAILER_NAME:
        raise _refused(name, "this name ends an archive")
    if len(encoded) >= PATH_MAX or any(len(part) > NAME_MAX for part in encoded.split(b"/")):
        raise _refused(name, f"a path has less than {PATH_MAX} bytes, each part of it at most {NAME_MAX}")
    if "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise _refused(name, "a path is relative to the root, without empty parts, `.`, `..` or NUL")
