"""`reload` on the real executable: what stays over the change of workers, what is refused, what crashes do."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.evolution_port.expect import EvolutionPort, Reply
from tests.support.evolution_port.frames import encode
from tests.support.listening import PATIENCE, Listening, children, code, listening, result, wait_until
from tests.support.reloading import (
    BLOB_BYTES,
    another,
    ask,
    build,
    damaged,
    failing,
    reload,
    stub,
    upload,
    worker_pid,
)
from tests.torture.reloads import torture
from vboot.errors import BootError

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the damaged executables are patched for x86-64")

SHORT, LONG = "100", "600000"
"""Probations in ms: one that ends by itself, and one that does not end during a test."""


@pytest.fixture(params=["memory", "device"])
def quick(executable: Path, model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Listening]:
    """A machine with its journal in memory, or on a device."""
    yield from machine_with(executable, model, tmp_path, SHORT, *state_options(tmp_path, request.param))


@pytest.fixture(params=["memory", "device"])
def slow(executable: Path, model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Listening]:
    yield from machine_with(executable, model, tmp_path, LONG, *state_options(tmp_path, request.param))


def state_options(folder: Path, kind: str) -> list[str]:
    if kind == "memory":
        return []
    state = folder / "state.img"
    with state.open("wb") as file:
        file.truncate(16 << 20)
    return ["--state", str(state)]


def machine_with(executable: Path, model: Path, folder: Path, probation: str, *more: str) -> Iterator[Listening]:
    options = ["--fault", "--energy", "off", "--heartbeat-ms", "20", "--reload-probation-ms", probation]
    with listening(executable, model, folder, *options, *more) as running:
        yield running


def mutation(base: int, **more: Any) -> dict[str, Any]:
    edit = {
        "kind": "seeded", "tensors": "*norm.weight", "seed": secrets.token_hex(8), "form": "normal", "density": 0.5,
        "scale": 0.01,
    }  # fmt: skip
    return {"id": secrets.token_hex(16), "base_generation": base, "confidence": 0.9, "edits": [edit], **more}


def state(port: EvolutionPort) -> dict[str, Any]:
    """What a reload must not change."""
    hello = result(port, "hello", protocol=1, client="test")
    stats = result(port, "stats")
    return {
        "hello": {key: hello[key] for key in ("generation", "promoted", "durable", "emergency")},
        "digest": result(port, "digest", tensors=[]),
        "history": result(port, "history")["records"],
        "mutations": stats["mutations"],
        "restarts": stats["worker"]["restarts"],
    }


def refused(reply: Reply) -> tuple[int, str | None]:
    """Code and reason of an error."""
    assert reply.error is not None, reply.result
    return reply.error["code"], reply.error.get("data", {}).get("reason")


def request(ident: object, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def beside(machine: Listening, worker: int, word: bytes) -> int | None:
    """A process of the machine that was started with this word, other than its worker."""
    for pid in children(machine.process.pid):
        with suppress(OSError):
            if pid != worker and word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return None


def beats(port: EvolutionPort) -> list[int]:
    params = [event["params"] for event in port.events if event.get("method") == "event"]
    return [each["beats"] for each in params if each["kind"] == "heartbeat"]


def alerts(port: EvolutionPort) -> list[str]:
    params = [event["params"] for event in port.events if event.get("method") == "event"]
    return [each["what"] for each in params if each["kind"] == "alert"]


def alerts_of(port: EvolutionPort) -> list[str]:
    """The alerts so far, of a machine that may lose a request just now."""
    with suppress(BootError):
        port.request("hello", {"protocol": 1, "client": "test"}, timeout=1)
    return alerts(port)


def build_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def test_everything_stays(quick: Listening, executable: Path) -> None:
    new = another(executable, b"new")
    with quick.connect() as port, quick.connect() as other:
        result(port, "subscribe", events=["heartbeat"])
        first = result(port, "mutate", **mutation(0))
        trial = mutation(1, lease_ms=600_000)
        result(port, "mutate", **trial)
        half = secrets.token_hex(16)
        port.request("upload", {"upload": half, "offset": 0, "total": 6}, blob=b"cat")
        before, worker = state(port), worker_pid(port)
        reply = reload(port, new)
        assert reply.result is not None, reply.error
        assert reply.result["build"] == build_of(new) == build(port) == build(other)
        assert reply.result["gap_us"] > 0
        assert worker_pid(port) != worker
        assert state(port) == before
        assert result(port, "mutate", **trial)["replayed"]  # ids are known
        assert result(port, "rollback", id=secrets.token_hex(16), to=first["generation"])["generation"] == 3
        received = port.request("upload", {"upload": half, "offset": 3, "total": 6}, blob=b"\xfa\xff\x00")
        assert received.result == {"received": 6}
        program = {"id": secrets.token_hex(16), "base_generation": 3, "confidence": 0.9}
        program["edits"] = [{"kind": "program", "tensor": "evolved.0", "blob": [0, 6]}]
        port.send_raw(encode(request("use", "mutate", program) | {"blob": {"upload": half}}))
        assert port.reply("use", timeout=PATIENCE).error is None
        heard = beats(port)
        assert heard == list(range(heard[0], heard[0] + len(heard))), "a heartbeat is missing or was told twice"


def test_requests_that_wait_are_answered_in_order(quick: Listening, executable: Path) -> None:
    data, ident = another(executable, b"x"), secrets.token_hex(16)
    reading = {"tensor": "token_embd.weight", "bytes": 4096}
    requests = (
        [("read", reading)] * 20 + [("reload", {"what": "binary"}), ("mutate", mutation(0))] + [("read", reading)] * 5
    )
    with quick.raw() as stream, stream.makefile("rb") as replies:
        assert b"vector_boot" in replies.readline()
        for offset in range(0, len(data), BLOB_BYTES):
            piece = data[offset : offset + BLOB_BYTES]
            params = {"upload": ident, "offset": offset, "total": len(data)}
            stream.sendall(encode(request(offset, "upload", params), piece) + piece)
            assert b'"received"' in replies.readline()
        for number, (method, params) in enumerate(requests):
            blob = {"blob": {"upload": ident}} if method == "reload" else {}
            stream.sendall(encode(request(number, method, params) | blob))
        for number in range(len(requests)):
            reply = json.loads(replies.readline())
            assert (reply["id"], "result" in reply) == (number, True), reply
            replies.read(reply.get("blob", {}).get("bytes", 0))


def test_a_message_that_has_arrived_in_part_is_read_on(slow: Listening, executable: Path) -> None:
    with slow.raw() as stream, slow.connect() as port:
        line = encode(request(1, "execute_pixels", {}), b"cat\xfa\xff\x00")
        stream.sendall(line + b"cat")
        worker = worker_pid(port)
        ask(port, "r", upload(port, secrets.token_hex(16), another(executable, b"x")))
        wait_until(lambda: worker_pid(port) != worker)
        stream.sendall(b"\xfa\xff\x00")
        reader = stream.makefile("rb")
        assert b"vector_boot" in reader.readline()
        assert b'"steps"' in reader.readline()


def test_during_a_reload(slow: Listening, executable: Path) -> None:
    with slow.connect() as port, slow.connect() as other:
        worker = worker_pid(other)
        ask(port, "first", upload(port, secrets.token_hex(16), another(executable, b"x")))
        waiting = port.send("digest", {"tensors": []})
        wait_until(lambda: worker_pid(port) != worker)  # `stats` passes
        assert result(other, "mutate", **mutation(0))["generation"] == 1
        reply = reload(other, another(executable, b"y"))
        assert refused(reply)[0] == 1017
        os.kill(worker_pid(other), signal.SIGKILL)
        reply = port.reply("first", timeout=PATIENCE)
        assert refused(reply) == (1021, "probation")
        assert build(port) == build_of(executable.read_bytes())
        assert waiting  # it was lost with the worker that had taken it over


def test_what_cannot_be_asked_for(quick: Listening) -> None:
    with quick.connect() as port:
        assert code(port, "reload", {"what": "frob"}, blob=b"x") == -32602
        assert code(port, "reload", {}, blob=b"x") == -32602
        assert code(port, "reload", {"what": "rts", "key": "AB" * 32}, blob=b"x") == -32602
        assert code(port, "reload", {"what": "binary"}) == 1012
        reply = port.reply(ask(port, "u", "0" * 32), timeout=PATIENCE)
        assert refused(reply)[0] == 1012


def test_bad_executables_are_refused_and_change_nothing(quick: Listening, executable: Path, tmp_path: Path) -> None:
    with quick.connect() as port, quick.connect() as watcher:
        result(watcher, "subscribe", events=["heartbeat", "alert"])
        result(port, "mutate", **mutation(0))
        before, worker = state(port), worker_pid(port)
        for bad in (*damaged(executable), *failing(executable, tmp_path)):
            reply = reload(port, bad.data)
            assert refused(reply) == (1021, bad.reason), (bad.name, reply.error)
            assert (state(port), worker_pid(port)) == (before, worker), bad.name
        result(watcher, "stats")
        heard = beats(watcher)
        assert heard == list(range(heard[0], heard[0] + len(heard)))
        assert alerts(watcher) == ["reload_undone"]  # of the one that had claimed to serve
        wait_until(lambda: children(quick.process.pid) == [worker])
        assert reload(port, another(executable, b"good")).error is None


@pytest.mark.parametrize("how", ["segv", "abort", "hang"])
def test_a_new_worker_that_fails_in_its_probation_is_replaced_by_the_old_one(
    slow: Listening, executable: Path, how: str
) -> None:
    with slow.connect() as port, slow.connect() as other:
        result(other, "subscribe", events=["alert"])
        worker = worker_pid(other)
        ask(port, "r", upload(port, secrets.token_hex(16), another(executable, b"x")))
        wait_until(lambda: worker_pid(other) != worker)
        made = result(other, "mutate", **mutation(0))  # by the new worker
        before = state(other)
        other.send("fault", {"what": how})
        reply = port.reply("r", timeout=PATIENCE)
        assert refused(reply) == (1021, "probation")
        assert (state(other), worker_pid(other), made["generation"]) == (before, worker, 1)
        assert alerts(other) == ["reload_undone"]
        assert build(other) == build_of(executable.read_bytes())
        assert result(other, "mutate", **mutation(1))["generation"] == 2


def test_a_new_worker_that_fails_soon_after_the_answer_is_replaced_too(
    executable: Path, model: Path, tmp_path: Path
) -> None:
    for slowly in machine_with(executable, model, tmp_path, "2000"):
        with slowly.connect() as port:
            result(port, "subscribe", events=["alert"])
            worker = worker_pid(port)
            assert reload(port, another(executable, b"x")).error is None
            os.kill(worker_pid(port), signal.SIGKILL)
            wait_until(lambda: bool(alerts_of(port)))
            assert alerts(port) == ["reload_undone"]
            assert worker_pid(port) == worker
            assert build(port) == build_of(executable.read_bytes())
            assert reload(port, another(executable, b"y")).error is None


def test_the_executable_outlives_its_worker(quick: Listening, executable: Path) -> None:
    new = another(executable, b"x")
    with quick.connect() as port:
        assert reload(port, new).error is None
        worker = worker_pid(port)
        wait_until(lambda: children(quick.process.pid) == [worker])  # the old one has ended
        os.kill(worker, signal.SIGKILL)
    with quick.connect() as port:
        assert build(port) == build_of(new)
        assert result(port, "stats")["worker"]["restarts"] == 1


def test_workers_of_a_bad_executable_give_way_to_the_one_that_was_booted(quick: Listening, executable: Path) -> None:
    with quick.connect() as port:
        assert reload(port, another(executable, b"x")).error is None
        worker = worker_pid(port)
        wait_until(lambda: children(quick.process.pid) == [worker])
    own = build_of(executable.read_bytes())
    for _ in range(200):
        workers = children(quick.process.pid)
        if workers:
            os.kill(workers[0], signal.SIGKILL)
        with quick.connect() as port:
            if build(port) == own:
                break
    else:
        pytest.fail("the executable that was booted did not come back")


def test_kills_at_every_step(slow: Listening, executable: Path, tmp_path: Path) -> None:
    steps = [
        (b"--probe-worker", stub(tmp_path, "probe", probe="hang()")),
        (b"--worker", stub(tmp_path, "start", worker="hang()")),
        (b"--standby", stub(tmp_path, "ready", worker="be_ready(); wait_for_state(); hang()")),
    ]
    with slow.connect() as port:
        result(port, "mutate", **mutation(0))
        before = result(port, "digest", tensors=[])
    for word, data in steps:
        with slow.connect() as port:
            worker = worker_pid(port)
            ask(port, "r", upload(port, secrets.token_hex(16), data))
            os.kill(appears(slow, worker, word), signal.SIGKILL)
            reply = port.reply("r", timeout=PATIENCE)
            assert refused(reply)[0] == 1021, word
            assert worker_pid(port) == worker
            ask(port, "again", upload(port, secrets.token_hex(16), data))
            appears(slow, worker, word)
            os.kill(worker, signal.SIGKILL)  # the old one
        with slow.connect() as port:
            assert result(port, "digest", tensors=[]) == before
            wait_until(lambda: len(children(slow.process.pid)) == 1)
            assert build(port) == build_of(executable.read_bytes())


def test_the_old_worker_is_killed_in_the_probation_of_the_new_one(quick: Listening, executable: Path) -> None:
    with quick.connect() as port:
        worker = worker_pid(port)
        ask(port, "r", upload(port, secrets.token_hex(16), another(executable, b"x")))
        wait_until(lambda: worker_pid(port) != worker)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        assert port.reply("r", timeout=PATIENCE).error is None


def test_nothing_is_left_when_the_supervisor_dies(slow: Listening, executable: Path, tmp_path: Path) -> None:
    with slow.connect() as port:
        ask(port, "r", upload(port, secrets.token_hex(16), stub(tmp_path, "start", worker="hang()")))
        processes = [worker_pid(port), appears(slow, worker_pid(port), b"--standby")]
    slow.process.kill()
    wait_until(lambda: not any(alive(pid) for pid in processes))


@pytest.mark.parametrize("on_device", [False, True])
def test_twenty_reloads_while_clients_work(executable: Path, tmp_path: Path, on_device: bool) -> None:
    report = torture(20, tmp_path, on_device=on_device)
    assert len(report.gaps_us) == 20
    assert report.beats > 0
    assert report.changes > 0


def appears(machine: Listening, worker: int, word: bytes) -> int:
    """Wait for a process with this word."""
    wait_until(lambda: beside(machine, worker, word) is not None)
    return beside(machine, worker, word) or 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
