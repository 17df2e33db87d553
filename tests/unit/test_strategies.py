"""Every strategy, on every form of tier that it takes, keeps the contract and comes nearer to the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from evolution.strategies import STRATEGIES, make
from evolution.strategies.contract import Strategy
from evolution.strategies.tiers import Tier
from evolution.testing.strategy_contract import StrategyContract
from evolution.testing.toy_model import ToyTask, toy_terrain
from vboot.weights.edits import Edit, LowRank, Seeded, Sparse

NORMS = Tier("norms", "normal", ("*_norm.*", "*.bias"), sigma=0.05)
LAST = Tier("last", "normal", ("blk.{last}.layer_output_norm.*",), sigma=0.05)
SCALES = Tier("scales", "scale", ("*[!m].weight",), sigma=0.1)
CODES = Tier("codes", "step", ("*.ffn_up.weight",), density=0.1)
LOW_RANK = Tier("low_rank", "low_rank", ("*[!m].weight",), sigma=0.1, rank=2)
F16_LOW_RANK = Tier("f16", "low_rank", ("blk.0.attn_q.weight",), sigma=0.1)

TASKS: Mapping[str, ToyTask] = {
    "norms": ToyTask(
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.bias",
        "blk.1.layer_output_norm.bias",
        "blk.1.layer_output_norm.weight",
    ),
    "last": ToyTask("blk.1.layer_output_norm.bias", "blk.1.layer_output_norm.weight"),
    "scales": ToyTask("blk.1.attn_q.weight", "blk.1.ffn_up.weight"),
    "codes": ToyTask("blk.1.ffn_up.weight"),
    "f16": ToyTask("blk.0.attn_q.weight"),
    "low_rank": ToyTask("blk.0.attn_q.weight", "blk.1.attn_q.weight"),
}


class Registered(StrategyContract):
    """A strategy of the registry."""

    name: ClassVar[str]
    tier: ClassVar[Tier]
    options: ClassVar[dict[str, Any]] = {}

    def make(self, seed: int) -> Strategy:
        return make(self.name, toy_terrain(), self.tier, seed, **self.options)


class AntitheticEs(Registered):
    name = "antithetic_es"
    options: ClassVar[dict[str, Any]] = {"pairs": 8}


class TestAntitheticEsOnNorms(AntitheticEs):
    tier, task, gain = NORMS, TASKS["norms"], 0.5


class TestAntitheticEsWithMomentum(AntitheticEs):
    tier, task, gain = NORMS, TASKS["norms"], 0.5
    options: ClassVar[dict[str, Any]] = {"pairs": 8, "momentum": 0.5, "shaping": "signs"}


class TestAntitheticEsOnScales(AntitheticEs):
    tier, task, gain = SCALES, TASKS["scales"], 0.2


class TestAntitheticEsOnCodes(AntitheticEs):
    tier, task, gain = CODES, TASKS["codes"], 0.2


class TestAntitheticEsOnLowRank(AntitheticEs):
    tier, task, gain = LOW_RANK, TASKS["low_rank"], 0.2
    options: ClassVar[dict[str, Any]] = {"pairs": 8, "shaping": "standardised", "learning_rate": 2.0}


class CmaEs(Registered):
    name = "cma_es"
    options: ClassVar[dict[str, Any]] = {"directions": 8}


class TestCmaEsOnNorms(CmaEs):
    tier, task, gain = LAST, TASKS["last"], 0.1


class TestCmaEsOnScales(CmaEs):
    tier, task, gain = SCALES, TASKS["scales"], 0.1


class TestCmaEsOnLowRank(CmaEs):
    tier, task, gain = F16_LOW_RANK, TASKS["f16"], 0.04


class TestCmaEsAdaptive(CmaEs):
    tier, task, gain = LAST, TASKS["last"], 0.1
    options: ClassVar[dict[str, Any]] = {"directions": 8, "variant": "adaptive", "population": 16}


class TestCmaEsSeparable(CmaEs):
    tier, task, gain = LAST, TASKS["last"], 0.1
    options: ClassVar[dict[str, Any]] = {"directions": 8, "variant": "separable"}


class OnePlusOne(Registered):
    name = "one_plus_one"
    generations = 100


class TestOnePlusOneOnNorms(OnePlusOne):
    tier, task, gain = NORMS, TASKS["norms"], 0.2


class TestOnePlusOneOnScales(OnePlusOne):
    tier, task, gain = SCALES, TASKS["scales"], 0.1


class TestOnePlusOneOnCodes(OnePlusOne):
    tier, task, gain = CODES, TASKS["codes"], 0.1


class TestOnePlusOneOnLowRank(OnePlusOne):
    tier, task, gain = LOW_RANK, TASKS["low_rank"], 0.1


class RandomSearch(Registered):
    name = "random_search"
    options: ClassVar[dict[str, Any]] = {"proposals": 8}


class TestRandomSearchOnNorms(RandomSearch):
    tier, task, gain = NORMS, TASKS["norms"], 0.1


class TestRandomSearchOnCodes(RandomSearch):
    tier, task, gain = CODES, TASKS["codes"], 0.1


class TestRandomSearchOnLowRank(RandomSearch):
    tier, task, gain = LOW_RANK, TASKS["low_rank"], 0.1


def lineage(seed: str) -> tuple[Edit, ...]:
    """One edit of every kind, on tensors whose best lies above."""
    random = np.random.RandomState(int(seed, 16) % 1000)
    return (
        Seeded("*.bias", seed, "normal", 1.0, 0.2),
        Sparse("blk.0.attn_norm.weight", "add", np.arange(8, dtype=np.uint64), random.rand(8).astype(np.float32)),
        LowRank("blk.0.attn_q.weight", 0.1, random.randn(8, 1).astype("f4"), random.randn(16, 1).astype("f4")),
        Seeded("*.attn_q.weight", seed, "normal", 0.5, 0.05),
        Seeded("*.ffn_up.weight", seed, "step", 0.1, 1),
    )


class TestCrossover(Registered):
    name, tier, task, gain = "crossover", NORMS, TASKS["norms"], 0.1
    options: ClassVar[dict[str, Any]] = {"lineages": [lineage("0" * 16), lineage("1" * 16)], "proposals": 8}


def test_every_strategy_is_tried() -> None:
    tried = {kind.name for base in Registered.__subclasses__() for kind in (base, *base.__subclasses__())}
    assert tried == set(STRATEGIES)
