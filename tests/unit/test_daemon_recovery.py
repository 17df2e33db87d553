"""The evolution daemon when its body is missing, ended, behind, wrong, or out of energy."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.daemon import events as e
from evolution.daemon.body import PATIENCE_S, BridgeBody, SocketBody
from evolution.daemon.follower import Follower
from evolution.daemon.keeper import FIRST_RETRY_S, LONGEST_RETRY_S, retry_after
from evolution.daemon.metabolism import Cycles
from evolution.fallback import current
from evolution.surgeon import GGUFSurgeon
from tests.support.evolution_run import QUICK, Events, body_bridge, body_digest, daemon, evolve, fresh_body, small_model
from tests.support.local_machine import LocalMachine, local_machine
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import MachineTimeoutError
from vboot.protocol.messages import Embeddings, Mutation, Stats
from vboot.weights.edits import Edit

_GENERATIONS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that an undisturbed run ends with."""
    stopped = evolve(tmp_path_factory.mktemp("undisturbed"), generations=_GENERATIONS)
    assert stopped.accepted
    return stopped.model


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon connects again soon."""
    monkeypatch.setattr("evolution.daemon.keeper.FIRST_RETRY_S", 0.02)


def test_a_failed_connection_is_an_event_and_not_an_exception(tmp_path: Path) -> None:
    seen = Events()
    evolver = daemon(tmp_path / "run", SocketBody(tmp_path / "nobody.sock"), listener=seen)
    assert not evolver.connect()
    (failed,) = seen.of(e.ConnectionFailed)
    assert "no machine listens" in failed.why
    assert (failed.attempt, failed.retry_s) == (1, 0.5)
    assert evolver.get_stats() is None


def test_retry_delays_grow() -> None:
    assert [retry_after(failures) for failures in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
    assert (retry_after(1), retry_after(99)) == (FIRST_RETRY_S, LONGEST_RETRY_S)


@pytest.mark.usefixtures("quick")
def test_without_a_machine_v6_takes_over_until_there_is_one(tmp_path: Path, model: str) -> None:
    socket, started = tmp_path / "evolution.sock", time.monotonic()
    with ExitStack() as stack:
        published: list[str] = []

        def begin(event: e.DaemonEvent) -> None:
            if isinstance(event, e.GenerationEnded) and not socket.exists() and event.generation == 3:
                data = current.read(Path(seen.of(e.FellBack)[0].folder))
                assert data is not None
                named = current.parse(data).model
                assert named is not None
                published.append(GGUFSurgeon(tmp_path / "run" / "v6" / named.file).digest())
                assert published == [event.model]
                stack.enter_context(local_machine(tmp_path, model=small_model()))
            elif isinstance(event, e.Evaluated) and published and not seen.of(e.Returned):
                # Each attempt comes after as much time as all before it.
                time.sleep((time.monotonic() - started) / 2)

        seen = Events(begin)
        stopped = evolve(
            tmp_path / "run", SocketBody(socket), generations=_GENERATIONS, listener=seen, fallback_after=2
        )
        assert stopped.model == model
        assert len(seen.of(e.FellBack)) == 1
        (returned,) = seen.of(e.Returned)
        assert returned.after_s > 0
        assert seen.index(seen.of(e.Connected)[0]) < seen.index(returned)
        with connect(socket) as machine:
            assert machine.digest([]).model == model
            assert machine.hello().promoted == machine.hello().generation


@pytest.mark.usefixtures("quick")
def test_a_machine_that_is_gone_is_revived(tmp_path: Path, model: str) -> None:
    with ExitStack() as stack:
        machines: list[LocalMachine] = []

        def boot() -> Path:
            folder = tmp_path / str(len(machines))
            folder.mkdir()
            machines.append(stack.enter_context(local_machine(folder, model=small_model())))
            return machines[-1].socket

        def kill(event: e.DaemonEvent) -> None:
            if isinstance(event, e.Promoted) and len(machines) < 3:
                machines[-1].process.kill()

        seen = Events(kill)
        body = SocketBody(boot(), revive=boot)
        stopped = evolve(tmp_path / "run", body, generations=_GENERATIONS, listener=seen)
        assert stopped.model == model
        assert len(machines) == 3
        assert len([event for event in seen.of(e.Recovered) if event.what == "body"]) == 3
        with connect(machines[-1].socket) as machine:
            assert machine.digest([]).model == model


def test_a_machine_that_does_not_answer_is_revived(tmp_path: Path) -> None:
    wedged = tmp_path / "wedged"
    with socket.socket(socket.AF_UNIX) as silent, local_machine(tmp_path, model=small_model()) as local:
        silent.bind(str(wedged))
        silent.listen()
        body = SocketBody(wedged, revive=lambda: local.socket)
        for _ in range(2):
            with pytest.raises(MachineTimeoutError):
                body.open(0.2)
        with body.open(0.5) as machine:
            assert machine.hello().generation == 0
            assert machine.timeout >= PATIENCE_S, "a machine that has answered may work for other clients first"
        assert body.name == str(local.socket)


def test_a_body_far_behind_gets_the_bytes(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution.daemon.follower._REPLAYED_MOVES", 1)
    evolve(tmp_path, generations=_GENERATIONS)
    body, seen = fresh_body(), Events()
    evolve(tmp_path, body, generations=_GENERATIONS, listener=seen)
    assert [event.how for event in seen.of(e.Recovered)] == ["synchronised"]
    assert body_digest(body) == model
    assert not seen.of(e.Applied)


def test_a_move_whose_lease_expired_is_applied_again(tmp_path: Path, model: str) -> None:
    body = fresh_body()
    expired: list[str] = []

    def expire(event: e.DaemonEvent) -> None:
        with body.open(60) as other:
            if isinstance(event, e.Applied) and not expired:
                expired.append(event.move)
                other.renew(event.generation, 1)
                while other.hello().generation == event.generation:
                    pass

    seen = Events(expire)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, mode="trial", lease_ms=600_000)
    assert stopped.model == model == body_digest(body)
    assert [event.move for event in seen.of(e.RolledBack)] == expired
    assert [event.move for event in seen.of(e.Applied)][:2] == expired * 2


@pytest.mark.usefixtures("quick")
def test_a_body_that_hangs_is_ended_and_comes_back(tmp_path: Path, model: str) -> None:
    body = fresh_body()
    bridge = body._bridge  # the fault is injected without the daemon
    asked: list[int] = []

    def hang(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Judged) and event.refusal is None and not asked:
            asked.append(1)
            bridge.inject_fault("hang")

    seen = Events(hang)
    # However slow the host is, the daemon must not fall back to files: that would end the wait for the body.
    settings = {"connect_s": 1.0, "fallback_after": 10**6, "period_s": 60}
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, **settings)
    assert stopped.model == model == body_digest(body)


class _FollowerWithEnergies(Follower):
    """Reports the energies given to it: what a body really has left depends on how fast the host is."""

    energies: Iterator[int]

    def stats(self) -> Stats:
        return dataclasses.replace(super().stats(), energy=next(self.energies))


@pytest.mark.parametrize(("energies", "waits"), [([100, 300, 600], 2), ([100, 100, 100, 100], 3)])
def test_low_energy_slows_the_daemon_down(energies: list[int], waits: int) -> None:
    seen, waited = Events(), 0

    def wait(_seconds: float) -> bool:
        nonlocal waited
        waited += 1
        return waited < 3

    follower = _FollowerWithEnergies(fresh_body(), QUICK, seen)
    follower.energies = iter(energies)
    follower.connect()
    assert not Cycles(follower, QUICK, tell=seen, wait=wait).tick()
    follower.disconnect()
    (steered,) = seen.of(e.Steered)
    assert steered.what == "rate"
    assert waited == waits, "it waits until there is enough energy, or it must stop"


class _LostOnTheWay(MachineClient):
    """A client that simulates a crash of this program while it sends the weights."""

    def mutate(self, edits: Sequence[Edit], **options: Any) -> Mutation:
        if self.hello().generation >= 2:
            raise _Death
        return super().mutate(edits, **options)


class _Death(BaseException):
    """Simulates a crash of the daemon."""


class _BodyOf(BridgeBody):
    """A body whose client is of another class."""

    def __init__(self, kind: type[MachineClient]) -> None:
        super().__init__(small_model(), bridge=body_bridge())
        self._kind = kind

    def open(self, timeout: float) -> MachineClient:
        super().open(timeout).close()
        return self._kind(self._bridge.link, timeout=timeout)


def test_a_partly_synchronised_body_is_accepted(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution.daemon.follower._REPLAYED_MOVES", 1)
    monkeypatch.setattr("evolution.daemon.reconcile._BYTES_AT_ONCE", 1)
    evolve(tmp_path, generations=_GENERATIONS)
    body, seen = fresh_body(), Events()
    with pytest.raises(_Death):
        evolve(tmp_path, _BodyOf(_LostOnTheWay), generations=_GENERATIONS)
    assert body_digest(body) != model
    evolve(tmp_path, body, generations=_GENERATIONS, listener=seen)
    assert body_digest(body) == model
    assert [event.how for event in seen.of(e.Recovered)] == ["synchronised"]


class _OtherNumbers(MachineClient):
    """A client that returns different embeddings."""

    def embed(self, texts: Sequence[str], **options: Any) -> Embeddings:
        found = super().embed(texts, **options)
        return dataclasses.replace(found, vectors=np.nextafter(found.vectors, np.float32(1)))


@pytest.mark.parametrize("mode", ["live", "trial"])
def test_a_body_with_different_embeddings_is_rolled_back(tmp_path: Path, mode: str) -> None:
    fresh_body()
    body, seen = _BodyOf(_OtherNumbers), Events()
    before = body_digest(body)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, mode=mode)
    assert "its embeddings differ from the shadow's" in stopped.why
    assert body_digest(body) == before
    assert [event.what for event in seen.of(e.Alarm)] == ["body"]
    assert len(seen.of(e.RolledBack)) == len(seen.of(e.Applied)) == 1
    assert not seen.of(e.Promoted)
    again = evolve(tmp_path, fresh_body(), generations=_GENERATIONS)
    assert again.generation == _GENERATIONS, "an intact body continues the run"


def test_the_metabolism_beats_and_pulses(tmp_path: Path) -> None:
    seen = Events()
    evolve(tmp_path, generations=3, listener=seen, period_s=0.001, pulse_cycles=3)
    cycles = seen.of(e.Metabolism)
    assert [event.cycle for event in cycles] == list(range(1, len(cycles) + 1))
    pulses = seen.of(e.Pulse)
    assert len(pulses) == len(cycles) // 3
    assert all(pulse.as_expected and pulse.steps == 4 for pulse in pulses)
    assert cycles[-1].pixels_processed > 0
