"""All strategies by name, created or restored from a state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolution.strategies.antithetic_es import AntitheticEs
from evolution.strategies.ask_tell import AskTell, Rule
from evolution.strategies.cma_es import CmaEs
from evolution.strategies.contract import Strategy
from evolution.strategies.crossover import Crossover
from evolution.strategies.one_plus_one import OnePlusOne
from evolution.strategies.options import check_options, options_from_json
from evolution.strategies.random_search import RandomSearch
from evolution.strategies.search_space import SearchSpace, Terrain, search_space
from evolution.strategies.state import MAX_COUNT, SearchProgress, bad, read
from evolution.strategies.tiers import Tier
from vboot.errors import InputError

_RULES: tuple[type[Rule[Any]], ...] = (AntitheticEs, CmaEs, OnePlusOne, RandomSearch, Crossover)

STRATEGIES: Mapping[str, type[Rule[Any]]] = {rule.name: rule for rule in _RULES}


def make(name: str, terrain: Terrain, tier: Tier, seed: int, **options: Any) -> Strategy:
    """A new search in `tier` on the model that `terrain` describes; `seed` is from 0 to 2^53 - 1.

    Raises InputError for an unknown strategy or option, a value that an option does not allow, and a tier that matches
    no tensor of the model.
    """
    if type(seed) is not int or not 0 <= seed < MAX_COUNT:
        raise InputError(
            f"the seed of a search cannot be {seed!r:.40}", remedy="give a whole number from 0 to 2^53 - 1"
        )
    if name not in STRATEGIES:
        raise InputError(f"there is no strategy {name!r:.40}", remedy=f"use one of {', '.join(STRATEGIES)}")
    return _make(name, search_space(tier, terrain), seed, options, None)


def restore(state: bytes, terrain: Terrain) -> Strategy:
    """The search whose `state()` returned these bytes; it continues exactly as the original would.

    Raises InputError for bytes that are not a state, and for the state of a search on another model.
    """
    saved = read(state)
    if saved.strategy not in STRATEGIES:
        raise bad(f"there is no strategy {saved.strategy!r:.40}")
    space = search_space(saved.tier, terrain)
    if space.terrain != saved.terrain:
        raise bad("it belongs to a search on another model")
    options = options_from_json(STRATEGIES[saved.strategy], saved.options, terrain)
    return _make(saved.strategy, space, saved.seed, options, saved.progress)


def _make(
    name: str, space: SearchSpace, seed: int, options: Mapping[str, Any], progress: SearchProgress | None
) -> Strategy:
    check_options(name, STRATEGIES[name], options)
    return AskTell(STRATEGIES[name](space=space, seed=seed, **options), progress)
