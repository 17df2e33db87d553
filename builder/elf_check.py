"""Checks the executable and the shared library of the Rust crate as ELF files.

The executable must be a static PIE: it runs without a dynamic loader, at a random address, and no page of it is both
writable and executable. The library must export the functions of the C interface and no others. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

from elftools.elf.constants import P_FLAGS
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_DT_FLAGS_1
from elftools.elf.sections import SymbolTableSection


@dataclass(frozen=True)
class ElfDefect:
    """One broken rule: its short name and one sentence."""

    rule: str
    text: str


def check_executable(file: BinaryIO) -> list[ElfDefect]:
    """The defects of an ELF file as PID 1's executable; empty when there is none."""
    return _checked(file, _executable_defects)


def check_library(file: BinaryIO, *, functions: Collection[str]) -> list[ElfDefect]:
    """The defects of the shared library, which must export exactly these functions."""
    return _checked(file, lambda elf: _library_defects(elf, frozenset(functions)))


def _checked(file: BinaryIO, find: Callable[[ELFFile], list[ElfDefect]]) -> list[ElfDefect]:
    try:
        elf = ELFFile(file)
        if elf["e_machine"] != "EM_X86_64":
            return [ElfDefect("machine", f"It is built for {elf['e_machine']}, not for EM_X86_64.")]
        return find(elf)
    except Exception as error:  # pyelftools raises many types of exceptions
        return [
            ElfDefect("format", f"It is not a valid ELF file ({type(error).__name__}: {' '.join(str(error).split())}).")
        ]


def _executable_defects(elf: ELFFile) -> list[ElfDefect]:
    defects = _segment_defects(elf)
    dynamic = _dynamic_entries(elf)
    if elf["e_type"] != "ET_DYN" or not _is_pie(dynamic):
        defects.append(ElfDefect("pie", f"It is not a position-independent executable ({elf['e_type']})."))
    if any(segment["p_type"] == "PT_INTERP" for segment in elf.iter_segments()):
        defects.append(
            ElfDefect("interpreter", "It needs a dynamic loader (PT_INTERP), which the machine does not have.")
        )
    needed = [entry.needed for entry in dynamic if entry.entry.d_tag == "DT_NEEDED"]
    if needed:
        defects.append(ElfDefect("needed", f"It needs shared libraries: {', '.join(needed)}."))
    if elf.get_section_by_name(".symtab") is not None:
        defects.append(ElfDefect("stripped", "It carries a symbol table (.symtab) that is not used at run time."))
    return defects


def _library_defects(elf: ELFFile, functions: frozenset[str]) -> list[ElfDefect]:
    defects = _segment_defects(elf)
    if elf["e_type"] != "ET_DYN":
        defects.append(ElfDefect("library", f"It is not a shared library ({elf['e_type']})."))
    exported = _exported_functions(elf)
    if missing := sorted(functions - exported):
        defects.append(ElfDefect("missing", f"It does not export {', '.join(missing)}."))
    if extra := sorted(exported - functions):
        defects.append(ElfDefect("extra", f"It also exports {', '.join(extra)}."))
    return defects


def _segment_defects(elf: ELFFile) -> list[ElfDefect]:
    defects = []
    segments = list(elf.iter_segments())
    for segment in segments:
        flags = segment["p_flags"]
        if segment["p_type"] == "PT_LOAD" and flags & P_FLAGS.PF_W and flags & P_FLAGS.PF_X:
            text = f"The segment at {segment['p_vaddr']:#x} is both writable and executable."
            defects.append(ElfDefect("writable-executable", text))
    stacks = [segment["p_flags"] for segment in segments if segment["p_type"] == "PT_GNU_STACK"]
    # Without the header the kernel assumes that the stack must be executable.
    if not stacks or stacks[0] & P_FLAGS.PF_X:
        defects.append(ElfDefect("stack", "Its stack is executable (PT_GNU_STACK)."))
    if not any(segment["p_type"] == "PT_GNU_RELRO" for segment in segments):
        defects.append(ElfDefect("relro", "Its relocations stay writable (no PT_GNU_RELRO)."))
    return defects


def _dynamic_entries(elf: ELFFile) -> list[Any]:
    return [
        tag for segment in elf.iter_segments() if isinstance(segment, DynamicSegment) for tag in segment.iter_tags()
    ]


def _is_pie(dynamic: list[Any]) -> bool:
    flags = [entry.entry.d_val for entry in dynamic if entry.entry.d_tag == "DT_FLAGS_1"]
    return bool(flags and flags[0] & ENUM_DT_FLAGS_1["DF_1_PIE"])


def _exported_functions(elf: ELFFile) -> frozenset[str]:
    table = elf.get_section_by_name(".dynsym")
    if not isinstance(table, SymbolTableSection):
        return frozenset()
    return frozenset(
        symbol.name
        for symbol in table.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC"
        and symbol["st_info"]["bind"] in {"STB_GLOBAL", "STB_WEAK"}
        and symbol["st_shndx"] != "SHN_UNDEF"
    )
