"""The results of measured candidates as Markdown tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evolution.ctrm import isotonic, statistical
from evolution.ctrm.contract import CtrmLimits
from evolution.ctrm.reliability import Bin, Outcomes, brier_score, reliability
from tests.studies.ctrm.rows import Row
from vboot.client.prediction import CONFIDENCE_THRESHOLD

_OF_WEIGHTS = tuple(check.__name__ for check in statistical.CHECKS)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tiers(rows: Sequence[Row]) -> str:
    """By model, tier and third of the sizes: how many degrade, are refused by checks of the weights, and pass."""
    head = ("model", "tier", "size", "candidates", "degraded", "refused unseen", "passed", "of these degraded")
    lines = []
    for model, tier in dict.fromkeys((row.model, row.tier) for row in rows):
        own = sorted((row for row in rows if (row.model, row.tier) == (model, tier)), key=lambda row: row.size)
        third = -(-len(own) // 3)
        for start in range(0, len(own), third):
            lines.append(_tier_line(model, tier, own[start : start + third]))
    return table(head, lines)


def _tier_line(model: str, tier: str, some: Sequence[Row]) -> list[str]:
    judged = [block for row in some if not _refused(row) for block in row.blocks]
    passed = [good for raw, good in judged if raw > CONFIDENCE_THRESHOLD]
    total = sum(len(row.blocks) for row in some)
    return [
        model,
        tier,
        f"{some[0].size:.2g} to {some[-1].size:.2g}",
        str(len(some)),
        f"{sum(row.fall >= CtrmLimits().degradation for row in some) / len(some):.0%}",
        f"{sum(map(_refused, some)) / len(some):.0%}",
        f"{len(passed) / total:.0%}",
        f"{1 - sum(passed) / len(passed):.1%}" if passed else "",
    ]


def values(rows: Sequence[Row]) -> str:
    """For each check with a value: its limit, the greatest harmless value, the least and the greatest seen."""
    head = ("check", "limit", "model", "greatest without harm", "least with harm", "greatest")
    lines = []
    for check in dict.fromkeys(check for row in rows for check in row.values):
        for model in dict.fromkeys(row.model for row in rows):
            own = [row for row in rows if row.model == model and check in row.values]
            if own:
                greatest = max(row.values[check] for row in own)
                lines.append(
                    [check, f"{getattr(CtrmLimits(), check):g}", model, *_onset(own, check), f"{greatest:.3g}"]
                )
    return table(head, lines)


def norms(rows: Sequence[Row]) -> str:
    """By model and tier: the `total_norm` at which degradation begins."""
    head = ("model", "tier", "candidates", "degraded", "greatest total norm without harm", "least with harm")
    lines = []
    for model, tier in dict.fromkeys((row.model, row.tier) for row in rows):
        own = [row for row in rows if (row.model, row.tier) == (model, tier)]
        degraded = sum(row.fall >= CtrmLimits().degradation for row in own)
        lines.append([model, tier, str(len(own)), str(degraded), *_onset(own, "total_norm")])
    return table(head, lines)


def _onset(rows: Sequence[Row], check: str) -> tuple[str, str]:
    """The greatest harmless value, and the least harmful one; empty if there is none."""
    harmless = [row.values[check] for row in rows if row.fall < CtrmLimits().degradation]
    harmful = [row.values[check] for row in rows if row.fall >= CtrmLimits().degradation]
    return f"{max(harmless):.3g}" if harmless else "", f"{min(harmful):.3g}" if harmful else ""


def _refused(row: Row) -> bool:
    """Whether a check of the weights refuses it, before any shadow."""
    return any(row.values[check] > getattr(CtrmLimits(), check) for check in _OF_WEIGHTS if check in row.values)


def halves(rows: Sequence[Row]) -> tuple[Outcomes, Outcomes]:
    """The outcomes of every other candidate of a tier as computed, and corrected by a map fitted to the rest."""
    by_tier: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_tier.setdefault((row.model, row.tier), []).append(row)
    fitted = isotonic.fit([block for some in by_tier.values() for row in some[::2] for block in row.blocks])
    judged = [block for some in by_tier.values() for row in some[1::2] for block in row.blocks]
    return judged, [(fitted(raw), good) for raw, good in judged]


def reliability_table(series: Sequence[tuple[str, Sequence[Bin]]]) -> str:
    """Bins side by side: count, mean confidence, rate and its interval of each."""
    head = ["confidence", *(f"{name}: {what}" for name, _ in series for what in ("count", "mean", "not degraded"))]
    lines = []
    for number, first in enumerate(series[0][1]):
        line = [f"{first.low:g} to {first.high:g}"]
        for _, bins in series:
            some = bins[number]
            low, high = some.interval
            shown = (
                (f"{some.predicted:.3f}", f"{some.observed:.3f} ({low:.2f} to {high:.2f})") if some.count else ("", "")
            )
            line += [str(some.count), *shown]
        lines.append(line)
    return table(head, lines)


def scores(named: Sequence[tuple[str, Outcomes]]) -> str:
    """Brier score, and the rate of candidates passing the gate that are not degraded."""
    head = ("", "Brier score", "above the gate", "of these not degraded")
    lines = []
    for name, outcomes in named:
        passed = [good for confidence, good in outcomes if confidence > CONFIDENCE_THRESHOLD]
        rate = f"{sum(passed) / len(passed):.1%}" if passed else ""
        lines.append([name, f"{brier_score(outcomes):.4f}", f"{len(passed)} of {len(outcomes)}", rate])
    return table(head, lines)


def bins_of(named: Sequence[tuple[str, Outcomes]]) -> list[tuple[str, Sequence[Bin]]]:
    """Ten bins of each."""
    return [(name, reliability(outcomes)) for name, outcomes in named]
