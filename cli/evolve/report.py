"""The report of a run: held-out scores before and after, rates, and plots, from the files of its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.answer import Answer, columns
from cli.evolve.runs import opened_run
from cli.evolve.tally import Tally
from cli.progress import reported
from evolution.daemon.events import DaemonEvent, Stopped
from evolution.daemon.lineage import Lineage
from evolution.daemon.log import read_events
from evolution.daemon.plots import energy_svg, fitness_svg, latency_svg, without_abandoned
from evolution.daemon.run_folder import EvolutionRunFolder
from evolution.daemon.run_state import RunState
from evolution.daemon.shadow import Shadow, Weights
from evolution.fitness.contract import Dataset
from evolution.fitness.report import CONFIDENCE, Comparison, Interval, Report, compare, retrieval_report
from vboot.client.signer import Signer
from vboot.files import atomic_write
from vboot.text import json_text, path_text

PLOTS: Mapping[str, Callable[[Iterable[DaemonEvent]], str]] = {
    "fitness": fitness_svg,
    "latency": latency_svg,
    "energy": energy_svg,
}
"""By the name of the file NAME.svg in the run's folder."""
REPORT_FILE = "report.json"


def run_answer(path: Path, *, model: Path, dataset: Dataset | None, signer: Signer | None = None) -> Answer:
    """Report on the run in a folder, and write its plots and `report.json` there.

    `model` is the initial model; `signer` signs changes of one that takes signed ones only. `dataset` None skips the
    held-out scores, which take a while. Raises InputError for a folder without a run, and for another model than the
    run's.
    """
    with opened_run(path) as folder:
        events = without_abandoned(event for _, event in read_events(folder.events))
        state = folder.load()
        held_out = None if dataset is None or state is None else _held_out(folder, state, model, dataset, signer)
    tally = Tally()
    for event in events:
        tally.add(event)
    files = {name: path / f"{name}.svg" for name in PLOTS}
    for name, plot in PLOTS.items():
        _write(files[name], plot(events))
    data = _described(path, tally, state, held_out, dataset)
    _write(path / REPORT_FILE, json_text(data, indent=2) + "\n")
    files |= {"report": path / REPORT_FILE, "events": folder.events}
    snapshot = None if state is None else folder.snapshot(len(state.lineage))
    if snapshot is not None and snapshot.is_file():
        files["model"] = snapshot
    data["files"] = dict(files)
    return Answer(data, _told(tally, held_out, dataset, files.values()))


def _held_out(
    folder: EvolutionRunFolder, state: RunState, model: Path, dataset: Dataset, signer: Signer | None
) -> Mapping[str, Comparison]:
    """Scores of the initial and the current weights on pairs that the search never saw."""
    with closing(Shadow(lambda: (Weights(model, tuple, state.base),), tell=_ignore, signer=signer)) as shadow:
        before = _retrieval(shadow, dataset, "held-out, before")
    if not state.lineage:
        return compare(before, before)
    with closing(Shadow(Lineage(folder, model, state).ways, tell=_ignore, signer=signer)) as shadow:
        return compare(before, _retrieval(shadow, dataset, "held-out, after"))


def _retrieval(shadow: Shadow, dataset: Dataset, name: str) -> Report:
    with reported(name) as progress:

        def embed(texts: Sequence[str]) -> NDArray[np.float32]:
            return shadow.machine.embed(texts, progress=lambda done, total: progress("texts", done, total)).vectors

        return retrieval_report(embed, dataset.held_out)


def _ignore(_event: DaemonEvent) -> None:
    pass


def _described(
    path: Path,
    tally: Tally,
    state: RunState | None,
    held_out: Mapping[str, Comparison] | None,
    dataset: Dataset | None,
) -> dict[str, Any]:
    data: dict[str, Any] = {"folder": path, **tally.describe()}
    data["stopped"] = None if tally.stopped is None else tally.stopped.why
    data["fitness"] = {"first": tally.fitness[0], "last": tally.fitness[-1]} if tally.fitness else None
    data["model"] = None if state is None else {"before": state.base, "after": state.model}
    if held_out is not None and dataset is not None:
        scores = {metric: dataclasses.asdict(compared) for metric, compared in held_out.items()}
        about = {"source": dataset.source, "sha256": dataset.sha256, "pairs": len(dataset.held_out)}
        data["held_out"] = {**about, "confidence": CONFIDENCE, "metrics": scores}
    return data


def _told(
    tally: Tally, held_out: Mapping[str, Comparison] | None, dataset: Dataset | None, files: Iterable[Path]
) -> str:
    parts = [_summary(tally)]
    if held_out is not None and dataset is not None:
        what = f"scores on {len(dataset.held_out)} held-out pairs of {dataset.source}, which the search never saw"
        title = f"{what}, with {CONFIDENCE:.0%} intervals"
        rows = [("", "before", "after", "change"), *(_row(metric, compared) for metric, compared in held_out.items())]
        parts.append(f"{title}\n{columns(rows)}")
    parts.append("\n".join(map(path_text, files)))
    return "\n\n".join(parts)


def _summary(tally: Tally) -> str:
    rows = [("stopped", "no: the run was interrupted" if tally.stopped is None else _stopped(tally.stopped))]
    if tally.acceptance is not None:
        moved = f"{tally.moves_accepted} of {tally.generations} generations accepted a change ({tally.acceptance:.1%})"
        rows.append(("accepted", f"{moved}; {tally.moves_refused} not accepted, {tally.rolled_back} taken back"))
    if tally.evaluations_per_second is not None:
        rows.append(("evaluations", f"{tally.evaluations}, {tally.evaluations_per_second:.1f} a second"))
    if tally.applied_per_second is not None and tally.median_latency_ms is not None:
        each = f"{tally.median_latency_ms:.1f} ms each"
        rows.append(("applied", f"{tally.applied} changes, {tally.applied_per_second:.3f} a second, {each}"))
    if tally.share_outside_evaluation is not None:
        rows.append(("overhead", f"{tally.share_outside_evaluation:.1%} of the time outside evaluation"))
    if tally.unreached is not None:
        rows.append(("machine", f"does not have the latest weights: {tally.unreached}"))
    if tally.alarm_count:
        rows.append(("alarms", f"{tally.alarm_count}; the latest: {tally.alarms[-1].what}: {tally.alarms[-1].text}"))
    return columns(rows)


def _stopped(stopped: Stopped) -> str:
    return f"{stopped.why}; {stopped.generation} generations, {stopped.accepted} changes accepted in total"


def _row(metric: str, compared: Comparison) -> tuple[str, ...]:
    return metric, _interval(compared.before), _interval(compared.after), _interval(compared.difference, sign="+")


def _interval(interval: Interval, *, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
