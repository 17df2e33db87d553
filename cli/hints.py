"""The `next:` lines under an answer: the command that a person will most likely want next."""

from __future__ import annotations

import os

_pending: list[str] = []


def next_step(text: str) -> None:
    """Print `next: TEXT` under the answer of this command; never with --json, and not after an error."""
    _pending.append(f"next: {text}")


def command(target: str, verb: str | None = None) -> str:
    """A target of make as the person who runs this would call it: `make boot` below make, else `vboot boot`."""
    return f"make {target}" if os.environ.get("MAKELEVEL") else f"vboot {verb or target}"


def option(variable: str, flag: str, value: str) -> str:
    """An option of `vboot` as the person who runs this would give it: `MODEL=minilm` below make, else with its flag."""
    return f"{variable}={value}" if os.environ.get("MAKELEVEL") else f"{flag} {value}"


def taken() -> list[str]:
    """The lines to print, which are forgotten by that."""
    lines, _pending[:] = list(_pending), []
    return lines
