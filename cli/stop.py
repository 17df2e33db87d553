"""`vboot stop`: shut a machine down, or end it by force if that fails."""

from __future__ import annotations

import argparse
import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path

from cli.answer import Answer
from cli.machines import machine_path
from cli.option_types import positive_seconds
from cli.streams import warn
from qemu.launch import EndedMachineError, attach
from qemu.machine import VirtualMachine
from qemu.process import Process
from qemu.registry import Entry, running, running_in
from vboot.client.machine import MachineClient, connect
from vboot.errors import BootError, InputError, VbootError
from vboot.protocol.errors import MachineError
from vboot.text import path_text

_ASK_S = 5.0
"""A port that another client uses does not answer; the power button is tried next."""
_PATIENCE_S = 10.0
"""Seconds for each way to end, under KVM; emulated machines take longer."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "run", nargs="?", type=machine_path, metavar="RUN",
        help="run folder, or its name (default: the one machine that runs)",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="stop all machines of this user")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds to wait for each way to end it (default: 10, under emulation 60)",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Stop the machine. It is no error if the one that was named has already ended."""
    if not arguments.all:
        return _answer([_stopped(arguments.run or _the_one(), arguments.timeout)])
    if arguments.run is not None:
        raise InputError("--all stops every machine, and one was named", remedy="leave one of them out")
    done, failed = [], []
    for entry in running():
        try:
            done.append(_stopped(entry.run, arguments.timeout))
        except VbootError as error:
            failed.append(error)
            warn(str(error))
    if failed:
        what = f"{len(failed)} of {len(failed) + len(done)} machines still run"
        raise BootError(what, phase="bye", remedy="see the warnings above")
    return _answer(done) if done else Answer({"stopped": []}, "no machine of yours runs")


def _the_one() -> Path:
    """The run folder of the only machine that runs. Raises InputError if there is none, or more."""
    machines = running()
    if len(machines) == 1:
        return machines[0].run
    if not machines:
        raise InputError("no machine of yours runs", remedy="name the run folder of one that another user runs")
    names = ", ".join(path_text(entry.run) for entry in machines)
    raise InputError(f"{len(machines)} machines run: {names}", remedy="name one of them, or give --all")


def _stopped(run: Path, seconds: float | None) -> tuple[Path, str, str]:
    """Stop one machine: its run folder, how it ended, and that in a sentence. Raises UnseenMachineError."""
    try:
        machine = attach(run)
    except EndedMachineError as error:
        return run, "ended before", f"the machine of {path_text(run)} had already ended: {error.how}"
    except InputError:  # no run folder, or a damaged one
        entry = running_in(run)
        process = None if entry is None else entry.process()
        if entry is None or process is None:
            raise
        return _ended_without_folder(entry, process)
    with machine:
        how = end_in_order(machine, seconds=seconds)
    return run, how, f"the machine of {path_text(run)} has ended: {how}"


def _ended_without_folder(entry: Entry, process: Process) -> tuple[Path, str, str]:
    """End QEMU by its process, since how to ask it was removed or damaged with its run folder."""
    process.signal(signal.SIGTERM)
    if not process.wait(_PATIENCE_S):
        process.kill()
    why = "its machine.json is missing or damaged" if entry.has_folder() else "its run folder was removed or renamed"
    how = f"by ending QEMU ({why})"
    return entry.run, how, f"the machine of {path_text(entry.run)} has ended: {how}"


def end_in_order(machine: VirtualMachine, client: MachineClient | None = None, *, seconds: float | None = None) -> str:
    """End a machine: by the protocol (through `client`, if there is a connection), else the power button, else QEMU.

    Each way gets `seconds`. Returns which it took, in words. Raises BootError when the machine panicked meanwhile, or
    cannot be ended at all.
    """
    patience = _PATIENCE_S * machine.accel.scale if seconds is None else seconds
    refused = _ask(machine, client, min(patience, _ASK_S))
    if _has_ended(machine, 0 if refused else patience):
        machine.wait_exit()
        return "by itself" if refused else "shut down in order"
    why = refused or f"it did not power off within {patience:g} s"
    for how, command in (("by its power button", "system_powerdown"), ("by ending QEMU", "quit")):
        try:
            machine.qmp(command, timeout=patience)
            ended = _has_ended(machine, patience)
        except BootError:
            ended = _has_ended(machine, 0)
        if ended:
            machine.wait_exit()
            return f"{how} ({why})"
    machine.kill()
    return f"by killing QEMU ({why})"


def _ask(machine: VirtualMachine, client: MachineClient | None, seconds: float) -> str | None:
    """Ask the machine to shut itself down. None if it accepts, else why it could not be asked."""
    try:
        if client is not None:
            client.shutdown()
        else:
            with connect(machine.evolution, timeout=seconds, client="vboot stop") as own:
                own.shutdown()
    except MachineError as error:
        return error.what
    return None


def _has_ended(machine: VirtualMachine, seconds: float) -> bool:
    """Wait at most `seconds` until QEMU has ended, in whatever way."""
    try:
        pidfd = os.pidfd_open(machine.pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def _answer(stopped: Sequence[tuple[Path, str, str]]) -> Answer:
    text = "\n".join(sentence for _, _, sentence in stopped)
    (run, how, _), *others = stopped
    if not others:
        return Answer({"run": run, "how": how}, text)
    return Answer({"stopped": [{"run": run, "how": how} for run, how, _ in stopped]}, text)
