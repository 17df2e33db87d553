"""What each strategy proposes, which move it makes of the scores, and what it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evolution.strategies import STRATEGIES, make, restore
from evolution.strategies.cma_fields import fields_of, optimiser
from evolution.strategies.contract import Proposal, Strategy, Verdict
from evolution.strategies.state import dump_array
from evolution.strategies.tiers import Tier
from evolution.testing.toy_model import ToyTask, toy_terrain
from vboot.errors import InputError
from vboot.weights.edits import LowRank, Seeded, pack

NORMS = Tier("norms", "normal", ("*_norm.weight", "*.bias"), sigma=0.05)
CODES = Tier("codes", "step", ("*.ffn_up.weight",), density=0.1)
LAST = Tier("last", "normal", ("blk.{last}.layer_output_norm.*",), sigma=0.05)


def generation(strategy: Strategy, score: Callable[[int], float | None], *, accept: bool = True) -> Proposal | None:
    """A whole generation; its move."""
    for number, proposal in enumerate(strategy.ask()):
        strategy.tell(proposal.id, Verdict(score(number)))
    move = strategy.move()
    strategy.settle(accept and move is not None)
    return move


def move_of(strategy: Strategy, score: Callable[[int], float | None] = float, *, accept: bool = True) -> Sequence[Any]:
    """The edits of the move of a whole generation; by default the last proposal is the best."""
    move = generation(strategy, score, accept=accept)
    assert move is not None
    return move.edits


def scales(edits: Sequence[Any]) -> list[float]:
    return [edit.scale for edit in edits]


def seeds(edits: Sequence[Any]) -> list[str]:
    return [edit.seed for edit in edits]


def test_pairs_are_opposite_and_the_move_goes_to_the_better_side() -> None:
    strategy = make("antithetic_es", toy_terrain(), LAST, 1, pairs=2)
    plus, minus = (edit for proposal in strategy.ask()[:2] for edit in proposal.edits)
    assert isinstance(plus, Seeded)
    assert minus == replace(plus, scale=-0.05)
    move = move_of(strategy, lambda number: [1.0, 0.0, 0.0, 1.0][number])
    assert scales(move) == pytest.approx([0.05 / np.sqrt(2), -0.05 / np.sqrt(2)])


def test_a_pair_with_a_failure_has_no_part_in_the_move() -> None:
    strategy = make("antithetic_es", toy_terrain(), LAST, 1, pairs=2)
    proposals = strategy.ask()
    move = move_of(strategy, lambda number: [1.0, None, 0.0, 1.0][number])
    assert seeds(move) == seeds(proposals[2].edits)


def test_refused_moves_get_shorter_and_failures_make_noise_smaller() -> None:
    strategy = make("antithetic_es", toy_terrain(), LAST, 1, pairs=1)
    first, second, third = (scales(move_of(strategy, accept=accept))[0] for accept in (False, True, True))
    assert second == pytest.approx(0.7 * first)
    assert third == pytest.approx(1.2 * second)
    strategy = make("antithetic_es", toy_terrain(), LAST, 1, pairs=1)
    assert generation(strategy, lambda _: None) is None
    assert scales(move_of(strategy))[0] == pytest.approx(first / 2)  # as large as the proposals
    for name in ("antithetic_es", "random_search", "one_plus_one", "cma_es"):
        search = make(name, toy_terrain(), LAST, 1)
        before = np.abs(scales(search.ask()[-1].edits)).max()
        for _ in range(5):
            assert generation(search, lambda _: None) is None
        assert np.abs(scales(search.ask()[-1].edits)).max() < 0.6 * before


def test_momentum_carries_the_last_moves_until_one_is_refused() -> None:
    strategy = make("antithetic_es", toy_terrain(), LAST, 1, pairs=1, momentum=0.5)
    first, second, third = (move_of(strategy, accept=accept) for accept in (True, False, True))
    assert [len(move) for move in (first, second, third)] == [1, 2, 1]
    assert second[1] == replace(first[0], scale=0.5 * first[0].scale)


def test_the_best_steps_are_taken_together() -> None:
    strategy = make("antithetic_es", toy_terrain(), CODES, 1, pairs=3, together=2)
    proposals = strategy.ask()
    assert proposals[0].edits == ()
    assert len(proposals) == 7
    scores = [0.5, 0.1, 0.9, 0.4, 0.7, 0.6, 0.0]
    assert move_of(strategy, scores.__getitem__, accept=False) == (*proposals[2].edits, *proposals[4].edits)
    assert len(move_of(strategy, accept=False)) == 1
    assert generation(strategy, lambda _: 0.5) is None


@pytest.mark.parametrize("name", ["random_search", "one_plus_one"])
def test_only_a_child_that_beats_its_parent_is_a_move(name: str) -> None:
    strategy = make(name, toy_terrain(), LAST, 1)
    assert strategy.ask()[0].edits == ()
    for scores in ([0.5] * 99, [0.5] + [0.4] * 99, [None] + [0.9] * 99, [0.5] + [None] * 99):
        assert generation(strategy, scores.__getitem__) is None
    best = strategy.ask()[-1].edits
    assert move_of(strategy) == best


def test_the_child_of_one_plus_one_grows_with_success() -> None:
    strategy = make("one_plus_one", toy_terrain(), LAST, 1)
    for accept, factor in ((True, 2.0), (False, 0.84)):
        before = scales(strategy.ask()[1].edits)[0]
        generation(strategy, float, accept=accept)
        assert scales(strategy.ask()[1].edits) == pytest.approx([factor * before])


def test_what_cma_learns_is_all_that_its_package_changes() -> None:
    """A new version of the package that learns something else has to be seen."""
    for variant in ("full", "adaptive", "separable"):
        learner = optimiser(variant, 4, 8, 0.5)
        untouched = {"_rng", "_funhist_values", "_mean", "_B", "_D"}
        before = {name: pack_value(value) for name, value in vars(learner).items() if name not in untouched}
        for _ in range(3):
            points = [learner.ask() for _ in range(8)]
            learner.tell([(point, float(np.square(point - 1).sum())) for point in points])
        changed = {name for name, value in before.items() if pack_value(getattr(learner, name)) != value}
        assert changed <= set(fields_of(variant, learner))
        assert {"_sigma", "_C", "_g"} <= changed


def pack_value(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def test_cma_draws_new_directions_when_its_own_are_exhausted() -> None:
    task = ToyTask("blk.1.layer_output_norm.bias", "blk.1.layer_output_norm.weight")
    few = task.search(make("cma_es", toy_terrain(), LAST, 1, directions=2, population=8), generations=20)
    strategy = make("cma_es", toy_terrain(), LAST, 1, directions=2, population=8)
    first = {seed for proposal in strategy.ask() for seed in seeds(proposal.edits)}
    many = task.search(strategy, generations=120)
    later = {seed for proposal in strategy.ask() for seed in seeds(proposal.edits)}
    assert len(first) == len(later) == 2
    assert not first & later
    assert many > 0.7 * few


@pytest.mark.parametrize("accept", [True, False])
def test_a_refusal_ends_the_paths_of_cma(accept: bool) -> None:
    strategy = make("cma_es", toy_terrain(), LAST, 1, directions=4)
    assert generation(strategy, float, accept=accept) is not None
    learnt = json.loads(strategy.state())["memory"]["learnt"]
    assert [learnt[name] == dump_array(np.zeros(4)) for name in ("p_sigma", "pc")] == [not accept] * 2


def test_samples_of_cma_differ_by_more_than_their_size() -> None:
    strategy = make("cma_es", toy_terrain(), LAST, 1, directions=4)
    first = np.array(scales(strategy.ask()[0].edits))
    generation(strategy, lambda _: None)
    second = np.array(scales(strategy.ask()[0].edits))
    assert np.ptp(second / first) > 0.1


@pytest.mark.parametrize(("name", "number"), [("C", np.nan), ("C", 1e300), ("p_sigma", np.inf), ("sigma", -1.0)])
def test_an_impossible_optimiser_state_is_refused(name: str, number: float) -> None:
    document = json.loads(make("cma_es", toy_terrain(), LAST, 1, directions=2).state())
    learnt = document["memory"]["learnt"]
    count = len(base64.b64decode(learnt[name])) // 8
    learnt[name] = dump_array(np.full(count, number))
    with pytest.raises(InputError, match="covariance or step size"):
        restore(json.dumps(document).encode(), toy_terrain())


def test_directions_must_fit_a_mutation() -> None:
    low_rank = Tier("mine", "low_rank", ("*attn_q.weight",), sigma=0.1, rank=8)
    make("cma_es", toy_terrain(), low_rank, 1, directions=8)
    with pytest.raises(InputError, match="at most 8"):
        make("cma_es", toy_terrain(), low_rank, 1, directions=9)
    with pytest.raises(InputError, match="mixes noises"):
        make("cma_es", toy_terrain(), CODES, 1)


def test_crossover_begins_with_both_lineages_and_ends_in_what_is_best() -> None:
    first = Seeded("blk.0.attn_q.bias", "0" * 16, "normal", 1.0, 0.5)
    second = LowRank("blk.0.attn_q.weight", 0.5, np.ones((8, 1), np.float32), np.ones((16, 1), np.float32))
    third = Seeded("*.ffn_up.weight", "0" * 16, "step", 0.5, 1)
    strategy = make("crossover", toy_terrain(), LAST, 1, lineages=[[first, third], [second]], proposals=4)
    parent, one, other, both, mean = (pack(proposal.edits) for proposal in strategy.ask())
    assert parent == pack([])
    assert (one, other, both) == (pack([first, third]), pack([second]), pack([first, third, second]))
    assert mean == pack([replace(first, scale=0.25), third, replace(second, scale=0.25)])
    assert pack(move_of(strategy, lambda number: 1.0 if number == 1 else 0.0)) == one
    # The step was taken and stays; what is linear is counted from where the parent is by now.
    assert all(third not in proposal.edits for proposal in strategy.ask())
    shares = [[scale / 0.5 for scale in scales(proposal.edits)] for proposal in strategy.ask()[1:]]
    assert len(shares) == 4
    assert all(-0.625 <= of_first <= 0.125 and -0.125 <= of_second <= 0.625 for of_first, of_second in shares)


def test_lineages_are_needed_and_must_fit_a_mutation() -> None:
    edit = Seeded("blk.0.attn_q.bias", "0" * 16, "normal", 1.0, 0.5)
    with pytest.raises(InputError, match="needs 'lineages'"):
        make("crossover", toy_terrain(), LAST, 1)
    for wrong in ([[edit]], [[edit], []], [[edit] * 200, [edit] * 57], [[edit], ["edit"]], "ab"):
        with pytest.raises(InputError, match="cannot be"):
            make("crossover", toy_terrain(), LAST, 1, lineages=wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pair": 8}, "has no option 'pair'; use one of pairs, shaping"),
        ({"pairs": 0}, "cannot be 0; give a whole number, 1 to 1024"),
        ({"pairs": True}, "cannot be True"),
        ({"pairs": 8.0}, "cannot be 8.0"),
        ({"shaping": "rank"}, "give one of ranks, signs, standardised"),
        ({"learning_rate": float("nan")}, "give a number from"),
        ({"momentum": 1}, "a number from 0 to 0.99"),
    ],
)
def test_an_unknown_option_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refusal:
        make("antithetic_es", toy_terrain(), LAST, 1, **options)
    assert says in str(refusal.value)


def test_names_seeds_and_strategies_without_options() -> None:
    assert set(STRATEGIES) == {"antithetic_es", "cma_es", "one_plus_one", "random_search", "crossover"}
    with pytest.raises(InputError, match="there is no strategy 'annealing'; use one of antithetic_es"):
        make("annealing", toy_terrain(), LAST, 1)
    with pytest.raises(InputError, match="it has no options"):
        make("one_plus_one", toy_terrain(), LAST, 1, proposals=2)
    for seed in (-1, 1 << 53, 1.0, True):
        with pytest.raises(InputError, match="seed"):
            make("one_plus_one", toy_terrain(), LAST, seed)  # type: ignore[arg-type]


def test_a_state_of_another_version_is_refused_by_name() -> None:
    document = json.loads(make("one_plus_one", toy_terrain(), NORMS, 1).state())
    for name, value in (("version", 2), ("format", "other"), ("strategy", "annealing"), ("generation", -1)):
        with pytest.raises(InputError, match="state of the search cannot be used"):
            restore(json.dumps({**document, name: value}).encode(), toy_terrain())
