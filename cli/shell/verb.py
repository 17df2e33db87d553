"""`vboot shell`: a prompt on a running machine."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cli.answer import Answer
from cli.errors import described
from cli.machines import add_key, add_machine, connect_socket, connect_to, find_machine, signer_of
from cli.shell.changes import COMMANDS as CHANGES
from cli.shell.changes import tell_event
from cli.shell.commands import execute, watch, welcome
from cli.shell.language import AS_JSON, Command, completions, parse
from cli.shell.terminal import editing, is_interactive, own_interrupts, read_line
from cli.shell.verbs import LEAVE
from cli.streams import warn, write_out
from vboot.client.machine import MachineClient
from vboot.errors import BootError, VbootError
from vboot.protocol.errors import LinkLostError, MachineTimeoutError
from vboot.protocol.messages import MutationEvent
from vboot.text import json_text, path_text, printable

_POWER_OFF_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_machine(parser)
    add_key(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Serve commands until they end; exit code 1 if one of a script's failed."""
    signer = signer_of(arguments)
    found = find_machine(arguments.machine)
    if isinstance(found, Path):
        with connect_socket(found, arguments, signer) as machine:
            shell = Shell(machine, as_json=bool(arguments.json))
            shell.run()
            return _answer(shell, f"the machine at {path_text(found)} runs on")
    with found as virtual, connect_to(virtual, arguments, signer) as machine:
        shell = Shell(machine, as_json=bool(arguments.json), explain=virtual.check)
        shell.run()
        if shell.shut_down:
            virtual.wait_exit()
        run = shlex.quote(path_text(virtual.run))
        return _answer(shell, f"the machine of {run} runs on; `vboot stop {run}` ends it")


def _answer(shell: Shell, leave: str) -> Answer:
    """What is left to be said: to a person, what became of the machine; to a script, whether it failed."""
    if shell.interactive and not shell.as_json:
        return Answer({}, "the machine has ended" if shell.shut_down else leave)
    return Answer({}, "", exit_code=shell.exit_code)


class Shell:
    """Reads commands and prints what they bring, until the input or the machine ends.

    `explain` raises a better error for a machine that has ended, if it knows one.
    """

    def __init__(self, machine: MachineClient, *, as_json: bool, explain: Callable[[], None] = lambda: None) -> None:
        self.as_json = as_json
        self.interactive = is_interactive()
        self.failed = False
        """Whether a command failed."""
        self.shut_down = False
        """Whether the machine ended on request."""
        self._machine = machine
        self._explain = explain
        self._faults = machine.allows_faults()
        self._names: Sequence[str] | None = None
        self._told: Sequence[str] = ("mutation", "alert") if self.interactive else ()
        """Kinds of events that are shown between commands: to a person only."""

    @property
    def exit_code(self) -> int:
        """A script fails if one of its commands did. A person has seen the errors."""
        return 1 if self.failed and not self.interactive else 0

    def run(self) -> None:
        """Raises LinkLostError or BootError if the machine ends without a request to do so."""
        if not self.interactive:
            while self._one_line():
                pass
            return
        with editing(self._complete), own_interrupts() as interruptible:
            self._machine.subscribe(self._told)
            write_out(welcome(self._machine.greeted))
            write_out("help lists the commands, help words explains the terms, Ctrl-D leaves")
            going = True
            while going:
                try:
                    with interruptible():
                        going = self._one_line()
                except KeyboardInterrupt:
                    # It has ended the line, or the wait for a reply; the client has cancelled what can be cancelled.
                    write_out("")

    def _one_line(self) -> bool:
        """Read and obey one line; whether there may be another."""
        line = read_line(prompt=self.interactive, look=self._look)
        if line is None and self.interactive:
            write_out("")  # the prompt's line
        self._tell_events()
        return line is not None and self._obey(line)

    def _obey(self, line: str) -> bool:
        # For a line that cannot be parsed, as far as it can be determined.
        as_json = self.as_json or AS_JSON in line.split()
        try:
            command = parse(line, faults=self._faults)
            if command is None:
                return True
            as_json = self.as_json or command.as_json
            if command.verb in LEAVE:
                return False
            if command.verb == "watch":
                self._watch(command.values, as_json=as_json)
                return True
            self._show(self._executed(command), as_json=as_json)
            if command.verb == "shutdown":
                self._await_end()
                return False
        except BootError:
            raise
        except VbootError as error:
            if isinstance(error, LinkLostError):
                self._look()
            self._complain(error, as_json=as_json)
        return True

    def _executed(self, command: Command) -> Answer:
        try:
            return execute(command, self._machine, faults=self._faults)
        except KeyboardInterrupt:
            if self.interactive and command.verb in CHANGES:
                warn("interrupted; the machine may still do it: `history` shows what was done")
            raise

    def _watch(self, values: Mapping[str, Any], *, as_json: bool) -> None:
        what, seconds = values.get("what", "heartbeats"), values.get("seconds")
        with closing(watch(self._machine, what=what, seconds=seconds, afterwards=self._told)) as shown:
            for answer in shown:
                self._show(answer, as_json=as_json)

    def _tell_events(self) -> None:
        """What happened without our asking; our own changes have ids and were answered."""
        for event in self._machine.events(timeout=0):
            answer = None if isinstance(event, MutationEvent) and event.id else tell_event(event)
            if answer is not None:
                self._show(answer, as_json=self.as_json)

    def _show(self, answer: Answer, *, as_json: bool) -> None:
        write_out(json_text(answer.data) if as_json else answer.text)

    def _complain(self, error: VbootError, *, as_json: bool) -> None:
        self.failed = True
        if as_json:
            write_out(json_text({"error": described(error)}))
        sys.stderr.write(f"error: {printable(str(error))}\n")

    def _look(self) -> None:
        if not self._machine.is_alive():
            self._explain()
            raise LinkLostError("the machine has ended", remedy="see its console for why")

    def _await_end(self) -> None:
        if not self._machine.wait_until_gone(timeout=_POWER_OFF_S):
            raise MachineTimeoutError(
                f"the machine is still there after {_POWER_OFF_S:g} s", remedy="end it with `vboot stop`"
            )
        self.shut_down = True

    def _complete(self, text: str) -> Sequence[str]:
        return completions(text, tensors=self._tensor_names, faults=self._faults)

    def _tensor_names(self) -> Sequence[str]:
        if self._names is None:
            self._names = [tensor.name for tensor in self._machine.tensors()]
        return self._names
