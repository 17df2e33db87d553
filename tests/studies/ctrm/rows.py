"""Measures candidates in a shadow: the judgement of CTRM on one block of the data, and the outcome on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evolution.ctrm import behavioural, statistical
from evolution.ctrm.contract import Candidate, CtrmLimits, Facts, Measured, ShadowResult
from evolution.ctrm.judge import judge
from evolution.ctrm.shadow import measure, measure_finite, trying
from evolution.fitness.contract import Fitness, Pair
from tests.studies.ctrm.draws import Draw
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import TensorData, targets

_UNLIMITED = float("inf")
_NO_LIMITS = CtrmLimits(
    vector_norm=_UNLIMITED,
    matrix_norm=_UNLIMITED,
    total_norm=_UNLIMITED,
    rms_ratio=_UNLIMITED,
    block_scale_ratio=_UNLIMITED,
    saturation=_UNLIMITED,
    outlier=_UNLIMITED,
    degradation=_UNLIMITED,
    spread_lost=_UNLIMITED,
)


@dataclass(frozen=True)
class Row:
    """A measured candidate. `values`: the value of each check of the weights, by its name, which is that of its limit.

    `fall` is the relative fall of the score on all data. `blocks`: of each block as calibration data, the raw
    confidence, and whether on the other blocks the score fell by less than the limit.
    """

    model: str
    tier: str
    size: float
    values: Mapping[str, float]
    fall: float
    blocks: tuple[tuple[float, bool], ...]


def measure_rows(
    bridge: RustNeuralBridge, model: str, some: Sequence[Draw], fitness: Fitness, blocks: Sequence[Sequence[Pair]]
) -> Iterator[Row]:
    """Yields each candidate's row as it is measured; all blocks have as many pairs. Raises what a shadow raises."""
    with bridge.client(timeout=60.0) as shadow:
        infos = shadow.tensors()
        before = [measure(shadow, fitness, block) for block in blocks]
        weights = {
            info.name: TensorData(info.name, info.type, info.shape, bridge.tensor(info.name).tobytes())
            for info in infos
            if not info.protected
        }
        for draw in some:
            with trying(shadow, draw.edits):
                candidate = _candidate(bridge, draw, weights, shadow)
                after = [measure_finite(shadow, fitness, block) for block in blocks]
            yield _row(model, draw, candidate, infos, list(zip(before, after, strict=True)))


def _candidate(
    bridge: RustNeuralBridge, draw: Draw, weights: Mapping[str, TensorData], shadow: MachineClient
) -> Candidate:
    touched = dict.fromkeys(name for edit in draw.edits for name in targets(edit, weights, ()))
    before = {name: weights[name] for name in touched}
    after = {name: bridge.tensor(name).tobytes() for name in touched}
    changed = {name: data for name, data in after.items() if data != before[name].data}
    return Candidate(draw.edits, shadow.hello().generation, before, changed)


def _row(
    model: str,
    draw: Draw,
    candidate: Candidate,
    infos: tuple[TensorInfo, ...],
    pairs: Sequence[tuple[Measured, Measured | None]],
) -> Row:
    """`pairs`: each block before and after."""
    checks = (*statistical.CHECKS, *behavioural.CHECKS)
    findings = judge(candidate, Facts(infos, _NO_LIMITS, ShadowResult(*pairs[0])), checks=checks).findings
    return Row(
        model=model,
        tier=draw.tier,
        size=draw.size,
        values={finding.check: finding.value for finding in findings if hasattr(_NO_LIMITS, finding.check)},
        fall=_fall(pairs),
        blocks=tuple(
            (
                judge(candidate, Facts(infos, shadow=ShadowResult(*pair)), checks=()).raw,
                _fall([*pairs[:number], *pairs[number + 1 :]]) < CtrmLimits().degradation,
            )
            for number, pair in enumerate(pairs)
        ),
    )


def _fall(pairs: Sequence[tuple[Measured, Measured | None]]) -> float:
    """The relative fall of the mean score; infinite if there is no score after."""
    before = fmean(old.score for old, _ in pairs)
    after = [new.score for _, new in pairs if new is not None]
    if len(after) < len(pairs):
        return float("inf")
    return (before - fmean(after)) / abs(before)
