"""`vboot embed`: compute embeddings of texts in a running machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from cli.answer import Answer
from cli.embedding_answers import embeddings_answer, warn_of_truncation
from cli.machines import add_timeout, connected, require_machine, split_machine
from cli.option_types import path
from cli.progress import reported
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.protocol.messages import Embeddings
from vboot.text import path_text

_EPILOG = """examples:
  vboot embed 'A cat sleeps.' 'A kitten naps.' 'Rates rose.'
  vboot embed build/run/NAME --npy embeddings.npy < texts.txt"""

_NO_MACHINE = "give the folder that boot printed, or an evolution socket (a text that looks like a path must follow it)"


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
        "--npy", type=path, metavar="FILE", help="write the embeddings to FILE as float32 [texts, dim], for numpy.load"
    )
    parser.add_argument("--no-normalize", action="store_true", help="do not scale the embeddings to length 1")
    parser.add_argument(
        "--truncate", choices=("end", "refuse"), default="end",
        help="a text of more tokens than the model reads: ignore its end and warn, or refuse it (default: %(default)s)",
    )  # fmt: skip
    add_timeout(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Embed the texts, and print or write the embeddings."""
    arguments.machine, given = split_machine(arguments.words)
    if arguments.machine is not None:
        require_machine(arguments.machine, remedy=_NO_MACHINE)
    # Read before the machine is connected to: it serves one client at a time.
    texts = _decoded(given) if given else _lines()
    # Opened first, so that a file that cannot be written fails before the work.
    with nullcontext() if arguments.npy is None else atomic_write(arguments.npy) as file:
        made = _embed(arguments, texts)
        warn_of_truncation(made)
        if file is not None:
            np.save(file, made.vectors.astype("<f4"))
    return embeddings_answer(texts, made) if arguments.npy is None else _written(texts, made, arguments.npy)


def _embed(arguments: argparse.Namespace, texts: Sequence[str]) -> Embeddings:
    with connected(arguments) as machine, reported("embed") as progress:
        return machine.embed(
            texts,
            normalize=not arguments.no_normalize,
            truncate=arguments.truncate,
            progress=lambda done, total: progress("texts", done, total),
        )


def _written(texts: Sequence[str], made: Embeddings, path: Path) -> Answer:
    answer = embeddings_answer(texts, made, with_vectors=False)
    count, dim = made.vectors.shape
    return Answer(
        {**answer.data, "npy": path}, f"{path_text(path)}: float32 [{count}, {dim}], generation {made.generation}"
    )


def _lines() -> tuple[str, ...]:
    """The lines of stdin: an empty one is a text too, so that rows are lines. Raises InputError."""
    # stdin may be closed.
    if sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write("enter texts, one per line; end with Ctrl-D\n")
    # Bytes, as what the locale makes of them need not be UTF-8.
    lines = () if sys.stdin is None else sys.stdin.buffer
    texts = tuple(_line(number, line) for number, line in enumerate(lines, start=1))
    if not texts:
        raise InputError("there is no text", remedy="give texts as arguments, or as lines of stdin")
    return texts


def _line(number: int, line: bytes) -> str:
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"line {number} of stdin is not UTF-8", remedy="give texts in UTF-8") from error


def _decoded(texts: Sequence[str]) -> tuple[str, ...]:
    """These arguments. Raises InputError for one that is not UTF-8, whatever the locale's encoding is."""
    decoded = []
    for number, text in enumerate(texts, start=1):
        try:
            decoded.append(os.fsencode(text).decode())
        except UnicodeError as error:
            raise InputError(f"text {number} is not UTF-8", remedy="give texts in UTF-8") from error
    return tuple(decoded)
