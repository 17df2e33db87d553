"""`vboot embed`: compute embeddings of texts in a running machine."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from cli.answer import Answer
from cli.embedding_answers import embeddings_answer, warn_of_truncation
from cli.machines import add_timeout, connected, names_machine, require_machine, split_machine
from cli.option_types import path
from cli.progress import reported
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.protocol.messages import Embeddings
from vboot.text import path_text, printable

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
        "--run", type=path, metavar="RUN|SOCKET", help="the machine, named by an option: then every word is a text"
    )
    parser.add_argument(
        "--npy", type=path, metavar="FILE",
        help="write the embeddings to FILE as float32 [texts, dim], for numpy.load; an earlier result is replaced",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="let --npy replace a file that holds no embeddings")
    parser.add_argument("--no-normalize", action="store_true", help="do not scale the embeddings to length 1")
    parser.add_argument(
        "--truncate", choices=("end", "refuse"), default="end",
        help="a text of more tokens than the model reads: ignore its end and warn, or refuse it (default: %(default)s)",
    )  # fmt: skip
    add_timeout(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Embed the texts, and print or write the embeddings."""
    arguments.machine, given = _machine_and_texts(arguments)
    if arguments.machine is not None:
        require_machine(arguments.machine, remedy=_NO_MACHINE)
    if arguments.npy is not None and not arguments.force:
        _require_replaceable(arguments.npy)
    # Read before the machine is connected to: a connection is not held while somebody types.
    texts = _decoded(given) if given else _lines()
    # Opened first, so that a file that cannot be written fails before the work.
    with nullcontext() if arguments.npy is None else atomic_write(arguments.npy) as file:
        made = _embed(arguments, texts)
        warn_of_truncation(made)
        if file is not None:
            np.save(file, made.vectors.astype("<f4"))
    return embeddings_answer(texts, made) if arguments.npy is None else _written(texts, made, arguments.npy)


def _machine_and_texts(arguments: argparse.Namespace) -> tuple[Path | None, tuple[str, ...]]:
    """The machine (None: the newest) and the texts. Raises InputError for a machine where a text is expected."""
    if arguments.run is not None:
        return arguments.run, tuple(arguments.words)
    machine, texts = split_machine(arguments.words)
    for number, text in enumerate(texts, start=1):
        if names_machine(text):
            shown = shlex.quote(printable(text))
            what = f"text {number} is the path of a machine: {shown}"
            raise InputError(what, remedy=f"name it with `--run {shown}`; with --run every word is a text")
    return machine, texts


def _require_replaceable(target: Path) -> None:
    """Raise InputError if there is a file that is not the result of an earlier command."""
    if not target.is_file() or target.stat().st_size == 0:
        return
    try:
        with target.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), True, None)
        is_ours = len(shape) == 2 and not fortran and dtype == np.dtype("<f4")
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        what = f"{path_text(target)} is there and holds no embeddings"
        raise InputError(what, remedy="name another file, or replace it with --force")


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
