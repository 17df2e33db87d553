"""The record of what confidences came to, and the curve that later ones are corrected by. Pure.

    curve = curve.record(raw, outcome)      # a candidate judged at `raw` turned out not degraded, or degraded
    confidence = curve.map(raw)

Record every candidate whose outcome was measured on other data than it was judged by, refused ones as well: a curve
that saw only what passed knows nothing of the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evolution.ctrm import isotonic
from evolution.ctrm.reliability import Bin, brier_score, reliability
from vboot.client.prediction import CONFIDENCE_THRESHOLD
from vboot.errors import InputError
from vboot.weights.edits import is_number

OUTCOMES_NEEDED = 50
"""Below that a curve would follow chance more than what it corrects."""
OUTCOMES_KEPT = 2000
"""The newest: the model they were measured on changes under them, and the state stays small."""

_BINS = 10
_VERSION = 1
_FLOATING = 1e-9


@dataclass(frozen=True)
class CalibrationOutcome:
    """A candidate of confidence `raw`, which the curve of that time gave as `reported`, and whether it was good."""

    raw: float
    reported: float
    good: bool


@dataclass(frozen=True)
class CalibrationCurve:
    """Outcomes, oldest first, and the map they make."""

    outcomes: tuple[CalibrationOutcome, ...] = ()

    def record(self, confidence: float, outcome: bool) -> CalibrationCurve:
        """The curve that knows one outcome more: `confidence` as computed, before any map; good: not degraded.

        Raises InputError for a confidence that is not 0 to 1.
        """
        if not 0 <= confidence <= 1:
            raise InputError(f"{confidence:g} is no confidence", remedy="record what was computed, 0 to 1")
        added = CalibrationOutcome(confidence, self.map(confidence), outcome)
        return CalibrationCurve((*self.outcomes, added)[-OUTCOMES_KEPT:])

    def map(self, confidence: float) -> float:
        """The corrected confidence; the same while fewer than OUTCOMES_NEEDED are recorded."""
        if self._fitted is None:
            return confidence
        return self._fitted(confidence)

    @property
    def reported(self) -> tuple[tuple[float, bool], ...]:
        """Each confidence as it was reported, by a curve that did not know its outcome yet, and the outcome."""
        return tuple((outcome.reported, outcome.good) for outcome in self.outcomes)

    def reliability(self, bins: int = _BINS) -> tuple[Bin, ...]:
        """How far the reported confidences were right."""
        return reliability(self.reported, bins)

    def brier(self) -> float:
        """The Brier score of the reported confidences. Raises InputError without outcomes."""
        return brier_score(self.reported)

    def alarm(self) -> str | None:
        """Why the curve is not to be trusted, in one sentence: above the gate, a tenth was right too seldom.

        That is: less often than its lower end says, beyond the doubt of a 95 % interval (so never for a handful).
        """
        for some in self.reliability():
            if some.low >= CONFIDENCE_THRESHOLD - _FLOATING and some.interval[1] < some.low:
                return (
                    f"of {some.count} candidates of confidence {some.low:g} to {some.high:g} only "
                    f"{some.observed:.0%} were not degraded"
                )
        return None

    def state(self) -> str:
        """Everything, as JSON that `from_state` reads."""
        rows = [[outcome.raw, outcome.reported, outcome.good] for outcome in self.outcomes]
        return json.dumps({"version": _VERSION, "outcomes": rows})

    @classmethod
    def from_state(cls, state: str | bytes) -> CalibrationCurve:
        """The curve of a state. Raises InputError for anything that `state` does not write."""
        try:
            document = json.loads(state)
        except (ValueError, RecursionError) as error:
            raise _broken(f"it is not JSON ({error})") from error
        if not isinstance(document, dict) or document.keys() != {"version", "outcomes"}:
            raise _broken("it has not just version and outcomes")
        if type(document["version"]) is not int or document["version"] != _VERSION:
            raise _broken(f"its version is {document['version']!r:.40}, not {_VERSION}")
        rows = document["outcomes"]
        if not isinstance(rows, list) or len(rows) > OUTCOMES_KEPT:
            raise _broken(f"its outcomes are not a list of {OUTCOMES_KEPT} at most")
        return cls(tuple(_outcome(number, row) for number, row in enumerate(rows)))

    @cached_property
    def _fitted(self) -> isotonic.MonotoneMap | None:
        if len(self.outcomes) < OUTCOMES_NEEDED:
            return None
        return isotonic.fit([(outcome.raw, outcome.good) for outcome in self.outcomes])


def _outcome(number: int, row: Any) -> CalibrationOutcome:
    match row:
        case [raw, reported, bool(good)] if all(is_number(value) and 0 <= value <= 1 for value in (raw, reported)):
            return CalibrationOutcome(float(raw), float(reported), good)
    raise _broken(f"its outcome {number} is {row!r:.60}, not two confidences and true or false")


def _broken(what: str) -> InputError:
    return InputError(f"this is no state of a calibration curve: {what}", remedy="start from an empty one")
