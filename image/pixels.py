"""Pixel programs in an image: the instruction table, the built-in programs, and the layout of a slot."""

from __future__ import annotations

import struct
import tomllib
from dataclasses import dataclass
from importlib import resources

SLOT_BYTES = 4096
SLOT_PIXELS = (SLOT_BYTES - 4) // 3


@dataclass(frozen=True)
class PixelInstruction:
    """An instruction {250, code, b}: what it does, what b may be, and how many values it pops off the stack.

    `immediates` are names that b counts from 0. `operand` is "slot" (0 to 7 is kernel.b, 128 to 135 is
    evolved.(b - 128)), "vector" (any b, 0 means 255) or empty; with neither, b is 0.
    """

    code: int
    name: str
    effect: str
    pops: int = 0
    immediates: tuple[str, ...] = ()
    operand: str = ""


def instruction_table() -> tuple[PixelInstruction, ...]:
    """The instructions, read from `spec/pixels.toml`."""
    entries = tomllib.loads(_text("pixels.toml"))["opcode"]
    return tuple(PixelInstruction(**{**entry, "immediates": tuple(entry.get("immediates", ()))}) for entry in entries)


def kernel_programs() -> tuple[bytes, ...]:
    """The pixels of kernel.0 to kernel.7, three bytes each, read from `spec/kernels.txt`."""
    lines = _text("kernels.txt").splitlines()
    return tuple(bytes.fromhex(line.partition(":")[2]) for line in lines if not line.startswith("#"))


def program_slot(pixels: bytes) -> bytes:
    """A slot with this program: u32 number of pixels, the pixels of three bytes, zeros up to 4096 bytes."""
    return (struct.pack("<I", len(pixels) // 3) + pixels).ljust(SLOT_BYTES, b"\0")


def _text(name: str) -> str:
    return resources.files("spec").joinpath(name).read_text("utf-8")
