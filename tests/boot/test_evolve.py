"""A booted machine evolves through the same weights as one in this process, also when it is killed on the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from evolution.daemon import events as e
from evolution.daemon.body import Body, BridgeBody, SocketBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness.contract import Pair, SearchData
from evolution.fitness.retrieval import RetrievalFitness
from evolution.strategies.tiers import STANDARD_TIERS
from qemu.launch import start
from qemu.machine import VirtualMachine
from tests.boot.conftest import Image
from vboot.client.machine import connect

GENERATIONS = 6
PLAN = StrategyPlan("antithetic_es", (STANDARD_TIERS["norms"],), seed=3, options={"pairs": 3})
THINGS = ("a red house", "an old tree", "the warm sofa", "some rain", "a fast train", "two cats", "cold tea", "the sea")


def short_pairs(first: int, count: int) -> tuple[Pair, ...]:
    numbers = range(first, first + count)
    return tuple(Pair(f"{THINGS[n % 8]} {n}", f"{THINGS[n % 8]} near {THINGS[n * 3 % 7]} {n}") for n in numbers)


DATA = SearchData(train=short_pairs(0, 32), calibration=short_pairs(100, 16), watch=short_pairs(200, 8))


def evolve(
    body: Body, model: Path, folder: Path, listen: Callable[[e.DaemonEvent], None]
) -> tuple[list[tuple[bool, str]], e.Stopped]:
    """The outcome and the digest of every generation, and how it ended."""
    ended: list[tuple[bool, str]] = []

    def keep(event: e.DaemonEvent) -> None:
        if isinstance(event, e.GenerationEnded):
            ended.append((event.accepted, event.model))
        listen(event)

    fitness = RetrievalFitness(DATA, seed=1, batch_size=8)
    # All 16 short texts of the watch data are embedded by the body after each move.
    config = DaemonConfig(generations=GENERATIONS, watched_pairs=8, connect_s=300.0)
    stopped = EvolutionDaemonV7(body, model, fitness, PLAN, folder, config=config, listeners=[keep]).run()
    return ended, stopped


def test_generations_on_a_booted_machine_are_those_in_process(tiny: Image, tmp_path: Path) -> None:
    model = tiny.folder / "vectorland.gguf"
    with closing(BridgeBody(model)) as own:
        native, _ = evolve(own, model, tmp_path / "native", lambda _event: None)
    assert any(accepted for accepted, _ in native[: GENERATIONS // 2])

    with ExitStack() as stack:
        machines: list[VirtualMachine] = []

        def boot() -> Path:
            machines.append(stack.enter_context(start(tiny.spec())))
            return machines[-1].evolution

        def listen(event: e.DaemonEvent) -> None:
            if isinstance(event, e.GenerationEnded) and event.generation == GENERATIONS // 2 and len(machines) == 1:
                machines[0].kill()

        booted, stopped = evolve(SocketBody(boot(), revive=boot), model, tmp_path / "booted", listen)
        assert booted == native
        assert len(machines) == 2, "the machine was killed, and another booted"
        assert (stopped.generation, stopped.model) == (GENERATIONS, native[-1][1])
        with connect(machines[1].evolution, timeout=300) as machine:
            assert machine.digest([]).model == stopped.model, "which was brought to the weights of the run"
            hello = machine.hello()
            assert hello.promoted == hello.generation > 0
