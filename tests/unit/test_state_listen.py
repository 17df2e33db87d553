"""`vector_boot --listen --state`: what was acknowledged survives the machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.listening import PATIENCE, children, code, result, wait_for_next_worker, wait_until
from tests.support.state import (
    MIB,
    Facts,
    StateMachine,
    change_id,
    mutate,
    mutated,
    mutation,
    refusal,
)


@pytest.fixture
def state(executable: Path, model: Path, tmp_path: Path) -> StateMachine:
    return StateMachine.fresh(executable, model, tmp_path)


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


def listen_error(state: StateMachine) -> str:
    command = [str(state.executable), "--listen", str(state.folder / "other"), "--tensors", str(state.model)]
    done = subprocess.run(
        [*command, "--state", str(state.file)], check=False, timeout=PATIENCE, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    return done.stderr


def test_two_machines_on_one_file_are_refused(state: StateMachine) -> None:
    with state.running() as machine, machine.connect() as port:
        mutated(port, 0, 0)
        assert "another machine uses it" in listen_error(state)
        mutated(port, 1, 1)


@pytest.mark.parametrize("byte", [101, 201])
def test_a_file_that_a_machine_in_qemu_uses_is_refused(state: StateMachine, byte: int) -> None:
    """QEMU holds read locks on these bytes of a disk that it writes to, and looks for those of others."""
    before = state.file.read_bytes()
    wanted = struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
    with state.file.open("rb") as qemu:
        fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, wanted)
        assert "another machine uses it" in listen_error(state)
    assert state.file.read_bytes() == before
    with state.running() as machine, machine.connect(), state.file.open("r+b") as qemu:
        asked = struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        with pytest.raises(BlockingIOError):
            fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, asked)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "there is no such file: make it first"),
        ("folder", "expected a regular file or a block device, got a folder: name a file or a disk"),
        ("fifo", "got a FIFO: name a file"),
        ("socket", "got a socket: name a file"),
        ("/dev/null", "got a character device: name a file"),
        ("/proc/version", "it cannot be the state device (Invalid argument (os error 22)): name a file"),
        ("itself", "it cannot be found (Too many levels of symbolic links (os error 40)): name a file"),
    ],
)
def test_a_file_that_is_none_is_refused(state: StateMachine, kind: str, said: str) -> None:
    state.file.unlink()
    if kind == "folder":
        state.file.mkdir()
    elif kind == "fifo":
        os.mkfifo(state.file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(state.file))
    elif kind != "missing":
        state.file.symlink_to(state.file if kind == "itself" else kind)
    assert said in listen_error(state)


def test_a_file_that_was_deleted_before_is_refused(state: StateMachine) -> None:
    with state.file.open("r+b") as deleted:
        state.file.unlink()
        descriptor = Path(f"/proc/{os.getpid()}/fd/{deleted.fileno()}")
        said = listen_error(StateMachine(state.executable, state.model, state.folder, descriptor))
    assert "the file was deleted, so nobody would find its changes: name one in a folder" in said


def refused(state: StateMachine, reason: str, *texts: str) -> None:
    """The machine serves the weights as they were built and refuses changes for this reason, and the file stays."""
    before = state.file.read_bytes()
    with state.running() as machine:
        with machine.connect() as port:
            hello = result(port, "hello", protocol=1, client="test")
            assert (hello["durable"], hello["generation"], hello["emergency"]) == (False, 0, None)
            error = refusal(port)
            assert error["data"] == {"reason": reason}
            assert all(text in error["message"] for text in texts), error
            assert code(port, "rollback", {"id": change_id(3), "to": 0}) == 1015
            assert code(port, "checkpoint", {}) == 1015
            assert result(port, "digest")["generation"] == 0
            kinds = [(record["kind"], record["verdict"]) for record in result(port, "history")["records"]]
            assert kinds == [("boot", "applied"), ("mutate", "refused")]
        machine.process.terminate()
        assert machine.process.stdout is not None
        console = machine.process.stdout.read()
    assert [line for line in console.splitlines() if "journal: " in line], console
    assert state.file.read_bytes() == before


def used(state: StateMachine, changes: int = 3) -> StateMachine:
    with state.running() as machine, machine.connect() as port:
        for number in range(changes):
            mutated(port, number, number)
    return state


def test_something_foreign_is_not_touched(state: StateMachine) -> None:
    state.file.write_bytes(bytes(40 * MIB) + b"a photograph" + bytes(MIB))
    refused(state, "foreign")


def test_the_device_of_another_model_is_not_touched(state: StateMachine, tmp_path: Path) -> None:
    with used(state).running() as machine, machine.connect() as port:
        result(port, "rollback", id=change_id(7), to=0)
        own = result(port, "digest")["model"]
    other = changed_model(state.model, tmp_path)
    refused(StateMachine(state.executable, other, state.folder, state.file), "other_model", own)


def changed_model(model: Path, folder: Path) -> Path:
    """The same model with other weights."""
    other = folder / "other.gguf"
    content = bytearray(model.read_bytes())
    content[-4096:-4094] = b"\x00\x3c"
    other.write_bytes(content)
    return other


def test_a_newer_format_is_not_touched(state: StateMachine) -> None:
    patch_superblocks(used(state).file, least_reader=9)
    refused(state, "newer", "9")


def patch_superblocks(file: Path, *, least_reader: int) -> None:
    """Write another `least_reader` into both superblocks, with the digest that belongs to it (spec/journal.md)."""
    with file.open("r+b") as device:
        for at in (0, 4096):
            device.seek(at)
            block = bytearray(device.read(512))
            block[12:16] = least_reader.to_bytes(4, "little")
            block[480:512] = hashlib.sha256(block[:480]).digest()
            device.seek(at)
            device.write(block)


def test_damage_in_the_middle_is_refused(state: StateMachine) -> None:
    used(state)
    with state.file.open("r+b") as device:
        device.seek(8192 + 4096 + 300)
        device.write(b"\xff")
    refused(state, "damaged", "in frame 1", "restore a copy of the state device, or use another one")


def test_a_torn_tail_is_cut(state: StateMachine) -> None:
    with used(state, 3).running() as machine, machine.connect() as port:
        before = Facts.of(port)
        mutated(port, 3, 3)
    with state.file.open("r+b") as device:
        device.seek(8192 + 3 * 4096 + 400)
        device.write(b"\xff")
    with state.running() as machine:
        with machine.connect() as port:
            assert Facts.of(port) == before
            assert mutated(port, 4, 3)["durable"] is True
            after = Facts.of(port)
        machine.process.terminate()
        assert machine.process.stdout is not None
        assert machine.process.stdout.read().count("journal: ") == 1
    with state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == after


@pytest.mark.parametrize("size", [0, 4096, 16 * MIB - 1])
def test_a_file_that_is_too_small_is_refused(state: StateMachine, size: int) -> None:
    with state.file.open("r+b") as device:
        device.truncate(size)
    refused(state, "too_small", f"has {size} bytes, expected at least 16777216: make it larger")


def test_a_device_that_has_shrunk_is_refused_and_one_that_has_grown_is_not(state: StateMachine) -> None:
    with used(state).running() as machine, machine.connect() as port:
        before = Facts.of(port)
    copy = state.folder / "copy.img"
    shutil.copy(state.file, copy)
    os.truncate(state.file, 32 * MIB)
    refused(state, "too_small", f"has {32 * MIB} bytes, expected the {64 * MIB}", "restore a whole copy of it")
    os.truncate(copy, 128 * MIB)
    grown = StateMachine(state.executable, state.model, state.folder, copy)
    with grown.running() as machine, machine.connect() as port:
        assert Facts.of(port) == before
        assert mutated(port, 3, 3)["durable"] is True


def test_a_file_that_can_only_be_read_is_replayed(state: StateMachine) -> None:
    with used(state).running() as machine, machine.connect() as port:
        before = Facts.of(port)
        mutated(port, 3, 3, lease_ms=600_000)
        machine.process.kill()
    content = state.file.read_bytes()
    with read_only(state.file), state.running() as machine, machine.connect() as port:
        assert Facts.of(port) == before, "the trial has ended, though that cannot be written"
        assert refusal(port)["data"] == {"reason": "read_only"}
        assert result(port, "hello", protocol=1, client="test")["durable"] is False
    assert state.file.read_bytes() == content


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """The file cannot be written, not even by root."""
    if os.geteuid() != 0:
        file.chmod(0o444)
        yield
        return
    subprocess.run(["mount", "--bind", "-o", "ro", str(file), str(file)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(file)], check=True)


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut", "deleted while the worker is away"])
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
                said = "was cut short, from 67108864 bytes to 20971520," if how == "cut" else "was deleted or replaced"
                assert f"the state file {said} while the machine ran" in reply.error["message"]
                assert "`vboot save`" in reply.error["message"]
            assert result(other_port, "hello", protocol=1, client="test")["durable"] is False
            assert Facts.of(other_port) == before
            assert result(other_port, "digest")["generation"] == 1
            worker = result(other_port, "stats")["worker"]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_for_next_worker(machine, worker)
        with machine.connect() as other_port:
            assert refusal(other_port)["data"] == {"reason": "io"}, "not before the next boot"
            assert (Facts.of(other_port) == before) is (how != "cut"), "what was cut off cannot be read"


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
