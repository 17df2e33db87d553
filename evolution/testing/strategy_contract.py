"""The contract of search strategies as a class of tests. Subclass it for your strategy and implement `make`:

    class TestMine(StrategyContract):
        def make(self, seed: int) -> Strategy:
            return mine(toy_terrain(), seed)

It needs pytest and hypothesis. The tests run on `evolution.testing.toy_model`.
"""

# ruff: noqa: D102 -- the name of a test says what it tests
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution import strategies
from evolution.strategies.contract import Proposal, Strategy, Verdict
from evolution.testing.toy_model import ToyTask, child, toy_model, toy_terrain
from vboot.errors import InputError
from vboot.weights.edits import pack

_FAILED = Verdict(None, "the evaluation failed")
_EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True, database=None)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


class StrategyContract:
    """The tests. Set the attributes `task`, `generations` (how long a search runs), and `gain`, the share of the
    distance to the optimum that it must cover in them.
    """

    task: ClassVar[ToyTask]
    generations: ClassVar[int] = 30
    gain: ClassVar[float]

    def make(self, seed: int) -> Strategy:
        """A new strategy on `toy_terrain()`."""
        raise NotImplementedError

    def restore(self, state: bytes) -> Strategy:
        """The strategy restored from a state."""
        return strategies.restore(state, toy_terrain())

    def test_asked_again_it_proposes_the_same(self) -> None:
        strategy = self.make(1)
        first = contents(strategy.ask())
        assert contents(strategy.ask()) == first
        strategy.tell("0.0", Verdict(0.5))
        assert contents(strategy.ask()) == first

    def test_proposals_have_names_of_their_own(self) -> None:
        strategy = self.make(1)
        assert [proposal.id for proposal in strategy.ask()] == [f"0.{n}" for n in range(len(strategy.ask()))]
        self.pass_generation(strategy, lambda number: Verdict(number / 7))
        assert strategy.generation == 1
        assert strategy.ask()[0].id == "1.0"

    def test_a_seed_decides_everything(self) -> None:
        assert contents(self.make(1).ask()) == contents(self.make(1).ask())
        assert contents(self.make(1).ask()) != contents(self.make(2).ask())

    def test_a_generation_differs_from_the_one_before(self) -> None:
        strategy = self.make(1)
        first = [content for _, content in contents(strategy.ask())]
        self.pass_generation(strategy, lambda number: Verdict(number / 7))
        assert [content for _, content in contents(strategy.ask())] != first

    def test_proposals_and_moves_are_mutations_of_the_model(self) -> None:
        strategy, model = self.make(1), toy_model()
        for _ in range(3):
            for proposal in strategy.ask():
                assert len(proposal.edits) <= 256
                assert not proposal.edits or child(proposal, model) != model
                strategy.tell(proposal.id, self.task.verdict(proposal, model))
            if move := strategy.move():
                assert move.id == f"{strategy.generation}.move"
                model = child(move, model)
            strategy.settle(move is not None)

    def test_the_order_of_telling_does_not_matter(self) -> None:
        one, other = self.make(1), self.make(1)
        proposals = one.ask()
        other.ask()
        for number, proposal in enumerate(proposals):
            one.tell(proposal.id, told(number))
        for number, proposal in reversed(list(enumerate(proposals))):
            other.tell(proposal.id, told(number))
        assert one.state() == other.state()
        assert content_of(one.move()) == content_of(other.move())
        assert one.state() == other.state()

    def test_telling_again_changes_nothing_and_another_verdict_is_refused(self) -> None:
        strategy = self.make(1)
        strategy.ask()
        strategy.tell("0.0", Verdict(0.5, "well"))
        before = strategy.state()
        strategy.tell("0.0", Verdict(0.5, "well"))
        for other in (Verdict(0.25, "well"), _FAILED):
            with pytest.raises(InputError, match="another verdict"):
                strategy.tell("0.0", other)
        assert strategy.state() == before

    def test_only_finite_verdicts_on_what_was_asked_are_taken(self) -> None:
        strategy = self.make(1)
        with pytest.raises(InputError, match="not a proposal"):
            strategy.tell("0.0", Verdict(0.5))
        strategy.ask()
        for unknown in ("0.9999", "1.0", "0.move", ""):
            with pytest.raises(InputError, match="not a proposal"):
                strategy.tell(unknown, Verdict(0.5))
        for score in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(InputError, match="score"):
                strategy.tell("0.0", Verdict(score))

    def test_each_step_of_a_generation_waits_for_the_one_before(self) -> None:
        strategy = self.make(1)
        with pytest.raises(InputError):
            strategy.move()
        for number, proposal in enumerate(strategy.ask()):
            with pytest.raises(InputError):
                strategy.move()
            strategy.tell(proposal.id, told(number))
        with pytest.raises(InputError):
            strategy.settle(False)
        strategy.move()
        strategy.settle(False)
        with pytest.raises(InputError):
            strategy.settle(False)

    def test_what_was_not_proposed_cannot_be_accepted(self) -> None:
        strategy = self.make(1)
        for proposal in strategy.ask():
            strategy.tell(proposal.id, _FAILED)
        assert strategy.move() is None
        with pytest.raises(InputError, match="no move"):
            strategy.settle(True)
        strategy.settle(False)

    def test_failures_are_survived(self) -> None:
        strategy, model = self.make(1), toy_model()
        for _ in range(20):
            self.pass_generation(strategy, lambda _: _FAILED)
        self.pass_generation(strategy, lambda number: _FAILED if number % 3 else told(number))
        for proposal in strategy.ask():
            assert not proposal.edits or child(proposal, model) != model

    def test_refusals_are_survived(self) -> None:
        strategy, model = self.make(1), toy_model()
        for _ in range(20):
            self.pass_generation(strategy, told, accept=False)
        for proposal in strategy.ask():
            assert not proposal.edits or child(proposal, model) != model

    def test_restored_at_any_point_it_goes_on_the_same(self) -> None:
        steady, restored = self.make(1), self.make(1)
        for step in steps(len(self.make(1).ask())):
            expected = step(steady)
            assert step(restored) == expected
            state = restored.state()
            assert state == steady.state()
            restored = self.restore(state)
            assert restored.state() == state
            assert (restored.name, restored.generation) == (steady.name, steady.generation)

    def test_a_torn_state_is_refused(self) -> None:
        state = self.state_in_the_middle()
        for end in range(0, len(state), max(1, len(state) // 200)):
            with pytest.raises(InputError):
                self.restore(state[:end])

    def test_a_state_belongs_to_its_model(self) -> None:
        other = tuple(info for info in toy_terrain() if info.name != "blk.0.attn_q.bias")
        with pytest.raises(InputError):
            strategies.restore(self.state_in_the_middle(), other)

    def test_a_forged_state_is_refused_or_works(self) -> None:
        @_EXAMPLES
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            document = json.loads(genuine)
            forge(document, data)
            self.try_state(json.dumps(document).encode())

        genuine = self.state_in_the_middle()
        check()

    def test_a_damaged_state_is_refused_or_works(self) -> None:
        @_EXAMPLES
        @given(place=st.integers(0, 1 << 30), byte=st.integers(0, 255))
        def check(place: int, byte: int) -> None:
            state = bytearray(genuine)
            state[place % len(state)] = byte
            self.try_state(bytes(state))

        genuine = self.state_in_the_middle()
        check()

    def test_any_bytes_are_refused(self) -> None:
        @_EXAMPLES
        @given(state=st.binary(max_size=64) | _JSON.map(lambda value: json.dumps(value).encode()))
        def check(state: bytes) -> None:
            with pytest.raises(InputError):
                self.restore(state)

        check()

    def test_it_comes_nearer_to_the_best(self) -> None:
        start = self.task.score(toy_model())
        end = self.task.search(self.make(1), generations=self.generations)
        assert end > (1 - self.gain) * start

    def pass_generation(self, strategy: Strategy, verdict: Callable[[int], Verdict], *, accept: bool = True) -> None:
        """Run a whole generation, with verdicts by the index of the proposal."""
        for number, proposal in enumerate(strategy.ask()):
            strategy.tell(proposal.id, verdict(number))
        strategy.settle(strategy.move() is not None and accept)

    def state_in_the_middle(self) -> bytes:
        """A state in the second generation, with one verdict."""
        strategy = self.make(1)
        self.pass_generation(strategy, told)
        strategy.ask()
        strategy.tell("1.0", Verdict(0.5, "well"))
        return strategy.state()

    def try_state(self, state: bytes) -> None:
        """Use a state that may be invalid: it is refused at once, or works."""
        try:
            strategy = self.restore(state)
        except InputError:
            return
        done = json.loads(state)["verdicts"]
        for number, proposal in enumerate(strategy.ask()):
            if proposal.id not in done:
                strategy.tell(proposal.id, told(number))
        contents([move] if (move := strategy.move()) else [])
        strategy.settle(False)
        strategy.ask()


def contents(proposals: Sequence[Proposal]) -> list[tuple[str, Any]]:
    """Proposals as they would be sent: ids, members and bytes."""
    return [(proposal.id, pack(proposal.edits)) for proposal in proposals]


def content_of(move: Proposal | None) -> list[tuple[str, Any]]:
    """The same for a move."""
    return contents([move] if move else [])


def told(number: int) -> Verdict:
    """An arbitrary verdict, the same for the same index; most beat that of index 0."""
    return Verdict((number * 7919 % 1009) / 1009, "")


def steps(proposals: int) -> Iterator[Callable[[Strategy], Any]]:
    """Four generations of so many proposals in single calls: accepted, refused, partly failed, all failed."""

    def telling(number: int, verdict: Verdict) -> Callable[[Strategy], Any]:
        return lambda strategy: strategy.tell(strategy.ask()[number].id, verdict)

    def settling(accepted: bool) -> Callable[[Strategy], Any]:
        return lambda strategy: strategy.settle(accepted and strategy.move() is not None)

    for generation in range(4):
        yield lambda strategy: contents(strategy.ask())
        for number in range(proposals):
            failed = generation == 3 or (generation == 2 and number % 4 == 1)
            yield telling(number, _FAILED if failed else told(number + generation))
        yield lambda strategy: content_of(strategy.move())
        yield settling(generation in (0, 2))


def forge(document: dict[str, Any], data: st.DataObject) -> None:
    """Replace the value at one place of a document."""
    place: Any = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(_JSON)
