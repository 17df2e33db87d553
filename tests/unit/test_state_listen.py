"""`vector_boot --listen --state`: what was acknowledged survives the machine."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

from tests.support.listening import PATIENCE, children, result, wait_for_next_worker
from tests.support.state import (
    MIB,
    Facts,
    StateMachine,
    change_id,
    mutate,
    mutated,
    mutation,
)


def test_changes_survive_kills_of_the_machine(state: StateMachine) -> None:
    base = 0
    for _ in range(4):
        with state.running() as machine, machine.connect() as port:
            assert result(port, "hello", protocol=1, client="test")["durable"] is True
            assert result(port, "stats")["generation"] == base
            for number in range(base, base + 5):
                assert mutated(port, number, number)["durable"] is True
            base += 5
            before = Facts.of(port)
            machine.process.kill()
        with state.running() as machine, machine.connect() as port:
            assert Facts.of(port) == before


def test_a_machine_that_ends_in_order_is_the_same(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        rolled = result(port, "rollback", id=change_id(50), to=0)
        assert (rolled["generation"], rolled["durable"]) == (2, True)
        mutated(port, 1, 2)
        assert result(port, "checkpoint") == {"generation": 3, "durable": True}
        before = Facts.of(port)
    with state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == before
        assert result(port, "rollback", id=change_id(51), to=1)["generation"] == 4
        assert mutate(port, 2, 2).error == {
            "code": 1007,
            "message": "the change was made for generation 2, but the current one is 4",
            "data": {"generation": 4},
        }


def test_ids_are_known_after_a_reboot_and_history_is_told(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        first = mutated(port, 0, 0, origin="tester", digest=True)
        result(port, "rollback", id=change_id(50), to=0, reason="back")
        mutated(port, 1, 2, lease_ms=600_000)
        promoted = result(port, "promote", id=change_id(51), generation=3)
        assert promoted == {"promoted": 3, "durable": True}
        assert mutate(port, 2, 99).error is not None
        before = [record for record in result(port, "history")["records"] if record["verdict"] == "applied"]
        machine.process.kill()
    with state.running() as machine, machine.connect() as port:
        assert mutated(port, 0, 0, origin="tester", digest=True) == first | {"replayed": True}
        assert result(port, "rollback", id=change_id(50), to=0, reason="back")["replayed"] is True
        assert mutate(port, 0, 1).error is not None  # the same id, another content
        records = result(port, "history")["records"]
        kinds = [record["kind"] for record in records]
        assert kinds == ["mutate", "rollback", "mutate", "promote", "boot", "mutate"]
        assert records[:4] == before[1:], "all but the start of that boot, with confidence, origin and time"


def test_a_trial_does_not_survive(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        promoted = Facts.of(port)
        on_trial = mutated(port, 1, 1, lease_ms=600_000)
        assert on_trial["durable"] is False
        assert mutated(port, 2, 2)["durable"] is False
        worker = result(port, "stats")["worker"]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_for_next_worker(machine, worker)
    with state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == Facts(4, promoted.digest)
        last = [r for r in result(port, "history")["records"] if r["kind"] == "lease_expired"][-1]
        assert (last["generation"], last["restored"]) == (4, 1)
        assert mutated(port, 1, 1, lease_ms=600_000)["replayed"] is True
        assert mutated(port, 3, 4)["durable"] is True
        machine.process.kill()
    with state.running() as machine, machine.connect() as port:
        assert result(port, "stats")["generation"] == 5


def test_a_worker_that_dies_keeps_the_trial(state: StateMachine) -> None:
    with state.running() as machine:
        with machine.connect() as port:
            mutated(port, 0, 0, lease_ms=600_000)
            before = Facts.of(port)
            worker = result(port, "stats")["worker"]["pid"]
            os.kill(worker, signal.SIGKILL)
            wait_for_next_worker(machine, worker)
        with machine.connect() as port:
            assert Facts.of(port) == before
            assert result(port, "hello", protocol=1, client="test")["durable"] is True
            assert result(port, "promote", id=change_id(9), generation=1) == {"promoted": 1, "durable": True}
            assert mutated(port, 1, 1)["durable"] is True


def test_pipelined_changes_become_permanent_together(state: StateMachine) -> None:
    count = 150
    with state.running() as machine, machine.connect() as port:
        sent = []
        for number in range(count):
            params, blob = mutation(number, number)
            sent.append(port.send("mutate", params, blob=blob))
        replies = [port.reply(ident, timeout=PATIENCE).result for ident in sent]
        assert [reply and (reply["generation"], reply["durable"]) for reply in replies] == [
            (number + 1, True) for number in range(count)
        ]
        before = Facts.of(port)
        machine.process.kill()
    with state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == before


def test_what_was_acknowledged_survives_a_kill_at_any_moment(state: StateMachine) -> None:
    """Without replies, a change is there wholly or not at all."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    generation = 0
    for _ in range(10):
        victim = rng.choice(["machine", "worker"])
        with state.running() as machine, machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
            sent = []
            for number in range(generation, generation + 40):
                params, blob = mutation(number, number)
                sent.append(port.send("mutate", params, blob=blob))
            acknowledged = rng.randrange(40)
            for ident in sent[:acknowledged]:
                reply = port.reply(ident, timeout=PATIENCE).result
                assert reply is not None, seed
                assert reply["durable"] is True, seed
            if victim == "machine":
                machine.process.kill()
            else:
                os.kill(worker, signal.SIGKILL)
                wait_for_next_worker(machine, worker)
                machine.process.kill()
        with state.running() as machine, machine.connect() as port:
            now = result(port, "stats")["generation"]
            assert generation + acknowledged <= now <= generation + 40, (seed, acknowledged)
            for number in range(generation, now):
                reply = mutated(port, number, number)
                assert (reply["generation"], reply["replayed"]) == (number + 1, True), seed
            generation = now


def test_the_worker_itself_has_the_file(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        worker = result(port, "stats")["worker"]["pid"]
        assert children(machine.process.pid) == [worker]
        assert state.file in {entry.readlink() for entry in Path(f"/proc/{worker}/fd").iterdir()}


def test_a_full_device_compacts_and_then_refuses_until_the_trial_ends(
    executable: Path, model: Path, tmp_path: Path
) -> None:
    state = StateMachine.fresh(executable, model, tmp_path, mib=16)
    blob = bytes(range(256)) * 4096
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)

        def large(number: int, base: int, **more: int) -> dict[str, Any]:
            """A change with a blob of 1 MiB, of which an edit uses little."""
            params, part = mutation(number, base, **more)
            reply = port.request("mutate", params, blob=part + blob[: MIB - len(part)], timeout=PATIENCE)
            return reply.result or {"error": reply.error}

        for number in range(1, 40):  # more than the device holds
            made = large(number, number)
            assert made.get("durable") is True, made
        generation = 40
        kept = Facts.of(port)
        for number in range(generation, 80):
            made = large(number, number, lease_ms=600_000)
            if "error" in made:
                break
            generation += 1
        assert made["error"]["code"] == 1015
        assert made["error"]["data"] == {"reason": "full"}
        assert generation > 45
        back = result(port, "rollback", id=change_id(900), to=40)
        assert (back["generation"], back["durable"]) == (generation + 1, True)
        assert Facts.of(port) == Facts(generation + 1, kept.digest)
        assert large(901, generation + 1)["durable"] is True
        last = Facts.of(port)
        assert result(port, "rollback", id=change_id(903), to=0)["durable"] is True
        assert result(port, "rollback", id=change_id(904), to=generation + 2)["durable"] is True
        machine.process.kill()
    with state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == Facts(generation + 4, last.digest)
        assert large(0, 0).get("replayed") is not True  # another content under this id
        assert mutated(port, 0, 0)["replayed"] is True, "ids outlive the entries"
