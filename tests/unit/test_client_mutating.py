"""Changes of a machine are made exactly once, despite failures of the connection and the runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.changing_machine import LARGE, NOISE, UPSETS, Model, refuse, silence, wait_briefly
from tests.support.scripted_peer import Answer, Host, Peer
from vboot.client.machine import MachineClient
from vboot.protocol.errors import LinkLostError, MachineTimeoutError, RequestRefusedError
from vboot.protocol.framing import Message
from vboot.protocol.messages import Changed, Checkpoint, Mutation, Promotion, Rollback
from vboot.weights.edits import Edit, Program, Sparse


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_briefly(monkeypatch)


# what is sent and what comes back


def test_a_mutation_and_its_reply() -> None:
    model = Model()
    edits: list[Edit] = [
        NOISE,
        Sparse("w", "set", np.array([3, 9], np.uint64), np.array([0.5, -1], np.float32)),
        Program("evolved.0", b"abc"),
    ]
    made = model.machine().mutate(edits, confidence=0.9, origin="test", lease_ms=500, digest=True)
    (params,) = model.params("mutate")
    assert made == Mutation(params["id"], 3, Changed(1, 4), durable=False, replayed=False)
    assert {key: params[key] for key in params if key not in ("id", "edits")} == {
        "base_generation": 2, "confidence": 0.9, "origin": "test", "lease_ms": 500, "digest": True
    }  # fmt: skip
    assert [edit["kind"] for edit in params["edits"]] == ["seeded", "sparse", "program"]
    assert [edit.get("blob") for edit in params["edits"]] == [None, [0, 24], [24, 3]]
    blob = model.requests[-1].blob
    assert blob == np.array([3, 9], "<u8").tobytes() + np.array([0.5, -1], "<f4").tobytes() + b"abc"


def test_ids_are_fresh_and_long_unless_given() -> None:
    model = Model()
    machine = model.machine()
    for _ in range(2):
        machine.mutate([NOISE], confidence=0.9)
    own = machine.mutate([NOISE], confidence=0.9, id="ab" * 16, base_generation=2)
    again = machine.mutate([NOISE], confidence=0.9, id="ab" * 16, base_generation=2)
    idents = [params["id"] for params in model.params("mutate")]
    assert len(set(idents)) == 3
    assert all(len(ident) == 32 and int(ident, 16) >= 0 for ident in idents)
    assert [params["base_generation"] for params in model.params("mutate")] == [2, 3, 2, 2]
    assert (own.replayed, again.replayed, own.generation) == (False, True, again.generation)
    assert "lease_ms" not in model.params("mutate")[0]


def test_the_other_changes() -> None:
    host = Host(
        rollback=lambda peer, m: peer.reply(m, {"generation": 9, "restored": 4, "replayed": False}),
        promote=lambda peer, m: peer.reply(m, {"promoted": 9}),
        checkpoint=lambda peer, m: peer.reply(m, {"generation": 9, "durable": True}),
    )
    machine = MachineClient(host.open)
    assert machine.rollback(4, reason="worse") == Rollback(9, 4, replayed=False)
    assert machine.promote(9) == Promotion(9)
    machine.renew(9, 1500)
    assert machine.checkpoint("before lunch") == Checkpoint(9, durable=True)
    sent = [dict(message.members["params"]) for message in host.peer.requests[1:]]
    assert [len(params.pop("id", "")) for params in sent] == [32, 32, 0, 0]
    assert sent == [
        {"to": 4, "reason": "worse"}, {"generation": 9}, {"generation": 9, "lease_ms": 1500}, {"label": "before lunch"}
    ]  # fmt: skip


# replies that are lost


@pytest.mark.parametrize("upset", UPSETS.values(), ids=UPSETS)
def test_a_lost_reply_to_mutate_is_replayed(upset: Answer) -> None:
    model = Model()
    model.upset("mutate", upset, upset)
    made = model.machine().mutate([NOISE], confidence=0.9, timeout=2)
    assert (made.generation, made.replayed, model.generation) == (3, True, 3)
    first, *repeats = model.params("mutate")
    assert repeats == [first, first]


@pytest.mark.parametrize("upset", UPSETS.values(), ids=UPSETS)
def test_a_lost_reply_to_rollback_is_replayed(upset: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vboot.client.changes._CHANGE_SECONDS", 2.0)
    model = Model()
    model.upset("rollback", upset)
    assert model.machine().rollback(1).replayed
    assert model.generation == 3


def test_a_change_in_doubt_is_reported_with_its_id() -> None:
    model = Model()
    model.upset("mutate", *[silence] * 9)
    with pytest.raises(MachineTimeoutError, match="may or may not have been done; repeat it with the id") as caught:
        model.machine().mutate([NOISE], confidence=0.9, timeout=1.5)
    assert model.params("mutate")[0]["id"] in str(caught.value)
    assert len(model.params("mutate")) == 3


def test_a_machine_that_ends_during_a_change_is_not_waited_for() -> None:
    model = Model()

    def end(peer: Peer, _message: Message) -> None:
        peer.ended = model.host.gone = True

    model.upset("mutate", end)
    started = time.monotonic()
    with pytest.raises(LinkLostError, match="no machine listens during mutate: it may or may not"):
        model.machine().mutate([NOISE], confidence=0.9, timeout=120)
    assert time.monotonic() - started < 60, "the deadline is not waited for"


def test_a_failure_before_sending_leaves_no_doubt() -> None:
    model = Model()
    machine = model.machine()
    model.host.peer.ended = model.host.gone = True
    with pytest.raises(LinkLostError) as caught:
        machine.mutate([NOISE], confidence=0.9, base_generation=2)
    assert "may or may not" not in str(caught.value)


# what is put off


def test_a_busy_machine_is_asked_again_after_retry_ms() -> None:
    model = Model()
    model.upset("mutate", refuse(1017, {"retry_ms": 60}), refuse(1017, {"retry_ms": 100}))
    started = time.monotonic()
    made = model.machine().mutate([NOISE], confidence=0.9)
    assert time.monotonic() - started >= 0.16
    # The model had counted it when it was refused: what matters is that the request was the same each time.
    assert (made.generation, len(model.params("mutate"))) == (3, 3)


@pytest.mark.parametrize("code", [1017, 1009])
def test_a_refusal_that_waiting_does_not_help_is_final(code: int) -> None:
    model = Model()
    model.upset("mutate", refuse(code, None))
    with pytest.raises(RequestRefusedError) as caught:
        model.machine().mutate([NOISE], confidence=0.9, wait=True)
    assert (caught.value.code, len(model.params("mutate"))) == (code, 1)


def test_retries_end_at_the_deadline() -> None:
    model = Model()
    model.upset("mutate", *[refuse(1017, {"retry_ms": 60})] * 9)
    with pytest.raises(RequestRefusedError) as caught:
        model.machine().mutate([NOISE], confidence=0.9, timeout=0.2)
    assert (caught.value.code, caught.value.retry_ms) == (1017, 60)
    assert 1 <= len(model.params("mutate")) <= 4
    # A wait that would last beyond the deadline is not begun.
    model = Model()
    model.upset("mutate", refuse(1017, {"retry_ms": 3_600_000}))
    with pytest.raises(RequestRefusedError):
        model.machine().mutate([NOISE], confidence=0.9, timeout=3500)
    assert len(model.params("mutate")) == 1


def test_energy_is_waited_for_only_with_wait() -> None:
    model = Model()
    model.upset("mutate", *[refuse(1009, {"retry_ms": 20})] * 2)
    with pytest.raises(RequestRefusedError) as caught:
        model.machine().mutate([NOISE], confidence=0.9)
    assert (caught.value.code, caught.value.retry_ms) == (1009, 20)
    assert model.machine().mutate([NOISE], confidence=0.9, wait=True).generation == 4
    assert len(model.params("mutate")) == 3


def test_check_is_called_while_a_retry_waits() -> None:
    class DeadError(Exception):
        pass

    def looks() -> Iterator[None]:
        yield from [None] * 20
        raise DeadError

    model = Model()
    model.upset("mutate", refuse(1017, {"retry_ms": 60_000}))
    look = looks()
    machine = MachineClient(model.host.open, check=lambda: next(look))
    started = time.monotonic()
    with pytest.raises(DeadError):
        machine.mutate([NOISE], confidence=0.9, timeout=120)
    assert time.monotonic() - started < 60, "neither the deadline nor the energy is waited for"


@pytest.mark.parametrize("code", [1007, 1001, 1006, 1015, 1020, -32602])
def test_any_other_refusal_is_final(code: int) -> None:
    model = Model()
    model.upset("mutate", refuse(code, {"generation": 7, "limit": 256}))
    with pytest.raises(RequestRefusedError) as caught:
        model.machine().mutate([LARGE], confidence=0.9)
    refusal = caught.value
    assert (refusal.code, refusal.generation, refusal.limit, refusal.retry_ms) == (code, 7, 256, None)
    assert len(model.params("mutate")) == 1


@pytest.mark.parametrize(
    ("code", "data", "remedy"),
    [
        (1001, None, "list the tensors with `tensors`"),
        (1006, None, "give a confidence above 0.8"),
        (1007, {"generation": 7}, "generation 7"),
        (1007, None, "the current generation"),
        (1017, {"retry_ms": 60}, "try again"),
        (1017, None, "ask for less"),
        (1017, None, "try again after"),
    ],
)
def test_a_refusal_says_what_to_do(code: int, data: Any, remedy: str) -> None:
    refusal = RequestRefusedError(code, "no", data)
    assert remedy in (refusal.remedy or "")
    assert "clients" not in (refusal.remedy or ""), "an upload or a trial is refused with 1017, too"
    assert str(refusal) == f"the machine refuses: no (code {code}); {refusal.remedy}"


@pytest.mark.parametrize("data", [None, 5, "x", {"retry_ms": "soon"}, {"retry_ms": True}, {"retry_ms": 1.5}, []])
def test_data_of_a_refusal_may_be_anything(data: Any) -> None:
    assert RequestRefusedError(1017, "no", data).retry_ms is None
