"""Runs of the evolution daemon on a small model, for tests: in this process, or in another one that can be killed."""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import image.tiny
from evolution.daemon.body import Body, BridgeBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.events import DaemonEvent, Stopped
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness.contract import Pair, SearchData
from evolution.fitness.retrieval import RetrievalFitness
from evolution.strategies.tiers import Tier
from image.compose import compose
from vboot.client.bridge import RustNeuralBridge

T = TypeVar("T")

_WORDS = (
    "water",
    "house",
    "tree",
    "light",
    "stone",
    "red",
    "green",
    "blue",
    "small",
    "good",
    "long",
    "other",
    "people",
)
_FOLDER = tempfile.TemporaryDirectory(prefix="vboot-test-")
NORMS = Tier("norms", "normal", ("*_norm.weight", "*.bias"), sigma=0.05)
PLAN = StrategyPlan("random_search", (NORMS,), seed=5, options={"proposals": 3})
QUICK = DaemonConfig(period_s=0.05, pulse_cycles=2, connect_s=2.0, watched_pairs=2)


@functools.cache
def small_model() -> Path:
    """vectorland.gguf of the tiny model, narrower, in a width that kernels can have."""
    path = Path(_FOLDER.name) / "vectorland.gguf"
    config = dataclasses.replace(image.tiny.CONFIG, embedding=48, blocks=1)
    with mock.patch.object(image.tiny, "CONFIG", config):
        compose("tiny", path)
    return path


def fitness(seed: int = 1, *, pairs: int = 24) -> RetrievalFitness:
    """Of pairs of a few words that share one."""
    rng = random.Random(seed)
    made = []
    for _ in range(pairs + 12):
        words = rng.sample(_WORDS, 5)
        made.append(Pair(" ".join(words[:2]), " ".join([words[0], *words[2:]])))
    data = SearchData(tuple(made[:pairs]), tuple(made[pairs : pairs + 8]), tuple(made[pairs + 8 :]))
    return RetrievalFitness(data, seed=1, batch_size=6)


@functools.cache
def body_bridge() -> RustNeuralBridge:
    """A bridge that has loaded the model; `fresh_body` gives it the model's weights again."""
    bridge = RustNeuralBridge(faults=True)
    bridge.initialize(small_model())
    return bridge


def fresh_body() -> BridgeBody:
    """A body that begins with the model's weights."""
    bridge = body_bridge()
    bridge.initialize(small_model())
    return BridgeBody(small_model(), bridge=bridge)


class Events(list[DaemonEvent]):
    """A listener that records all events, and may call a function for each."""

    def __init__(self, act: Callable[[DaemonEvent], None] = lambda _event: None) -> None:
        super().__init__()
        self._act = act

    def __call__(self, event: DaemonEvent) -> None:
        self.append(event)
        self._act(event)

    def of(self, kind: type[T]) -> list[T]:
        """Those of one kind."""
        return [event for event in self if isinstance(event, kind)]


def daemon(
    folder: Path, body: Body, *, listener: Callable[[DaemonEvent], None] = lambda _: None, **settings: Any
) -> EvolutionDaemonV7:
    """A daemon with quick settings; `plan`, `fitness`, `model` and the members of DaemonConfig can be given."""
    plan, data = settings.pop("plan", PLAN), settings.pop("fitness", None) or fitness()
    model = settings.pop("model", None) or small_model()
    config = dataclasses.replace(QUICK, **settings)
    return EvolutionDaemonV7(body, model, data, plan, folder, config=config, listeners=[listener])


def evolve(folder: Path, body: Body | None = None, **settings: Any) -> Stopped:
    """Run a daemon to its end."""
    return daemon(folder, body or fresh_body(), **settings).run()


def body_digest(body: BridgeBody) -> str:
    """The digest of the weights that a body has."""
    with body.open(5.0) as machine:
        return machine.digest([]).model


def run_alone(folder: Path, generations: int, **settings: Any) -> None:
    """A run with a body of its own, for a process of its own."""
    body = BridgeBody(small_model())
    evolve(folder, body, generations=generations, **settings)
    body.close()
