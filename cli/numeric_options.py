"""Numbers as options are given them: argparse types that refuse what no machine can use."""

from __future__ import annotations

import argparse
import math

_LONGEST_S = 1e6
"""Eleven days; the system's own waits take no more than 24."""


def finite(text: str) -> float:
    """A number that is neither infinite nor nan. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def positive_seconds(text: str) -> float:
    """Seconds to wait: more than 0, at most a million. Raises ArgumentTypeError."""
    seconds = finite(text)
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most {_LONGEST_S:.0f}")
    return seconds
