"""The shell as a person at a terminal has it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support.local_machine import LocalMachine, local_machine

ROOT = Path(__file__).parents[2]
SHELL = (sys.executable, "-m", "builder", "shell")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    with local_machine(tmp_path_factory.mktemp("machine"), "--heartbeat-ms", "20") as machine:
        yield machine


class Terminal:
    """`vboot shell` as a person has it."""

    def __init__(self, target: Path, state: Path, *, command: Sequence[str] = SHELL) -> None:
        environment = {
            **os.environ,
            "TERM": "dumb",
            "XDG_STATE_HOME": str(state),
            "COLUMNS": "200",
            "INPUTRC": "/dev/null",
        }
        self.process: Any = pexpect.spawn(
            command[0], [*command[1:], str(target)], env=environment, encoding="utf-8", timeout=120,
            dimensions=(40, 200),
        )  # fmt: skip
        self.prompt()

    def prompt(self) -> str:
        self.process.expect_exact("vboot> ")
        return str(self.process.before)

    def type(self, text: str) -> str:
        self.process.send(text + "\n")
        return self.prompt()

    def leave(self) -> int:
        self.process.sendeof()
        self.process.expect(pexpect.EOF)
        self.process.close()
        return int(self.process.exitstatus)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.close(force=True)


def test_tab_ctrl_c_and_ctrl_d(local: LocalMachine, tmp_path: Path) -> None:
    with Terminal(local.socket, tmp_path) as terminal:
        assert "vector 255 taken" in terminal.type("int\t")
        assert "hw.mmio, I32" in terminal.type("rea\thw\t")
        terminal.process.send("watch\n")
        terminal.process.expect(r"beat \d+")
        terminal.process.sendintr()
        terminal.prompt()
        terminal.process.send("half a line")
        terminal.process.expect_exact("half a line")  # read, so that the tty does not drop it with the interrupt
        terminal.process.sendintr()
        terminal.prompt()
        assert "no command nonsense" in terminal.type("nonsense")
        assert terminal.leave() == 0
        assert "runs on" in terminal.process.before


@pytest.mark.parametrize("last", ["exit", "quit"])
def test_a_session_with_a_typo_ends_well(local: LocalMachine, tmp_path: Path, last: str) -> None:
    with Terminal(local.socket, tmp_path) as terminal:
        assert "did you mean stats?" in terminal.type("statz")
        terminal.process.send(f"{last}\n")
        terminal.process.expect(pexpect.EOF)
        terminal.process.close()
        assert terminal.process.exitstatus == 0


def test_ctrl_c_reaches_the_prompt_and_not_make(local: LocalMachine, tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"%.sock:\n\t@cd {ROOT} && {' '.join(SHELL)} $@\n")
    make = ("make", "--no-print-directory", "-B", "-f", str(makefile))
    with Terminal(local.socket, tmp_path, command=make) as terminal:
        for _ in range(2):
            terminal.process.send("half")
            terminal.process.expect_exact("half")
            terminal.process.sendintr()
            terminal.prompt()
        terminal.type("nonsense")
        terminal.process.sendeof()
        terminal.process.expect(pexpect.EOF)
        assert "***" not in terminal.process.before
        terminal.process.close()
        assert terminal.process.exitstatus == 0


def test_events_are_shown_between_commands(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local, Terminal(local.socket, tmp_path) as terminal:
        made = terminal.type("mutate --set token_embd.weight[0]=1 --confidence 0.9 --lease 0.3")
        assert "on trial for 0.3 s" in made
        until, shown = time.monotonic() + 120, ""
        while "generation 2: lease_expired" not in shown:
            assert time.monotonic() < until, shown
            shown += terminal.type("interrupt")
        assert ": mutate" not in made + shown + terminal.type("interrupt")
        assert terminal.leave() == 0


def test_history_is_kept_for_the_next_time(local: LocalMachine, tmp_path: Path) -> None:
    with Terminal(local.socket, tmp_path) as terminal:
        terminal.type("interrupt 3")
        terminal.type("interrupt 4")
        assert terminal.leave() == 0
    history = tmp_path / "vector_boot" / "shell_history"
    assert history.read_text() == "interrupt 3\ninterrupt 4\n"
    with Terminal(local.socket, tmp_path) as terminal:
        assert "vector 3 taken" in terminal.type("\x10\x10")  # Ctrl-P: the line before
        assert terminal.leave() == 0
    assert history.read_text() == "interrupt 3\ninterrupt 4\ninterrupt 3\n"


def test_a_state_folder_that_cannot_be_written_does_no_harm(local: LocalMachine, tmp_path: Path) -> None:
    (tmp_path / "vector_boot").write_text("in the way")
    with Terminal(local.socket, tmp_path) as terminal:
        terminal.type("interrupt")
        assert terminal.leave() == 0


def test_the_prompt_notices_the_end_of_the_machine(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local, Terminal(local.socket, tmp_path) as terminal:
        local.process.kill()
        terminal.process.expect("error: the machine has ended")
        terminal.process.expect(pexpect.EOF)
        terminal.process.close()
        assert terminal.process.exitstatus == 1


def test_an_interrupted_request_leaves_the_line_usable(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local, Terminal(local.socket, tmp_path) as terminal:
        worker = json.loads(terminal.type("stats --json").splitlines()[-1])["worker"]["pid"]
        os.kill(worker, signal.SIGSTOP)
        terminal.process.send("stats\n")
        time.sleep(0.3)
        terminal.process.sendintr()
        assert "beating" not in terminal.prompt()
        os.kill(worker, signal.SIGCONT)
        assert "0 restarts" in terminal.type("stats")
        assert terminal.leave() == 0
