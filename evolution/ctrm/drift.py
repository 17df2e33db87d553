"""How a tensor has changed, in numbers. Pure.

Norms are summed in f64 over the f32 values of the elements.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vboot.weights.arithmetic import TensorData
from vboot.weights.storage_types import CODE_RANGES, Floats, block_of, block_scales, codes, decode_any

_SAMPLE = 1 << 16
"""Elements, evenly spaced, that the usual size of an element is estimated from."""
_MAD_TO_SD = 1.4826
"""The standard deviation of a normal distribution in median absolute deviations."""
_USUAL_REACH = 4.0
"""Standard deviations that single elements of a tensor commonly reach, so no reason for alarm."""
_F16_MAX = 65504.0


@dataclass(frozen=True)
class Drift:
    """Tensors against before: norms of the values and of their change, the greatest magnitudes.

    usual: the standard deviation of most elements before, outliers left aside. saturation: growth of the share of
    elements at the end of the type's range. block_scale_ratio: the 99th percentile of how many times larger or smaller
    a block's scale is, 1 for types without.
    """

    norm_before: float
    norm_after: float
    norm_change: float
    greatest_before: float
    greatest_after: float
    usual: float
    saturation: float
    block_scale_ratio: float

    @property
    def relative_norm(self) -> float:
        """Norm of the change by that before; infinite where there was nothing but zeros."""
        return _ratio(self.norm_change, self.norm_before)

    @property
    def rms_ratio(self) -> float:
        """How many times larger or smaller the elements are than before, at least 1."""
        return max(_ratio(self.norm_after, self.norm_before), _ratio(self.norm_before, self.norm_after))

    @property
    def outlier(self) -> float:
        """The greatest magnitude by that before, or by what elements of this usual size reach, if that is more."""
        return _ratio(self.greatest_after, max(self.greatest_before, _USUAL_REACH * self.usual))


def drift(before: TensorData, after: bytes) -> Drift | None:
    """How a tensor has changed to `after`, whole blocks of the same length; None: it holds no floats, or nothing."""
    old_bytes, new_bytes = np.frombuffer(before.data, np.uint8), np.frombuffer(after, np.uint8)
    if not old_bytes.size:
        return None
    old, new = decode_any(before.type, old_bytes), decode_any(before.type, new_bytes)
    if old is None or new is None or old.dtype != np.float32:
        return None
    with np.errstate(all="ignore"):  # a change beyond f32 is infinite, and above every limit
        return Drift(
            norm_before=_norm(old),
            norm_after=_norm(new),
            norm_change=_norm(new - old),
            greatest_before=_greatest(old),
            greatest_after=_greatest(new),
            usual=_usual_size(old),
            saturation=_saturated(before.type, new_bytes, new) - _saturated(before.type, old_bytes, old),
            block_scale_ratio=_block_scale_ratio(before.type, old_bytes, new_bytes),
        )


def together(drifts: Collection[Drift]) -> Drift:
    """Several tensors, at least one, as one."""
    return Drift(
        norm_before=math.hypot(*(each.norm_before for each in drifts)),
        norm_after=math.hypot(*(each.norm_after for each in drifts)),
        norm_change=math.hypot(*(each.norm_change for each in drifts)),
        greatest_before=max(each.greatest_before for each in drifts),
        greatest_after=max(each.greatest_after for each in drifts),
        usual=max(each.usual for each in drifts),
        saturation=max(each.saturation for each in drifts),
        block_scale_ratio=max(each.block_scale_ratio for each in drifts),
    )


def _norm(values: Floats) -> float:
    return math.sqrt(float(np.square(values, dtype=np.float64).sum()))


def _greatest(values: Floats) -> float:
    return max(float(values.max()), -float(values.min()))


def _usual_size(values: Floats) -> float:
    """A standard deviation that a few outliers do not move."""
    some = values[:: max(1, values.size // _SAMPLE)]
    return _MAD_TO_SD * float(np.median(np.abs(some - np.median(some))))


def _block_scale_ratio(kind: str, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    if kind not in CODE_RANGES:
        return 1.0
    size = block_of(kind).bytes
    old, new = (np.abs(block_scales(data.reshape(-1, size))) for data in (before, after))
    used = (old > 0) & (new > 0)
    if not used.any():
        return 1.0
    ratios = new[used] / old[used]
    return float(np.quantile(np.maximum(ratios, 1 / ratios), 0.99))


def _saturated(kind: str, data: NDArray[np.uint8], values: Floats) -> float:
    """The share of elements at an end of the type's range; for F16, in the last octave before infinity."""
    if kind in CODE_RANGES:
        own = codes(kind, data.reshape(-1, block_of(kind).bytes))
        least, greatest = CODE_RANGES[kind]
        # Q8_0 as ggml writes it uses -127 to 127: -127 is its end as well.
        at_end = (own <= max(least, -greatest)) | (own >= greatest)
        return float(np.count_nonzero(at_end) / own.size)
    if kind == "F16":
        return float(np.count_nonzero(np.abs(values) > _F16_MAX / 2) / values.size)
    return 0.0


def _ratio(value: float, reference: float) -> float:
    if reference == 0:
        return 1.0 if value == 0 else math.inf
    return value / reference
