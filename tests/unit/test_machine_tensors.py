"""The tensors of the machine and the word table they come from."""

from __future__ import annotations

import numpy as np

from image.gguf_writer import TensorType
from image.machine_tensors import machine_tensors, mmio_table

TENSORS = {tensor.name: tensor for tensor in machine_tensors()}


def data(name: str) -> bytes:
    source = TENSORS[name].source
    assert isinstance(source, bytes)
    return source


def test_names_types_and_shapes() -> None:
    slots = {f"{kind}.{index}": (TensorType.I8, (4096,)) for kind in ("kernel", "evolved") for index in range(8)}
    assert {tensor.name: (tensor.type, tensor.dims) for tensor in TENSORS.values()} == {
        "hw.mmio": (TensorType.I32, (1024,)),
        "cortex_journal": (TensorType.I8, (1 << 20,)),
        **slots,
    }


def test_initial_words() -> None:
    words = np.frombuffer(data("hw.mmio"), dtype="<i4")
    expected = {0: 0x56424F54, 1: 1, 4: 100, 8: -1, 18: -1, 20: -1} | dict.fromkeys(range(40, 48), -1)
    assert {int(index): int(words[index]) for index in np.flatnonzero(words)} == expected


def test_empty_journal() -> None:
    journal = data("cortex_journal")
    assert journal[:16] == b"CJ01" + (64).to_bytes(4, "little") + bytes(8)
    assert not any(journal[16:])


def test_the_table_has_no_overlap_and_unique_names() -> None:
    table = mmio_table()
    words = [word for entry in table for word in range(entry.word, entry.word + entry.words)]
    assert len(words) == len(set(words))
    assert words == sorted(words)
    assert max(words) < 1024
    assert len({entry.name for entry in table}) == len(table)
    assert all(entry.signed for entry in table if entry.initial < 0)


def test_the_table_is_the_documented_one() -> None:
    places = {entry.name: (entry.word, entry.words) for entry in mmio_table()}
    assert places == {
        "magic": (0, 1),
        "layout": (1, 1),
        "beats": (2, 2),
        "period_ms": (4, 1),
        "lateness_us": (5, 1),
        "worst_lateness_us": (6, 1),
        "uptime_s": (7, 1),
        "last_vector": (8, 1),
        "interrupts": (9, 2),
        "generation": (11, 2),
        "mutations_accepted": (13, 1),
        "mutations_refused": (14, 1),
        "energy": (15, 1),
        "memory_total_kib": (16, 1),
        "memory_available_kib": (17, 1),
        "cpu_pressure_x100": (18, 1),
        "load1_x100": (19, 1),
        "temperature_mc": (20, 1),
        "worker_pid": (21, 1),
        "worker_restarts": (22, 1),
        "state": (23, 1),
        "pixels_processed": (24, 2),
        "slot": (26, 1),
        "pending_vectors": (32, 8),
        "enabled_vectors": (40, 8),
    }
