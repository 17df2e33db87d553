"""`vboot evolve`: improves the weights of a running machine, or of a model file."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.answer import Answer
from cli.errors import Terminated, VerbStopped
from cli.evolve.bodies import begin, opened_body
from cli.evolve.data import RunData, keep, run_data
from cli.evolve.folders import default_folder, tiers
from cli.evolve.lines import PlainLines
from cli.evolve.needs import composed, ready_tools
from cli.evolve.report import run_answer
from cli.evolve.runs import Origin, lineage, load_origin, save_origin
from cli.evolve.stop import stopped_in_order
from cli.hints import next_step
from cli.machines import signer_of
from evolution.daemon import events
from evolution.daemon.body import Body, FileBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.log import LOGGER
from evolution.daemon.search_run import LIMIT
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness.retrieval import RetrievalFitness
from evolution.strategies.crossover import Crossover, EditSequence
from evolution.strategies.search_space import MAX_EDITS
from evolution.strategies.tiers import STANDARD_TIERS
from vboot.errors import InputError
from vboot.text import path_text


def run(arguments: argparse.Namespace) -> Answer:
    """Evolve until a limit or a signal, then report. Exit code 1 if the daemon ended for another reason."""
    if arguments.machine is not None and (arguments.boot or arguments.in_process or arguments.file or arguments.report):
        arguments.misused("give either a running machine or one of --boot, --in-process, --file and --report")
    if (arguments.cross is None) == (arguments.strategy == Crossover.name):
        arguments.misused("--cross and --strategy crossover must be given together")
    if arguments.report is not None:
        return _report(arguments)
    # The listeners show the daemon's events; without a handler Python would also print its warnings.
    logging.getLogger(LOGGER).addHandler(logging.NullHandler())
    begun = begin(arguments)
    plan = _plan(arguments)
    folder: Path = arguments.folder or default_folder(arguments, begun.model, plan)
    data = run_data(folder, arguments.data)
    ready_tools()
    model = composed(begun.model, folder) if arguments.kernels else begun.model
    with opened_body(arguments, replace(begun, model=model)) as body:
        origin = Origin(str(begun.model.absolute()), data.source, data.dataset.sha256)
        stopped, signalled = _evolve(arguments, folder, body, model=model, plan=plan, data=data, origin=origin)
    if signalled is not None:
        doubt = f"the run in {shlex.quote(str(folder))} is complete up to here; the same command resumes it"
        raise VerbStopped(signalled, doubt, folder=str(folder))
    dataset = None if arguments.no_report else data.dataset
    answer = run_answer(folder, model=model, dataset=dataset, signer=signer_of(arguments))
    answer = answer if arguments.file is None else _with_file(answer, arguments.file, stopped)
    _hint(arguments, begun.model, answer, stopped)
    return replace(answer, exit_code=0 if stopped.why.startswith(LIMIT) else 1)


def _evolve(
    arguments: argparse.Namespace,
    folder: Path,
    body: Body,
    *,
    model: Path,
    plan: StrategyPlan,
    data: RunData,
    origin: Origin,
) -> tuple[events.Stopped, KeyboardInterrupt | Terminated | None]:
    """Run the daemon; returns how it ended, and the signal that ended it, if any."""
    fitness = RetrievalFitness(data.dataset.search, seed=arguments.seed, batch_size=arguments.batch)

    def record(event: events.DaemonEvent) -> None:
        # The folder is known to be this run's from now on.
        if isinstance(event, events.Started):
            keep(folder, data)
            save_origin(folder, origin)

    config = _config(arguments, body)
    with _listener(arguments) as listener:
        daemon = EvolutionDaemonV7(
            body,
            model,
            fitness,
            plan,
            folder,
            config=config,
            listeners=[listener, record],
            signer=signer_of(arguments),
        )
        with stopped_in_order(daemon.stop) as asked:
            return daemon.run(), asked.by


def _report(arguments: argparse.Namespace) -> Answer:
    """The report of an earlier run.

    Raises InputError for other data than the run used: the search may have seen them.
    """
    path: Path = arguments.report
    origin = load_origin(path)
    model = Path(origin.model) if arguments.model is None else arguments.model
    if arguments.no_report:
        return run_answer(path, model=model, dataset=None)
    data = run_data(path, arguments.data, for_report=True)
    ready_tools()
    return run_answer(path, model=model, dataset=data.dataset, signer=signer_of(arguments))


def _hint(arguments: argparse.Namespace, begun: Path, answer: Answer, stopped: events.Stopped) -> None:
    """What a person may want to do next."""
    if not stopped.accepted:
        return
    if answer.data["unreached"] is not None:
        next_step("the same command again, when the machine is free: it brings the machine to the run's weights")
        return
    if arguments.file is None and not (arguments.boot or arguments.in_process):
        run = "" if arguments.machine is None else f" {shlex.quote(path_text(arguments.machine))}"
        # A machine that is only a socket does not tell which file it was started with.
        is_socket = arguments.machine is not None and arguments.machine.is_socket()
        model = f" --model {shlex.quote(path_text(begun))}" if is_socket else ""
        next_step(f"vboot save{run}{model} -o OUT.gguf    # writes the machine's weights to a file")
        return
    written = arguments.file or answer.data["files"].get("model")
    if written is not None:
        next_step(
            f"vboot build --model {shlex.quote(path_text(Path(written)))}    # makes an image of the improved model"
        )


def _with_file(answer: Answer, path: Path, stopped: events.Stopped) -> Answer:
    if not stopped.accepted:
        return replace(answer, text=f"{answer.text}\n{path} was not written, as no change was accepted")
    data = {**answer.data, "files": {**answer.data["files"], "model": str(path)}}
    return replace(answer, data=data, text=f"{answer.text}\n{path}")


def _plan(arguments: argparse.Namespace) -> StrategyPlan:
    wanted = tuple(STANDARD_TIERS[name] for name in tiers(arguments))
    options: dict[str, Any] = dict(arguments.option or ())
    if arguments.cross is not None:
        options["lineages"] = _crossed(*arguments.cross)
    return StrategyPlan(arguments.strategy, wanted, arguments.seed, options)


def _crossed(one: Path, other: Path) -> tuple[EditSequence, EditSequence]:
    """The accepted edits of both runs. Raises InputError if they are more than a crossover allows."""
    lineages = lineage(one), lineage(other)
    edits = sum(map(len, lineages))
    if edits > MAX_EDITS:
        what = f"the runs in {one} and {other} have {edits} edits, a crossover allows at most {MAX_EDITS}"
        raise InputError(what, remedy="give runs with fewer or smaller moves")
    return lineages


def _config(arguments: argparse.Namespace, body: Body) -> DaemonConfig:
    return DaemonConfig(
        generations=arguments.generations,
        max_evaluations=arguments.evaluations,
        max_seconds=arguments.minutes,
        mode="file" if isinstance(body, FileBody) else arguments.mode,
        kernel_every=arguments.kernels,
        watched_pairs=arguments.watch,
        takeover=arguments.takeover,
    )


@contextmanager
def _listener(arguments: argparse.Namespace) -> Iterator[events.Listener]:
    """The display of the run on stderr: a live view on a capable terminal, otherwise lines."""
    if arguments.json or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield PlainLines(sys.stderr)
        return
    from cli.evolve.view import LiveView

    with LiveView(sys.stderr) as view:
        yield view
