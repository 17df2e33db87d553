"""Plots of a run as SVG text, from its events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evolution.daemon.chart import Panel, Point, Series, chart
from evolution.daemon.events import (
    FULL_ENERGY,
    Acknowledged,
    Applied,
    DaemonEvent,
    Evaluated,
    GenerationEnded,
    Judged,
    Metabolism,
    RolledBack,
    Started,
)

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#999999"
"""Colours that are distinguishable with colour vision deficiency."""


_EVALUATIONS = "evaluations"


def fitness_svg(events: Iterable[DaemonEvent]) -> str:
    """The parent's score on the calibration data and the moves; below, the score of every proposal."""
    kept = without_abandoned(events)
    parent, accepted, refused = _moves(kept)
    proposals = [
        (float(event.evaluations), event.score)
        for event in kept
        if isinstance(event, Evaluated) and event.score is not None
    ]
    panels = (
        Panel(
            "calibration score",
            (
                Series("parent", parent, BLUE, "steps"),
                Series("accepted move", accepted, GREEN, "dot"),
                Series("refused move", refused, RED, "cross"),
            ),
            height=260,
        ),
        Panel("score in its batch", (Series("proposal", proposals, GREY, "dot"),), height=140),
    )
    return chart(_title("Fitness", kept), _EVALUATIONS, panels)


def latency_svg(events: Iterable[DaemonEvent]) -> str:
    """How long the body took to apply each move and to acknowledge each interrupt; rolled back moves are marked."""
    applied: list[Point] = []
    interrupts: list[Point] = []
    taken_back: list[Point] = []
    kept = list(events)
    done = 0.0
    for event in kept:
        match event:
            case Evaluated():
                done = float(event.evaluations)
            case Applied():
                applied.append((done, event.milliseconds))
            case Acknowledged():
                interrupts.append((done, event.latency_us / 1000))
            case RolledBack() if applied:
                taken_back.append((done, applied[-1][1]))
    panels = (
        Panel(
            "move applied, ms",
            (Series("applied", applied, BLUE, "dot"), Series("rolled back", taken_back, RED, "cross")),
            logarithmic=True,
        ),
        Panel("interrupt taken, ms", (Series("interrupt", interrupts, ORANGE, "dot"),), logarithmic=True, height=140),
    )
    return chart(_title("Latency", kept), _EVALUATIONS, panels)


def energy_svg(events: Iterable[DaemonEvent]) -> str:
    """The body's energy, heartbeat and pixels at each metabolism cycle, counted over all sessions of the run."""
    kept = list(events)
    cycles = [event for event in kept if isinstance(event, Metabolism)]
    nan = float("nan")
    energy = [(float(at), nan if one.energy is None else one.energy) for at, one in enumerate(cycles, 1)]
    late = [
        (float(at), nan if one.heartbeat_p99_us is None else one.heartbeat_p99_us / 1000)
        for at, one in enumerate(cycles, 1)
    ]
    pixels = [(float(at), float(one.pixels_processed)) for at, one in enumerate(cycles, 1)]
    panels = (
        Panel("energy", (Series("energy", energy, GREEN),), shows=(0, FULL_ENERGY)),
        Panel("heartbeat late, p99, ms", (Series("heartbeat", late, ORANGE),), height=120, shows=(0, 1)),
        Panel("pixels processed", (Series("Rust pixels", pixels, BLUE),), height=120, shows=(0, 1)),
    )
    return chart(_title("Metabolism", kept), "metabolism cycles", panels)


def without_abandoned(events: Iterable[DaemonEvent]) -> list[DaemonEvent]:
    """The events without the scores and judgements of interrupted generations, as these were repeated."""
    kept: list[DaemonEvent] = []
    for event in events:
        if isinstance(event, Started):
            kept = _until(kept, event.generation)
        kept.append(event)
    return kept


def _until(events: Sequence[DaemonEvent], generation: int) -> list[DaemonEvent]:
    """The events without the scores, judgements and ends of this generation and later ones."""
    current = 0
    kept: list[DaemonEvent] = []
    for event in events:
        if isinstance(event, Started):
            current = event.generation
        if current < generation or not isinstance(event, Evaluated | Judged | GenerationEnded):
            kept.append(event)
        if isinstance(event, GenerationEnded):
            current = event.generation + 1
    return kept


def _moves(events: Iterable[DaemonEvent]) -> tuple[list[Point], list[Point], list[Point]]:
    """Points (evaluations, calibration score) of the parent, of accepted and of refused moves."""
    parent: list[Point] = []
    accepted: list[Point] = []
    refused: list[Point] = []
    done = 0.0
    judged: Judged | None = None
    for event in events:
        match event:
            case Evaluated():
                done = float(event.evaluations)
            case Judged():
                judged = event
                if not parent and event.before is not None:
                    parent.append((0.0, event.before))
            case GenerationEnded():
                parent.append((done, event.fitness))
                if event.accepted:
                    accepted.append((done, event.fitness))
                elif judged is not None and judged.after is not None:
                    refused.append((done, judged.after))
                judged = None
            case Started():
                judged = None
    return parent, accepted, refused


def _title(name: str, events: Sequence[DaemonEvent]) -> str:
    started = next((event for event in events if isinstance(event, Started)), None)
    return name if started is None else f"{name}: {started.strategy}, tier {started.tier}, seed {started.seed}"
