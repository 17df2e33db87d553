"""Lines, blobs, ids and their limits, and that the line is usable after everything."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.conformance.acts import mutate, read, rollback, state, unchanged
from tests.conformance.client import BLOB_LIMIT, LINE_LIMIT, Client, blob_member, message, new_id
from tests.conformance.expected import dense
from tests.conformance.model import mutable
from tests.conformance.registry import Case

HELLO = {"protocol": 1, "client": "conformance"}


def _answer(client: Client, raw: bytes) -> tuple[Any, int]:
    """Id and code of the reply to these bytes; the connection must be usable afterwards."""
    client.send(raw)
    got = client.reply()
    assert client.ask("hello", HELLO).code == 0
    return got.body.get("id"), got.code


def _raw(code: int, raw: bytes, client: Client) -> None:
    assert _answer(client, raw) == (None, code)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _request(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "x", "method": "stats", "params": {}, **members}


def _without(name: str) -> bytes:
    request = _request()
    del request[name]
    return _line(request)


NOT_JSON = {
    "words": b"power off\n",
    "an_empty_line": b"\n",
    "half_an_object": b'{"jsonrpc": "2.0"\n',
    "two_objects": _line(_request())[:-1] * 2 + b"\n",
    "bad_utf8": _line(_request(id="@")).replace(b"@", b"\xc3\x28"),
    "a_number_nobody_writes": b'{"jsonrpc": "2.0", "id": 01, "method": "stats"}\n',
    "nan": b'{"jsonrpc": "2.0", "id": NaN, "method": "stats"}\n',
    "deep": b"[" * 30_000 + b"\n",
    "one_byte_too_long": _line(_request()).replace(b"\n", b" " * (LINE_LIMIT + 1 - len(_line(_request()))) + b"\n"),
    "much_too_long": b'{"a": "' + b"x" * (1 << 20) + b'"}\n',
}
NO_REQUEST = {
    "a_string": _line("stats"),
    "null": _line(None),
    "a_batch": _line([_request()]),
    "an_empty_batch": _line([]),
    "a_notification": _without("id"),
    "an_id_of_null": _line(_request(id=None)),
    "an_id_of_true": _line(_request(id=True)),
    "an_id_of_a_list": _line(_request(id=[1])),
    "a_fractional_id": _line(_request(id=1.5)),
}
IDS = ("", "é☃", 'quote " and \\', 0, -7, 2**53 - 1)


def _bad_member(members: dict[str, Any], client: Client) -> None:
    client.send(_line(_request(**members)))
    assert client.reply().code == -32600
    assert client.ask("hello", HELLO).code == 0


BAD_MEMBERS: dict[str, dict[str, Any]] = {
    "another_jsonrpc": {"jsonrpc": "1.0"},
    "jsonrpc_as_a_number": {"jsonrpc": 2.0},
    "a_method_of_number": {"method": 5},
    "no_jsonrpc_and_no_such_method": {"jsonrpc": "", "method": "nonesuch"},
}


def cases() -> Iterator[Case]:
    """One check for each line that is not JSON or not a request."""
    for name, raw in NOT_JSON.items():
        yield f"not_json_{name}", partial(_raw, -32700, raw)
    for name, raw in NO_REQUEST.items():
        yield f"no_request_{name}", partial(_raw, -32600, raw)
    yield from ((f"no_request_{name}", partial(_bad_member, members)) for name, members in BAD_MEMBERS.items())


def check_the_greeting(client: Client) -> None:
    client.again()
    greeting = client.greeting()
    hello = client.result("hello", **HELLO)
    assert set(greeting) == {"version", "protocol", "build", "generation"}
    assert greeting == {name: hello[name] for name in greeting}
    assert greeting["protocol"] == 1
    assert re.fullmatch("[0-9a-f]{12}", greeting["build"])
    assert hello["limits"] == {"line": 65_536, "blob": 1 << 20, "upload": 1 << 30, "edits": 256}
    assert (hello["signed"], hello["emergency"], hello["durable"]) == (False, None, False)


def check_ids_come_back_as_they_went(client: Client) -> None:
    for ident in IDS:
        client.send(message(ident, "hello", HELLO))
        assert client.reply().body["id"] == ident


def check_the_longest_line(client: Client) -> None:
    short = message("long", "hello", HELLO)
    client.send(short[:-1] + b" " * (LINE_LIMIT - len(short)) + b"\n")
    got = client.reply()
    assert (got.body["id"], got.code) == ("long", 0)


def check_unknown_params_are_refused(client: Client) -> None:
    with unchanged(client):
        for method, params in (
            ("hello", HELLO), ("stats", {}), ("tensors", {}), ("read", {"tensor": "w.F32", "bytes": 4}), ("digest", {}),
            ("history", {}), ("checkpoint", {}), ("interrupt", {}), ("subscribe", {"events": []}),
            ("rollback", {"id": new_id(), "to": 0}), ("promote", {"id": new_id(), "generation": 0}),
            ("renew", {"generation": 0, "lease_ms": 1}), ("shutdown", {}),
        ):  # fmt: skip
            assert client.ask(method, {**params, "colour": "red"}).code == -32602, method


def check_missing_params_are_refused(client: Client) -> None:
    for method in ("hello", "read", "mutate", "rollback", "promote", "renew", "subscribe"):
        assert client.ask(method, {}).code == -32602, method


def check_unknown_methods(client: Client) -> None:
    for method in ("", "Stats", "stats ", "rpc.discover", "event", "x" * 1000):
        assert client.ask(method, {"any": 1}).code == -32601, method


def check_64_outstanding_and_more(client: Client) -> None:
    for count in (64, 300):
        client.send(b"".join(message(ident, "hello", HELLO) for ident in range(count)))
        assert [client.reply().body["id"] for _ in range(count)] == list(range(count))


def check_refusals_and_results_stay_in_order(client: Client) -> None:
    client.send(
        message(1, "stats") + b"?\n" + message(2, "none") + message(3, "stats", blob=b"x") + message(4, "stats")
    )
    assert [client.reply().body["id"] for _ in range(5)] == [1, None, 2, 3, 4]


def check_ff_outside_a_blob_greets_again(client: Client) -> None:
    client.send(b"\xff")
    client.greeting()
    client.send(message(1, "stats")[:20] + b"\xff" + message(2, "stats"))
    client.greeting()
    assert client.reply().body["id"] == 2
    client.send(b'{"a": "\xff"}\n' + message(3, "stats"))
    client.greeting()
    assert [client.reply().body["id"] for _ in range(2)] == [None, 3]  # the rest of the line is a line of its own


def check_ff_inside_a_blob_is_a_byte(client: Client) -> None:
    before = state(client)
    assert mutate(client, dense("v.I16", 0, b"\xff\n" * 48)).code == 0
    assert read(client, "v.I16") == b"\xff\n" * 48
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_a_wrong_crc(client: Client) -> None:
    before = state(client)
    wrong = {"bytes": 4, "crc32c": "00000000"}
    assert client.ask("mutate", _valid(before[0]), blob=b"abcd", announced=wrong).code == 1011
    assert state(client) == before


def _valid(generation: int) -> dict[str, Any]:
    edit = {"kind": "dense", "tensor": "v.I8", "offset": 0, "blob": [0, 4]}
    return {"id": new_id(), "base_generation": generation, "confidence": 0.9, "origin": "", "edits": [edit]}


def check_the_blob_of_a_refused_request_is_consumed(client: Client) -> None:
    hidden = message("hidden", "checkpoint") * 3
    for method in ("nonesuch", "stats", "mutate"):
        client.send(message("first", method, {"x": 1}, blob=hidden) + message("second", "hello", HELLO))
        first, second = client.reply(), client.reply()
        assert (first.body["id"], second.body["id"]) == ("first", "second")
        assert first.code in (-32601, -32602)


def check_a_blob_of_one_mebibyte(client: Client) -> None:
    before = state(client)
    part = mutable()["big"].data[4:] + b"\0\0\x80\x3f"
    assert mutate(client, dense("big", 0, part[:BLOB_LIMIT])).code == 0
    assert read(client, "big")[:BLOB_LIMIT] == part[:BLOB_LIMIT]
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_a_blob_too_large_is_discarded_until_silence(client: Client) -> None:
    """On a busy host a pause may last longer than the silence of 250 ms that ends it: then it is tried again."""
    with unchanged(client):
        for _ in range(10):
            client.send(message("big", "mutate", _valid(0), announced={"bytes": BLOB_LIMIT + 1, "crc32c": "00000000"}))
            client.send(message("hidden", "hello", HELLO) * 50)
            got = client.reply()
            assert (got.body["id"], got.code) == ("big", 1012)
            for _ in range(2):
                time.sleep(0.1)
                client.send(message("hidden", "hello", HELLO))
            discarded = client.silent(0.4)
            client.resync()
            if discarded:
                break
        assert discarded, "requests within the discarded input were answered"
        assert client.ask("hello", HELLO).code == 0


def check_a_blob_that_stalls_is_dropped(client: Client) -> None:
    before = state(client)
    raw = message("stalled", "mutate", _valid(before[0]), blob=b"abcd")
    begun = time.monotonic()
    client.send(raw[:-1])
    got = client.receive()
    assert (got.body["id"], got.code) == ("stalled", 1011)
    assert time.monotonic() - begun > 1.9
    assert state(client) == before


def check_a_slow_blob_is_no_stalled_one(client: Client) -> None:
    """2.7 s in all, with pauses of 0.9 s. On a busy host a pause may get too long: then it is tried again."""
    before = state(client)
    raw = message("slow", "mutate", _valid(before[0]), blob=b"abcd")
    for _ in range(10):
        client.send(raw[:-3])
        for at in (-3, -2, -1):
            time.sleep(0.9)
            client.send(raw[at : at + 1 or None])
        got = client.reply()
        assert got.body["id"] == "slow"
        if got.code != 1011:
            break
        client.resync()
    assert got.code == 0
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_malformed_blob_members(client: Client) -> None:
    with unchanged(client):
        base = state(client)[0]
        for announced in (
            {"bytes": 0, "crc32c": "00000000"},
            {"upload": "x"},
            {},
            {"crc32c": "00000000"},
            {"bytes": -1},
        ):
            got = client.ask("mutate", _valid(base), announced=announced)
            assert got.code in (-32600, -32602, 1012), (announced, got.body)


def check_a_blob_where_none_belongs(client: Client) -> None:
    assert client.ask("stats", {}, blob=b"bytes").code == -32602
    assert client.ask("stats", {}, announced={**blob_member(b"ab"), "upload": new_id()}, blob=b"ab").code != 0


def check_a_message_in_any_pieces(client: Client) -> None:
    before = state(client)
    raw = message("pieces", "mutate", _valid(before[0]), blob=b"abcd")
    for at in range(len(raw)):
        client.send(raw[at : at + 1])
    assert client.reply().result["generation"] == before[0] + 1
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_a_disconnect_at_every_byte_of_a_mutation(client: Client) -> None:
    """The line, the newline, the blob: nothing happens before the last byte, and the last may be either."""
    before = state(client)
    raw = message("cut", "mutate", _valid(before[0]), blob=b"abcd")
    for length in range(len(raw)):
        client.again()
        assert client.greeting()["generation"] == before[0], f"changed by the first {length - 1} bytes"
        client.send(raw[:length])
    client.again()
    client.resync()
    assert state(client) == before


def check_bye_is_the_only_notification(client: Client) -> None:
    client.send(_line({"jsonrpc": "2.0", "method": "bye"}) + message(1, "hello", HELLO))
    assert client.reply().body["id"] == 1
