"""Judging the two faces of the Rust crate as ELF files: is the executable fit to be PID 1, is the library's face ours?

A static PIE runs where there is no dynamic loader, at a random address, and no page of it is both writable and
executable. Pure: a binary file in, findings out.
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
class Finding:
    """One broken rule: its short name and one sentence."""

    rule: str
    text: str


def check_executable(file: BinaryIO) -> list[Finding]:
    """List what makes an ELF file unfit as the appliance's executable; an empty list means it is fit."""
    return _checked(file, _executable_findings)


def check_library(file: BinaryIO, *, functions: Collection[str]) -> list[Finding]:
    """List what is wrong with the shared library, which must export exactly these functions."""
    return _checked(file, lambda elf: _library_findings(elf, frozenset(functions)))


def _checked(file: BinaryIO, judge: Callable[[ELFFile], list[Finding]]) -> list[Finding]:
    try:
        elf = ELFFile(file)
        if elf["e_machine"] != "EM_X86_64":
            return [Finding("machine", f"It is built for {elf['e_machine']}, not for EM_X86_64.")]
        return judge(elf)
    except Exception as error:  # pyelftools raises whatever the damage leads it to
        return [
            Finding("format", f"It is not a sound ELF file ({type(error).__name__}: {' '.join(str(error).split())}).")
        ]


def _executable_findings(elf: ELFFile) -> list[Finding]:
    findings = _segment_findings(elf)
    dynamic = _dynamic_entries(elf)
    if elf["e_type"] != "ET_DYN" or not _is_pie(dynamic):
        findings.append(Finding("pie", f"It is not a position-independent executable ({elf['e_type']})."))
    if any(segment["p_type"] == "PT_INTERP" for segment in elf.iter_segments()):
        findings.append(Finding("interpreter", "It asks for a dynamic loader (PT_INTERP), which the machine lacks."))
    needed = [entry.needed for entry in dynamic if entry.entry.d_tag == "DT_NEEDED"]
    if needed:
        findings.append(Finding("needed", f"It needs shared libraries: {', '.join(needed)}."))
    if elf.get_section_by_name(".symtab") is not None:
        findings.append(Finding("stripped", "It carries a symbol table (.symtab) that nobody reads at run time."))
    return findings


def _library_findings(elf: ELFFile, functions: frozenset[str]) -> list[Finding]:
    findings = _segment_findings(elf)
    if elf["e_type"] != "ET_DYN":
        findings.append(Finding("library", f"It is not a shared library ({elf['e_type']})."))
    exported = _exported_functions(elf)
    if missing := sorted(functions - exported):
        findings.append(Finding("missing", f"It does not export {', '.join(missing)}."))
    if extra := sorted(exported - functions):
        findings.append(Finding("extra", f"It also exports {', '.join(extra)}."))
    return findings


def _segment_findings(elf: ELFFile) -> list[Finding]:
    findings = []
    segments = list(elf.iter_segments())
    for segment in segments:
        flags = segment["p_flags"]
        if segment["p_type"] == "PT_LOAD" and flags & P_FLAGS.PF_W and flags & P_FLAGS.PF_X:
            text = f"The segment at {segment['p_vaddr']:#x} is both writable and executable."
            findings.append(Finding("writable-executable", text))
    stacks = [segment["p_flags"] for segment in segments if segment["p_type"] == "PT_GNU_STACK"]
    # Without the header the kernel assumes that the stack must be executable.
    if not stacks or stacks[0] & P_FLAGS.PF_X:
        findings.append(Finding("stack", "Its stack is executable (PT_GNU_STACK)."))
    if not any(segment["p_type"] == "PT_GNU_RELRO" for segment in segments):
        findings.append(Finding("relro", "Its relocations stay writable (no PT_GNU_RELRO)."))
    return findings


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
