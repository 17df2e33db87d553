"""The tensors of the machine, with their contents in a newly composed file."""

from __future__ import annotations

import struct
import tomllib
from dataclasses import dataclass
from importlib import resources

import numpy as np

from image.gguf_writer import Tensor, TensorType, u32
from image.pixels import SLOT_BYTES, kernel_programs, program_slot
from vboot.gguf import LAYOUT_KEY, Metadata

LAYOUT = 1
SLOTS = 8
JOURNAL_BYTES = 1 << 20
JOURNAL_RECORD_BYTES = 64
MMIO_WORDS = 1024


@dataclass(frozen=True)
class MmioEntry:
    """A quantity in hw.mmio: its first word, how many words, the initial value of each, and what it means."""

    word: int
    name: str
    meaning: str
    words: int = 1
    signed: bool = False
    initial: int = 0


def mmio_table() -> tuple[MmioEntry, ...]:
    """The word table of hw.mmio, read from `spec/hw_mmio.toml`."""
    text = resources.files("spec").joinpath("hw_mmio.toml").read_text("utf-8")
    return tuple(MmioEntry(**entry) for entry in tomllib.loads(text)["entry"])


def machine_tensors() -> tuple[Tensor, ...]:
    """All machine tensors: hw.mmio with its initial words, an empty journal, the built-in programs, empty slots."""
    return (
        Tensor("hw.mmio", (MMIO_WORDS,), TensorType.I32, _initial_mmio()),
        Tensor("cortex_journal", (JOURNAL_BYTES,), TensorType.I8, _empty_journal()),
        *(
            Tensor(f"kernel.{index}", (SLOT_BYTES,), TensorType.I8, program_slot(pixels))
            for index, pixels in enumerate(kernel_programs())
        ),
        # A slot whose pixel count is 0 is empty.
        *(Tensor(f"evolved.{index}", (SLOT_BYTES,), TensorType.I8, bytes(SLOT_BYTES)) for index in range(SLOTS)),
    )


def layout_entry() -> Metadata:
    """The entry that marks a composed file."""
    return u32(LAYOUT_KEY, LAYOUT)


def _initial_mmio() -> bytes:
    words = np.zeros(MMIO_WORDS, dtype="<u4")
    for entry in mmio_table():
        words[entry.word : entry.word + entry.words] = entry.initial & 0xFFFFFFFF
    return words.tobytes()


def _empty_journal() -> bytes:
    """Header: magic, u32 record size, u64 records ever written; then the ring, all zero."""
    return struct.pack("<4sIQ", b"CJ01", JOURNAL_RECORD_BYTES, 0).ljust(JOURNAL_BYTES, b"\0")
