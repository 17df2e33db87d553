"""`vboot evolve`: improves the weights of a running machine, or of a model file."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.answer import Answer
from cli.errors import Terminated, VerbStopped
from cli.evolve.bodies import opened_body
from cli.evolve.lines import PlainLines
from cli.evolve.report import run_answer
from cli.evolve.runs import Origin, lineage, load_origin, save_origin
from cli.evolve.stop import stopped_in_order
from cli.option_types import count, path, positive_minutes
from evolution.daemon import events
from evolution.daemon.body import Body, FileBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.log import LOGGER
from evolution.daemon.v7 import EvolutionDaemonV7
from evolution.fitness import debian, pairs_file
from evolution.fitness.contract import Dataset, SearchData
from evolution.fitness.retrieval import BATCH_SIZE, RetrievalFitness
from evolution.fitness.split import split
from evolution.strategies.crossover import Crossover, EditSequence
from evolution.strategies.registry import STRATEGIES
from evolution.strategies.search_space import MAX_EDITS
from evolution.strategies.tiers import STANDARD_TIERS
from vboot.errors import InputError

FOLDERS = Path("build/evolve")
"""The default folder of runs."""
DEBIAN = "debian"
STRATEGY, TIER, SEED = "antithetic_es", "norms", 1

_EPILOG = """examples:
  vboot evolve --minutes 30
  vboot evolve build/run/NAME --data pairs.jsonl --mode trial
  vboot evolve --in-process --model model.gguf --generations 50
  vboot evolve --file evolved.gguf --tier norms --tier scales
  vboot evolve --report build/evolve/NAME

The same command resumes a run that was stopped or killed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.set_defaults(misused=parser.error)
    parser.add_argument(
        "machine", nargs="?", type=path, metavar="RUN|SOCKET",
        help="run folder or evolution socket (default: the newest machine that runs)",
    )  # fmt: skip
    instead = parser.add_argument_group("instead of a running machine, one of").add_mutually_exclusive_group()
    instead.add_argument("--boot", action="store_true", help="boot the image, and again whenever the machine dies")
    instead.add_argument("--in-process", action="store_true", help="run the machine in a child process of this command")
    instead.add_argument(
        "--file", type=path, metavar="OUT", help="no machine: write the improved model to this file, a plain GGUF"
    )  # fmt: skip
    instead.add_argument("--report", type=path, metavar="DIR", help="evolve nothing: report on the run in this folder")
    parser.add_argument(
        "--image", type=path, metavar="DIR",
        help="image with the run's initial model; --boot boots it unchanged (default: build what has changed)",
    )  # fmt: skip
    _add_search(parser)
    _add_limits(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to improve, and how")
    what.add_argument(
        "--model", type=path, metavar="FILE", help="model that the run begins with (default: that of the image)"
    )
    what.add_argument(
        "--data", metavar=f"{DEBIAN}|DIR|FILE",
        help="pairs of texts: Debian's package descriptions of this host, a folder of package lists, or a "
        f"file of JSON lines with the members query and document (default: {DEBIAN})",
    )  # fmt: skip
    what.add_argument(
        "--batch", type=_pairs, default=BATCH_SIZE, metavar="N", help="pairs per generation (default: %(default)s)"
    )
    what.add_argument("--strategy", choices=STRATEGIES, default=STRATEGY, help="how to search (default: %(default)s)")
    what.add_argument(
        "--cross", nargs=2, type=path, metavar="DIR", help="the folders of two runs, for the strategy crossover"
    )
    what.add_argument(
        "--option", action="append", type=_option, metavar="NAME=VALUE", help="option of the strategy; repeatable"
    )
    what.add_argument(
        "--tier", action="append", choices=STANDARD_TIERS,
        help=f"which tensors to change; repeat it to search several in turn (default: {TIER})",
    )  # fmt: skip
    what.add_argument("--seed", type=count, default=SEED, metavar="N", help="random seed (default: %(default)s)")
    what.add_argument(
        "--kernels", type=count, default=0, metavar="N",
        help="also evolve a pixel kernel every N generations (default: never)",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("when to stop (default: at Ctrl-C)")
    limits.add_argument("--generations", type=count, metavar="N", help="total number of generations of the run")
    limits.add_argument("--evaluations", type=count, metavar="N", help="total number of evaluations of the run")
    limits.add_argument(
        "--minutes", type=positive_minutes, metavar="M", help="minutes of this invocation, for example 0.5"
    )
    how = parser.add_argument_group("how to treat the machine")
    how.add_argument(
        "--mode", choices=("trial", "live"), default="trial",
        help="trial: a move expires unless the machine confirms it; live: it stays (default: trial)",
    )  # fmt: skip
    how.add_argument(
        "--watch", type=_pairs, default=DaemonConfig.watched_pairs, metavar="N",
        help="pairs that the machine embeds after each move, to compare the results (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--takeover", action="store_true", help="overwrite the weights of a machine that are not from this run"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--folder", type=path, metavar="DIR", help=f"folder of the run, resumed if it exists (default: in {FOLDERS})"
    )
    files.add_argument("--no-report", action="store_true", help="do not compute the held-out scores at the end")


def run(arguments: argparse.Namespace) -> Answer:
    """Evolve until a limit or a signal, then report. Exit code 1 if the daemon ended for another reason."""
    if arguments.machine is not None and (arguments.boot or arguments.in_process or arguments.file or arguments.report):
        arguments.misused("give either a running machine or one of --boot, --in-process, --file and --report")
    if (arguments.cross is None) == (arguments.strategy == Crossover.name):
        arguments.misused("--cross and --strategy crossover must be given together")
    if arguments.report is not None:
        return _report(arguments)
    dataset = _dataset(arguments.data or DEBIAN)
    folder: Path = arguments.folder or FOLDERS / _name(arguments)
    # The listeners show the daemon's events; without a handler Python would also print its warnings.
    logging.getLogger(LOGGER).addHandler(logging.NullHandler())
    started = time.monotonic()
    with opened_body(arguments) as (body, model):
        origin = Origin(str(model.absolute()), _lasting(arguments.data or DEBIAN), dataset.sha256)
        stopped, signalled = _evolve(arguments, folder, body, model=model, data=dataset.search, origin=origin)
    if signalled is not None:
        doubt = f"the run in {shlex.quote(str(folder))} is complete up to here; the same command resumes it"
        raise VerbStopped(signalled, doubt, folder=str(folder))
    answer = run_answer(folder, model=model, dataset=None if arguments.no_report else dataset)
    reached = _limit_reached(arguments, stopped, seconds=time.monotonic() - started)
    answer = answer if arguments.file is None else _with_file(answer, arguments.file, stopped)
    return replace(answer, exit_code=0 if reached else 1)


def _evolve(
    arguments: argparse.Namespace, folder: Path, body: Body, *, model: Path, data: SearchData, origin: Origin
) -> tuple[events.Stopped, KeyboardInterrupt | Terminated | None]:
    """Run the daemon; returns how it ended, and the signal that ended it, if any."""
    fitness = RetrievalFitness(data, seed=arguments.seed, batch_size=arguments.batch)

    def record(event: events.DaemonEvent) -> None:
        # The folder is known to be this run's from now on.
        if isinstance(event, events.Started):
            save_origin(folder, origin)

    config = _config(arguments, body)
    with _listener(arguments) as listener:
        daemon = EvolutionDaemonV7(
            body, model, fitness, _plan(arguments), folder, config=config, listeners=[listener, record]
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
    dataset = _dataset(arguments.data or origin.data)
    if dataset.sha256 != origin.sha256:
        what = f"{arguments.data or origin.data} has other pairs than those that the run in {path} began with"
        raise InputError(what, remedy="give the original pairs with --data, or use --no-report")
    return run_answer(path, model=model, dataset=dataset)


def _with_file(answer: Answer, path: Path, stopped: events.Stopped) -> Answer:
    if not stopped.accepted:
        return replace(answer, text=f"{answer.text}\n{path} was not written, as no move was accepted")
    data = {**answer.data, "files": {**answer.data["files"], "model": str(path)}}
    return replace(answer, data=data, text=f"{answer.text}\n{path}")


def _limit_reached(arguments: argparse.Namespace, stopped: events.Stopped, *, seconds: float) -> bool:
    """Whether the run ended because a limit was reached."""
    reached = (
        (arguments.generations, stopped.generation),
        (arguments.evaluations, stopped.evaluations),
        (arguments.minutes, seconds),
    )
    return any(limit is not None and done >= limit for limit, done in reached)


def _plan(arguments: argparse.Namespace) -> StrategyPlan:
    tiers = tuple(STANDARD_TIERS[name] for name in _tiers(arguments))
    options: dict[str, Any] = dict(arguments.option or ())
    if arguments.cross is not None:
        options["lineages"] = _crossed(*arguments.cross)
    return StrategyPlan(arguments.strategy, tiers, arguments.seed, options)


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


def _dataset(given: str) -> Dataset:
    """The pairs, split. Raises InputError, ToolError."""
    if given == DEBIAN:
        return split(debian.read_pairs(), source=debian.SOURCE)
    if Path(given).is_dir():
        return split(debian.read_pairs(Path(given), status=None), source=debian.SOURCE)
    return split(pairs_file.read(Path(given)), source=given)


def _lasting(data: str) -> str:
    """The value of `--data` as an absolute path, valid from any folder."""
    return data if data == DEBIAN else str(Path(data).absolute())


def _name(arguments: argparse.Namespace) -> str:
    """The run's name, from its settings: the same settings resume the same run."""
    model = "model" if arguments.model is None else arguments.model.stem
    return "-".join(
        (model, Path(arguments.data or DEBIAN).stem, arguments.strategy, *_tiers(arguments), str(arguments.seed))
    )


def _tiers(arguments: argparse.Namespace) -> Sequence[str]:
    return arguments.tier or (TIER,)


def _pairs(text: str) -> int:
    """How many pairs to compare with each other, at least 2. Raises ArgumentTypeError."""
    number = count(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2 pairs, got {text!r}")
    return number


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is not JSON is taken as a string. Raises ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
