"""A state file that is deleted, replaced, cut short or moved while its machine runs."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.listening import PATIENCE, result, wait_for_next_worker, wait_until
from tests.support.state import (
    MIB,
    Facts,
    StateMachine,
    change_id,
    mutated,
    mutation,
    refusal,
)

SAID = {
    "cut": "was cut short, from 67108864 bytes to 20971520,",
    "cut inside its journal": "was cut short, from 67108864 bytes to 8192,",
    "made as long again": "was cut short and made as long again",
}


@pytest.mark.parametrize("how", [*SAID, "deleted", "replaced", "deleted while the worker is away"])
def test_a_file_that_is_lost_while_the_machine_runs_is_told_before_the_next_change(
    state: StateMachine, how: str
) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        before = Facts.of(port)
        worker = result(port, "stats")["worker"]["pid"]
        if how == "replaced":
            other = state.folder / "other.img"
            other.write_bytes(state.file.read_bytes())
            other.rename(state.file)
        elif how == "cut":
            os.truncate(state.file, 20 * MIB)
        elif how == "cut inside its journal":
            os.truncate(state.file, 8192)
        elif how == "made as long again":
            os.truncate(state.file, 0)
            os.truncate(state.file, 64 * MIB)
        else:
            state.file.unlink()
        if how == "deleted while the worker is away":
            os.kill(worker, signal.SIGKILL)
            wait_for_next_worker(machine, worker)
        params, blob = mutation(1, 1)
        with machine.connect() as other_port:
            for kind, more in [("mutate", params), ("promote", {"id": change_id(5), "generation": 1})]:
                reply = other_port.request(kind, more, blob=blob if kind == "mutate" else None, timeout=PATIENCE)
                assert reply.error is not None
                assert reply.error["data"] == {"reason": "gone"}
                said = SAID.get(how, "was deleted or replaced")
                assert f"the state file {said} while the machine ran" in reply.error["message"]
                assert "`vboot save`" in reply.error["message"]
            assert result(other_port, "hello", protocol=1, client="test")["durable"] is False
            assert Facts.of(other_port) == before
            assert result(other_port, "digest")["generation"] == 1
            worker = result(other_port, "stats")["worker"]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_for_next_worker(machine, worker)
        with machine.connect() as other_port:
            assert refusal(other_port)["data"] == {"reason": "gone"}, "not before the next boot"
            readable = how not in ("cut inside its journal", "made as long again")
            assert (Facts.of(other_port) == before) is readable
            assert result(other_port, "digest")["generation"] == int(readable)


def test_a_file_that_is_emptied_while_the_worker_is_away_is_not_formatted_again(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        worker = result(port, "stats")["worker"]["pid"]
        os.kill(worker, signal.SIGSTOP)
        os.truncate(state.file, 0)
        os.truncate(state.file, 64 * MIB)
        os.kill(worker, signal.SIGKILL)
        wait_for_next_worker(machine, worker)
        with machine.connect() as other_port:
            assert refusal(other_port)["data"] == {"reason": "gone"}
    assert not any(state.file.read_bytes())


@pytest.mark.parametrize("asked", [True, False])
def test_a_lost_file_is_told_without_a_change(state: StateMachine, asked: bool) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        assert result(port, "hello", protocol=1, client="test")["durable"] is True
        beats = result(port, "stats")["heartbeats"]
        state.file.unlink()
        if asked:
            assert result(port, "hello", protocol=1, client="test")["durable"] is False
        wait_until(lambda: result(port, "stats")["heartbeats"] > beats + 5)
        machine.process.terminate()
        assert machine.process.stdout is not None
        assert machine.process.stdout.read().count("journal: the state file was deleted or replaced") == 1


def test_a_file_that_was_moved_is_kept(state: StateMachine) -> None:
    moved = state.folder / "moved.img"
    with state.running() as machine, machine.connect() as port:
        state.file.rename(moved)
        assert mutated(port, 0, 0)["durable"] is True
        before = Facts.of(port)
        machine.process.kill()
    again = StateMachine(state.executable, state.model, state.folder, moved)
    with again.running() as machine, machine.connect() as port:
        assert Facts.of(port) == before
