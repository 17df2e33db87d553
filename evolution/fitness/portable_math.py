"""exp and ln of f64 with the same bits on every machine, which neither libm nor numpy guarantees. Pure.

IEEE 754 defines every bit of the results of +, -, *, rint and ldexp, so `exp` uses only these. `ln` uses the decimal
arithmetic of Python's standard library, which rounds correctly.
"""

from __future__ import annotations

import decimal
import math

import numpy as np
from numpy.typing import NDArray

_LN_2 = 0.6931471805599453
_TAYLOR_TERMS = 14
"""|r| <= ln(2)/2, so the first omitted term, r^14/14!, is below 2^-57."""
_LOWEST = -700.0
"""exp of smaller values is treated as 0; it is close to the smallest normal number."""
_DECIMAL = decimal.Context(prec=25)


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e^x for x from -inf to 0, of the same shape; relative error at most 1e-14 for x above -30; 0 for x below -700.

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
