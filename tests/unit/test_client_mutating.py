"""Changes of a machine are made exactly once, despite failures of the connection and the runtime."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.scripted_peer import GREETING, HELLO, Answer, Host, Peer
from vboot.client import connection as connection_module
from vboot.client import session as session_module
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import LinkLostError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import Message
from vboot.protocol.messages import Changed, Checkpoint, JournalRecord, Mutation, Promotion, Rollback
from vboot.weights.edits import Dense, Edit, Program, Seeded, Sparse

NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=0.01, scale=1e-3)
LARGE = Dense("w", 0, bytes(range(256)) * 10_000)
"""2,560,000 bytes: three pieces."""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_HELLO_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_SLICE_SECONDS", 0.01)
    monkeypatch.setattr(session_module, "_CONNECT_AGAIN_SECONDS", 0.01)


class Model:
    """A machine that stores generations and uploads by id; `upsets` replace its replies."""

    def __init__(self) -> None:
        self.generation = 2
        self.made: dict[str, tuple[dict[str, Any], bytes | None, dict[str, Any]]] = {}
        self.uploads: dict[str, bytes] = {}
        self.upsets: dict[str, deque[Answer | None]] = {}
        self.requests: list[Message] = []
        self.host = Host(
            hello=self.hello, mutate=self.mutate, rollback=self.rollback, upload=self.upload, promote=self.promote
        )

    def machine(self) -> MachineClient:
        return MachineClient(self.host.open, timeout=60)

    def upset(self, method: str, *upsets: Answer | None) -> None:
        """What to do instead of replying, one after the other (None: reply)."""
        self.upsets[method] = deque(upsets)

    def params(self, method: str) -> list[dict[str, Any]]:
        return [dict(m.members["params"]) for m in self.requests if m.members["method"] == method]

    def hello(self, peer: Peer, message: Message) -> None:
        peer.reply(message, dict(HELLO) | {"generation": self.generation})

    def upload(self, peer: Peer, message: Message) -> None:
        params = message.members["params"]
        sent = self.uploads.get(params["upload"], b"")
        if params["offset"] > len(sent):
            return self.answer(peer, message, lambda: peer.refuse(message, 1012))
        if not sent[params["offset"] :].startswith(message.blob or b""):  # a repeated piece changes nothing
            self.uploads[params["upload"]] = sent[: params["offset"]] + (message.blob or b"")
        received = len(self.uploads[params["upload"]])
        return self.answer(peer, message, lambda: peer.reply(message, {"received": received}))

    def mutate(self, peer: Peer, message: Message) -> None:
        blob = message.blob
        if "upload" in message.members.get("blob", {}):
            blob = self.uploads.pop(message.members["blob"]["upload"], None)
            if blob is None:
                return self.answer(peer, message, lambda: peer.refuse(message, 1012))
        return self.change(
            peer, message, blob, lambda g: {"id": message.members["params"]["id"], "generation": g,
                                            "changed": {"tensors": 1, "bytes": 4}, "durable": False, "replayed": False}
        )  # fmt: skip

    def rollback(self, peer: Peer, message: Message) -> None:
        to = message.members["params"]["to"]
        self.change(peer, message, None, lambda g: {"generation": g, "restored": to, "replayed": False})

    def promote(self, peer: Peer, message: Message) -> None:
        self.answer(peer, message, lambda: peer.reply(message, {"promoted": message.members["params"]["generation"]}))

    def change(self, peer: Peer, message: Message, blob: bytes | None, make: Callable[[int], dict[str, Any]]) -> None:
        params = dict(message.members["params"])
        if params["id"] not in self.made:
            self.generation += 1
            self.made[params["id"]] = (params, blob, make(self.generation))
            result = self.made[params["id"]][2]
        else:
            before, blob_before, result = self.made[params["id"]]
            assert (before, blob_before) == (params, blob), "the same id with other content"
            result = result | {"replayed": True}
        self.answer(peer, message, lambda: peer.reply(message, result))

    def answer(self, peer: Peer, message: Message, usual: Callable[[], None]) -> None:
        self.requests.append(message)
        waiting = self.upsets.get(message.members["method"])
        upset = waiting.popleft() if waiting else None
        if upset is None:
            usual()
        else:
            upset(peer, message)

    def forget(self, peer: Peer, _message: Message) -> None:
        """The worker dies: uploads are gone, what was accepted is not."""
        self.uploads.clear()
        peer.say(GREETING)


def silence(_peer: Peer, _message: Message) -> None:
    """The reply is lost."""


def hang_up(peer: Peer, _message: Message) -> None:
    peer.ended = True


def half_a_reply(peer: Peer, _message: Message) -> None:
    peer.say(b'{"jsonrpc":"2.0","id":"00' + GREETING)


def refuse(code: int, data: Any) -> Answer:
    def answer(peer: Peer, message: Message) -> None:
        peer.refuse(message, code, data=data)

    return answer


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


RECORD = {
    "generation": 1, "kind": "mutate", "verdict": "applied", "code": 0, "id": "00" * 16, "origin": "o",
    "confidence": 0.9, "edits": 1, "changed_bytes": 4, "uptime_us": 7,
}  # fmt: skip


def test_history_is_paged_through() -> None:
    pages = {0: ([1, 2], 2), 2: ([3], 5), 5: ([], None)}

    def history(peer: Peer, message: Message) -> None:
        generations, following = pages[message.members["params"]["from"]]
        peer.reply(message, {"records": [RECORD | {"generation": g} for g in generations], "next": following})

    machine = MachineClient(Host(history=history).open)
    assert [record.generation for record in machine.history()] == [1, 2, 3]
    assert [record.generation for record in machine.history(2)] == [3]
    assert isinstance(next(machine.history()), JournalRecord)


def test_a_record_says_what_was_restored_unless_the_machine_is_older() -> None:
    def history(peer: Peer, message: Message) -> None:
        peer.reply(message, {"records": [RECORD, RECORD | {"restored": 4}, RECORD | {"restored": None}], "next": None})

    machine = MachineClient(Host(history=history).open)
    assert [record.restored for record in machine.history()] == [None, 4, None]


def test_a_history_that_does_not_end_is_an_error() -> None:
    host = Host(history=lambda peer, message: peer.reply(message, {"records": [], "next": 0}))
    with pytest.raises(ProtocolError, match="does not end"):
        list(MachineClient(host.open).history())


def test_a_record_without_request() -> None:
    lapsed = RECORD | {"kind": "lease_expired", "id": None, "origin": None, "confidence": None, "code": None}
    host = Host(history=lambda peer, message: peer.reply(message, {"records": [lapsed], "next": None}))
    (record,) = MachineClient(host.open).history()
    assert (record.kind, record.id, record.confidence) == ("lease_expired", None, None)


# replies that are lost


UPSETS: dict[str, Answer] = {
    "restart": lambda peer, _message: peer.say(GREETING),
    "hung up": hang_up,
    "half a reply": half_a_reply,
    "silence": silence,
}


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
    monkeypatch.setattr("vboot.client.machine._CHANGE_SECONDS", 2.0)
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


# uploads


def pieces(model: Model) -> list[tuple[int, int]]:
    return [(params["offset"], params["total"]) for params in model.params("upload")]


WHOLE = [(0, 2_560_000), (1 << 20, 2_560_000), (2 << 20, 2_560_000)]


def test_what_is_too_large_for_a_request_is_uploaded() -> None:
    model = Model()
    reported: list[tuple[int, int]] = []
    machine = model.machine()
    machine.mutate([LARGE], confidence=0.9, progress=lambda sent, total: reported.append((sent, total)))
    assert pieces(model) == WHOLE
    assert reported == [(1 << 20, 2_560_000), (2 << 20, 2_560_000), (2_560_000, 2_560_000)]
    ((_, blob, _),) = model.made.values()
    assert blob == LARGE.data
    machine.mutate([Dense("w", 0, bytes(1 << 20))], confidence=0.9)
    assert pieces(model) == WHOLE
    machine.mutate([Dense("w", 0, bytes((1 << 20) + 1))], confidence=0.9)
    assert pieces(model)[3:] == [(0, (1 << 20) + 1), (1 << 20, (1 << 20) + 1)]


def test_an_upload_by_itself() -> None:
    model = Model()
    ident = model.machine().upload(LARGE.data)
    assert model.uploads == {ident: LARGE.data}
    for size in (0, (1 << 30) + 1):
        with pytest.raises(InputError, match="cannot be uploaded"):
            model.machine().upload(Sized(size))
    assert pieces(model) == WHOLE


class Sized(bytes):
    """Bytes that only say how many they are."""

    size: int

    def __new__(cls, size: int) -> Sized:
        made = super().__new__(cls)
        made.size = size
        return made

    def __len__(self) -> int:
        return self.size


def test_a_restart_in_the_middle_of_an_upload() -> None:
    for upset in ("instead of a reply", "between two pieces"):
        model = Model()

        def forget(peer: Peer, message: Message, model: Model = model, upset: str = upset) -> None:
            if upset == "between two pieces":
                peer.reply(message, {"received": 1 << 20})
            model.forget(peer, message)

        model.upset("upload", forget)
        assert model.machine().mutate([LARGE], confidence=0.9).generation == 3
        assert pieces(model)[-3:] == WHOLE
        assert [blob for _, blob, _ in model.made.values()] == [LARGE.data]


def test_a_restart_after_the_upload() -> None:
    model = Model()

    def forget(peer: Peer, message: Message) -> None:
        peer.reply(message, {"received": 2_560_000})
        model.forget(peer, message)

    model.upset("upload", None, None, forget)
    made = model.machine().mutate([LARGE], confidence=0.9)
    assert (made.generation, made.replayed) == (3, False)
    assert pieces(model) == WHOLE * 2
    first, second = model.params("mutate")
    assert first == second


def test_a_reply_lost_after_a_large_change_was_made() -> None:
    model = Model()
    model.upset("mutate", model.forget)
    made = model.machine().mutate([LARGE], confidence=0.9)
    assert (made.generation, made.replayed, model.generation) == (3, True, 3)
    assert pieces(model) == WHOLE * 2


def test_repeats_of_an_upload_are_bounded() -> None:
    model = Model()
    model.upset("mutate", *[refuse(1012, None)] * 9)
    with pytest.raises(RequestRefusedError) as caught:
        model.machine().mutate([LARGE], confidence=0.9)
    assert (caught.value.code, len(pieces(model))) == (1012, 9)
    model = Model()
    model.upset("upload", *[refuse(1012, None)] * 9)
    with pytest.raises(RequestRefusedError, match="1012"):
        model.machine().upload(LARGE.data)
    assert pieces(model) == WHOLE[:1] * 3
    model = Model()
    model.upset("upload", refuse(1016, None))
    with pytest.raises(RequestRefusedError, match="1016"):
        model.machine().upload(LARGE.data)
    assert pieces(model) == WHOLE[:1]


@pytest.mark.parametrize("upset", UPSETS.values(), ids=UPSETS)
def test_a_piece_whose_reply_is_lost_is_repeated(upset: Answer) -> None:
    model = Model()
    model.upset("upload", None, upset)
    made = model.machine().mutate([LARGE], confidence=0.9, timeout=2)
    # The third piece was on its way already, unless the connection had ended.
    expected = WHOLE[:2] + WHOLE[1:] if upset is hang_up else WHOLE + WHOLE[1:2]
    assert (made.generation, pieces(model)) == (3, expected)
    assert len({params["upload"] for params in model.params("upload")}) == 1
    assert [blob for _, blob, _ in model.made.values()] == [LARGE.data]


def test_an_upload_without_replies_times_out() -> None:
    model = Model()
    model.upset("upload", *[silence] * 9)
    with pytest.raises(MachineTimeoutError, match="did not answer upload in time: it may or may not have been done"):
        model.machine().mutate([LARGE], confidence=0.9, timeout=1.5)
    assert pieces(model) == WHOLE[:1] * 3


def test_a_refused_upload_is_retried_after_retry_ms() -> None:
    model = Model()
    model.upset("upload", refuse(1017, {"retry_ms": 20}))
    assert model.machine().mutate([LARGE], confidence=0.9).generation == 3
    assert pieces(model) == WHOLE[:1] + WHOLE


def test_a_wrong_received_count_is_an_error() -> None:
    model = Model()
    model.upset("upload", *[lambda peer, message: peer.reply(message, {"received": 3})] * 9)
    with pytest.raises(ProtocolError, match="has 3 of the 1048576 bytes sent"):
        model.machine().upload(LARGE.data)


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
