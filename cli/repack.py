"""`vboot repack`: an RTS file with one half replaced."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.answer import Answer, human_bytes
from cli.option_types import path
from cli.progress import reported
from cli.rust_reader import rust_reader
from image.rts_file import repack
from vboot.check import check_file
from vboot.keys import load_private_key
from vboot.text import path_text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("file", type=path, metavar="FILE", help="an RTS file")
    half = parser.add_mutually_exclusive_group(required=True)
    half.add_argument("--binary", type=path, metavar="ELF", help="the new executable")
    half.add_argument("--tensors", type=path, metavar="GGUF", help="the new tensors")
    parser.add_argument("-o", type=path, dest="to", metavar="OUT", required=True, help="the new RTS file")
    parser.add_argument(
        "--signing-key", type=path, metavar="PEM", help="Ed25519 private key; without it the copy is unsigned"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Write the copy. A new GGUF must pass the Rust reader first."""
    given = [path for path in (arguments.binary, arguments.tensors) if path]
    reader = rust_reader(arguments.file, *given)
    with reported("repack") as progress:
        header = repack(
            arguments.file,
            arguments.to,
            binary=arguments.binary,
            tensors=arguments.tensors,
            signing_key=load_private_key(arguments.signing_key) if arguments.signing_key else None,
            check=lambda path: _judge(reader, path),
            progress=progress,
        )
    size = arguments.to.stat().st_size
    data = {"file": arguments.to, "bytes": size, "signed": header.signed}
    return Answer(data, f"{path_text(arguments.to)}: {human_bytes(size)}, {'signed' if header.signed else 'unsigned'}")


def _judge(reader: Path, path: Path) -> None:
    check_file(reader, path)
