"""Writes everything that follows from the instruction table and from the texts of the built-in programs.

Run it from the checkout after a change of `spec/pixels.toml` or `spec/kernels/`:
`.venv/bin/python docs/generate_pixels.py`. A test fails until that has been done.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from image.pixels import Opcode, opcode_table  # noqa: E402

TABLE_MODULE = Path("vboot/weights/pixel_table.py")
KERNELS = Path("spec/kernels.txt")
PAGE = Path("docs/pixels.md")
SLOTS = 8
INSTRUCTION = 250


def table_module() -> str:
    """The instruction table as a Python module without further imports."""
    entries = "\n".join(
        f"    Opcode({opcode.code}, {_quoted(opcode.name)}, {_tuple(opcode.immediates)}, {_quoted(opcode.operand)}),"
        for opcode in opcode_table()
    )
    return f'''"""The instructions of the pixel machine. Generated from spec/pixels.toml by docs/generate_pixels.py."""

from __future__ import annotations

from typing import NamedTuple

INSTRUCTION = {INSTRUCTION}


class Opcode(NamedTuple):
    """An instruction: `code` and name; what its immediate may be, names counted from 0, "slot" or "vector"."""

    code: int
    name: str
    immediates: tuple[str, ...]
    operand: str


OPCODES = (
{entries}
)
'''


def kernels() -> str:
    """The built-in programs assembled, one a line in hexadecimal."""
    assemble: Callable[[str], bytes] = importlib.import_module("vboot.weights.pixels").assemble
    lines = "".join(f"kernel.{slot}: {assemble(_source(slot)).hex()}".rstrip() + "\n" for slot in range(SLOTS))
    return f"# The built-in programs, assembled from spec/kernels by docs/generate_pixels.py.\n{lines}"


def page() -> str:
    """The documentation with its generated parts renewed."""
    text = (ROOT / PAGE).read_text("utf-8")
    rows = "".join(
        f"| 0x{opcode.code:02X} | {opcode.name} | {_immediate(opcode)} | {opcode.effect} |\n"
        for opcode in opcode_table()
    )
    text = _renewed(text, "instructions", f"| g | name | b | effect |\n|---|---|---|---|\n{rows}")
    titles = "".join(f"| kernel.{slot} | {_source(slot).splitlines()[0].lstrip('; ')} |\n" for slot in range(SLOTS))
    return _renewed(text, "kernels", f"| slot | what it does |\n|---|---|\n{titles}")


def _renewed(text: str, part: str, content: str) -> str:
    before, begin, rest = text.partition(f"<!-- {part} -->\n")
    _, end, after = rest.partition(f"<!-- end of {part} -->")
    return before + begin + "\n" + content + "\n" + end + after


def _source(slot: int) -> str:
    return (ROOT / "spec" / "kernels" / f"kernel.{slot}.txt").read_text("utf-8")


def _immediate(opcode: Opcode) -> str:
    if opcode.operand == "slot":
        return "0–7 `kernel.b`, 128–135 `evolved.(b-128)`"
    if opcode.operand == "vector":
        return "a neural interrupt, 0 means 255"
    return ", ".join(f"{number} {name}" for number, name in enumerate(opcode.immediates)) or "0"


def _quoted(word: str) -> str:
    return f'"{word}"'


def _tuple(words: tuple[str, ...]) -> str:
    return f"({', '.join(map(_quoted, words))}{',' if len(words) == 1 else ''})"


def main() -> None:
    """Write all files; the table first, for the assembler reads it."""
    for path, content in ((TABLE_MODULE, table_module), (KERNELS, kernels), (PAGE, page)):
        (ROOT / path).write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    main()
