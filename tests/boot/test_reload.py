"""`reload` in a booted machine: PID 1 replaces its worker while it beats."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

import pytest

from tests.boot.conftest import Image, SharedMachine
from tests.boot.test_machine import result
from tests.support.evolution_port.expect import EvolutionPort
from tests.support.reloading import ask, build, upload, worker_pid

_SECONDS = 240.0
"""For a reload under emulation, on a busy host."""


@pytest.fixture(scope="module")
def shared(tiny: Image) -> Iterator[SharedMachine]:
    append = "vector_boot.reload_probation_ms=300 vector_boot.energy=off vector_boot.fault=1"
    with SharedMachine(tiny.spec(append=append)) as machine:
        yield machine


@pytest.fixture
def port(shared: SharedMachine) -> EvolutionPort:
    return shared.port()


def reloaded(port: EvolutionPort, data: bytes, what: str) -> dict[str, object]:
    ident = ask(port, secrets.token_hex(8), upload(port, secrets.token_hex(16), data), what)
    reply = port.reply(ident, timeout=_SECONDS)
    return dict(reply.result if reply.error is None and reply.result else reply.error or {})


def test_the_worker_is_replaced_and_nothing_else(port: EvolutionPort, tiny: Image) -> None:
    rts = tiny.rts.read_bytes()
    binary = rts[512 : 512 + int.from_bytes(rts[16:24], "big")]
    result(port, "subscribe", events=["heartbeat"])
    edit = {
        "kind": "seeded",
        "tensors": "*norm.weight",
        "seed": "0" * 16,
        "form": "normal",
        "density": 0.5,
        "scale": 0.1,
    }
    change = {"id": secrets.token_hex(16), "base_generation": 0, "confidence": 0.9, "edits": [edit]}
    result(port, "mutate", **change)
    before = result(port, "digest", tensors=[]), result(port, "history")["records"]
    worker = worker_pid(port)

    refused = reloaded(port, binary[: len(binary) // 2], "binary")
    assert (refused["code"], refused["data"]) == (1021, {"reason": "format"})
    assert worker_pid(port) == worker

    new = binary + b"another build"
    done = reloaded(port, new, "binary")
    assert done["build"] == build(port) == hashlib.sha256(new).hexdigest()[:12], done
    second = worker_pid(port)
    assert second != worker
    assert result(port, "stats")["worker"]["restarts"] == 0

    done = reloaded(port, rts, "rts")
    assert done["build"] == build(port) == hashlib.sha256(binary).hexdigest()[:12], done
    assert worker_pid(port) not in {worker, second}

    assert (result(port, "digest", tensors=[]), result(port, "history")["records"]) == before
    assert result(port, "mutate", **change)["replayed"]
    heard = [event["params"]["beats"] for event in port.events if event.get("params", {}).get("kind") == "heartbeat"]
    assert heard == list(range(heard[0], heard[0] + len(heard)))
    assert result(port, "stats")["heartbeat_late_us"]["max"] > 0
