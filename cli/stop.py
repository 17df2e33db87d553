"""`vboot stop`: shut a machine down, or end it by force if that fails."""

from __future__ import annotations

import argparse
import os
import select
from pathlib import Path

from cli.answer import Answer
from cli.option_types import path, positive_seconds
from qemu.launch import attach
from qemu.machine import VirtualMachine
from vboot.client.machine import MachineClient, connect
from vboot.errors import BootError
from vboot.protocol.errors import MachineError
from vboot.text import path_text

_ASK_S = 5.0
"""A port that another client uses does not answer; the power button is tried next."""
_PATIENCE_S = 10.0
"""Seconds for each way to end, under KVM; emulated machines take longer."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("run", type=path, metavar="RUN", help="run folder printed by boot")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds to wait for each way to end it (default: 10, under emulation 60)",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Stop the machine. It is no error if it has already ended."""
    try:
        machine = attach(arguments.run)
    except BootError:
        return _answer(arguments.run, "ended before", f"the machine of {path_text(arguments.run)} had already ended")
    with machine:
        how = end_in_order(machine, seconds=arguments.timeout)
    return _answer(arguments.run, how, f"the machine of {path_text(arguments.run)} has ended: {how}")


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


def _answer(run: Path, how: str, text: str) -> Answer:
    return Answer({"run": run, "how": how}, text)
