"""Which tier is searched: the next one once a tier gives no more. Pure, from the run's history alone."""

from __future__ import annotations

from dataclasses import replace

from evolution.daemon.run_state import RunState


def after_generation(state: RunState, *, accepted: bool) -> RunState:
    """The state with one generation more."""
    return replace(state, generation=state.generation + 1, barren=0 if accepted else state.barren + 1)


def next_stage(state: RunState, *, stages: int, barren_generations: int) -> int | None:
    """The stage to go to, after so many generations without an accepted move; None: stay.

    Stages go round the tiers. A new round finds other noise: the search of each stage has a seed of its own.
    """
    if stages < 2 or state.barren < barren_generations:
        return None
    return state.stage + 1
