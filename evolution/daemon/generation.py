"""One generation of a search: proposals scored on the same data, and the move judged, all in the shadow.

The decisions follow from the parent's weights, the strategy and the data alone, not from the clock, the body or
crashes. So a run that is interrupted at any point ends as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evolution.ctrm.calibration import CalibrationCurve
from evolution.ctrm.contract import Candidate, Facts, Measured, ShadowResult
from evolution.ctrm.judge import Judgement, judge
from evolution.ctrm.shadow import measure
from evolution.daemon.config import Admission
from evolution.daemon.events import Evaluated
from evolution.daemon.shadow import Shadow, WeightsChange
from evolution.fitness.contract import Evaluation, Fitness, Pair
from evolution.strategies.contract import Proposal, Strategy, Verdict
from vboot.errors import InputError
from vboot.protocol.errors import LinkLostError, MachineError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.messages import TensorInfo
from vboot.protocol.tables import Code
from vboot.weights.arithmetic import targets
from vboot.weights.edits import Edit, pack


@dataclass(frozen=True)
class Parent:
    """The scores of some weights on the calibration and the watch data."""

    calibration: Measured
    watch: Evaluation


@dataclass(frozen=True)
class Trial:
    """The result of trying a move in the shadow: admitted if `refusal` is None.

    after: the scores with the move, as far as they were measured. outcome: CTRM's raw confidence, and whether the move
    turned out not degraded on data that it was not judged by.
    """

    confidence: float
    refusal: str | None
    after: Parent | None
    change: WeightsChange | None
    outcome: tuple[float, bool] | None


def look_at(shadow: Shadow, fitness: Fitness) -> Parent:
    """The scores of the shadow's parent. Raises what `Fitness.evaluate` raises, and MachineError."""

    def look() -> Parent:
        calibration = measure(shadow.machine, fitness)
        return Parent(calibration, fitness.evaluate(shadow.embed, fitness.search.watch))

    return shadow.run(look)


class Scoring:
    """Scores the proposals of one generation on its data; equal proposals are scored once."""

    def __init__(self, shadow: Shadow, fitness: Fitness, pairs: Sequence[Pair]) -> None:
        self._shadow = shadow
        self._fitness = fitness
        self._pairs = pairs
        self._known: dict[bytes, Verdict] = {}

    def score(self, edits: Sequence[Edit]) -> Verdict:
        """The verdict on the parent with these edits. Raises LinkLostError when the shadow cannot be restarted."""
        key = _key(edits)
        if key not in self._known:
            self._known[key] = self._scored(edits)
        return self._known[key]

    def _scored(self, edits: Sequence[Edit]) -> Verdict:
        def look() -> float:
            return self._fitness.evaluate(self._shadow.embed, self._pairs).score

        try:
            return Verdict(self._shadow.try_out(edits, look) if edits else self._shadow.run(look))
        except RequestRefusedError as refusal:
            if refusal.code == Code.NO_CHANGE:
                return self.score(())  # rounding removed the whole change: it is the parent
            return Verdict(None, refusal.message)
        except InputError as error:  # embeddings that no score can be made of
            return Verdict(None, error.what)


def evaluate(
    strategy: Strategy,
    proposals: Sequence[Proposal],
    scoring: Scoring,
    *,
    evaluations: int,
    tick: Callable[[], None],
    tell: Callable[[Evaluated], None],
) -> int:
    """Score the proposals of this generation and tell the strategy; returns the run's number of evaluations after it.

    `evaluations` is that number before. `tick` is called before each evaluation and may stop the run by an exception.
    """
    for proposal in proposals:
        tick()
        started = time.monotonic()
        verdict = scoring.score(proposal.edits)
        strategy.tell(proposal.id, verdict)
        evaluations += 1
        seconds = time.monotonic() - started
        tell(Evaluated(proposal.id, verdict.score, verdict.reason, seconds, evaluations))
    return evaluations


@dataclass(frozen=True)
class Judge:
    """Judges moves against the parent, the best calibration score so far, and CTRM's calibration curve."""

    shadow: Shadow
    fitness: Fitness
    admission: Admission
    curve: CalibrationCurve
    best: float

    def judge(self, edits: Sequence[Edit], parent: Parent, *, fresh: Sequence[Pair]) -> Trial:
        """Try a move. If `Trial.change` is not None, it stays in the shadow, to be kept or dropped.

        `fresh` is data that was not used to find the move. Raises LinkLostError when the shadow cannot be restarted.
        """

        def score() -> float:
            return self.fitness.evaluate(self.shadow.embed, fresh).score

        try:
            before = self.shadow.run(score)
            return self.shadow.apply(
                edits,
                touched(edits, self.shadow.terrain),
                lambda change: self._tried(edits, change, parent, lambda: relative_fall(before, score())),
            )
        except RequestRefusedError as refusal:
            return Trial(0.0, f"runtime: {refusal.message}", None, None, None)
        except InputError as error:  # embeddings that no score can be made of
            return Trial(0.0, f"score: {error.what}", None, None, None)

    def _tried(
        self, edits: Sequence[Edit], change: WeightsChange, parent: Parent, fresh_fall: Callable[[], float]
    ) -> Trial:
        """Run the checks that need no forward pass first, then the others."""
        candidate = Candidate(tuple(edits), 0, change.before, change.after)
        facts = Facts(self.shadow.terrain, self.admission.limits)
        first = judge(candidate, facts)
        if first.refusal is not None:
            return Trial(0.0, first.reason, None, change, None)
        after = self._measure()
        judgement = judge(candidate, replace(facts, shadow=ShadowResult(parent.calibration, after)), curve=self.curve)
        if after is None:
            return Trial(judgement.confidence, judgement.reason, None, change, None)
        watch = self.fitness.evaluate(self.shadow.embed, self.fitness.search.watch)
        found = Parent(after, watch)
        outcome = (judgement.raw, fresh_fall() <= self.admission.limits.degradation)
        return Trial(judgement.confidence, self._refusal(judgement, parent, found), found, change, outcome)

    def _measure(self) -> Measured | None:
        """The shadow's score on the calibration data; None if its embeddings are not finite."""
        try:
            return measure(self.shadow.machine, self.fitness)
        except (LinkLostError, MachineTimeoutError, ProtocolError):
            raise
        except RequestRefusedError as refusal:
            if refusal.code != Code.NOT_FINITE:
                raise
            return None
        except MachineError:
            return None

    def _refusal(self, judgement: Judgement, parent: Parent, found: Parent) -> str | None:
        """The reason why the move is refused, in one sentence; None: it is accepted."""
        if not judgement.admitted:
            return judgement.reason
        rise = -relative_fall(parent.calibration.score, found.calibration.score)
        if not rise > self.admission.least_gain:
            least = f"{self.admission.least_gain:g}"
            return f"gain: the relative rise on the calibration data is {rise:.3g}, not above {least}"
        lost = relative_fall(self.best, found.calibration.score)
        if lost > self.admission.most_lost:
            return f"anchor: {lost:.3g} of the best calibration score is lost, above {self.admission.most_lost:g}"
        fell = relative_fall(parent.watch.score, found.watch.score)
        if fell > self.admission.watch_lost:
            return f"watch: the relative fall on the watch data is {fell:.3g}, above {self.admission.watch_lost:g}"
        return None


def touched(edits: Sequence[Edit], terrain: Sequence[TensorInfo]) -> list[TensorInfo]:
    """The tensors that edits can change."""
    names = [info.name for info in terrain]
    protected = {info.name for info in terrain if info.protected}
    meant = {name for edit in edits for name in targets(edit, names, protected)}
    return [info for info in terrain if info.name in meant]


def relative_fall(before: float, after: float) -> float:
    """The fall of a score relative to the magnitude of the first; negative for a rise."""
    return (before - after) / (abs(before) or 1.0)


def _key(edits: Sequence[Edit]) -> bytes:
    members, blob = pack(edits)
    return hashlib.sha256(json.dumps(members).encode() + b"\n" + blob).digest()
