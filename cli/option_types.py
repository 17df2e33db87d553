"""Types of options for argparse. Each takes the text of an option and raises ArgumentTypeError for a wrong one."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vboot.text import parse_path, printable

_LONGEST_S = 1e6
"""Eleven days; the system's own waits take no more than 24."""


def path(text: str) -> Path:
    """A file name, or the `file:` URI that stands for one in what vboot prints."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    try:
        return parse_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a path, got {printable(text)!r}: {error}") from None


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    number = _number(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return number


def positive_seconds(text: str) -> float:
    """Seconds to wait: more than 0, at most a million."""
    seconds = _number(text)
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and at most {_LONGEST_S:.0f}, got {text!r}")
    return seconds


def positive_minutes(text: str) -> float:
    """Minutes, as seconds."""
    seconds = 60 * _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of minutes, got {text!r}")
    return seconds


def count(text: str) -> int:
    """A whole number from 0 on."""
    # Not int() alone: it also takes "1_000", " 7 " and other scripts' digits.
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
