"""The cost of a call over the bridge, compared with the same call over the socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from builder.executable import build_library
from tests.bench.mutation_machines import local
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.rust import LOG
from tests.bench.sampling import alternate
from tests.support.local_machine import tiny_model
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.weights.edits import Dense

BRIDGE, SOCKET, LIBRARY = "client over the bridge", "client over the socket", "bridge's own calls"
_TENSOR = "blk.0.attn_q.weight"
_CALLS = 20
_HOW = (
    "The tiny model, one call after the other through the same client class: in a child process that holds the library"
    " and shares its weights (RustNeuralBridge), and at `vector_boot --listen`. A sample is the mean of 20 calls."
    " Tensor: 8 KiB of weights, a view of shared memory over the bridge, `read` over the socket."
)


def run(setting: Setting) -> Result:
    """Call both in turns. Raises ToolError, MachineError."""
    setting.say("building the library")
    library = build_library(log=LOG, progress=lambda _phase, _done, _total: None)
    rounds = setting.choose(full=40, quick=3)
    with ExitStack() as stack:
        bridge = stack.enter_context(RustNeuralBridge(library=library))
        bridge.initialize(tiny_model())
        over_bridge = stack.enter_context(bridge.client())
        over_socket = stack.enter_context(local(tiny_model())).machine
        calls: dict[str, dict[str, Callable[[], object]]] = {
            "stats": {BRIDGE: over_bridge.stats, SOCKET: over_socket.stats, LIBRARY: bridge.get_stats},
            "a tensor": {
                BRIDGE: lambda: bridge.tensor(_TENSOR).sum(),
                SOCKET: lambda: over_socket.read(_TENSOR).data,
            },
            "embed, 4 tokens": {
                BRIDGE: partial(over_bridge.embed, ["a word"]),
                SOCKET: partial(over_socket.embed, ["a word"]),
            },
            "mutate, 64 bytes": {BRIDGE: _mutation(over_bridge), SOCKET: _mutation(over_socket)},
        }
        cases = []
        for name, contenders in calls.items():
            setting.say(name)
            samples = alternate({who: partial(_seconds, call) for who, call in contenders.items()}, rounds=rounds)
            cases.append(Case(name, "s", samples))
    facts = tuple(BenchFinding(f"{case.name}, over the bridge", quantity(case.summary().median, "s")) for case in cases)
    return Result("Calls over the bridge", _HOW, tuple(cases), facts, {})


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - start) / _CALLS


def _mutation(machine: MachineClient) -> Callable[[], object]:
    """A small change; each differs from the one before, and waits for energy as usual."""
    number = 0

    def change() -> object:
        nonlocal number
        number = (number + 1) % 60
        return machine.mutate([Dense(_TENSOR, 0, bytes([number]) * 64)], confidence=0.9, wait=True)

    return change
