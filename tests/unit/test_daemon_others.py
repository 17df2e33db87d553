"""The evolution daemon when others change the weights of its body, or use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolution.daemon import events as e
from evolution.daemon.body import BridgeBody
from tests.support.evolution_run import Events, body_bridge, body_digest, evolve, fresh_body, small_model
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.protocol.errors import MachineBusyError
from vboot.weights.edits import Seeded

_GENERATIONS = 6
_FOREIGN = [Seeded("*.bias", "00000000000000aa", "normal", 1.0, 0.5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that an undisturbed run ends with."""
    stopped = evolve(tmp_path_factory.mktemp("undisturbed"), generations=_GENERATIONS)
    assert stopped.accepted
    return stopped.model


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal the daemon tries again soon."""
    monkeypatch.setattr("evolution.daemon.keeper._LONGEST_REFUSAL_S", 0.05)


def test_weights_of_another_run_are_refused(tmp_path: Path) -> None:
    body = fresh_body()
    with body.open(5) as machine:
        machine.mutate(_FOREIGN, confidence=0.9)
    before = body_digest(body)
    seen = Events()
    stopped = evolve(tmp_path, body, generations=2, listener=seen)
    assert "not from this run" in stopped.why
    assert stopped.generation == 0
    assert [event.what for event in seen.of(e.Alarm)] == ["body"]
    assert body_digest(body) == before, "the body must be unchanged"


def test_another_model_is_refused(tmp_path: Path) -> None:
    with RustNeuralBridge() as bridge:
        bridge.initialize()
        stopped = evolve(tmp_path, BridgeBody(small_model(), bridge=bridge), generations=2, takeover=True)
    assert "is missing or has another type or shape" in stopped.why


@pytest.mark.parametrize("takeover", [False, True])
def test_weights_changed_by_another_client(tmp_path: Path, model: str, takeover: bool) -> None:
    body = fresh_body()
    changed: list[int] = []

    def change(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Evaluated) and event.evaluations == 10:
            with body.open(5) as other:
                changed.append(other.mutate(_FOREIGN, confidence=0.9).generation)

    seen = Events(change)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, takeover=takeover)
    if takeover:
        assert stopped.model == model == body_digest(body)
        assert [event.how for event in seen.of(e.Recovered)] == ["nothing", "rollback"]
        assert seen.of(e.RolledBack)[0].move == "foreign"
    else:
        assert "another client" in stopped.why
        assert body_digest(body) != stopped.model
        assert len(changed) == 1


@pytest.mark.parametrize("origin", ["someone", "evolve 012345678"])
@pytest.mark.usefixtures("impatient")
def test_a_trial_of_another_client_is_waited_for_and_left_alone(tmp_path: Path, model: str, origin: str) -> None:
    body = fresh_body()
    tried: list[int] = []
    taken_back: list[int] = []

    def disturb(event: e.DaemonEvent) -> None:
        with body.open(60) as other:
            if isinstance(event, e.Evaluated) and not tried:
                made = other.mutate(_FOREIGN, confidence=0.9, origin=origin, lease_ms=600_000)
                tried.append(made.generation)
            elif isinstance(event, e.Alarm):
                assert f"another client (origin {origin!r}) has a change on trial" in event.text
                assert other.hello().generation == tried[0], "the other client's trial is left alone"
                taken_back.append(other.rollback(tried[0] - 1).generation)

    seen = Events(disturb)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen)
    assert stopped.model == model == body_digest(body)
    assert len(taken_back) == 1
    assert not seen.of(e.FellBack)
    assert not seen.of(e.ConnectionFailed)


@pytest.mark.usefixtures("impatient")
def test_a_run_goes_on_beside_a_trial_that_does_not_end(tmp_path: Path, model: str) -> None:
    body = fresh_body()

    def disturb(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Evaluated) and event.evaluations == 1:
            with body.open(60) as other:
                other.mutate(_FOREIGN, confidence=0.9, lease_ms=600_000)

    seen = Events(disturb)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, fallback_after=1)
    assert stopped.model == model != body_digest(body)
    assert not seen.of(e.FellBack), "the machine answers"
    assert seen.of(e.Alarm)[-1].what == e.BEHIND
    assert not seen.of(e.Applied)


class _Taken(BridgeBody):
    """A body whose connections are all taken by others, at first."""

    def __init__(self, times: int) -> None:
        super().__init__(small_model(), bridge=body_bridge())
        self._times = times

    def open(self, timeout: float) -> MachineClient:
        self._times -= 1
        if self._times >= 0:
            raise MachineBusyError(("vboot shell, pid 4711",))
        return super().open(timeout)


@pytest.mark.usefixtures("impatient")
def test_a_machine_whose_connections_are_taken_is_waited_for(tmp_path: Path, model: str) -> None:
    fresh_body()
    body, seen = _Taken(3), Events()
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen)
    assert stopped.model == model == body_digest(body)
    assert not seen.of(e.FellBack)
    (alarm,) = seen.of(e.Alarm)
    assert "in use by vboot shell, pid 4711" in alarm.text


def test_who_changed_the_weights_is_told(tmp_path: Path) -> None:
    body = fresh_body()
    seen_at: list[int] = []

    def change(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Promoted) and not seen_at:
            seen_at.append(event.generation)
            with body.open(60) as other:
                other.mutate(_FOREIGN, confidence=0.9, origin="a colleague")

    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=Events(change))
    assert "are not from this run any more: another client (origin 'a colleague') changed them" in stopped.why
    assert f"take the change back with `vboot rollback --generation {seen_at[0]}`, reboot it, " in stopped.why


def test_a_body_is_taken_over_by_the_bytes_that_differ(tmp_path: Path, model: str) -> None:
    body = fresh_body()
    with body.open(5) as machine:
        machine.mutate(_FOREIGN, confidence=0.9)
    seen = Events()
    assert evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, takeover=True).model == model
    assert seen.of(e.Recovered)[0].how == "synchronised"
    assert body_digest(body) == model


def test_rollbacks_without_end_stop_the_run(tmp_path: Path) -> None:
    body = fresh_body()

    def take_back(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Applied):
            with body.open(5) as other:
                other.rollback(event.generation - 1)

    seen = Events(take_back)
    stopped = evolve(tmp_path, body, generations=_GENERATIONS, listener=seen, fallback_after=99)
    assert stopped.why == "more than 3 rollbacks in 10 minutes"
    assert len(seen.of(e.RolledBack)) == 4
    assert [event.what for event in seen.of(e.Alarm)][-1] == "rollbacks"
