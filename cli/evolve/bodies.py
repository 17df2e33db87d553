"""What `vboot evolve` improves: a running machine, one that it boots itself, one in process, or a file."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TextIO

from builder.plan import TENSORS_NAME
from builder.settings import Config
from cli.boot import booted, open_or_build
from cli.machines import find_machine, newest_running
from cli.settings_flags import read_config
from cli.stop import end_in_order
from evolution.daemon.body import Body, BridgeBody, FileBody, SocketBody
from qemu.machine import VirtualMachine
from vboot.errors import BootError, InputError, VbootError
from vboot.protocol.errors import LinkLostError


def model_file(arguments: argparse.Namespace) -> Path:
    """The model that the run begins with. Raises InputError when it is not there."""
    given: Path | None = arguments.model
    image: Path = arguments.image or read_config(arguments).image.output
    path = image / TENSORS_NAME if given is None else given
    if not path.is_file():
        raise InputError(f"there is no model {path}", remedy="build the image with `vboot build`, or give --model FILE")
    return path


@contextmanager
def opened_body(arguments: argparse.Namespace) -> Iterator[tuple[Body, Path]]:
    """The body that the arguments name, and the model file that the run begins with. A machine booted here ends here.

    Raises InputError, BootError.
    """
    if arguments.boot:
        with _booted_body(arguments.image, read_config(arguments)) as body:
            yield body, model_file(arguments)
        return
    model = model_file(arguments)
    if arguments.file is not None:
        _require_writable(arguments.file, model)
        yield FileBody(model, arguments.file), model
    elif arguments.in_process:
        bridge = BridgeBody(model)
        try:
            yield bridge, model
        finally:
            bridge.close()
    else:
        yield _running_body(arguments.machine), model


def _require_writable(output: Path, model: Path) -> None:
    """Raises InputError for a file that could not be written, before a generation is searched for it."""
    if output.is_dir():
        raise InputError(f"{output} is a folder", remedy="give --file the name of a file")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        what = f"the folder {output.parent} {'cannot be written to' if output.parent.exists() else 'is not there'}"
        raise InputError(what, remedy="give --file a name in a folder that can be written to")
    if output.exists() and output.samefile(model):
        what = f"{output} is the model that the run begins with, and goes on from"
        raise InputError(what, remedy="give --file another name")


def _running_body(given: Path | None) -> SocketBody:
    """A machine that runs; when none was named and it ends, the newest that runs then takes its place."""
    found = find_machine(given)
    if isinstance(found, Path):
        return SocketBody(found)
    with found:
        path = found.evolution
    return SocketBody(path, revive=_or_lost(_newest) if given is None else None)


def _newest() -> Path:
    with newest_running() as machine:
        return machine.evolution


@contextmanager
def _booted_body(given: Path | None, config: Config) -> Iterator[SocketBody]:
    """The machine of an image, built first unless one is named, and booted again whenever it is gone."""
    image = open_or_build(given, config)
    with ExitStack() as stack:

        def boot() -> Path:
            # Whatever is left of the one before; it may have ended badly, which is why we are here.
            stack.pop_all().close()
            machine, client = stack.enter_context(booted(image, config))
            client.close()  # since the port serves one client at a time, and now it is the daemon's
            stack.push(lambda kind, _error, _trace: _end(machine) if kind is None else None)
            return machine.evolution

        def boot_again() -> Path:
            with redirect_stderr(_Lines(sys.stderr)):
                return boot()

        yield SocketBody(boot(), revive=_or_lost(boot_again))


class _Lines(io.TextIOBase):
    """A stream for plain lines alone: a view of the run may be drawn on its terminal, and bars would tear it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _end(machine: VirtualMachine) -> None:
    # One that has failed or ended by itself has told so already, when it was lost.
    with suppress(BootError):
        end_in_order(machine)


def _or_lost(find: Callable[[], Path]) -> Callable[[], Path]:
    """As `find`, but no machine is one that may come later."""

    def found() -> Path:
        try:
            return find()
        except VbootError as error:
            raise LinkLostError(error.what, remedy=error.remedy) from error

    return found
