"""The recorded confidences with their outcomes, and the calibration curve that corrects later confidences. Pure.

    curve = curve.record(raw, outcome)      # a candidate judged at `raw` turned out not degraded, or degraded
    confidence = curve.map(raw)

Record every candidate whose outcome was measured on other data than it was judged by, refused candidates as well: a
curve of accepted candidates only would be biased.
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
"""With fewer outcomes a curve would mostly follow chance."""
OUTCOMES_KEPT = 2000
"""The newest are kept: the model changes, so old outcomes stop applying, and the state stays small."""

_BINS = 10
_VERSION = 1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CalibrationOutcome:
    """A candidate's confidence, `raw` and as `reported` after the curve of that time, and whether it was good."""

    raw: float
    reported: float
    good: bool


@dataclass(frozen=True)
class CalibrationCurve:
    """Outcomes, oldest first, and the map fitted to them."""

    outcomes: tuple[CalibrationOutcome, ...] = ()

    def record(self, confidence: float, outcome: bool) -> CalibrationCurve:
        """The curve with one more outcome: `confidence` as computed, before any map; `outcome`: not degraded.

        Raises InputError for a confidence outside 0 to 1.
        """
        if not 0 <= confidence <= 1:
            raise InputError(
                f"expected a confidence from 0 to 1, got {confidence:g}", remedy="record the computed confidence"
            )
        added = CalibrationOutcome(confidence, self.map(confidence), outcome)
        return CalibrationCurve((*self.outcomes, added)[-OUTCOMES_KEPT:])

    def map(self, confidence: float) -> float:
        """The corrected confidence; unchanged while fewer than OUTCOMES_NEEDED are recorded."""
        if self._fitted is None:
            return confidence
        return self._fitted(confidence)

    @property
    def reported(self) -> tuple[tuple[float, bool], ...]:
        """Each confidence as it was reported, before its outcome was known, and the outcome."""
        return tuple((outcome.reported, outcome.good) for outcome in self.outcomes)

    def reliability(self, bins: int = _BINS) -> tuple[Bin, ...]:
        """The rate of good outcomes by bins of reported confidence."""
        return reliability(self.reported, bins)

    def brier(self) -> float:
        """The Brier score of the reported confidences. Raises InputError without outcomes."""
        return brier_score(self.reported)

    def alarm(self) -> str | None:
        """Why the curve is not reliable, in one sentence; None if it is.

        It is not if a bin at or above the threshold has a rate of good outcomes whose 95 % interval lies below the
        bin's lower end. A few outcomes have a wide interval, so they raise no alarm.
        """
        for found in self.reliability():
            if found.low >= CONFIDENCE_THRESHOLD - _ROUNDING and found.interval[1] < found.low:
                return (
                    f"of {found.count} candidates of confidence {found.low:g} to {found.high:g} only "
                    f"{found.observed:.0%} were not degraded"
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
            raise _broken("expected exactly the members version and outcomes")
        if type(document["version"]) is not int or document["version"] != _VERSION:
            raise _broken(f"expected version {_VERSION}, got {document['version']!r:.40}")
        rows = document["outcomes"]
        if not isinstance(rows, list) or len(rows) > OUTCOMES_KEPT:
            raise _broken(f"expected a list of at most {OUTCOMES_KEPT} outcomes")
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
    raise _broken(f"outcome {number}: expected two confidences and true or false, got {row!r:.60}")


def _broken(what: str) -> InputError:
    return InputError(f"not the state of a calibration curve: {what}", remedy="start with an empty curve")
