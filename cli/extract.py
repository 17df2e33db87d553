"""`vboot extract`: the halves of an RTS file, each as it was before packing."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.answer import Answer, columns, human_bytes
from image.rts_file import extract
from vboot.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("file", type=Path, metavar="FILE", help="an RTS file")
    parser.add_argument("--binary", type=Path, metavar="OUT", help="write the executable here")
    parser.add_argument("--tensors", type=Path, metavar="OUT", help="write the GGUF here")


def run(arguments: argparse.Namespace) -> Answer:
    """Write what was asked for, after checking its digest."""
    outputs = {name: path for name in ("binary", "tensors") if (path := getattr(arguments, name))}
    if not outputs:
        raise InputError("nothing to extract was named", remedy="give --binary OUT, --tensors OUT or both")
    extract(arguments.file, **outputs)
    sizes = {name: path.stat().st_size for name, path in outputs.items()}
    return Answer(
        {"file": str(arguments.file)} | {n: {"path": str(p), "bytes": sizes[n]} for n, p in outputs.items()},
        columns((name, str(path), human_bytes(sizes[name])) for name, path in outputs.items()),
    )
