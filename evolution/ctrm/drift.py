"""Measures of how much a tensor has changed. Pure.

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
"""Number of evenly spaced elements from which the usual size of an element is estimated."""
_MAD_TO_SD = 1.4826
"""The standard deviation of a normal distribution in median absolute deviations."""
_USUAL_REACH = 4.0
"""Standard deviations that the largest elements of a normal tensor reach."""
_F16_MAX = 65504.0


@dataclass(frozen=True)
class Drift:
    """The change of one or more tensors: norms of the values and of their difference, and the greatest magnitudes.

    usual: a standard deviation of the elements before that ignores outliers. saturation: growth of the share of
    elements at the end of the type's range. block_scale_ratio: the 99th percentile of the factor by which a block's
    scale grows or shrinks, 1 for types without block scales.
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
        """Norm of the change divided by the norm before; infinite if all elements were zero."""
        return _ratio(self.norm_change, self.norm_before)

    @property
    def rms_ratio(self) -> float:
        """Factor by which the norm grew or shrank, at least 1."""
        return max(_ratio(self.norm_after, self.norm_before), _ratio(self.norm_before, self.norm_after))

    @property
    def outlier(self) -> float:
        """The greatest magnitude divided by that before, or by _USUAL_REACH standard deviations if that is more."""
        return _ratio(self.greatest_after, max(self.greatest_before, _USUAL_REACH * self.usual))


def drift(before: TensorData, after: bytes) -> Drift | None:
    """The drift of a tensor to the bytes `after`, of the same length.

    None if the tensor is empty, holds integers or F64, or is of a type that cannot be decoded.
    """
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
    """The drift of several tensors (at least one) taken as one."""
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
    """An estimate of the standard deviation that ignores a few outliers (median absolute deviation)."""
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
