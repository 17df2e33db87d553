"""The body that `vboot evolve` improves: a running machine, one that it boots, one in a child process, or a file."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from builder.boot_image import BootImage
from builder.plan import TENSORS_NAME
from builder.settings import Config
from cli.base_model import booted_model
from cli.boot import booted
from cli.images import open_or_build
from cli.machines import find_machine, newest_running, signer_of
from cli.settings_flags import read_config
from cli.stop import end_in_order
from evolution.daemon.body import Body, BridgeBody, FileBody, SocketBody
from qemu.machine import VirtualMachine
from vboot.client.signer import Signer
from vboot.errors import BootError, InputError, VbootError
from vboot.protocol.errors import LinkLostError


@dataclass(frozen=True)
class Begun:
    """What a run begins with: its initial model, and with --boot the image to boot."""

    model: Path
    image: BootImage | None = None


def begin(arguments: argparse.Namespace) -> Begun:
    """The initial model of the run; with --boot its image is built first, unless one is named.

    Raises InputError if the file does not exist; BootError, ToolError.
    """
    given: Path | None = arguments.model
    image = open_or_build(arguments.image, read_config(arguments)) if arguments.boot else None
    folder: Path = arguments.image or read_config(arguments).image.output
    path = given or _machines_model(arguments) or folder / TENSORS_NAME
    if not path.is_file():
        raise InputError(f"the model {path} does not exist", remedy="run `vboot build`, or give --model FILE")
    if arguments.file is not None:
        _require_writable(arguments.file, path)
    return Begun(path, image)


@contextmanager
def opened_body(arguments: argparse.Namespace, begun: Begun) -> Iterator[Body]:
    """The body that the arguments select. A machine booted here is shut down at the end.

    Raises InputError, BootError.
    """
    if begun.image is not None:
        with _booted_body(begun.image, read_config(arguments), signer_of(arguments)) as body:
            yield body
    elif arguments.file is not None:
        yield FileBody(begun.model, arguments.file)
    elif arguments.in_process:
        bridge = BridgeBody(begun.model, signer=signer_of(arguments))
        try:
            yield bridge
        finally:
            bridge.close()
    else:
        yield _running_body(arguments.machine, signer_of(arguments))


def _require_writable(output: Path, model: Path) -> None:
    """Raises InputError if the output cannot be written, so that no search is wasted."""
    if output.is_dir():
        raise InputError(f"{output} is a folder", remedy="give --file the path of a file")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        what = f"the folder {output.parent} {'is not writable' if output.parent.exists() else 'does not exist'}"
        raise InputError(what, remedy="give --file a path in a writable folder")
    if output.exists() and output.samefile(model):
        what = f"{output} is the initial model of the run, which is needed to resume it"
        raise InputError(what, remedy="give --file another path")


def _machines_model(arguments: argparse.Namespace) -> Path | None:
    """The model that the running machine to be improved was booted with; None: there is none, or it is not known."""
    if arguments.boot or arguments.in_process or arguments.file is not None or arguments.image is not None:
        return None
    with suppress(VbootError):
        run = arguments.machine
        if run is None:
            with newest_running() as machine:
                run = machine.run
        return booted_model(run)
    return None


def _running_body(given: Path | None, signer: Signer | None) -> SocketBody:
    """A running machine; if none was named and it ends, the newest running one replaces it."""
    found = find_machine(given)
    if isinstance(found, Path):
        return SocketBody(found, signer=signer)
    with found:
        path = found.evolution
    return SocketBody(path, revive=_or_lost(_newest) if given is None else None, signer=signer)


def _newest() -> Path:
    with newest_running() as machine:
        return machine.evolution


@contextmanager
def _booted_body(image: BootImage, config: Config, signer: Signer | None) -> Iterator[SocketBody]:
    """The machine of an image; booted again whenever it ends."""
    with ExitStack() as stack:

        def boot() -> Path:
            # Clean up the previous machine, which may have crashed.
            stack.pop_all().close()
            machine, client = stack.enter_context(booted(image, config, name="vboot evolve"))
            client.close()  # the port serves one client at a time, from now on the daemon
            stack.push(lambda kind, _error, _trace: _end(machine) if kind is None else None)
            return machine.evolution

        def boot_again() -> Path:
            with redirect_stderr(_Lines(sys.stderr)):
                return boot()

        yield SocketBody(boot(), revive=_or_lost(boot_again), signer=signer)


class _Lines(io.TextIOBase):
    """A stream that is not a terminal: progress bars would disturb a live view of the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _end(machine: VirtualMachine) -> None:
    # If it has failed or ended by itself, that was reported when it was lost.
    with suppress(BootError):
        end_in_order(machine)


def _or_lost(find: Callable[[], Path]) -> Callable[[], Path]:
    """As `find`, but errors become LinkLostError: a machine may appear later."""

    def found() -> Path:
        try:
            return find()
        except VbootError as error:
            raise LinkLostError(error.what, remedy=error.remedy) from error

    return found
