"""The options of strategies: fields of a dataclass, annotated with the values they allow. Pure.

pairs: Annotated[int, whole(1, 1024)] = 16
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
    """The values that an option allows: a predicate, its description, and a conversion from the JSON of a state."""

    holds: Callable[[Any], bool]
    text: str
    from_json: Callable[[Any, Terrain], Any] = lambda value, _: value


def whole(least: int, most: int) -> Allowed:
    """Integers from `least` to `most`, both included."""
    return Allowed(lambda value: type(value) is int and least <= value <= most, f"a whole number, {least} to {most}")


def number(least: float, most: float) -> Allowed:
    """Numbers from `least` to `most`, both included."""
    return Allowed(lambda value: is_number(value) and least <= value <= most, f"a number from {least:g} to {most:g}")


def one_of(*words: str) -> Allowed:
    """One of some strings."""
    return Allowed(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


def check_options(strategy: str, rule: type[Any], given: Mapping[str, Any]) -> None:
    """Raises InputError for options that the dataclass `rule` does not have, missing options, and disallowed values."""
    known = _options(rule)
    for name in given:
        if name not in known:
            remedy = f"use one of {', '.join(known)}" if known else "it has no options"
            raise InputError(f"the strategy {strategy!r} has no option {name!r:.40}", remedy=remedy)
    for name, allowed in known.items():
        if name not in given:
            if not hasattr(rule, name):  # the default of a field is an attribute of the class
                raise InputError(f"the strategy {strategy!r} needs {name!r}", remedy=f"give {allowed.text}")
        elif not allowed.holds(given[name]):
            raise InputError(
                f"the option {name!r} of the strategy {strategy!r} cannot be {shown(given[name])}",
                remedy=f"give {allowed.text}",
            )


def options_from_json(rule: type[Any], members: Mapping[str, Any], terrain: Terrain) -> dict[str, Any]:
    """Options from the JSON of a state. Unknown names are kept, so that `check_options` refuses them."""
    known = _options(rule)
    return {name: known[name].from_json(value, terrain) if name in known else value for name, value in members.items()}


def _options(rule: type[Any]) -> dict[str, Allowed]:
    hints = get_type_hints(rule, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}
