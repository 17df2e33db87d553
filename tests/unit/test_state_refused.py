"""`vector_boot --listen --state` with a file that it refuses, or only reads, or whose end is torn."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.listening import PATIENCE, code, result
from tests.support.state import (
    MIB,
    Facts,
    StateMachine,
    change_id,
    mutated,
    refusal,
)


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
