"""The edits of a mutation from the command line: a recipe file, or the options of one edit."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.weights.edits import SEEDED_FORMS, Edit, Seeded, SeededForm, parse_bytes, parse_elements
from vboot.weights.recipe import load

_KINDS = ("recipe", "seeded", "set", "dense")
_OF_SEEDED = ("form", "density", "scale", "seed")


@dataclass(frozen=True)
class MutationProposal:
    """Edits and their properties. `seed` (16 hex digits) is the random one that was chosen if none was given."""

    edits: tuple[Edit, ...]
    confidence: float
    origin: str
    lease_ms: int | None
    seed: str | None = None


def misuse(given: Mapping[str, Any]) -> str | None:
    """The error in the combination of options, or None."""
    kinds = [kind for kind in _KINDS if given.get(kind)]
    if len(kinds) != 1:
        options = ", ".join(f"--{kind}" for kind in _KINDS)
        return f"give {'only ' if kinds else ''}one of {options}"
    stray = [name for name in _OF_SEEDED if given.get(name) is not None]
    if stray and kinds != ["seeded"]:
        return f"--{stray[0]} can only be used with --seeded"
    needed = ("density",) if given.get("form") == "step" else ("density", "scale")
    missing = [name for name in needed if given.get(name) is None]
    if kinds == ["seeded"] and missing:
        return f"--seeded needs --{missing[0]}"
    if given.get("form") == "step" and given.get("scale") not in (None, 1):
        return "--scale cannot be used with --form step, which moves codes by one"
    if kinds != ["recipe"] and given.get("confidence") is None:
        return _no_confidence("")
    return None


def propose(given: Mapping[str, Any], lookup: Callable[[str], TensorInfo]) -> MutationProposal:
    """The mutation of these options (by name; None or absent if not given). Options override the recipe.

    Raises InputError.
    """
    if wrong := misuse(given):
        raise InputError(wrong)
    lease = given.get("lease")
    lease_ms = None if lease is None else round(lease * 1000)
    if lease_ms is not None and lease_ms < 1:
        raise InputError(f"expected a lease of at least 0.001 s, got {lease:g} s", remedy="give a longer --lease")
    if given.get("recipe"):
        recipe = load(Path(given["recipe"]), lookup)
        confidence = given["confidence"] if given.get("confidence") is not None else recipe.confidence
        if confidence is None:
            raise InputError(_no_confidence(f"{given['recipe']} has none: "))
        origin = given.get("origin") or recipe.origin or ""
        return MutationProposal(recipe.edits, confidence, origin, recipe.lease_ms if lease_ms is None else lease_ms)
    edits, seed = _edits(given)
    return MutationProposal(edits, given["confidence"], given.get("origin") or "", lease_ms, seed)


def _edits(given: Mapping[str, Any]) -> tuple[tuple[Edit, ...], str | None]:
    """The edits of options, and the seed if it was chosen here."""
    if given.get("set"):
        return parse_elements(given["set"]), None
    if given.get("dense"):
        return tuple(parse_bytes(text, read=_read_file) for text in given["dense"]), None
    form = given.get("form") or "normal"
    if form not in SEEDED_FORMS:
        raise InputError(f"expected --form {', '.join(SEEDED_FORMS)}, got {form}")
    made_up = None if given.get("seed") else secrets.token_hex(8)
    scale = 1.0 if form == "step" else given["scale"]
    seed = given.get("seed") or made_up or ""
    return (Seeded(given["seeded"], seed, cast("SeededForm", form), given["density"], scale),), made_up


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error


def _no_confidence(where: str) -> str:
    return (
        f"{where}give --confidence, the probability that the change is good, from 0 to 1"
        " (the machine refuses 0.8 and below)"
    )
