"""The options of strategies: fields of a dataclass, each with what it may be. Pure.

pairs: int = option(whole(1, 1024), default=16)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from evolution.strategies.search_space import Terrain
from evolution.strategies.state import shown
from vboot.errors import InputError
from vboot.weights.edits import is_number


@dataclass(frozen=True)
class Allowed:
    """Which values an option may have, how to say so, and how to get one from the JSON of a state."""

    holds: Callable[[Any], bool]
    text: str
    from_json: Callable[[Any, Terrain], Any] = lambda value, _: value


def whole(least: int, most: int) -> Allowed:
    """Integers of a range, both ends included."""
    return Allowed(lambda value: type(value) is int and least <= value <= most, f"a whole number, {least} to {most}")


def number(least: float, most: float) -> Allowed:
    """Numbers of a range, both ends included."""
    return Allowed(lambda value: is_number(value) and least <= value <= most, f"a number from {least:g} to {most:g}")


def one_of(*words: str) -> Allowed:
    """Some words."""
    return Allowed(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


def check_options(strategy: str, rule: type[Any], given: Mapping[str, Any]) -> None:
    """Raises InputError for options that `rule`, a dataclass, has not or lacks, and for values they may not have."""
    known = _options(rule)
    for name in given:
        if name not in known:
            remedy = f"its options are {', '.join(known)}" if known else "it has none"
            raise InputError(f"the strategy {strategy!r} has no option {name!r:.40}", remedy=remedy)
    for name, allowed in known.items():
        if name not in given:
            if not hasattr(rule, name):  # the default of a field is an attribute of the class
                raise InputError(f"the strategy {strategy!r} needs {name!r}", remedy=f"give {allowed.text}")
        elif not allowed.holds(given[name]):
            raise InputError(
                f"the option {name!r} of the strategy {strategy!r} cannot be {shown(given[name])}",
                remedy=f"make it {allowed.text}",
            )


def options_from_json(rule: type[Any], members: Mapping[str, Any], terrain: Terrain) -> dict[str, Any]:
    """Options as a rule wrote them into a state; what it has not is left for `check_options` to refuse."""
    known = _options(rule)
    return {name: known[name].from_json(value, terrain) if name in known else value for name, value in members.items()}


def _options(rule: type[Any]) -> dict[str, Allowed]:
    hints = get_type_hints(rule, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}
