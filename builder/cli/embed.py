"""`vboot embed`: texts to embeddings, by the network of a running machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from builder.cli.answer import Answer
from builder.cli.embedding_answers import embeddings_answer
from builder.cli.machines import add_timeout, connected, split_machine
from builder.cli.progress import reported
from evolution.messages import Embeddings
from image.atomic import atomic_write
from vboot_errors import InputError

_EPILOG = """examples:
  vboot embed 'A cat sleeps.' 'A kitten naps.' 'Rates rose.'
  vboot embed build/run/NAME --npy embeddings.npy < texts.txt"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.usage = "vboot embed [OPTIONS] [RUN|SOCKET] [TEXT ...]"
    parser.add_argument(
        "words", nargs="*", metavar="[RUN|SOCKET] TEXT",
        help="run folder or evolution socket (default: the newest machine that runs), then texts "
        "(default: the lines of stdin)",
    )  # fmt: skip
    parser.add_argument(
        "--npy", type=Path, metavar="FILE", help="write the embeddings there, float32 [texts, numbers], for numpy.load"
    )
    parser.add_argument("--no-normalize", action="store_true", help="as the network gives them, not of length 1")
    add_timeout(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Embed, and tell or write the embeddings."""
    arguments.machine, given = split_machine(arguments.words)
    # Read before the machine is connected to: it serves one client at a time.
    texts = given or _lines()
    with connected(arguments) as machine, reported("embed") as progress:
        made = machine.embed(
            texts, normalize=not arguments.no_normalize, progress=lambda done, total: progress("texts", done, total)
        )
    if arguments.npy is None:
        return embeddings_answer(texts, made)
    return _written(texts, made, arguments.npy)


def _written(texts: Sequence[str], made: Embeddings, path: Path) -> Answer:
    with atomic_write(path) as file:
        np.save(file, made.vectors.astype("<f4"))
    answer = embeddings_answer(texts, made, with_vectors=False)
    count, dim = made.vectors.shape
    return Answer({**answer.data, "npy": str(path)}, f"{path}: float32 [{count}, {dim}], generation {made.generation}")


def _lines() -> tuple[str, ...]:
    """The lines of stdin: an empty one is a text too, so that rows are lines. Raises InputError."""
    if sys.stdin.isatty():
        sys.stderr.write("texts, one a line; Ctrl-D ends them\n")
    try:
        texts = tuple(line.removesuffix("\n") for line in sys.stdin)
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not UTF-8 ({error})", remedy="give texts in UTF-8") from error
    if not texts:
        raise InputError("there is no text", remedy="give texts as arguments, or as lines of stdin")
    return texts
