"""The choice of the tier: the next one when a tier yields no more moves. Pure, from the run's history alone."""

from __future__ import annotations

from dataclasses import replace

from evolution.daemon.run_state import RunState


def after_generation(state: RunState, *, accepted: bool) -> RunState:
    """The state after one more generation."""
    return replace(state, generation=state.generation + 1, barren=0 if accepted else state.barren + 1)


def next_stage(state: RunState, *, stages: int, barren_generations: int) -> int | None:
    """The next stage after this many generations without an accepted move; None: stay.

    Stages cycle through the tiers. A new cycle draws other noise, as each stage has its own seed.
    """
    if stages < 2 or state.barren < barren_generations:
        return None
    return state.stage + 1
