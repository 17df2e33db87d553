"""Find the machine that a verb works on, and connect to it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cli.option_types import count, path, positive_seconds
from qemu.launch import attach
from qemu.machine import VirtualMachine
from qemu.registry import entries, running
from qemu.run_folder import RUNS
from vboot.client.machine import MachineClient, connect
from vboot.client.signer import Signer
from vboot.errors import InputError, VbootError
from vboot.protocol.errors import LinkLostError
from vboot.text import parse_path, path_text

RUN_FILE = "machine.json"
"""The file that identifies a run folder."""

TIMEOUT_S = 10.0

_NEWEST_LOOKED_AT = 100
_NUMBER = "a generation is named with --generation"


def add_machine(parser: argparse.ArgumentParser, *, number: str = _NUMBER) -> None:
    """Add the argument that names a machine, and the option for its time limit. `number`: see `machine_path`."""
    parser.add_argument(
        "machine", nargs="?", type=partial(machine_path, number=number), metavar="RUN|SOCKET",
        help="run folder or evolution socket (default: the newest machine that runs)",
    )  # fmt: skip
    add_timeout(parser)


def add_generation(parser: argparse.ArgumentParser, text: str, *, required: bool = False, alias: str = "") -> None:
    """Add the option that names a generation: the same for every verb. `alias`: another name of it."""
    names = ("--generation", *([alias] if alias else []))
    parser.add_argument(*names, dest="generation", type=count, required=required, metavar="G", help=text)


def machine_path(text: str, *, number: str = _NUMBER) -> Path:
    """The path of a run folder or a socket, or the name of a run folder in which this user booted a machine.

    A number is none, unless there is a file of this name: `number` says which option takes it.
    """
    found = path(text)
    if "/" not in text and not found.exists():
        known = next((entry.run for entry in entries() if entry.run.name == text), None)
        if known is not None:
            return known
    if text.isdecimal() and not found.exists():
        what = f"expected a run folder or an evolution socket, got the number {text}"
        raise argparse.ArgumentTypeError(f"{what}; {number} {text}")
    return found


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add the option for the key that signs changes; `connected` uses it."""
    parser.add_argument(
        "--key", type=path, dest="mutation_key", metavar="FILE",
        help="private key (PEM) that signs changes, for a machine that takes signed changes only",
    )  # fmt: skip


def signer_of(arguments: argparse.Namespace) -> Signer | None:
    """What signs with the key of `add_key`; None if there is none. Raises InputError."""
    file: Path | None = getattr(arguments, "mutation_key", None)
    return None if file is None else Signer.load(file)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Add the option for the time limit of short replies."""
    parser.add_argument(
        "--timeout", type=positive_seconds, default=TIMEOUT_S, metavar="S",
        help=f"seconds to wait for each short reply (default {TIMEOUT_S:g}); mutations, digests, pixel programs and "
        "embeddings have longer limits",
    )  # fmt: skip


def split_machine(words: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """Split words into the machine, if the first word names one, and the texts.

    The first word names a machine if it is a socket or a run folder, or looks like a path: a mistyped path must not be
    sent as a text to the newest machine.
    """
    if not words:
        return None, ()
    first = parse_path(words[0])
    is_path = "/" in words[0] and not any(char.isspace() for char in words[0])
    if is_path or names_machine(words[0]):
        return first, tuple(words[1:])
    return None, tuple(words)


def names_machine(word: str) -> bool:
    """Whether a word is the path of a run folder or of a socket."""
    try:
        place = parse_path(word)
        return place.is_socket() or (place / RUN_FILE).is_file()
    except (OSError, ValueError):  # a text that is longer than a path may be
        return False


@contextmanager
def connected(arguments: argparse.Namespace) -> Iterator[MachineClient]:
    """A connection to the machine that the arguments of `add_machine` name.

    Raises InputError, BootError, MachineError.
    """
    signer = signer_of(arguments)
    found = find_machine(arguments.machine)
    if isinstance(found, Path):
        with connect_socket(found, arguments, signer) as machine:
            yield machine
        return
    with found as virtual, connect_to(virtual, arguments, signer) as machine:
        yield machine


def connect_socket(socket: Path, arguments: argparse.Namespace, signer: Signer | None = None) -> MachineClient:
    """Connect to a socket. Raises EndedMachineError if it was that of a machine which has ended, MachineError."""
    try:
        return _signing(connect(socket, timeout=arguments.timeout, client=client_name(arguments), signer=signer))
    except LinkLostError:
        with suppress(InputError):  # no run folder
            attach(socket.parent).release()
        raise


def connect_to(virtual: VirtualMachine, arguments: argparse.Namespace, signer: Signer | None = None) -> MachineClient:
    """Connect to a virtual machine, which is watched during every wait. Raises BootError, MachineError."""
    name = client_name(arguments)
    connected_to = connect(
        virtual.evolution, timeout=arguments.timeout, client=name, check=virtual.check, signer=signer
    )
    return _signing(connected_to)


def _signing(machine: MachineClient) -> MachineClient:
    """The same connection. Raises InputError if it was given a key, and the machine takes unsigned changes."""
    if machine.signer is not None and not machine.greeted.signed:
        machine.close()
        raise InputError("this machine takes changes without a signature", remedy="leave out --key")
    return machine


def client_name(arguments: argparse.Namespace) -> str:
    """The name by which other clients of a machine see this command."""
    return f"vboot {arguments.verb}"


def newest_running(runs: Path = RUNS) -> VirtualMachine:
    """The machine in `runs` that was started last and still runs, else the user's only one that runs elsewhere.

    Raises InputError when there is none.
    """
    folders = [path for path in runs.iterdir() if path.is_dir()] if runs.is_dir() else []
    for folder in sorted(folders, key=lambda path: path.name, reverse=True)[:_NEWEST_LOOKED_AT]:
        try:
            return attach(folder)
        except VbootError:
            continue
    return attach(_only_running_elsewhere(runs))


def _only_running_elsewhere(runs: Path) -> Path:
    """The run folder of this user's one machine that runs, wherever it was booted. Raises InputError."""
    elsewhere = running()
    if len(elsewhere) == 1:
        return elsewhere[0].run
    what = f"no machine runs in {path_text(runs)}"
    if elsewhere:
        raise InputError(
            f"{what}, and {len(elsewhere)} run elsewhere", remedy="name one of those that `vboot ps` lists"
        )
    raise InputError(what, remedy="boot one with `vboot boot`, or name its run folder")


def find_machine(given: Path | None) -> VirtualMachine | Path:
    """The machine of a run folder (None: the newest that runs), or the path of an evolution socket.

    Raises InputError when `given` is neither, BootError when that machine has ended.
    """
    if given is None:
        return newest_running()
    require_machine(given)
    return given if given.is_socket() else attach(given)


def require_machine(given: Path, *, remedy: str = "give the folder that boot printed, or an evolution socket") -> None:
    """Raises InputError when this is neither a folder nor a socket."""
    if not (given.is_socket() or given.is_dir()):
        what = f"{path_text(given)} is {'neither a run folder nor a socket' if given.exists() else 'not there'}"
        raise InputError(what, remedy=remedy)
