"""Several connections at once: what is each one's own, what they share, and how they take turns."""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.conformance.acts import generation, mutate, proposal, read, rollback, state
from tests.conformance.client import Client, Message, blob_member, connected, message, new_id
from tests.conformance.expected import sparse
from tests.conformance.model import mutable

_EDIT = sparse("w.F32", "set", [0], [0.5])
_LONG = b"big" + bytes([250, 1, 0]) + bytes([250, 10, 0, 250, 6, 1, 250, 11, 0]) * 21_000
"""TENSOR big, then DUP, ACT, DROP again and again: runs until it is cancelled, or for a very long time."""


@functools.cache
def _announced() -> dict[str, Any]:
    return blob_member(_LONG)


@contextmanager
def another(client: Client, number: int = 0) -> Iterator[Client]:
    """One of the further connections to the same machine, its line in a known state."""
    with connected(client.others[number], patience=client.patience, gap=client.gap) as other:
        yield other


@contextmanager
def running(client: Client) -> Iterator[None]:
    """A computation of this client that goes on during the block, and is then cancelled."""
    client.send(message("run", "execute_pixels", blob=_LONG, announced=_announced()))
    client.result("stats")  # passes the run, so the run has begun
    yield
    client.send(message("end", "cancel", {"request": "run"}))
    replies = {reply.body["id"]: reply for reply in (client.reply(), client.reply())}
    assert (replies["end"].result, replies["run"].code) == ({"cancelled": True}, -32800)


def _pipeline(client: Client, requests: list[bytes]) -> list[Message]:
    client.send(b"".join(requests))
    return [client.reply() for _ in requests]


def check_the_same_ids_on_several_connections_are_not_mixed(client: Client) -> None:
    data = mutable()["big"].data
    with ExitStack() as stack:
        clients = [client, *(stack.enter_context(another(client, number)) for number in range(3))]
        for number, each in enumerate(clients):
            reads = ({"tensor": "big", "offset": 64 * number + step, "bytes": 8} for step in range(50))
            each.send(b"".join(message(step, "read", params) for step, params in enumerate(reads)))
        for number, each in enumerate(clients):
            for step in range(50):
                got, at = each.reply(), 64 * number + step
                assert (got.body["id"], got.blob) == (step, data[at : at + 8])


def check_subscriptions_are_each_connections_own(client: Client) -> None:
    base = generation(client)
    with another(client) as second, another(client, 1) as third:
        second.result("subscribe", events=["mutation"])
        third.result("subscribe", events=["heartbeat"])
        assert mutate(client, _EDIT).code == 0
        seen = second.receive().body["params"]
        assert (seen["kind"], seen["generation"]) == ("mutation", base + 1)
        assert third.receive().body["params"]["kind"] == "heartbeat"
        second.result("subscribe", events=[])
        rollback(client, base)
        third.result("stats")
        third.result("subscribe", events=[])
    assert client.events == []
    assert second.events == []
    assert {event["kind"] for event in third.events} <= {"heartbeat"}


def check_an_event_reaches_every_subscriber(client: Client) -> None:
    base = generation(client)
    with another(client) as second, another(client, 1) as third:
        second.result("subscribe", events=["mutation"])
        third.result("subscribe", events=["mutation"])
        ident = new_id()
        assert mutate(client, _EDIT, id=ident).code == 0
        for each in (second, third):
            assert each.receive().body["params"]["id"] == ident
        rollback(client, base)


def check_a_byte_ff_of_one_leaves_the_line_of_another(client: Client) -> None:
    whole = message("halves", "hello", {"protocol": 1, "client": "x"})
    with another(client) as other:
        client.send(whole[:20])
        other.resync()
        other.send(b"\xff\xff")
        other.greeting()
        client.send(whole[20:])
        assert client.reply().body["id"] == "halves"


def check_a_disconnect_inside_a_blob_leaves_others_untouched(client: Client) -> None:
    line = message(
        "lost", "upload", {"upload": new_id(), "offset": 0, "total": 9}, announced={"bytes": 1000, "crc32c": "0" * 8}
    )
    with another(client) as other:
        client.send(message("half", "upload", {"upload": new_id(), "offset": 0, "total": 10}, blob=b"0123456789")[:-5])
        other.send(line + b"some of it")
        other.again()
        other.resync()
        assert other.result("stats")["state"] == "beating"
        client.send(b"56789")
        assert client.reply().result == {"received": 10}


def check_another_connections_request_cannot_be_cancelled(client: Client) -> None:
    with another(client) as other, running(client):
        assert other.result("cancel", request="run") == {"cancelled": False}
        with another(client, 1) as third:
            third.send(message("run", "execute_pixels", blob=_LONG, announced=_announced()))  # waits
            assert other.result("cancel", request="run") == {"cancelled": False}
            assert third.result("stats")["state"] == "beating"
            third.send(message("end", "cancel", {"request": "run"}))
            assert (third.reply().code, third.reply().result) == (-32800, {"cancelled": True})


_ANSWERED: dict[str, dict[str, Any]] = {
    "hello": {"protocol": 1, "client": "conformance"},
    "stats": {},
    "interrupt": {},
    "tensors": {},
    "history": {},
    "subscribe": {"events": []},
    "read": {"tensor": "v.I8", "bytes": 8},
    "cancel": {"request": 1},
}


def check_others_are_answered_during_a_run(client: Client) -> None:
    base = state(client)
    edit = [{"kind": "sparse", "tensor": "w.F32", "op": "set", "blob": [0, 12]}]
    with another(client) as other:
        with running(client):
            for method, params in _ANSWERED.items():
                assert other.ask(method, params).code == 0, method
            assert other.ask("no such method").code == -32601
            assert read(other, "w.F32") == mutable()["w.F32"].data
            other.send(message("change", "mutate", proposal(other, edit), blob=bytes(8) + b"\0\0\x80\x3f"))
            other.send(message("digest", "digest", {"tensors": []}))
            assert other.result("stats")["generation"] == base[0]
            assert other.silent(0.05)
        assert [other.reply().body["id"] for _ in range(2)] == ["change", "digest"]
    rollback(client, base[0])


def check_what_waited_behind_anothers_run_comes_in_order(client: Client) -> None:
    base = state(client)
    with another(client) as other:
        with running(client):
            other.send(message(1, "digest", {"tensors": []}) + message(2, "rollback", {"id": new_id(), "to": base[0]}))
            other.send(message(3, "read", {"tensor": "v.I8", "bytes": 8}))
            assert other.result("hello", protocol=1, client="x")["generation"] == base[0]
        assert [other.reply().body["id"] for _ in range(3)] == [1, 2, 3]
    assert state(client) == (base[0] + 1, base[1])


def check_changes_of_several_connections_take_turns(client: Client) -> None:
    """They wait for a run; generations tell in which order they were made."""
    base = generation(client)
    with another(client) as second, another(client, 1) as third:
        with running(client):
            for each in (second, third):
                each.send(b"".join(message(n, "rollback", {"id": new_id(), "to": base}) for n in range(20)))
                each.result("stats")  # passes them, so they have arrived
        made = [[each.reply().result["generation"] - base for _ in range(20)] for each in (second, third)]
    assert sorted(made) == [list(range(1, 40, 2)), list(range(2, 41, 2))]


def check_many_requests_that_nobody_reads_delay_no_other(client: Client) -> None:
    count = 10_000
    requests = b"".join(message(number, "read", {"tensor": "hw.mmio", "bytes": 4096}) for number in range(count))
    sending = threading.Thread(target=client.send, args=(requests,))
    with another(client) as other:
        sending.start()
        for _ in range(50):
            assert other.result("stats")["state"] == "beating"
        assert mutate(other, _EDIT).code == 0
        rollback(other, generation(other) - 1)
    for number in range(count):
        assert client.reply().body["id"] == number
    sending.join()


def check_each_connection_may_have_64_requests_waiting(client: Client) -> None:
    with another(client) as second, another(client, 1) as third:
        with running(client):
            for each in (second, third):
                waiting = [message(n, "digest", {"tensors": []}) for n in range(63)]
                each.send(b"".join(waiting))
                assert each.result("stats")["state"] == "beating"
        for each in (second, third):
            assert [each.reply().body["id"] for _ in range(63)] == list(range(63))


def check_uploads_are_each_connections_own(client: Client) -> None:
    upload, data = new_id(), b"0123456789"
    base = state(client)
    edit = [{"kind": "dense", "tensor": "v.I8", "offset": 0, "blob": [0, 10]}]

    def piece(of: Client, at: int, to: int) -> Message:
        return of.ask("upload", {"upload": upload, "offset": at, "total": 10}, blob=data[at:to])

    with another(client) as other:
        assert piece(client, 0, 4).result == {"received": 4}
        assert piece(other, 4, 10).code == 1012
        assert piece(client, 4, 10).result == {"received": 10}
        assert other.ask("mutate", proposal(other, edit), announced={"upload": upload}).code == 1012
        assert piece(other, 0, 4).result == {"received": 4}  # another upload with the same id
        assert client.ask("mutate", proposal(client, edit), announced={"upload": upload}).code == 0
        for _ in range(3):
            assert other.ask("upload", {"upload": new_id(), "offset": 0, "total": 2}, blob=b"x").code == 0
        assert other.ask("upload", {"upload": new_id(), "offset": 0, "total": 2}, blob=b"x").code == 1017
        assert client.ask("upload", {"upload": new_id(), "offset": 0, "total": 1}, blob=b"x").code == 0
        other.again()
        other.resync()
        assert piece(other, 4, 10).result == {"received": 10}  # what a connection left goes on with the next
    rollback(client, base[0])
    assert state(client)[1] == base[1]


def check_who_changes_second_is_stale(client: Client) -> None:
    base = generation(client)
    with another(client) as other:
        params, blob = (
            proposal(client, [{"kind": "sparse", "tensor": "w.F32", "op": "set", "blob": [0, 12]}]),
            bytes(12),
        )
        assert mutate(other, _EDIT).code == 0
        late = client.ask("mutate", params, blob=blob)
        assert (late.code, late.data) == (1007, {"generation": base + 1})
    rollback(client, base)


def _script(draw: random.Random) -> list[bytes]:
    """Requests that change nothing, valid and not, with ids 0, 1, ..."""
    tensors = sorted(mutable())
    makers: list[Any] = [
        lambda n: message(n, "hello", {"protocol": 1, "client": "x" * draw.randrange(9)}),
        lambda n: message(n, "tensors", {"prefix": draw.choice(["", "w.", "none"])}),
        lambda n: message(n, "read", {"tensor": draw.choice(tensors), "offset": 8, "bytes": draw.randrange(99)}),
        lambda n: message(n, "digest", {"tensors": draw.sample(tensors, 2)}),
        lambda n: message(n, "execute_pixels", blob=b"v.F32\0" + bytes([250, 1, 0, 250, 8, 2, 250, 13, 0])),
        lambda n: message(n, "cancel", {"request": "nothing"}),
        lambda n: message(n, "no such method", {}),
        lambda n: message(n, "embed", {"texts": []}),
        lambda n: message(n, "mutate", {"base_generation": 0}, blob=b"some bytes"),
        lambda _: b"garbage\n",
    ]  # fmt: skip
    return [draw.choice(makers)(number) for number in range(draw.randrange(1, 40))]


def _replies(client: Client, count: int) -> list[str]:
    """The replies as text, sorted: those that pass a run have no fixed place."""
    replies = [client.reply() for _ in range(count)]
    return sorted(json.dumps([reply.body, (reply.blob or b"").hex()], sort_keys=True) for reply in replies)


def check_replies_are_the_same_alone_and_among_others(client: Client) -> None:
    draw = random.Random(20_260_714)
    with ExitStack() as stack:
        clients = [client, *(stack.enter_context(another(client, number)) for number in range(4))]
        for _ in range(8):
            scripts = [_script(draw) for _ in clients]
            alone = []
            for script in scripts:
                client.send(b"".join(script))
                alone.append(_replies(client, len(script)))
            streams = [b"".join(script) for script in scripts]
            while any(streams):
                which = draw.choice([number for number, stream in enumerate(streams) if stream])
                cut = draw.choice([1, 7, 100, 2000])
                clients[which].send(streams[which][:cut])
                streams[which] = streams[which][cut:]
            for each, script, expected in zip(clients, scripts, alone, strict=True):
                assert _replies(each, len(script)) == expected
