"""The options of `vboot evolve`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli.evolve.data import DEBIAN
from cli.evolve.folders import FOLDERS, TIER
from cli.machines import add_key
from cli.option_types import count, path, positive_minutes
from evolution.daemon.config import DaemonConfig
from evolution.fitness.retrieval import BATCH_SIZE
from evolution.strategies.registry import STRATEGIES
from evolution.strategies.tiers import STANDARD_TIERS

_STRATEGY, _SEED = "antithetic_es", 1

_EPILOG = """examples:
  vboot evolve --minutes 30
  vboot evolve build/run/NAME --data pairs.jsonl --mode trial
  vboot evolve --in-process --model model.gguf --generations 50
  vboot evolve --file evolved.gguf --tier norms --tier scales
  vboot evolve --report build/evolve/NAME

The same command resumes a run that was stopped or killed. A run keeps a copy of its pairs, so it goes on also when
package lists or files have changed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.set_defaults(misused=parser.error)
    parser.add_argument(
        "machine", nargs="?", type=path, metavar="RUN|SOCKET",
        help="run folder or evolution socket (default: the newest machine that runs)",
    )  # fmt: skip
    add_key(parser)
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
    what.add_argument("--strategy", choices=STRATEGIES, default=_STRATEGY, help="how to search (default: %(default)s)")
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
    what.add_argument("--seed", type=count, default=_SEED, metavar="N", help="random seed (default: %(default)s)")
    what.add_argument(
        "--kernels", type=count, default=0, metavar="N",
        help="also evolve a pixel kernel every N generations (default: never)",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("when to stop (default: at Ctrl-C)")
    limits.add_argument("--generations", type=count, metavar="N", help="total number of generations of the run")
    limits.add_argument("--evaluations", type=count, metavar="N", help="total number of evaluations of the run")
    limits.add_argument(
        "--minutes",
        type=positive_minutes,
        metavar="M",
        help="minutes of this invocation, for example 0.5; they begin with the first evaluation, and the generation "
        "during which they end is completed",
    )
    how = parser.add_argument_group("how to treat the machine")
    how.add_argument(
        "--mode", choices=("trial", "live"), default="trial",
        help="trial: the machine takes a change back by itself unless it is confirmed in time; live: it stays "
        "(default: trial)",
    )  # fmt: skip
    how.add_argument(
        "--watch", type=_pairs, default=DaemonConfig.watched_pairs, metavar="N",
        help="pairs that the machine embeds after each change, to compare the results (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--takeover", action="store_true", help="overwrite the weights of a machine that are not from this run"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--folder",
        type=path,
        metavar="DIR",
        help=f"folder of the run, resumed if it exists (default: in {FOLDERS}, named by model and settings)",
    )
    files.add_argument("--no-report", action="store_true", help="do not compute the held-out scores at the end")


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
