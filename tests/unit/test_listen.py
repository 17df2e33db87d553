"""`vector_boot --listen`: the machine as an ordinary program, over a Unix socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.executable import build_executable
from image.compose import compose
from image.rts_file import write_rts
from tests.support.evolution_port.expect import EvolutionPort

HELLO = {"protocol": 1, "client": "test"}


@dataclass(frozen=True)
class Listening:
    """A machine that listens."""

    process: subprocess.Popen[str]
    path: Path

    def connect(self) -> EvolutionPort:
        port = EvolutionPort(self.path)
        port.greet(timeout=5)
        return port

    def raw(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(5)
        stream.connect(str(self.path))
        return stream


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_executable(log=tmp_path_factory.mktemp("cargo") / "log", progress=lambda *_: None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose("tiny", tmp_path_factory.mktemp("model") / "tiny.gguf").path


@contextmanager
def listening(executable: Path, model: Path, folder: Path, *options: str) -> Iterator[Listening]:
    path = folder / "socket"
    command = [str(executable), "--listen", str(path), "--tensors", str(model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 10
            while not path.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            yield Listening(process, path)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(10)


@pytest.fixture
def machine(executable: Path, model: Path, tmp_path: Path) -> Iterator[Listening]:
    with listening(executable, model, tmp_path, "--fault", "--heartbeat-ms", "20") as running:
        yield running


def result(port: EvolutionPort, method: str, **params: Any) -> dict[str, Any]:
    reply = port.request(method, params, timeout=5)
    assert reply.error is None, reply.error
    return dict(reply.result or {})


def code(port: EvolutionPort, method: str, params: dict[str, Any], *, blob: bytes | None = None) -> int:
    reply = port.request(method, params, blob=blob, timeout=5)
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


def test_a_host_that_reads_late_loses_nothing(machine: Listening) -> None:
    """While nothing goes out nothing is read, and what waits on the line meanwhile has not stalled."""
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


def test_the_seat_is_free_as_soon_as_it_is_left(machine: Listening) -> None:
    for _ in range(100):
        with machine.raw() as stream, stream.makefile("rb") as lines:
            assert b"vector_boot" in lines.readline()


def test_one_client_at_a_time(machine: Listening) -> None:
    first = machine.connect()
    with machine.raw() as second, second.makefile("rb") as lines:
        answer = json.loads(lines.readline())
        assert (answer["id"], answer["error"]["code"]) == (None, 1017)
        assert lines.readline() == b""
    assert result(first, "hello", **HELLO)["generation"] == 0
    first.close()
    machine.connect().close()


def test_limits_and_order_of_refusals(machine: Listening) -> None:
    port = machine.connect()
    assert code(port, "nonesuch", {"x": 1}) == -32601
    assert code(port, "hello", {**HELLO, "colour": "red"}) == -32602
    assert code(port, "hello", {"protocol": 2, "client": "x"}) == -32602
    assert code(port, "stats", {}, blob=b"bytes") == -32602
    port.send_raw(b'{"a": "' + b"x" * 70_000 + b'"}\n')
    refused = port.reply(None, timeout=5).error
    assert refused is not None
    assert refused["code"] == -32700
    port.send_raw(line("big", "stats", blob={"bytes": (1 << 20) + 1, "crc32c": "00000000"}) + b"discarded" * 1000)
    refused = port.reply("big", timeout=5).error
    assert refused is not None
    assert refused["code"] == 1012
    time.sleep(0.4)
    assert result(port, "stats")["state"] == "beating"
    port.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_orphans_are_reaped_within_a_beat(machine: Listening) -> None:
    port = machine.connect()
    worker = result(port, "stats")["worker"]["pid"]
    result(port, "fault", what="orphans", count=1000)
    deadline = time.monotonic() + 5
    while children(machine.process.pid) != [worker] and time.monotonic() < deadline:
        time.sleep(0.02)
    beats = result(port, "stats")["heartbeats"]
    time.sleep(0.04)
    assert children(machine.process.pid) == [worker]
    assert result(port, "stats")["heartbeats"] > beats
    port.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_that_is_killed_comes_back(machine: Listening, number: signal.Signals) -> None:
    port = machine.connect()
    before = result(port, "digest")["model"]
    worker = result(port, "stats")["worker"]["pid"]
    os.kill(worker, number)
    deadline = time.monotonic() + 12  # a stopped one is missed after five seconds
    while children(machine.process.pid) in ([worker], []) and time.monotonic() < deadline:
        time.sleep(0.02)
    port.close()
    port = machine.connect()
    stats = result(port, "stats")
    assert stats["worker"]["restarts"] == 1
    assert stats["worker"]["pid"] != worker
    assert result(port, "digest")["model"] == before
    port.close()


def test_the_worker_has_given_up_its_rights(machine: Listening) -> None:
    with machine.connect() as port:
        worker = result(port, "stats")["worker"]["pid"]
    status = Path(f"/proc/{worker}/status").read_text()
    fields = dict(entry.split(":\t", 1) for entry in status.splitlines() if ":\t" in entry)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_a_stopped_reader_of_its_lines_does_not_stop_it(executable: Path, model: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    command = [str(executable), "--listen", str(tmp_path / "socket"), "--tensors", str(model)]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 10
        while not (tmp_path / "socket").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        port = Listening(process, tmp_path / "socket").connect()
        assert result(port, "stats")["heartbeats"] > 0
        port.close()
        process.terminate()
        assert process.wait(5) == 0
    os.close(reading)
    os.close(writing)


def test_it_stops_in_order(executable: Path, model: Path, tmp_path: Path) -> None:
    with listening(executable, model, tmp_path) as machine:
        port = machine.connect()
        result(port, "shutdown")
        port.send_raw(b'{"jsonrpc": "2.0", "method": "bye"}\n')
        assert machine.process.wait(5) == 0
        assert not machine.path.exists()
        port.close()
    with listening(executable, model, tmp_path) as machine:
        with machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
        machine.process.send_signal(signal.SIGTERM)
        assert machine.process.wait(5) == 0
        assert not Path(f"/proc/{worker}").exists()


def test_a_worker_does_not_outlive_its_supervisor(executable: Path, model: Path, tmp_path: Path) -> None:
    with listening(executable, model, tmp_path) as machine:
        with machine.connect() as port:
            worker = result(port, "stats")["worker"]["pid"]
        machine.process.kill()
        machine.process.wait(5)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{worker}").exists()


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
        assert machine.process.wait(10) == 1
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
