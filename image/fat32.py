"""FAT32 file systems: one is made whole from its files, and any one is read. Pure.

Microsoft, "FAT: General Overview of On-Disk Format", version 1.03. The same files give the same bytes: times are
constant, files contiguous and in the order of their names, and the caller gives the serial number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from image import fat_names
from image.fat_names import ENTRY_BYTES, LONG_NAME
from vboot.errors import InputError

SECTOR = 512
LEAST_BYTES = 34 << 20
"""A smaller file system would have too few clusters to be taken for FAT32."""
MOST_BYTES = 2 << 40

_BOOT = struct.Struct("<3s8sHBHBHHBHHHIIIHHIHH12sBBBI11s8s")
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_RESERVED_SECTORS = 32
_INFO_SECTOR, _BACKUP_SECTOR = 1, 6
_FATS = 2
_ROOT_CLUSTER = 2
_LEAST_CLUSTERS = 65_525
_MEDIA = 0xF8
_END = 0x0FFFFFFF
_CLUSTER_BITS = 0x0FFFFFFF
_FIRST_BAD = 0x0FFFFFF7
_FOLDER, _ARCHIVE, _VOLUME = 0x10, 0x20, 0x08
_DATE = 1 << 5 | 1
"""1980-01-01, the first day there is: years since 1980, month, day."""
_MOST_FOLDER_BYTES = 2 << 20
_MOST_FOLDERS = 1000


class FatError(InputError):
    """A FAT32 file system is damaged, or cannot be made."""


@dataclass
class _Node:
    """A file (`data`) or folder (`children`) to be written."""

    data: bytes = b""
    children: dict[str, _Node] | None = None
    cluster: int = 0


@dataclass(frozen=True)
class Geometry:
    """Where the parts of a file system lie. `data_start` is the byte of cluster 2."""

    sectors: int
    cluster_bytes: int
    fat_sectors: int
    reserved_sectors: int = _RESERVED_SECTORS
    fats: int = _FATS

    @property
    def data_start(self) -> int:
        """The first byte of cluster 2."""
        return (self.reserved_sectors + self.fats * self.fat_sectors) * SECTOR

    @property
    def clusters(self) -> int:
        """How many there are."""
        return (self.sectors * SECTOR - self.data_start) // self.cluster_bytes

    def offset(self, cluster: int) -> int:
        """The first byte of a cluster."""
        return self.data_start + (cluster - _ROOT_CLUSTER) * self.cluster_bytes


def geometry(size: int) -> Geometry:
    """The parts of a new file system of `size` bytes. Raises FatError for a size that FAT32 cannot have."""
    if size % SECTOR or not LEAST_BYTES <= size < MOST_BYTES:
        raise FatError(f"a FAT32 file system has {LEAST_BYTES >> 20} MiB to {MOST_BYTES >> 40} TiB, got {size} bytes")
    sectors = size // SECTOR
    cluster_sectors = 1 if size <= 260 << 20 else 8 if size <= 8 << 30 else 64
    # Each FAT has an entry for every cluster and two more; the clusters are what the FATs leave.
    per_sector = SECTOR // 4 * cluster_sectors + _FATS
    fat_sectors = -(-(sectors - _RESERVED_SECTORS + 2 * cluster_sectors) // per_sector)
    return Geometry(sectors, cluster_sectors * SECTOR, fat_sectors)


def needed_bytes(files: Mapping[str, bytes], size: int) -> int:
    """The bytes of clusters that the files and their folders take in a file system of `size` bytes."""
    cluster_bytes = geometry(size).cluster_bytes
    return sum(_clusters(node, cluster_bytes) for node in _walk(_tree(files))) * cluster_bytes


def render(
    files: Mapping[str, bytes], *, size: int, label: str, serial: int, start: int = 0
) -> list[tuple[int, bytes]]:
    """A file system of `size` bytes with these files, by path ("EFI/BOOT/BOOTX64.EFI"; folders are made).

    `label` has at most 11 characters, `serial` 32 bits, `start` is its place on the disk in bytes. Returns the pieces
    that are not zero, by their offset. Raises FatError if the files do not fit, InputError for an impossible name.
    """
    shape = geometry(size)
    root = _tree(files)
    # A folder's entry holds the cluster of its first child's data, so places are given before anything is written.
    at = _ROOT_CLUSTER
    chains: list[tuple[int, int]] = []
    for node in _walk(root):
        count = _clusters(node, shape.cluster_bytes)
        node.cluster = at if count else 0
        if count:
            chains.append((at, count))
        at += count
    if at - _ROOT_CLUSTER > shape.clusters:
        needed, there = (at - _ROOT_CLUSTER) * shape.cluster_bytes, shape.clusters * shape.cluster_bytes
        raise FatError(
            f"the EFI system partition is full: the files need {needed} bytes, and it has {there}",
            remedy="give a larger one with --esp-size",
        )
    pieces = _head(
        shape, label=label, serial=serial, start=start, free=shape.clusters - (at - _ROOT_CLUSTER), next_free=at
    )
    table = bytearray(struct.pack("<II", 0x0FFFFF00 | _MEDIA, _END))
    for first, count in chains:
        table += b"".join(struct.pack("<I", cluster) for cluster in range(first + 1, first + count))
        table += struct.pack("<I", _END)
    for number in range(_FATS):
        pieces.append(((_RESERVED_SECTORS + number * shape.fat_sectors) * SECTOR, bytes(table)))
    label_entry = _entry(label.upper().ljust(11).encode(), _VOLUME, 0, 0)
    for node, parent in _with_parents(root):
        if data := _contents(node, parent, label_entry if node is root else b""):
            pieces.append((shape.offset(node.cluster), data))
    return pieces


def _head(
    shape: Geometry, *, label: str, serial: int, start: int, free: int, next_free: int
) -> list[tuple[int, bytes]]:
    volume = label.upper().ljust(11).encode()
    if len(volume) != 11:
        raise FatError(f"expected a volume label of at most 11 characters, got {label!r}")
    boot = _BOOT.pack(
        b"\xeb\x58\x90", b"VBOOT   ", SECTOR, shape.cluster_bytes // SECTOR, _RESERVED_SECTORS, _FATS, 0, 0, _MEDIA, 0,
        63, 255, start // SECTOR, shape.sectors, shape.fat_sectors, 0, 0, _ROOT_CLUSTER, _INFO_SECTOR, _BACKUP_SECTOR,
        bytes(12), 0x80, 0, 0x29, serial, volume, b"FAT32   ",
    )  # fmt: skip
    # The firmware does not run it: an endless loop, should a BIOS do so.
    boot = (boot + b"\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"
    info = struct.pack("<I480xIII12xI", 0x41615252, 0x61417272, free, next_free, 0xAA550000)
    both = boot + info
    return [(0, both), (_BACKUP_SECTOR * SECTOR, both)]


def _tree(files: Mapping[str, bytes]) -> _Node:
    root = _Node(children={})
    for path in sorted(files):
        node = root
        *folders, name = path.split("/")
        for folder in folders:
            children = node.children if node.children is not None else {}
            node = children.setdefault(folder, _Node(children={}))
            if node.children is None:
                raise FatError(f"{path!r} lies below a file")
        children = node.children if node.children is not None else {}
        if any(name.lower() == other.lower() for other in children):
            raise FatError(f"two files have the name {path!r} where upper and lower case do not differ")
        children[name] = _Node(data=files[path])
    return root


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in (node.children or {}).values():
        yield from _walk(child)


def _with_parents(node: _Node, parent: _Node | None = None) -> Iterator[tuple[_Node, _Node | None]]:
    yield node, parent
    for child in (node.children or {}).values():
        yield from _with_parents(child, node)


def _clusters(node: _Node, cluster_bytes: int) -> int:
    if node.children is None:
        return -(-len(node.data) // cluster_bytes)
    # The label and ".", "..": never more than two entries.
    names = sum(len(long) // ENTRY_BYTES + 1 for long, _ in _named(node))
    return max(1, -(-(names + 2) * ENTRY_BYTES // cluster_bytes))


def _named(folder: _Node) -> list[tuple[bytes, bytes]]:
    """The entries of the long name, and the short name, of each child in order."""
    taken: set[bytes] = set()
    named = []
    for name in folder.children or {}:
        long, short = fat_names.entries(name, taken)
        taken.add(short)
        named.append((long, short))
    return named


def _contents(node: _Node, parent: _Node | None, label: bytes) -> bytes:
    """The bytes of a file or folder; `label` is the first entry of the root folder."""
    if node.children is None:
        return node.data
    data = label
    if parent is not None:
        above = 0 if parent.cluster == _ROOT_CLUSTER else parent.cluster
        data += _entry(b".".ljust(11), _FOLDER, node.cluster, 0) + _entry(b"..".ljust(11), _FOLDER, above, 0)
    for (long, short), child in zip(_named(node), node.children.values(), strict=True):
        kind = _FOLDER if child.children is not None else _ARCHIVE
        data += long + _entry(short, kind, child.cluster, len(child.data))
    return data


def _entry(short: bytes, attribute: int, cluster: int, size: int) -> bytes:
    return _ENTRY.pack(short, attribute, 0, 0, 0, _DATE, _DATE, cluster >> 16, 0, _DATE, cluster & 0xFFFF, size)


@dataclass(frozen=True)
class Found:
    """A file or folder that was read: its name, its size in bytes, and whether it is a folder."""

    name: str
    size: int
    is_folder: bool
    cluster: int = field(repr=False)


class Fat32:
    """Reads a FAT32 file system that begins at byte `start` of `disk`. Nothing in it is believed."""

    def __init__(self, disk: BinaryIO, *, start: int = 0) -> None:
        """Read its head. Raises FatError if it is none."""
        self._disk = disk
        self._start = start
        boot = self._bytes(0, SECTOR)
        fields = _BOOT.unpack_from(boot)
        sector, per_cluster, reserved, fats = fields[2:6]
        sectors, fat_sectors, self._root = fields[13], fields[14], fields[17]
        root_entries, sectors_16, fat_sectors_16 = fields[6], fields[7], fields[9]
        if boot[510:] != b"\x55\xaa" or sector != SECTOR or root_entries or sectors_16 or fat_sectors_16:
            raise FatError("no FAT32 file system: its first sector is not that of one with sectors of 512 bytes")
        if per_cluster not in {1, 2, 4, 8, 16, 32, 64, 128} or fats not in {1, 2} or not reserved or not fat_sectors:
            raise FatError("no FAT32 file system: impossible sizes in its first sector")
        self.shape = Geometry(sectors, per_cluster * SECTOR, fat_sectors, reserved, fats)
        if not _LEAST_CLUSTERS <= self.shape.clusters <= fat_sectors * SECTOR // 4 - _ROOT_CLUSTER:
            raise FatError("no FAT32 file system: its number of clusters does not fit its tables")
        self.size = sectors * SECTOR
        """Bytes of the whole file system."""
        self.serial = fields[24]
        self.label = fields[25].decode("latin-1").rstrip()

    def list(self, folder: str = "") -> tuple[Found, ...]:
        """What is in a folder, in its order. Raises FatError if it is damaged or does not exist."""
        found = self._find(folder)
        if not found.is_folder:
            raise FatError(f"{folder!r} is a file, expected a folder")
        return tuple(self._entries(found))

    def read(self, path: str) -> bytes:
        """The contents of a file. Raises FatError if it is damaged or does not exist."""
        found = self._find(path)
        if found.is_folder:
            raise FatError(f"{path!r} is a folder, expected a file")
        if found.size > self.size:
            raise FatError(f"{path!r} is damaged: {found.size} bytes in a file system of {self.size}")
        data = b"".join(self._chain(found.cluster, limit=found.size, what=path)) if found.size else b""
        if len(data) < found.size:
            raise FatError(f"{path!r} is damaged: its chain of clusters ends after {len(data)} of {found.size} bytes")
        return data[: found.size]

    def files(self) -> dict[str, Found]:
        """Every file by its path. Raises FatError if a folder is damaged."""
        found: dict[str, Found] = {}
        seen = {self._root}
        folders = [("", Found("", 0, is_folder=True, cluster=self._root))]
        while folders:
            path, folder = folders.pop()
            for entry in self._entries(folder):
                name = f"{path}{entry.name}"
                if not entry.is_folder:
                    found[name] = entry
                elif entry.cluster in seen:
                    raise FatError(f"the folder {name!r} is damaged: it contains itself, or is there twice")
                elif len(seen) > _MOST_FOLDERS:
                    raise FatError(f"expected at most {_MOST_FOLDERS} folders on an EFI system partition, got more")
                else:
                    seen.add(entry.cluster)
                    folders.append((f"{name}/", entry))
        return dict(sorted(found.items()))

    def _find(self, path: str) -> Found:
        found = Found("", 0, is_folder=True, cluster=self._root)
        for part in filter(None, path.split("/")):
            inside = self._entries(found) if found.is_folder else iter(())
            match = next((each for each in inside if each.name.lower() == part.lower()), None)
            if match is None:
                raise FatError(f"there is no {path!r} on the EFI system partition")
            found = match
        return found

    def _entries(self, folder: Found) -> Iterator[Found]:
        data = b"".join(self._chain(folder.cluster, limit=_MOST_FOLDER_BYTES, what=folder.name or "the root folder"))
        parts: list[bytes] = []
        for at in range(0, len(data), ENTRY_BYTES):
            entry = data[at : at + ENTRY_BYTES]
            short, attribute, *_rest = fields = _ENTRY.unpack(entry)
            if short[0] == 0:
                return
            if short[0] == 0xE5:
                parts = []
            elif attribute & 0x3F == LONG_NAME:
                parts.append(entry)
            elif attribute & _VOLUME or short in (b".".ljust(11), b"..".ljust(11)):
                parts = []
            else:
                name = fat_names.long_name(parts, short) or fat_names.short_name(short)
                parts = []
                cluster = fields[7] << 16 | fields[10]
                yield Found(name, fields[11], bool(attribute & _FOLDER), cluster)

    def _chain(self, cluster: int, *, limit: int, what: str) -> Iterator[bytes]:
        """The clusters of a chain, up to `limit` bytes. Raises FatError for one that leaves the file system."""
        total = 0
        while cluster < _FIRST_BAD and total < limit:
            if not _ROOT_CLUSTER <= cluster < _ROOT_CLUSTER + self.shape.clusters:
                raise FatError(f"{what!r} is damaged: its chain leads to cluster {cluster}, which does not exist")
            yield self._bytes(self.shape.offset(cluster), self.shape.cluster_bytes)
            total += self.shape.cluster_bytes
            entry = self._bytes(self.shape.reserved_sectors * SECTOR + 4 * cluster, 4)
            cluster = struct.unpack("<I", entry)[0] & _CLUSTER_BITS

    def _bytes(self, at: int, size: int) -> bytes:
        self._disk.seek(self._start + at)
        data = self._disk.read(size)
        if len(data) < size:
            raise FatError(f"the FAT32 file system is cut off: byte {at} is not there")
        return data
