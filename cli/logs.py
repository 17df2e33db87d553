"""`vboot logs`: what a machine has said on its console."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from cli.answer import Answer
from cli.machines import machine_path
from cli.status import newest_run
from cli.streams import write_out
from qemu import console
from qemu.launch import is_running
from qemu.run_folder import RunFolder, open_run_folder
from vboot.errors import InputError

_LOOK_AGAIN_S = 0.1
_PIECE = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "run", nargs="?", type=machine_path, metavar="RUN",
        help="run folder, or its name (default: the newest machine that runs)",
    )  # fmt: skip
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the machine ends")


def run(arguments: argparse.Namespace) -> Answer:
    """Print the console's lines, without terminal escapes."""
    folder = open_run_folder(arguments.run or newest_run())
    if arguments.json:
        if arguments.follow:
            raise InputError("--json prints one object, and --follow has no end", remedy="leave one of them out")
        text = "\n".join(_lines(_read(folder.console)))
        return Answer({"run": folder.path, "console": folder.console, "text": text}, "", report_only=True)
    _follow(folder) if arguments.follow else _print(_lines(_read(folder.console)))
    return Answer({}, "", report_only=True)


def _follow(folder: RunFolder) -> None:
    place, held = 0, b""
    while True:
        # Looked at before the console is read: the last lines of a machine that ends still count.
        runs = is_running(folder)
        while fresh := _read(folder.console, place, _PIECE):
            place += len(fresh)
            whole, newline, held = (held + fresh).rpartition(b"\n")
            _print(_lines(whole + newline))
        if not runs:
            return _print(_lines(held))
        time.sleep(_LOOK_AGAIN_S)


def _print(lines: list[str]) -> None:
    if lines:
        write_out("\n".join(lines))


def _lines(data: bytes) -> list[str]:
    rows = data.replace(b"\r\n", b"\n").split(b"\n")
    return [console.clean(row) for row in (rows if rows[-1] else rows[:-1])]


def _read(path: Path, start: int = 0, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except FileNotFoundError:
        return b""
