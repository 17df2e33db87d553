"""How fast bytes become weights, and how fast recipes do, against memcpy, a bare socket and numpy."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from tests.bench.mutation_machines import SERIAL, UNIX, WEIGHT, Connected, booted, build_image, local
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.sampling import alternate
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Dense, Edit, LowRank, Seeded, Sparse

UPLOAD, DENSE, RAW, MEMCPY = "dense, by upload", "dense, 1 MiB each", "bare socket pair", "memcpy"
OURS, TWIN = "vector_boot", "numpy twin"
_MIB = 1 << 20
_ROWS, _COLUMNS = 1536, 384
_RANK = 8
_SPARSE = 50_000
_EMBEDDING = "token_embd.weight"
_BLOCK_BYTES = 34
_HOW = (
    "minilm in Q8_0, energy unlimited. Bytes: one mutation of 11 MiB of blocks by upload in pieces of 1 MiB, and"
    " mutations of 1 MiB each, both with CRCs computed by the client and checked by the machine, which also saves what"
    " it replaces and keeps the journal; compared with the same bytes sent through a socket pair between two threads"
    " and dropped, and with a copy in memory. The virtio-serial port has no such comparison: nothing in the guest"
    " echoes bytes without the protocol. Recipes: one edit of 384 x 1536 elements in Q8_0, from the request to the"
    " reply, compared with the numpy twin computing the same bytes. Each change is rolled back before the next turn;"
    " that is not timed."
)


def run(setting: Setting) -> Result:
    """Measure both machines. Raises VbootError."""
    setting.say("building an image of minilm in Q8_0")
    image = build_image(setting.folder / "image", model_type="Q8_0")
    rounds = setting.choose(full=7, quick=1)
    with local(image / "vectorland.gguf") as line:
        setting.say("bytes over the socket")
        size = setting.choose(full=11, quick=4) * _MIB
        cases = [_bytes_case(UNIX, line, size, rounds, peers=True)]
        for name, edit in _recipes().items():
            setting.say(name)
            cases.append(_recipe_case(name, edit, line, setting.choose(full=15, quick=2)))
    setting.say("bytes over virtio-serial")
    with booted(image) as line:
        cases.insert(1, _bytes_case(SERIAL, line, size, rounds, peers=False))
    facts = tuple(_per_element(case) for case in cases if TWIN in case.samples)
    return Result("Mutation throughput", _HOW, tuple(cases), facts, {})


def _bytes_case(name: str, line: Connected, size: int, rounds: int, *, peers: bool) -> Case:
    data = np.random.default_rng(1).bytes(size)
    source, target = np.frombuffer(data, np.uint8), np.empty(size, np.uint8)
    pieces = [_blocks(number) for number in range(size // _MIB)]
    contenders: dict[str, Callable[[], object]] = {
        UPLOAD: partial(_send_whole, line, pieces),
        DENSE: partial(_send_dense, line, pieces),
    }
    if peers:
        contenders |= {RAW: partial(_send_raw, data), MEMCPY: lambda: np.copyto(target, source)}

    def rate(contender: str) -> float:
        start = time.perf_counter()
        contenders[contender]()
        return size / (time.perf_counter() - start)

    return Case(f"bytes, {name}", "bytes/s", alternate({c: partial(rate, c) for c in contenders}, rounds=rounds))


def _blocks(number: int) -> bytes:
    """A little less than 1 MiB of Q8_0."""
    blocks = np.random.default_rng(number).integers(-100, 100, (_MIB // _BLOCK_BYTES, _BLOCK_BYTES), np.int8)
    blocks[:, :2] = np.float16(0.01).reshape(1, 1).view(np.int8)
    return blocks.tobytes()


def _send_dense(line: Connected, pieces: list[bytes]) -> None:
    """Each piece one mutation; its blocks turn with the generation, so that each one changes something."""
    generation = line.machine.hello().generation
    for place, piece in enumerate(pieces):
        turn = _BLOCK_BYTES * (generation % 97 + 1)
        edit = Dense(_EMBEDDING, place % 8 * len(piece), piece[turn:] + piece[:turn])
        generation = line.machine.mutate([edit], confidence=0.9, base_generation=generation).generation


def _send_whole(line: Connected, pieces: list[bytes]) -> None:
    """All pieces in one mutation, too large for a message; their order changes with the generation."""
    generation = line.machine.hello().generation
    first = generation % len(pieces)
    edit = Dense(_EMBEDDING, 0, b"".join(pieces[first:] + pieces[:first]))
    line.machine.mutate([edit], confidence=0.9, base_generation=generation)


def _send_raw(data: bytes) -> None:
    ours, theirs = socket.socketpair()

    def receive() -> None:
        left = len(data)
        while left:
            left -= len(theirs.recv(1 << 18))
        theirs.sendall(b".")

    with ours, theirs:
        receiver = threading.Thread(target=receive)
        receiver.start()
        ours.sendall(data)
        ours.recv(1)
        receiver.join()


def _recipes() -> Mapping[str, Edit]:
    random = np.random.default_rng(2)
    a, b = (random.normal(0, 0.1, (size, _RANK)).astype(np.float32) for size in (_ROWS, _COLUMNS))
    indices = np.sort(random.choice(_ROWS * _COLUMNS, _SPARSE, replace=False)).astype(np.uint64)
    return {
        "seeded normal, all elements": Seeded(WEIGHT, "01" * 8, "normal", 1.0, 0.001),
        "seeded step, all elements": Seeded(WEIGHT, "02" * 8, "step", 1.0, 1),
        "seeded scale, all blocks": Seeded(WEIGHT, "03" * 8, "scale", 1.0, 0.01),
        f"low_rank, rank {_RANK}": LowRank(WEIGHT, 0.01, a, b),
        f"sparse, {_SPARSE:,} elements": Sparse(WEIGHT, "add", indices, np.full(_SPARSE, 0.01, np.float32)),
    }


def _per_element(case: Case) -> BenchFinding:
    elements = _SPARSE if case.name.startswith("sparse") else _ROWS * _COLUMNS
    ours, twin = (1e9 * case.summary(name).median / elements for name in (OURS, TWIN))
    return BenchFinding(case.name, f"{ours:.3g} ns an element, the twin {twin:.3g} ns")


def _recipe_case(name: str, edit: Edit, line: Connected, rounds: int) -> Case:
    info = line.machine.tensor(WEIGHT)
    held = {WEIGHT: TensorData(WEIGHT, info.type, info.shape, line.machine.read(WEIGHT).data)}

    def ours() -> float:
        generation = line.machine.hello().generation
        start = time.perf_counter()
        line.machine.mutate([edit], confidence=0.9, base_generation=generation)
        seconds = time.perf_counter() - start
        line.machine.rollback(generation)
        return seconds

    def twin() -> float:
        start = time.perf_counter()
        apply([edit], held, ())
        return time.perf_counter() - start

    return Case(name, "s", alternate({OURS: ours, TWIN: twin}, rounds=rounds, warm_up=1))
