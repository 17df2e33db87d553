"""`vboot extract`: copy the executable or the GGUF out of an RTS file, as they were before packing."""

from __future__ import annotations

import argparse

from cli.answer import Answer, columns, human_bytes
from cli.option_types import path
from image.rts_file import extract
from vboot.errors import InputError
from vboot.text import path_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("file", type=path, metavar="FILE", help="an RTS file")
    parser.add_argument("--binary", type=path, metavar="OUT", help="write the executable to OUT")
    parser.add_argument("--tensors", type=path, metavar="OUT", help="write the GGUF to OUT")


def run(arguments: argparse.Namespace) -> Answer:
    """Write the requested parts, after checking their digests."""
    outputs = {name: path for name in ("binary", "tensors") if (path := getattr(arguments, name))}
    if not outputs:
        raise InputError("there is nothing to extract", remedy="give --binary OUT, --tensors OUT or both")
    extract(arguments.file, **outputs)
    sizes = {name: path.stat().st_size for name, path in outputs.items()}
    return Answer(
        {"file": arguments.file} | {n: {"path": p, "bytes": sizes[n]} for n, p in outputs.items()},
        columns((name, path_text(path), human_bytes(sizes[name])) for name, path in outputs.items()),
    )
