"""Changes of the weights through the client, on the real machine: made exactly once, despite crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.local_machine import LocalMachine, local_machine
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.messages import Mutation, MutationEvent, Promotion
from vboot.weights.edits import Dense, Seeded, Sparse

NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=0.01, scale=1e-3)
LARGE = Dense("w", 0, bytes(range(256)) * 10_000)
"""2,560,000 bytes: three pieces."""


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMachine]:
    with local_machine(tmp_path, "--fault", "--heartbeat-ms", "20") as machine:
        yield machine


def test_a_repeated_mutation_is_applied_once(local: LocalMachine) -> None:
    with connect(local.socket) as machine:
        before = machine.digest().model
        again = {"confidence": 0.9, "base_generation": 0, "id": "5a" * 16}
        first = machine.mutate([NOISE], **again, origin="test")  # type: ignore[arg-type]
        assert machine.mutate([NOISE], **again, origin="test") == replace(first, replayed=True)  # type: ignore[arg-type]
        with pytest.raises(RequestRefusedError) as caught:
            machine.mutate([NOISE], **again, origin="another")  # type: ignore[arg-type]
        assert caught.value.code == 1020
        with pytest.raises(RequestRefusedError) as caught:
            machine.mutate([NOISE], confidence=0.9, base_generation=0)
        assert (caught.value.code, caught.value.generation) == (1007, 1)
        assert machine.digest().model != before
        done = machine.rollback(0, reason="worse", id="5b" * 16)
        assert (done.generation, done.restored, done.replayed) == (2, 0, False)
        assert machine.rollback(0, reason="worse", id="5b" * 16).replayed
        assert machine.digest().model == before
        records = [(r.kind, r.generation, r.origin) for r in machine.history() if r.verdict == "applied"]
        assert records == [("boot", 0, ""), ("mutate", 1, "test"), ("rollback", 2, "worse")]
        assert [r.code for r in machine.history() if r.verdict == "refused"] == [1020, 1007]


def test_a_crash_between_two_changes(local: LocalMachine) -> None:
    with connect(local.socket) as machine:
        made = machine.mutate([NOISE], confidence=0.9, digest=True)
        for fault in ("segv", "abort"):
            machine.fault(fault)
            made = machine.mutate([NOISE], confidence=0.9, digest=True)
        assert made.generation == 3
        assert machine.stats().worker.restarts == 2
        assert machine.digest(list(made.sha256 or {})).sha256 == made.sha256


NUMBERS = np.arange(640_000, dtype=np.float32).tobytes()


@contextmanager
def large_machine(folder: Path) -> Iterator[MachineClient]:
    """A machine with 640,000 zeros in `w`."""
    writer = gguf.GGUFWriter(folder / "large.gguf", "unknown")
    writer.add_tensor("w", np.zeros(640_000, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with local_machine(folder, "--fault", model=folder / "large.gguf") as local, connect(local.socket) as machine:
        yield machine


def test_uploads(tmp_path: Path) -> None:
    with large_machine(tmp_path) as machine:
        ident = {"confidence": 0.9, "base_generation": 0, "id": "5c" * 16}
        made = machine.mutate([Dense("w", 0, NUMBERS)], **ident)  # type: ignore[arg-type]
        assert machine.read("w").data == NUMBERS
        machine.fault("segv")
        # Another upload of the same bytes is the same change.
        assert machine.mutate([Dense("w", 0, NUMBERS)], **ident) == replace(made, replayed=True)  # type: ignore[arg-type]
        assert machine.read("w").data == NUMBERS
        assert machine.upload(NUMBERS) != machine.upload(NUMBERS)


def test_a_crash_during_an_upload(tmp_path: Path) -> None:
    with large_machine(tmp_path) as machine:
        worker = machine.stats().worker.pid
        reported: list[int] = []

        def kill_once(sent: int, _total: int) -> None:
            if not reported:
                os.kill(worker, signal.SIGKILL)
            reported.append(sent)

        made = machine.mutate([Dense("w", 0, NUMBERS)], confidence=0.9, progress=kill_once)
        assert (made.generation, made.replayed) == (1, False)
        assert reported == [1 << 20, 1 << 20, 2 << 20, 2_560_000]
        assert machine.stats().worker.restarts == 1
        assert machine.read("w").data == NUMBERS


def test_trials(local: LocalMachine) -> None:
    with connect(local.socket) as machine:
        machine.subscribe(["mutation"])
        machine.mutate([NOISE], confidence=0.9, lease_ms=60_000)
        machine.renew(1, 3_600_000)
        assert machine.hello().generation == 1
        machine.renew(1, 1)
        events = (event for event in machine.events(timeout=60) if isinstance(event, MutationEvent))
        expired = next(event for event in events if event.change != "mutate")
        assert (expired.generation, expired.change) == (2, "lease_expired")
        machine.mutate([NOISE], confidence=0.9, lease_ms=3_600_000)
        assert machine.promote(3) == Promotion(3)
        assert machine.checkpoint("kept").generation == 3
        with pytest.raises(RequestRefusedError) as refused:
            machine.renew(3, 1)  # it is on trial no more
        assert refused.value.code == 1014
        hello = machine.hello()
        assert (hello.generation, hello.promoted) == (3, 3)


def test_waiting_for_energy(local: LocalMachine) -> None:
    with connect(local.socket) as machine:
        index = np.array([0], np.uint64)

        def change(number: int, *, wait: bool) -> Mutation:
            edit = Sparse("token_embd.weight", "set", index, np.array([number % 7 + 1], np.float32))
            return machine.mutate([edit], confidence=0.9, base_generation=number, wait=wait)

        made = 0
        refusal: RequestRefusedError | None = None
        while refusal is None:
            assert made < 5000, "energy is never spent"
            try:
                made = change(made, wait=False).generation
            except RequestRefusedError as error:
                refusal = error
        assert refusal.code == 1009
        assert refusal.retry_ms is not None
        assert change(made, wait=True).generation == made + 1
