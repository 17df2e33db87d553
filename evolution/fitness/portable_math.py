"""exp and ln of f64 with the same bits on every machine, which no libm and no numpy promises. Pure.

IEEE 754 fixes the result of +, -, *, rint and ldexp to the last bit, so `exp` uses nothing else; `ln` leaves it to the
decimal arithmetic of Python's standard library, which rounds correctly.
"""

from __future__ import annotations

import decimal
import math

import numpy as np
from numpy.typing import NDArray

_LN_2 = 0.6931471805599453
_TAYLOR_TERMS = 14
"""|r| <= ln(2)/2, so the first term left out, r^14/14!, is below 2^-57."""
_LOWEST = -700.0
"""exp of less is no normal number."""
_DECIMAL = decimal.Context(prec=25)


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e^x for x from -inf to 0, of the same shape, within 1e-14 of itself for x above -30; below -700, 0.

    e^x = 2^k e^r with k = rint(x / ln 2) and r = x - k ln 2, and e^r by its Taylor series.
    """
    bounded = np.maximum(x, _LOWEST)
    k = np.rint(bounded * (1.0 / _LN_2))
    r = bounded - k * _LN_2
    power = np.full_like(r, 1.0 / math.factorial(_TAYLOR_TERMS - 1))
    for n in range(_TAYLOR_TERMS - 2, -1, -1):
        power = power * r + 1.0 / math.factorial(n)
    result: NDArray[np.float64] = np.where(x < _LOWEST, 0.0, np.ldexp(power, k.astype(np.int32)))
    return result


def ln(x: float) -> float:
    """The natural logarithm of a finite x > 0."""
    return float(_DECIMAL.ln(decimal.Decimal(x)))
