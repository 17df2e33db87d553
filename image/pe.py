"""PE32+ executables, as UEFI firmware runs them: their sections are read, and new ones added. Pure.

Microsoft, "PE Format". A file is headers, a table of sections, then the sections' data; each is loaded at its address.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vboot.errors import InputError

X86_64 = 0x8664
READ_ONLY_DATA = 0x4000_0040
"""Flags of a section: initialized data that can be read."""
PAGE = 4096
"""New sections begin at multiples of this."""

_DOS_BYTES = 64
_LFANEW_AT = 0x3C
_COFF = struct.Struct("<4sHHIIIHH")
# Magic, linker version, sizes of code and data, entry, base of code, image base, alignments, versions, size of image
# and headers, checksum, subsystem, flags, stack and heap, loader flags, number of data directories.
_OPTIONAL = struct.Struct("<HBBIIIIIQIIHHHHHHIIIIHHQQQQII")
_PE32_PLUS = 0x20B
_DIRECTORY = struct.Struct("<II")
_MOST_DIRECTORIES = 16
_SECURITY, _DEBUG = 4, 6
_SECTION = struct.Struct("<8sIIIIIIHHI")
_MOST_SECTIONS = 96
"""The Windows loader's limit, which others keep to."""
_INITIALIZED_DATA = 0x40
_MOST_ALIGNMENT = 1 << 16
_MOST_IMAGE = (1 << 32) - _MOST_ALIGNMENT
_EFI_APPLICATION = 10


class PeError(InputError):
    """A file is no PE executable, or cannot become one."""


@dataclass(frozen=True)
class Section:
    """A part of the program: it is loaded at `address`, where it takes `virtual_size` bytes, zeros behind its data."""

    name: str
    data: bytes
    address: int
    virtual_size: int
    flags: int = READ_ONLY_DATA

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + max(self.virtual_size, len(self.data))


@dataclass(frozen=True)
class Pe:
    """An executable; `head` is all in front of the table of sections. `signed`: it carries a signature, unchecked."""

    head: bytes
    sections: tuple[Section, ...]
    machine: int
    subsystem: int
    section_alignment: int
    file_alignment: int
    size_of_image: int
    signed: bool

    @property
    def is_efi_application(self) -> bool:
        """Whether firmware runs it as an application."""
        return self.subsystem == _EFI_APPLICATION

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)


def read(data: bytes, *, what: str = "the file") -> Pe:
    """Read an executable, which errors call `what`. Raises PeError for one that firmware would not load."""
    if len(data) < _DOS_BYTES or data[:2] != b"MZ":
        raise PeError(f"{what} is no PE executable: it does not begin with 'MZ'")
    (at,) = struct.unpack_from("<I", data, _LFANEW_AT)
    if at + _COFF.size + _OPTIONAL.size > len(data):
        raise PeError(f"{what} is no PE executable: its header would be at {at}, and it has {len(data)} bytes")
    signature, machine, count, _, _, _, optional_bytes, _ = _COFF.unpack_from(data, at)
    fields = _OPTIONAL.unpack_from(data, at + _COFF.size)
    if signature != b"PE\0\0" or fields[0] != _PE32_PLUS:
        raise PeError(f"{what} is no PE32+ executable: expected 'PE' and {_PE32_PLUS:#x} at {at}")
    section_alignment, file_alignment, size_of_image, subsystem, directories = (
        fields[9], fields[10], fields[18], fields[21], fields[28],
    )  # fmt: skip
    table = at + _COFF.size + optional_bytes
    wanted = _OPTIONAL.size + directories * _DIRECTORY.size
    if directories > _MOST_DIRECTORIES or optional_bytes < wanted or not 0 < count <= _MOST_SECTIONS:
        raise PeError(f"{what} is damaged: {count} sections and {directories} data directories")
    if table + count * _SECTION.size > len(data):
        raise PeError(f"{what} is cut off: its table of sections ends behind its {len(data)} bytes")
    for alignment in (section_alignment, file_alignment):
        if not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise PeError(f"{what} is damaged: it has an alignment of {alignment}, expected a power of two up to 65536")
    sections = tuple(_read_section(data, table + number * _SECTION.size, what=what) for number in range(count))
    _check_places(sections, size_of_image, what=what)
    return Pe(
        data[:table], sections, machine, subsystem, section_alignment, file_alignment, size_of_image,
        signed=bool(_directory(data, at, _SECURITY, directories)[1]),
    )  # fmt: skip


def append(pe: Pe, contents: Iterable[tuple[str, bytes, int]], *, without: Sequence[str] = ()) -> bytes:
    """The executable with read-only sections added: their names, data, and least sizes in memory.

    `without` are names of sections that are left out. The checksum, which firmware does not look at, and the time
    become zero. Raises PeError if there is no room for them.
    """
    sections = [section for section in pe.sections if section.name not in without]
    for name, data, least in contents:
        if len(name.encode()) > 8:
            raise PeError(f"expected a section name of at most 8 bytes, got {name!r}")
        address = _up(max(section.end for section in sections), max(PAGE, pe.section_alignment))
        sections.append(Section(name, data, address, max(len(data), least)))
    return _render(pe, sections)


def _render(pe: Pe, sections: Sequence[Section]) -> bytes:
    if pe.signed:
        raise PeError("sections cannot be added to a signed executable: its signature would be wrong")
    head_bytes = _up(len(pe.head) + len(sections) * _SECTION.size, pe.file_alignment)
    first = min(section.address for section in sections)
    if head_bytes > first or len(sections) > _MOST_SECTIONS:
        raise PeError(f"no room for {len(sections)} sections: the headers take {head_bytes} bytes, and have {first}")
    size_of_image = _up(sections[-1].end, pe.section_alignment)
    if size_of_image > _MOST_IMAGE:
        raise PeError(f"an executable of {size_of_image} bytes in memory is too large: expected less than 4 GiB")
    table, body = b"", []
    at = head_bytes
    for section in sections:
        raw = _up(len(section.data), pe.file_alignment)
        name = section.name.encode().ljust(8, b"\0")
        place = at if raw else 0
        table += _SECTION.pack(name, section.virtual_size, section.address, raw, place, 0, 0, 0, 0, section.flags)
        body.append(section.data.ljust(raw, b"\0"))
        at += raw
    initialized = sum(len(data) for data, each in zip(body, sections, strict=True) if each.flags & _INITIALIZED_DATA)
    head = _new_head(pe.head, len(sections), initialized, size_of_image, head_bytes)
    return b"".join([(head + table).ljust(head_bytes, b"\0"), *body])


def _new_head(old: bytes, count: int, initialized: int, size_of_image: int, head_bytes: int) -> bytes:
    """The headers with what the sections change: no time, no symbols, no checksum."""
    head = bytearray(old)
    (at,) = struct.unpack_from("<I", old, _LFANEW_AT)
    coff = list(_COFF.unpack_from(old, at))
    coff[2:6] = count, 0, 0, 0
    _COFF.pack_into(head, at, *coff)
    at += _COFF.size
    optional = list(_OPTIONAL.unpack_from(old, at))
    optional[4], optional[18], optional[19], optional[20] = initialized, size_of_image, head_bytes, 0
    _OPTIONAL.pack_into(head, at, *optional)
    if optional[28] > _DEBUG:
        # It tells where in the file the debug data are, and they have moved.
        _DIRECTORY.pack_into(head, at + _OPTIONAL.size + _DEBUG * _DIRECTORY.size, 0, 0)
    return bytes(head)


def _read_section(data: bytes, at: int, *, what: str) -> Section:
    raw_name, virtual_size, address, raw, start, _, _, _, _, flags = _SECTION.unpack_from(data, at)
    name = raw_name.rstrip(b"\0").decode("latin-1")
    if raw and start + raw > len(data):
        raise PeError(f"{what} is cut off: section {name!r} is in bytes {start} to {start + raw} of {len(data)}")
    # The data are padded in the file. Old tools leave the size in memory zero where both are the same.
    size = min(raw, virtual_size or raw)
    return Section(name, data[start : start + size], address, virtual_size or raw, flags)


def _check_places(sections: Sequence[Section], size_of_image: int, *, what: str) -> None:
    """Refuse sections that are not in the order of their addresses. Raises PeError."""
    free = 0
    for section in sections:
        if section.address < free:
            raise PeError(f"{what} is damaged: section {section.name!r} overlaps the one before it")
        free = section.end
    if not free <= size_of_image <= _MOST_IMAGE:
        raise PeError(f"{what} is damaged: its sections take {free} bytes of memory, its header says {size_of_image}")


def _directory(data: bytes, at: int, index: int, directories: int) -> tuple[int, int]:
    if index >= directories:
        return 0, 0
    start, size = _DIRECTORY.unpack_from(data, at + _COFF.size + _OPTIONAL.size + index * _DIRECTORY.size)
    return start, size


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
