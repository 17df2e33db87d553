"""The state of a search as bytes: canonical JSON, checked member by member when it is read. Pure.

    {"format": "vector_boot.strategy", "version": 1, "strategy", "seed", "terrain": sha256, "tier": {...},
     "options": {...}, "generation", "asked", "moved", "verdicts": {id: {"score", "reason"}}, "memory": {...}}

The same search at the same point gives the same bytes. States are read from disk: damaged or forged ones are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.strategies.contract import Verdict
from evolution.strategies.search_space import SearchSpace
from evolution.strategies.tiers import Tier
from vboot.errors import InputError
from vboot.weights.edits import is_number

_FORMAT = "vector_boot.strategy"
_VERSION = 1
_MAX_BYTES = 1 << 26
MAX_COUNT = 1 << 53
_MEMBERS: Mapping[str, type] = {
    "format": str,
    "version": int,
    "strategy": str,
    "seed": int,
    "terrain": str,
    "tier": dict,
    "options": dict,
    "generation": int,
    "asked": bool,
    "moved": bool,
    "verdicts": dict,
    "memory": dict,
}
_REMEDY = "use an older copy of it, or start a new search"


@dataclass(frozen=True)
class SearchProgress:
    """The position of a search: its generation, what was called in it, its verdicts by id, and the memory as JSON."""

    generation: int
    asked: bool
    moved: bool
    verdicts: Mapping[str, Verdict]
    memory: Mapping[str, Any]


@dataclass(frozen=True)
class Saved:
    """The contents of a state. `terrain` is the fingerprint of the model that it belongs to."""

    strategy: str
    seed: int
    terrain: str
    tier: Tier
    options: Mapping[str, Any]
    progress: SearchProgress


def write(strategy: str, space: SearchSpace, seed: int, options: Mapping[str, Any], progress: SearchProgress) -> bytes:
    """A search as bytes."""
    members = {"format": _FORMAT, "version": _VERSION, "strategy": strategy, "seed": seed, "terrain": space.terrain}
    document = members | {"tier": asdict(space.tier), "options": options} | asdict(progress)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def read(state: bytes) -> Saved:
    """The contents of `write`'s bytes; options and memory are checked by the strategy. Raises InputError."""
    if len(state) > _MAX_BYTES:
        raise bad(f"it has {len(state)} bytes, more than {_MAX_BYTES}")
    try:
        document = json.loads(state.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise bad("it is not JSON") from error
    top = members_of(document, _MEMBERS)
    if (top["format"], top["version"]) != (_FORMAT, _VERSION):
        raise bad(f"its format is {top['format']!r:.40}, version {shown(top['version'])}, not {_FORMAT}, {_VERSION}")
    for name in ("seed", "generation"):
        if not 0 <= top[name] < MAX_COUNT:
            raise bad(f"its {name} is {shown(top[name])}")
    verdicts = {name: _verdict(value) for name, value in top["verdicts"].items()}
    progress = SearchProgress(top["generation"], top["asked"], top["moved"], verdicts, top["memory"])
    return Saved(top["strategy"], top["seed"], top["terrain"], _tier(top["tier"]), top["options"], progress)


def bad(what: str) -> InputError:
    """The error for an unusable state."""
    return InputError(f"the state of the search cannot be used: {what}", remedy=_REMEDY)


def members_of(value: Any, expected: Mapping[str, type]) -> dict[str, Any]:
    """`value` if it is an object of these members and JSON types; integers count as floats. Raises InputError."""
    if not isinstance(value, dict) or value.keys() != expected.keys():
        raise bad(f"expected an object with the members {', '.join(expected)}")
    for name, kind in expected.items():
        fits = is_number(value[name]) if kind is float else type(value[name]) is kind
        if not fits:
            raise bad(f"its {name} is {shown(value[name])}")
    return {name: float(value[name]) if kind is float else value[name] for name, kind in expected.items()}


def in_range(name: str, value: float, least: float, most: float) -> float:
    """`value` if it is within the range. Raises InputError."""
    if not least <= value <= most:
        raise bad(f"its {name} is {shown(value)}, expected {least:g} to {most:g}")
    return value


def dump_array(array: NDArray[np.float64]) -> str:
    """Numbers as base64 of little-endian f64 in C order."""
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def load_array(name: str, text: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The f64 array of that shape; numbers that are not finite are accepted. Raises InputError."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 8 * int(np.prod(shape)):
        raise bad(f"its {name} is not an array of shape {shape}")
    return np.frombuffer(data, "<f8").astype(np.float64).reshape(shape)


def shown(value: Any) -> str:
    """A value for an error message, shortened."""
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python writes no number of more than some thousand digits
        return "a number that is too long"


def _verdict(value: Any) -> Verdict:
    score = float if isinstance(value, dict) and value.get("score") is not None else type(None)
    return Verdict(**members_of(value, {"score": score, "reason": str}))


def _tier(value: Any) -> Tier:
    numbers = {"sigma": float, "density": float, "rank": int}
    members = members_of(value, {"name": str, "form": str, "tensors": list, **numbers})
    if not all(isinstance(pattern, str) for pattern in members["tensors"]):
        raise bad("its tier has a tensor pattern that is not a string")
    return Tier(**members | {"tensors": tuple(members["tensors"])})
