"""`vector_boot --listen`: what goes over its connections."""

from __future__ import annotations

import json
import socket
import time

from tests.support.listening import (
    HELLO,
    PATIENCE,
    Listening,
    code,
    line,
    result,
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


def test_a_client_that_reads_late_gets_all_replies(machine: Listening) -> None:
    """While output is blocked no input is read, and that time does not count as a stalled blob."""
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


def test_a_client_can_connect_as_soon_as_the_last_one_left(machine: Listening) -> None:
    for _ in range(100):
        with machine.raw() as stream, stream.makefile("rb") as lines:
            assert b"vector_boot" in lines.readline()


def test_the_seventeenth_client_is_told_who_is_connected(machine: Listening) -> None:
    clients = [machine.connect() for _ in range(16)]
    for number, client in enumerate(clients[:-1]):
        result(client, "hello", protocol=1, client=f"client {number}")
    with machine.raw() as late, late.makefile("rb") as lines:
        answer = json.loads(lines.readline())
        assert (answer["id"], answer["error"]["code"]) == (None, 1017)
        assert answer["error"]["data"] == {"retry_ms": 1000, "clients": [f"client {number}" for number in range(15)]}
        assert lines.readline() == b""
    assert [result(client, "stats")["generation"] for client in clients] == [0] * 16
    clients.pop(7).close()
    clients.append(machine.connect())
    for client in clients:
        client.close()


def test_limits_and_order_of_refusals(machine: Listening) -> None:
    port = machine.connect()
    assert code(port, "nonesuch", {"x": 1}) == -32601
    assert code(port, "hello", {**HELLO, "colour": "red"}) == -32602
    assert code(port, "hello", {"protocol": 2, "client": "x"}) == -32602
    assert code(port, "stats", {}, blob=b"bytes") == -32602
    port.send_raw(b'{"a": "' + b"x" * 70_000 + b'"}\n')
    refused = port.reply(None, timeout=PATIENCE).error
    assert refused is not None
    assert refused["code"] == -32700
    port.send_raw(line("big", "stats", blob={"bytes": (1 << 20) + 1, "crc32c": "00000000"}) + b"discarded" * 1000)
    refused = port.reply("big", timeout=PATIENCE).error
    assert refused is not None
    assert refused["code"] == 1012
    port.resync(timeout=PATIENCE)
    assert result(port, "stats")["state"] == "beating"
    port.close()
