"""Sessions with a scripted machine in this process that has every fault a machine can have."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted_peer import GREETING, HELLO, Answer, Host, Peer, beat
from vboot.client import connection as connection_module
from vboot.client import session as session_module
from vboot.client.session import Session
from vboot.protocol.errors import LinkLostError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import Bytes, Message, encode
from vboot.protocol.messages import Event, HeartbeatEvent


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_HELLO_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_BLOB_STALL_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_SLICE_SECONDS", 0.01)
    monkeypatch.setattr(session_module, "_CONNECT_AGAIN_SECONDS", 0.01)


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one repeats."""
    left = deque(answers)

    def answer(peer: Peer, message: Message) -> None:
        (left.popleft() if len(left) > 1 else left[0])(peer, message)

    return answer


def ignore(_peer: Peer, _message: Message) -> None:
    """Say nothing."""


def restart(peer: Peer, _message: Message) -> None:
    peer.say(GREETING)


def hang_up(peer: Peer, _message: Message) -> None:
    peer.ended = True


def answer_well(peer: Peer, message: Message) -> None:
    peer.reply(message, {"well": True})


# hello


def test_all_before_the_reply_to_hello_is_ignored() -> None:
    def noisy(peer: Peer, message: Message) -> None:
        peer.say(b'"result": {}}\n\x00\x01garbage\n' + GREETING + b'{"id":7,"result":{}}\n' + beat(1) + GREETING)
        peer.refuse(None, -32700)
        peer.reply(message, dict(HELLO))

    host = Host(hello=noisy).established()
    assert host.session.hello is not None
    assert host.session.hello.generation == 2
    assert host.request("stats").result == {}
    assert host.peer.methods() == ["hello", "stats"]


def test_hello_is_repeated_with_fresh_ids() -> None:
    host = Host(hello=in_turn(ignore, ignore, lambda peer, message: peer.reply(message, dict(HELLO)))).established()
    idents = [message.members["id"] for message in host.peer.requests]
    assert len(idents) == len(set(idents)) == 3


def test_hello_is_repeated_with_the_rest_of_a_blob_in_the_way() -> None:
    def in_a_blob(peer: Peer, _message: Message) -> None:
        peer.say(b'{"id":1,"result":{},"blob":{"bytes":1000000,"crc32c":"00000000"}}\n')

    host = Host(hello=in_turn(in_a_blob, lambda peer, message: peer.reply(message, dict(HELLO)))).established()
    assert host.peer.methods() == ["hello", "hello"]


def test_late_greetings_are_not_taken_for_a_restart() -> None:
    waiting: list[Message] = []

    def slow(peer: Peer, message: Message) -> None:
        waiting.append(message)
        if len(waiting) == 3:
            peer.to_say.clear()
            for late in waiting:  # as it would come: the greeting for each 0xFF, then the reply
                peer.say(GREETING)
                peer.reply(late, dict(HELLO))

    host = Host(hello=slow, interrupt=answer_well).established()
    assert host.request("interrupt").result == {"well": True}
    assert host.peer.methods() == ["hello"] * 3 + ["interrupt"]


def test_hello_may_be_refused() -> None:
    with pytest.raises(RequestRefusedError, match="no"):
        Host(hello=lambda peer, message: peer.refuse(message, -32602)).established()


def test_hello_without_a_reply_times_out() -> None:
    host = Host(hello=ignore)
    with pytest.raises(MachineTimeoutError, match="does not answer hello"):
        host.session.establish(time.monotonic() + 0.5)


def test_a_busy_machine_is_tried_until_it_is_free() -> None:
    def busy(peer: Peer, _message: Message) -> None:
        peer.refuse(None, 1017)
        peer.ended = True

    free = Host(hello=in_turn(busy, hang_up, lambda peer, message: peer.reply(message, dict(HELLO)))).established()
    assert len(free.peers) == 3
    assert [peer.closed for peer in free.peers] == [True, True, False]
    with pytest.raises(RequestRefusedError) as caught:
        Host(hello=busy).session.establish(time.monotonic() + 1)
    assert (caught.value.code, caught.value.data) == (1017, {"n": 1})


def test_a_machine_that_is_gone_is_not_waited_for() -> None:
    host = Host()
    host.gone = True
    started = time.monotonic()
    with pytest.raises(LinkLostError, match="no machine listens"):
        host.established()
    assert time.monotonic() - started < Host.SOON / 2, "the deadline is not waited for"


# replies


def test_a_reply_with_its_blob() -> None:
    reply = Host(read=lambda peer, message: peer.reply(message, {"n": 1}, b"blob")).established().request("read")
    assert (reply.result, reply.blob) == ({"n": 1}, b"blob")


def test_a_refusal_is_not_repeated() -> None:
    host = Host(stats=lambda peer, message: peer.refuse(message, 1016)).established()
    with pytest.raises(RequestRefusedError) as caught:
        host.request("stats")
    assert (caught.value.code, caught.value.message, caught.value.data) == (1016, "no", {"n": 1})
    assert host.peer.methods() == ["hello", "stats"]


def test_an_error_without_id_is_for_the_request() -> None:
    host = Host(stats=lambda peer, _message: peer.refuse(None, -32700)).established()
    with pytest.raises(RequestRefusedError, match="-32700"):
        host.request("stats")


def test_a_late_reply_is_not_mistaken_for_another() -> None:
    late: list[Message] = []

    def after(peer: Peer, message: Message) -> None:
        peer.reply(late[0], {"well": False})
        peer.reply(message, {"well": True})

    host = Host(stats=lambda _peer, message: late.append(message), digest=after).established()
    with pytest.raises(MachineTimeoutError, match="did not answer stats"):
        host.request("stats", seconds=0.05)
    assert host.request("digest").result == {"well": True}


@pytest.mark.parametrize(
    "body", [{}, {"result": 1}, {"result": {}, "error": {}}, {"error": {"code": "1"}}, {"error": 1}]
)
def test_a_reply_without_result_and_error_is_an_error(body: dict[str, Any]) -> None:
    host = Host(
        interrupt=lambda peer, message: peer.say(encode({"id": message.members["id"], **body})),
    ).established()
    with pytest.raises(ProtocolError, match="neither a result nor an error"):
        host.request("interrupt")


# restarts


SPOILERS: dict[str, Answer] = {
    "started anew": restart,
    "hung up": hang_up,
    "half a line": lambda peer, _message: peer.say(b'{"jsonrpc":"2.0","id":"00' + GREETING),
    "half a blob": lambda peer, _message: peer.say(
        b'{"id":1,"result":{},"blob":{"bytes":9000,"crc32c":"00000000"}}\n' + GREETING
    ),
    "wrong blob": lambda peer, message: peer.say(
        json.dumps({"id": message.members["id"], "result": {}, "blob": {"bytes": 1, "crc32c": "00000000"}}).encode()
        + b"\n!"
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS.values(), ids=SPOILERS)
def test_a_request_without_side_effects_is_repeated(spoiler: Answer) -> None:
    host = Host(stats=in_turn(spoiler, spoiler, answer_well)).established()
    assert host.request("stats").result == {"well": True}
    assert [method for peer in host.peers for method in peer.methods()] == ["hello", "stats"] * 3


@pytest.mark.parametrize("spoiler", SPOILERS.values(), ids=SPOILERS)
def test_other_requests_are_not_repeated(spoiler: Answer) -> None:
    host = Host(interrupt=in_turn(spoiler, answer_well)).established()
    with pytest.raises((LinkLostError, ProtocolError), match="during interrupt: it may or may not have been done"):
        host.request("interrupt")
    assert host.request("interrupt").result == {"well": True}


def test_repeats_are_bounded() -> None:
    host = Host(stats=SPOILERS["half a line"]).established()
    with pytest.raises(ProtocolError, match="not JSON"):
        host.request("stats")
    assert host.peer.methods() == ["hello", "stats"] * 3


def test_a_restart_between_two_requests() -> None:
    host = Host(interrupt=answer_well).established()
    host.peer.say(GREETING)
    assert host.request("interrupt").result == {"well": True}
    host.peer.ended = True
    assert host.request("interrupt").result == {"well": True}
    assert [peer.methods() for peer in host.peers] == [["hello", "hello", "interrupt"], ["hello", "interrupt"]]


def test_a_partly_read_reply_is_dropped_with_its_connection() -> None:
    def half_a_blob_then_gone(peer: Peer, message: Message) -> None:
        SPOILERS["half a blob"](peer, message)
        peer.ended = True

    host = Host(stats=in_turn(half_a_blob_then_gone, answer_well)).established()
    assert host.request("stats").result == {"well": True}
    assert [peer.methods() for peer in host.peers] == [["hello", "stats"]] * 2


def test_the_machine_ends_during_a_request() -> None:
    def end(peer: Peer, _message: Message) -> None:
        peer.ended = host.gone = True

    host = Host(stats=end).established()
    with pytest.raises(LinkLostError, match="no machine listens"):
        host.request("stats")


# events


def test_events_are_kept_in_order_while_a_reply_is_awaited() -> None:
    def with_events(peer: Peer, message: Message) -> None:
        peer.say(beat(1) + beat(2))
        peer.reply(message)
        peer.say(beat(3))

    host = Host(stats=with_events).established()
    host.request("stats")
    assert [host.session.next_event(host.soon()) for _ in range(3)] == [HeartbeatEvent(n, 0) for n in (1, 2, 3)]
    assert host.session.next_event(time.monotonic() + 0.05) is None


def test_events_go_to_a_callback() -> None:
    seen: list[Event] = []
    host = Host().established()
    host.session.on_event = seen.append
    host.peer.say(beat(1))
    host.request("stats")
    assert seen == [HeartbeatEvent(1, 0)]


def test_unread_events_are_bounded() -> None:
    host = Host().established()
    host.peer.say(b"".join(beat(number) for number in range(3000)))
    host.request("stats")
    assert host.session.next_event(host.soon()) == HeartbeatEvent(3000 - 1024, 0)


def test_unknown_and_malformed_events_are_skipped() -> None:
    host = Host().established()
    host.peer.say(encode({"method": "event", "params": {"kind": "token"}}) + encode({"method": "other"}))
    host.peer.say(encode({"method": "event", "params": {"kind": "heartbeat", "beats": "x"}}) + beat(5))
    assert host.session.next_event(host.soon()) == HeartbeatEvent(5, 0)


@pytest.mark.parametrize("spoiler", [SPOILERS["started anew"], SPOILERS["hung up"], SPOILERS["half a line"]])
def test_subscriptions_survive_a_restart(spoiler: Answer) -> None:
    def subscribe(peer: Peer, message: Message) -> None:
        peer.reply(message, {"subscribed": message.members["params"]["events"]})
        peer.say(beat(len(host.peers) * 100 + len(peer.requests)))

    host = Host(subscribe=subscribe).established()
    host.session.subscribe(("heartbeat",), host.soon())
    first = host.session.next_event(host.soon())
    spoiler(host.peer, Message({}))
    second = host.session.next_event(host.soon())
    assert isinstance(first, HeartbeatEvent)
    assert isinstance(second, HeartbeatEvent)
    assert second.beats > first.beats
    assert host.peer.requests[-1].members["params"] == {"events": ["heartbeat"]}


# ends of waits


def test_an_exception_of_check_ends_every_wait() -> None:
    class DeadError(Exception):
        pass

    def looks() -> Iterator[None]:
        yield from [None] * 5
        raise DeadError

    host = Host(stats=ignore)
    look = looks()
    host.session = Session(host.open, client="test", check=lambda: next(look))
    started = time.monotonic()
    with pytest.raises(DeadError):
        host.established().request("stats", seconds=120)
    assert time.monotonic() - started < 60, "the deadline is not waited for"


def test_the_connection_is_resynchronised_after_an_interrupted_send() -> None:
    host = Host().established()
    whole = host.peer.send

    def cut_short(data: bytes, _deadline: float, _blob: Bytes = b"") -> None:
        host.peer.send = whole  # type: ignore[method-assign]
        host.peer.send(data[:10], _deadline)
        raise KeyboardInterrupt

    host.peer.send = cut_short  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        host.request("stats")
    assert host.request("stats").result == {}
    assert host.peer.methods() == ["hello", "hello", "stats"]


def test_is_alive_sends_no_request() -> None:
    host = Host().established()
    host.peer.say(beat(1))
    assert host.session.is_alive()
    assert host.session.next_event(host.soon()) == HeartbeatEvent(1, 0)
    host.peer.ended = True
    assert host.session.is_alive()  # another connection can be made
    host.peer.ended = host.gone = True
    assert not host.session.is_alive()


def test_a_closed_session_can_be_used_again() -> None:
    host = Host(interrupt=answer_well).established()
    host.session.close()
    host.session.close()
    assert host.peer.closed
    assert host.request("interrupt").result == {"well": True}
    assert len(host.peers) == 2


def test_a_pipeline_sends_ahead_and_no_further_than_it_may() -> None:
    host = Host().established()
    replies = host.session.pipeline("upload", (({"n": n}, b"x") for n in range(5)), host.soon(), most=2)
    assert [host.peer.methods().count("upload") for _ in replies] == [2, 3, 4, 5, 5]
    assert [dict(m.members["params"]) for m in host.peer.requests[1:]] == [{"n": n} for n in range(5)]


def test_replies_to_an_abandoned_pipeline_are_ignored() -> None:
    host = Host(interrupt=answer_well).established()
    replies = host.session.pipeline("upload", (({"n": n}, b"x") for n in range(5)), host.soon(), most=3)
    assert next(replies).result == {}
    replies.close()
    assert host.request("interrupt").result == {"well": True}
    assert host.peer.methods() == ["hello", "upload", "upload", "upload", "hello", "interrupt"]
