"""The judgement of CTRM on a candidate: all checks, then the probability that it is not degraded. Pure.

CTRM is the name of the checks that a candidate passes before it is applied to a machine.

    judgement = judge(candidate, Facts(machine.tensors(), shadow=result), curve=curve)
    if judgement.admitted: machine.mutate(candidate.edits, confidence=judgement.confidence, ...)

Judge once without a shadow, which refuses many candidates cheaply, then again with the shadow's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolution.ctrm import behavioural, statistical, structural
from evolution.ctrm.calibration import CalibrationCurve
from evolution.ctrm.confidence import probability_not_degraded
from evolution.ctrm.contract import Candidate, Check, CtrmFinding, Facts
from vboot.client.prediction import CONFIDENCE_THRESHOLD

CHECKS: tuple[Check, ...] = (*structural.CHECKS, *statistical.CHECKS, *behavioural.CHECKS)


@dataclass(frozen=True)
class Judgement:
    """The findings of the checks up to the first that failed, and the probability that the candidate is not degraded.

    `raw` is that probability before the calibration curve, and the value to record in the curve; 0 without a shadow.
    `confidence` is `raw` corrected by the curve; 0 if a check failed.
    """

    findings: tuple[CtrmFinding, ...]
    raw: float
    confidence: float

    @property
    def refusal(self) -> CtrmFinding | None:
        """The check that failed."""
        return next((finding for finding in self.findings if not finding.passed), None)

    @property
    def admitted(self) -> bool:
        """Whether the candidate may be applied to the live machine."""
        return self.refusal is None and self.confidence > CONFIDENCE_THRESHOLD

    @property
    def reason(self) -> str | None:
        """Why it is not admitted, in one sentence with the value and its limit; None if it is."""
        if self.admitted:
            return None
        if self.refusal is not None:
            return f"{self.refusal.check}: {self.refusal.text}"
        return f"confidence: {self.confidence:.3f} is not above {CONFIDENCE_THRESHOLD}"


_EMPTY = CalibrationCurve()


def judge(
    candidate: Candidate, facts: Facts, *, checks: Sequence[Check] = CHECKS, curve: CalibrationCurve = _EMPTY
) -> Judgement:
    """Run the checks in order, up to the first that fails."""
    findings: list[CtrmFinding] = []
    for check in checks:
        finding = check(candidate, facts)
        if finding is not None:
            findings.append(finding)
            if not finding.passed:
                break
    shadow = facts.shadow
    if shadow is None or shadow.after is None:
        return Judgement(tuple(findings), 0.0, 0.0)
    raw = probability_not_degraded(shadow.before, shadow.after, tolerance=facts.limits.degradation)
    refused = any(not finding.passed for finding in findings)
    return Judgement(tuple(findings), raw, 0.0 if refused else curve.map(raw))
