"""`vector_boot --listen` as a program: its socket, its processes, its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image.rts_file import write_rts
from tests.support.listening import (
    PATIENCE,
    Listening,
    beat_on,
    children,
    code,
    identity,
    listening,
    result,
    wait_for_next_worker,
    wait_until,
)


def test_orphans_are_reaped(machine: Listening) -> None:
    port = machine.connect()
    worker = result(port, "stats")["worker"]["pid"]
    result(port, "fault", what="orphans", count=1000)
    beat_on(port, result(port, "stats")["heartbeats"] + 20)
    wait_until(lambda: children(machine.process.pid) == [worker])
    port.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_that_is_killed_comes_back(machine: Listening, number: signal.Signals) -> None:
    port = machine.connect()
    before = result(port, "digest")["model"]
    worker = result(port, "stats")["worker"]["pid"]
    os.kill(worker, number)
    wait_for_next_worker(machine, worker)  # a stopped one is killed after five seconds
    port.close()
    port = machine.connect()
    stats = result(port, "stats")
    assert stats["worker"]["restarts"] == 1
    assert stats["worker"]["pid"] != worker
    assert result(port, "digest")["model"] == before
    port.close()


def test_the_worker_has_dropped_its_privileges(machine: Listening) -> None:
    with machine.connect() as port:
        worker = result(port, "stats")["worker"]["pid"]
    status = Path(f"/proc/{worker}/status").read_text()
    fields = dict(entry.split(":\t", 1) for entry in status.splitlines() if ":\t" in entry)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_a_blocked_standard_output_does_not_block_the_machine(executable: Path, model: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    command = [str(executable), "--listen", str(tmp_path / "socket"), "--tensors", str(model)]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: (tmp_path / "socket").exists() or process.poll() is not None)
        port = Listening(process, tmp_path / "socket").connect()
        beat_on(port, 1)
        port.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    os.close(reading)
    os.close(writing)


def said_by(command: list[str]) -> str:
    """What a machine that cannot start says: one line, exit 1."""
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    return done.stderr


@pytest.mark.parametrize("kind", ["document", "model", "folder", "link", "fifo", "datagram"])
def test_only_an_abandoned_socket_is_replaced(executable: Path, model: Path, tmp_path: Path, kind: str) -> None:
    path, mine = tmp_path / "there", tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if kind == "document":
        path.write_text("a text")
    elif kind == "model":
        path = mine
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(mine)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        bound.bind(str(path))
    before, content = path.lstat(), path.read_bytes() if path.is_file() else b""
    said = said_by([str(executable), "--listen", str(path), "--tensors", str(mine)])
    assert str(path) in said
    assert "cannot listen" in said
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert (path.read_bytes() if path.is_file() else b"") == content
    assert {entry.name for entry in tmp_path.iterdir()} == {mine.name, path.name}
    bound.close()


def test_an_abandoned_socket_is_replaced_and_a_live_one_is_not(executable: Path, model: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(tmp_path / "socket"))
    with listening(executable, model, tmp_path, replaces=identity(tmp_path / "socket")) as machine:
        assert machine.path.lstat().st_mode & 0o777 == 0o600
        assert "another process listens" in said_by(list(map(str, machine.process.args)))  # type: ignore[arg-type]
        machine.connect().close()
    assert not machine.path.exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_shut_it_down_cleanly(executable: Path, model: Path, tmp_path: Path, number: signal.Signals) -> None:
    with listening(executable, model, tmp_path) as machine:
        with machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
            os.kill(worker, number)  # as a terminal does, which signals all its processes; the supervisor alone decides
            if number is not signal.SIGTERM:
                assert result(port, "stats")["worker"] == result(port, "stats")["worker"] | {
                    "restarts": 0,
                    "pid": worker,
                }
        machine.process.send_signal(number)
        assert machine.process.wait(PATIENCE) == 0
        assert not machine.path.exists()
        assert not Path(f"/proc/{worker}").exists()
        assert machine.process.stderr is not None
        assert machine.process.stderr.read() == ""


def test_an_ignored_hangup_stays_ignored(executable: Path, model: Path, tmp_path: Path) -> None:
    """As under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(executable, model, tmp_path) as machine:
            machine.process.send_signal(signal.SIGHUP)
            with machine.connect() as port:
                first = result(port, "stats")["heartbeats"]
                beat_on(port, first + 2)
            machine.process.terminate()
            assert machine.process.wait(PATIENCE) == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_shutdown_and_sigterm_stop_it_cleanly(executable: Path, model: Path, tmp_path: Path) -> None:
    with listening(executable, model, tmp_path) as machine:
        port = machine.connect()
        result(port, "shutdown")
        port.send_raw(b'{"jsonrpc": "2.0", "method": "bye"}\n')
        assert machine.process.wait(PATIENCE) == 0
        assert not machine.path.exists()
        port.close()
    with listening(executable, model, tmp_path) as machine:
        with machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
        machine.process.send_signal(signal.SIGTERM)
        assert machine.process.wait(PATIENCE) == 0
        assert not Path(f"/proc/{worker}").exists()


def test_a_worker_does_not_outlive_its_supervisor(executable: Path, model: Path, tmp_path: Path) -> None:
    with listening(executable, model, tmp_path) as machine:
        with machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
        machine.process.kill()
        machine.process.wait(PATIENCE)
        wait_until(lambda: not Path(f"/proc/{worker}").exists())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "R1: magic"),
        (b"GGUF\x09\0\0\0", "R2: version"),
        (b"RTS\x01" + bytes(600), "RTS: version"),
        (None, "No such file"),
    ],
)
def test_a_bad_model_is_one_line_and_exit_1(executable: Path, tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    with listening(executable, path, tmp_path) as machine:
        assert machine.process.wait(PATIENCE) == 1
        assert machine.process.stderr is not None
        said = machine.process.stderr.read()
    assert said.count("\n") == 1
    assert str(path) in said
    assert why in said
    assert not machine.path.exists()


def test_a_signed_image_serves_no_faults(executable: Path, model: Path, tmp_path: Path) -> None:
    image = tmp_path / "signed.rts"
    write_rts(image, binary=executable, tensors=model, signing_key=Ed25519PrivateKey.generate())
    with listening(executable, image, tmp_path, "--fault") as machine:
        port = machine.connect()
        assert code(port, "fault", {"what": "segv"}) == -32601
        assert result(port, "tensors", prefix="token_embd")["tensors"]
        port.close()
