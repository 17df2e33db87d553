"""`vboot reload`: replace the worker of a running machine by one of another executable."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from builder.plan import RTS_NAME
from cli.answer import Answer
from cli.machines import add_key, add_machine, connected
from cli.option_types import path
from cli.progress import reported
from vboot.errors import InputError
from vboot.protocol.messages import Reloaded
from vboot.protocol.tables import UPLOAD_LIMIT
from vboot.text import path_text

_EPILOG = """examples:
  vboot reload --image build
  vboot reload build/run/... --executable vector_boot/target/release/vector_boot

Weights, history, open trials and connections stay, and no heartbeat is missed. A program that cannot run, or that
fails within its probation of 10 s, is replaced by the one from before. A reboot starts the one that was built in."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add_machine(parser)
    add_key(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--executable", type=path, metavar="FILE", help="the executable, static and complete")
    source.add_argument(
        "--image", type=path, metavar="DIR", help="a built image (or an RTS file) of the model that the machine runs"
    )
    parser.add_argument(
        "--code-key", metavar="PEM|HEX",
        help="public key that signed the image, for a machine that was booted from a signed image",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> Answer:
    """Reload, and wait for the end of the probation."""
    if arguments.code_key is not None and arguments.image is None:
        raise InputError("--code-key belongs to an image", remedy="give --image, or leave out --code-key")
    key = None if arguments.code_key is None else _key(arguments.code_key)
    data = _read(arguments.executable or _rts(arguments.image))
    with reported("reload") as progress, connected(arguments) as machine:
        done = machine.reload(
            data,
            what="rts" if arguments.executable is None else "binary",
            key=key,
            progress=lambda sent, total: progress("sending", sent, total),
        )
    return _answer(done)


def _key(text: str) -> str:
    from vboot.keys import load_public_key

    return load_public_key(text).public_bytes_raw().hex()


def _rts(image: Path) -> Path:
    return image / RTS_NAME if image.is_dir() else image


def _read(file: Path) -> bytes:
    """The contents of a file. Raises InputError if there is none, or it is empty or too large."""
    try:
        size = file.stat().st_size
        if not file.is_file() or not 1 <= size <= UPLOAD_LIMIT:
            what = f"{path_text(file)} is no file of 1 byte to 1 GiB"
            raise InputError(what, remedy="name an executable, or an image made with `vboot build`")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{path_text(file)}: {error.strerror}", remedy="name a file that can be read") from error


def _answer(done: Reloaded) -> Answer:
    text = f"build {done.build} serves; for {done.gap_us / 1000:.1f} ms nobody did"
    return Answer(asdict(done), text)
