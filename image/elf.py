"""Where an ELF file ends by its own tables."""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_SHT_NOBITS = 8
_PN_XNUM = 0xFFFF


def elf_end(data: bytes | memoryview) -> int | None:
    """Return the length of the ELF file at the start of `data`, in bytes, or None if its tables cannot say.

    It is the largest end of the section header table, the program header table, and the file contents of every
    section and segment (System V ABI). Only 64-bit little-endian files are understood. None also stands for tables
    that leave `data`, for extended numbering, and for a file without any table.
    """
    if len(data) < _HEADER.size or bytes(data[:6]) != _ELF64_LITTLE_ENDIAN:
        return None
    fields = _HEADER.unpack_from(data)
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
