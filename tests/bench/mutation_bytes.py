"""How fast bytes become weights over each kind of connection, against memcpy and a bare socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.executable import build_library
from tests.bench.mutation_machines import SERIAL, UNIX, booted, build_image, local
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_least
from tests.bench.rust import LOG
from tests.bench.sampling import alternate
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.weights.edits import Dense

BRIDGE, RAW, MEMCPY = "bridge, shared memory", "bare socket pair", "memcpy"
_MIB = 1 << 20
_TENSOR = "token_embd.weight"
_BLOCK_BYTES = 34
_VARIANTS = 3
_UNIX_GOAL, _MEMCPY_SHARE, _SERIAL_GOAL = 1e9, 0.5, 100e6
_HOW = (
    "minilm in Q8_0, energy unlimited, dense edits that were made beforehand; each changes every page that it writes. A"
    " sample is the bytes of the edits over the time of the calls of `mutate`, one after the other: the client computes"
    " CRCs, the machine checks them, saves what it replaces, hashes the pages, and writes the journal (in memory)."
    " In one change: 11 MiB, by upload. 1 MiB each: 11 mutations. Before the samples are taken, the machine has as many"
    " before-images as it keeps. Beside them, the same bytes are sent through a socket pair between two threads and"
    " dropped, and copied from the buffer of the edit to another one. The machine behind virtio-serial is emulated"
    " (TCG); nothing in it echoes bytes without the protocol, so that its port has no such comparison."
)


class _Sender:
    """Sends the same amount of bytes again and again, each time others than the last time."""

    def __init__(self, machine: MachineClient, changes: list[list[list[Dense]]]) -> None:
        self._machine = machine
        self._changes = changes
        self._turn = count()
        self._generation = machine.hello().generation

    def rate(self) -> float:
        changes = self._changes[next(self._turn) % len(self._changes)]
        start = time.perf_counter()
        for edits in changes:
            done = self._machine.mutate(edits, confidence=0.9, base_generation=self._generation)
            self._generation = done.generation
        return _size(changes) / (time.perf_counter() - start)


def run(setting: Setting) -> Result:
    """Measure all ways, those on this host in turns. Raises VbootError."""
    setting.say("building an image of minilm in Q8_0, and the library")
    image = build_image(setting.folder / "image", model_type="Q8_0")
    build_library(log=LOG, progress=lambda _phase, _done, _total: None)
    pieces = setting.choose(full=11, quick=3)
    work = {
        f"{pieces} MiB in one change": [[[Dense(_TENSOR, 0, b"".join(data))]] for data in _variants(range(pieces))],
        "1 MiB each": [
            [[Dense(_TENSOR, place * len(piece), piece)] for place, piece in enumerate(data)]
            for data in _variants(range(pieces, 2 * pieces))
        ],
    }
    cases = _on_this_host(setting, image / "vectorland.gguf", work)
    setting.say(SERIAL)
    with booted(image, accel="tcg") as line:
        for name, changes in work.items():
            rate = _Sender(line.machine, changes).rate
            samples = alternate({SERIAL: rate}, rounds=setting.choose(full=5, quick=1), warm_up=1)
            cases.append(Case(f"{name}, {SERIAL}, emulated", "bytes/s", samples))
    return Result("Bytes to weights", _HOW, tuple(cases), _findings(cases), {})


def _on_this_host(setting: Setting, model: Path, work: Mapping[str, list[list[list[Dense]]]]) -> list[Case]:
    rounds, warm_up = setting.choose(full=15, quick=1), setting.choose(full=25, quick=0)
    cases = []
    with RustNeuralBridge(energy=False) as bridge:
        bridge.initialize(model)
        with local(model) as line, bridge.client() as beside:
            for name, changes in work.items():
                setting.say(name)
                contenders: dict[str, Callable[[], float]] = {
                    UNIX: _Sender(line.machine, changes).rate,
                    BRIDGE: _Sender(beside, changes).rate,
                    RAW: partial(_send_raw, changes[0]),
                    MEMCPY: partial(_copy, _buffers(changes[0])),
                }
                cases.append(Case(name, "bytes/s", alternate(contenders, rounds=rounds, warm_up=warm_up)))
                warm_up = 1
    return cases


def _findings(cases: list[Case]) -> tuple[BenchFinding, ...]:
    found = []
    for case in cases:
        if UNIX in case.samples:
            found += [
                at_least(f"{case.name}, {UNIX}", case.summary().median, _UNIX_GOAL, shown=_rate),
                at_least(
                    f"{case.name}, {BRIDGE}: share of memcpy's rate",
                    case.ratio(BRIDGE, over=MEMCPY),
                    _MEMCPY_SHARE,
                    shown="{:.3g}".format,
                ),
            ]
        else:
            found.append(at_least(case.name, case.summary().median, _SERIAL_GOAL, shown=_rate))
    return tuple(found)


def _rate(value: float) -> str:
    return quantity(value, "bytes/s")


def _variants(numbers: range) -> list[list[bytes]]:
    """Blocks made from these numbers, and the same ones in other places."""
    data = [_blocks(number) for number in numbers]
    turns = [_BLOCK_BYTES * (number + 1) for number in range(_VARIANTS)]
    return [[piece[turn:] + piece[:turn] for piece in data] for turn in turns]


def _blocks(number: int) -> bytes:
    """A little less than 1 MiB of Q8_0."""
    blocks = np.random.default_rng(number).integers(-100, 100, (_MIB // _BLOCK_BYTES, _BLOCK_BYTES), np.int8)
    blocks[:, :2] = np.float16(0.01).reshape(1, 1).view(np.int8)
    return blocks.tobytes()


def _size(changes: list[list[Dense]]) -> int:
    return sum(len(edit.data) for edits in changes for edit in edits)


def _buffers(changes: list[list[Dense]]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    sources = [np.frombuffer(edit.data, np.uint8) for edits in changes for edit in edits]
    return [(np.zeros_like(source), source) for source in sources]


def _copy(buffers: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    start = time.perf_counter()
    for target, source in buffers:
        np.copyto(target, source)
    return sum(source.size for _, source in buffers) / (time.perf_counter() - start)


def _send_raw(changes: list[list[Dense]]) -> float:
    ours, theirs = socket.socketpair()

    def receive() -> None:
        left = _size(changes)
        while left:
            left -= len(theirs.recv(1 << 18))
        theirs.sendall(b".")

    with ours, theirs:
        receiver = threading.Thread(target=receive)
        receiver.start()
        start = time.perf_counter()
        for edits in changes:
            for edit in edits:
                ours.sendall(edit.data)
        ours.recv(1)
        seconds = time.perf_counter() - start
        receiver.join()
    return _size(changes) / seconds
