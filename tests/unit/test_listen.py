"""`vector_boot --listen`: the machine as an ordinary program, over a Unix socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image.compose import compose
from image.rts_file import write_rts
from tests.support.evolution_port.expect import EvolutionPort

HELLO = {"protocol": 1, "client": "test"}
PATIENCE = 120
"""Seconds after which a test gives up, on a busy host too. Nothing is asserted about time."""


@dataclass(frozen=True)
class Listening:
    """A machine that listens."""

    process: subprocess.Popen[str]
    path: Path

    def connect(self) -> EvolutionPort:
        port = EvolutionPort(self.path)
        port.greet(timeout=PATIENCE)
        return port

    def raw(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(PATIENCE)
        stream.connect(str(self.path))
        return stream


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose("tiny", tmp_path_factory.mktemp("model") / "tiny.gguf").path


@contextmanager
def listening(
    executable: Path, model: Path, folder: Path, *options: str, replaces: tuple[int, int] | None = None
) -> Iterator[Listening]:
    """A machine at `folder / "socket"` that listens, in place of a file with the identity `replaces`."""
    path = folder / "socket"
    command = [str(executable), "--listen", str(path), "--tensors", str(model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or identity(path) not in {None, replaces})
            yield Listening(process, path)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds; it fails the test when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.005)


def identity(path: Path) -> tuple[int, int] | None:
    """Inode and change time of the file at a path; None if there is none."""
    try:
        return path.lstat().st_ino, path.lstat().st_ctime_ns
    except FileNotFoundError:
        return None


@pytest.fixture
def machine(executable: Path, model: Path, tmp_path: Path) -> Iterator[Listening]:
    with listening(executable, model, tmp_path, "--fault", "--heartbeat-ms", "20") as running:
        yield running


def result(port: EvolutionPort, method: str, **params: Any) -> dict[str, Any]:
    reply = port.request(method, params, timeout=PATIENCE)
    assert reply.error is None, reply.error
    return dict(reply.result or {})


def code(port: EvolutionPort, method: str, params: dict[str, Any], *, blob: bytes | None = None) -> int:
    reply = port.request(method, params, blob=blob, timeout=PATIENCE)
    assert reply.error is not None, reply.result
    return int(reply.error["code"])


def line(ident: object, method: str, params: dict[str, Any] | None = None, **more: Any) -> bytes:
    return (
        json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}, **more}).encode() + b"\n"
    )


def test_a_request_may_come_in_any_pieces(machine: Listening) -> None:
    request = line("a", "hello", HELLO)
    with machine.raw() as stream, stream.makefile("rb") as lines:
        assert b"vector_boot" in lines.readline()
        for byte in request:
            stream.send(bytes([byte]))
        assert json.loads(lines.readline())["id"] == "a"
        stream.sendall(request * 200)  # more than may be outstanding: reading pauses, nothing is lost
        assert [json.loads(lines.readline())["id"] for _ in range(200)] == ["a"] * 200


def test_a_client_that_closes_its_side_still_gets_its_answers(machine: Listening) -> None:
    with machine.raw() as stream, stream.makefile("rb") as lines:
        stream.sendall(line(1, "digest") + line(2, "stats"))
        stream.shutdown(socket.SHUT_WR)
        answers = [json.loads(text) for text in lines.read().splitlines()]
    assert [answer.get("id") for answer in answers] == [None, 1, 2]


def test_resync_drops_the_line_in_progress(machine: Listening) -> None:
    with machine.raw() as stream, stream.makefile("rb") as lines:
        lines.readline()
        stream.sendall(b'{"half": "a line\xff' + line(9, "hello", HELLO))
        assert "vector_boot" in json.loads(lines.readline())
        assert json.loads(lines.readline())["id"] == 9


def test_everything_is_answered_in_order(machine: Listening) -> None:
    with machine.raw() as stream, stream.makefile("rb") as lines:
        lines.readline()
        stream.sendall(line(1, "hello", HELLO) + b"garbage\n" + line(2, "stats", {"x": 1}) + line(3, "interrupt"))
        assert [json.loads(lines.readline())["id"] for _ in range(4)] == [1, None, 2, 3]


def test_a_client_that_reads_late_gets_all_replies(machine: Listening) -> None:
    """While output is blocked no input is read, and that time does not count as a stalled blob."""
    hidden = line("hidden", "shutdown")
    blob = {"bytes": len(hidden) * 1000, "crc32c": "00000000"}
    with machine.raw() as stream, stream.makefile("rb") as lines:
        lines.readline()
        for ident in range(8):
            stream.sendall(line(ident, "read", {"tensor": "cortex_journal", "bytes": 1 << 20}))
        stream.sendall(line("late", "stats", blob=blob) + hidden * 1000 + line("after", "stats"))
        time.sleep(2.5)
        for ident in range(8):
            answer = json.loads(lines.readline())
            assert answer["id"] == ident
            assert len(lines.read(answer["blob"]["bytes"])) == 1 << 20
        late = json.loads(lines.readline())
        assert (late["id"], late["error"]["code"]) == ("late", 1011)  # its checksum is wrong; it did not stall
        assert "CRC" in late["error"]["message"]
        assert json.loads(lines.readline())["id"] == "after"


def test_half_closed_clients_get_every_answer(machine: Listening) -> None:
    with machine.raw() as stream, stream.makefile("rb") as lines:
        stream.sendall(line("a", "interrupt") * 300)
        stream.shutdown(socket.SHUT_WR)
        assert len(lines.read().splitlines()) == 301


def test_a_client_can_connect_as_soon_as_the_last_one_left(machine: Listening) -> None:
    for _ in range(100):
        with machine.raw() as stream, stream.makefile("rb") as lines:
            assert b"vector_boot" in lines.readline()


def test_the_seventeenth_client_is_told_who_is_connected(machine: Listening) -> None:
    clients = [machine.connect() for _ in range(16)]
    for number, client in enumerate(clients[:-1]):
        result(client, "hello", protocol=1, client=f"client {number}")
    with machine.raw() as late, late.makefile("rb") as lines:
        answer = json.loads(lines.readline())
        assert (answer["id"], answer["error"]["code"]) == (None, 1017)
        assert answer["error"]["data"] == {"retry_ms": 1000, "clients": [f"client {number}" for number in range(15)]}
        assert lines.readline() == b""
    assert [result(client, "stats")["generation"] for client in clients] == [0] * 16
    clients.pop(7).close()
    clients.append(machine.connect())
    for client in clients:
        client.close()


def test_limits_and_order_of_refusals(machine: Listening) -> None:
    port = machine.connect()
    assert code(port, "nonesuch", {"x": 1}) == -32601
    assert code(port, "hello", {**HELLO, "colour": "red"}) == -32602
    assert code(port, "hello", {"protocol": 2, "client": "x"}) == -32602
    assert code(port, "stats", {}, blob=b"bytes") == -32602
    port.send_raw(b'{"a": "' + b"x" * 70_000 + b'"}\n')
    refused = port.reply(None, timeout=PATIENCE).error
    assert refused is not None
    assert refused["code"] == -32700
    port.send_raw(line("big", "stats", blob={"bytes": (1 << 20) + 1, "crc32c": "00000000"}) + b"discarded" * 1000)
    refused = port.reply("big", timeout=PATIENCE).error
    assert refused is not None
    assert refused["code"] == 1012
    port.resync(timeout=PATIENCE)
    assert result(port, "stats")["state"] == "beating"
    port.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


def beat_on(port: EvolutionPort, beats: int) -> dict[str, Any]:
    """Wait for so many beats; then the `stats`."""
    wait_until(lambda: result(port, "stats")["heartbeats"] >= beats)
    return result(port, "stats")


def overwrite(path: Path) -> None:
    """Change one weight's byte in place."""
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGE = {
    "id": "1" * 32,
    "base_generation": 0,
    "confidence": 0.9,
    "edits": [
        {"kind": "seeded", "tensors": "blk.*.weight", "seed": "1" * 16, "form": "normal", "density": 0.5, "scale": 0.5}
    ],
}


@pytest.mark.parametrize("change", [overwrite, cut])
@pytest.mark.parametrize("method", ["digest", "embed", "mutate", "read"])
def test_a_changed_model_file_is_an_emergency(
    executable: Path, model: Path, tmp_path: Path, change: Any, method: str
) -> None:
    every: dict[str, dict[str, Any]] = {
        "digest": {},
        "embed": {"texts": ["a text"]},
        "mutate": CHANGE,
        "read": {"tensor": "token_embd.weight", "bytes": 64},
    }
    params = every[method]
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "10000") as machine:
        port = machine.connect()
        assert result(port, "digest")["model"]
        change(mine)
        refused = port.request(method, params, timeout=PATIENCE).error
        assert refused is not None
        assert refused["code"] == 1016
        assert "the model's file was" in refused["message"]
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert result(port, "stats")["generation"] == 0
        port.close()
        machine.process.terminate()
        assert machine.process.wait(PATIENCE) == 0
        assert machine.process.stdout is not None
        assert machine.process.stdout.read().count("vector_boot: EMERGENCY: the model's file was") == 1


@pytest.mark.parametrize("change", [overwrite, cut])
def test_a_beat_notices_it_too_and_so_does_the_next_worker(
    executable: Path, model: Path, tmp_path: Path, change: Any
) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "20") as machine:
        port = machine.connect()
        stats = result(port, "stats")
        change(mine)
        stats = beat_on(port, stats["heartbeats"] + 2)
        assert stats["state"] == "emergency"
        os.kill(stats["worker"]["pid"], signal.SIGBUS)  # how a truncated file would have ended it
        wait_for_next_worker(machine, stats["worker"]["pid"])
        port.close()
        port = machine.connect()
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert result(port, "stats")["worker"]["restarts"] == 1
        assert code(port, "digest", {}) == 1016
        port.close()


def test_a_worker_killed_by_a_truncated_file_comes_back_in_emergency(
    executable: Path, model: Path, tmp_path: Path
) -> None:
    """The file is truncated between two beats, and the worker is killed before it checks the file."""
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "10000") as machine:
        port = machine.connect()
        worker = result(port, "stats")["worker"]["pid"]
        cut(mine)
        os.kill(worker, signal.SIGBUS)
        wait_for_next_worker(machine, worker)
        port.close()
        port = machine.connect()
        assert "the model's file was" in result(port, "hello", **HELLO)["emergency"]
        assert code(port, "digest", {}) == 1016
        assert code(port, "digest", {"tensors": 5}) == -32602  # parameters are checked before the mode, in every thread
        port.close()


def wait_for_next_worker(machine: Listening, last: int) -> None:
    """Wait until another worker than this one runs."""
    wait_until(lambda: machine.process.poll() is not None or children(machine.process.pid) not in ([last], []))
    assert machine.process.poll() is None, "the machine ended"


def test_a_file_that_is_replaced_by_name_is_no_change(executable: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(model, mine)
    with listening(executable, mine, tmp_path, "--heartbeat-ms", "20") as machine:
        port = machine.connect()
        before = result(port, "digest")["model"]
        shutil.copy(model, tmp_path / "new.gguf")
        overwrite(tmp_path / "new.gguf")
        (tmp_path / "new.gguf").replace(mine)
        stats = result(port, "stats")
        assert beat_on(port, stats["heartbeats"] + 2)["state"] == "beating"
        assert result(port, "digest")["model"] == before
        port.close()


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
