"""What the machine says becomes typed values, or an error that names the member; never anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripted_peer import HELLO
from tests.unit.test_protocol_framing import JSON
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError
from vboot.protocol.messages import (
    AlertEvent,
    Digest,
    HeartbeatEvent,
    Hello,
    MachineLimits,
    MutationEvent,
    Stats,
    TensorInfo,
    TensorPage,
    parse_event,
)


def test_an_answer_becomes_its_dataclass_and_back() -> None:
    hello = decode(Hello, HELLO, name="hello")
    assert hello.limits == MachineLimits(65536, 1048576, 1073741824, 256)
    assert (hello.emergency, hello.appliance) == (None, None)
    assert asdict(hello) == {**HELLO, "appliance": None}
    signed = decode(Hello, {**HELLO, "signed": True, "appliance": "a1", "emergency": "why"}, name="hello")
    assert (signed.appliance, signed.emergency) == ("a1", "why")


def test_unknown_members_of_a_reply_are_ignored() -> None:
    assert decode(Hello, {**HELLO, "mood": "fine"}, name="hello") == decode(Hello, HELLO, name="hello")


def test_lists_and_mappings() -> None:
    tensor = {"name": "a", "type": "F32", "shape": [2, 3], "bytes": 24, "protected": False}
    page = decode(TensorPage, {"tensors": [tensor], "next": None}, name="tensors")
    assert page == TensorPage((TensorInfo("a", "F32", (2, 3), 24, False),), None)
    digest = decode(Digest, {"generation": 0, "model": "00", "sha256": {"a": "11"}}, name="digest")
    assert digest.sha256 == {"a": "11"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 1}, "hello.version in the machine's reply: expected a string, got 1"),
        ({"generation": True}, "hello.generation in the machine's reply: expected an integer, got True"),
        ({"generation": 1.5}, "hello.generation"),
        ({"signed": 0}, "hello.signed in the machine's reply: expected a boolean, got 0"),
        ({"limits": []}, "hello.limits in the machine's reply: expected an object, got .*"),
        ({"limits": {"line": 1}}, "hello.limits.blob in the machine's reply: expected an integer, got nothing"),
        ({"emergency": 3}, "hello.emergency"),
        ({"version": None}, "hello.version in the machine's reply: expected a string, got nothing"),
    ],
)
def test_a_wrong_member_is_named(change: Mapping[str, Any], named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        decode(Hello, {**HELLO, **change}, name="hello")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"tensors": {}, "next": None}, "tensors.tensors in the machine's reply: expected an array, got {}"),
        ({"tensors": [1], "next": None}, r"tensors.tensors\[0\]"),
        ({"tensors": [], "next": 5}, "tensors.next"),
    ],
)
def test_a_wrong_item_is_named(value: object, named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        decode(TensorPage, value, name="tensors")


def test_errors_hold_no_escape_sequences() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(Digest, {"generation": 0, "model": "", "sha256": {"\x1b[2J": "\x1b[2J", "b": 3}}, name="digest")
    assert "\x1b" not in str(caught.value)


@settings(derandomize=True, deadline=None)
@given(JSON)
def test_any_json_is_decoded_or_refused(value: object) -> None:
    for kind in (Hello, Stats, TensorPage, Digest):
        with pytest.raises(ProtocolError):
            decode(kind, value, name="answer")


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(sorted(HELLO)), JSON)
def test_any_member_is_decoded_or_refused(member: str, value: object) -> None:
    try:
        hello = decode(Hello, {**HELLO, member: value}, name="hello")
    except ProtocolError:
        return
    assert asdict(hello)[member] == (value if member != "limits" else asdict(hello)["limits"])


def test_events() -> None:
    assert parse_event({"kind": "heartbeat", "beats": 3, "late_us": 9}) == HeartbeatEvent(3, 9)
    change = {"kind": "mutation", "generation": 1, "change": "lease_expired", "id": None}
    assert parse_event(change) == MutationEvent(1, "lease_expired", None)
    assert parse_event({"kind": "alert", "what": "w", "text": "t"}) == AlertEvent("w", "t")
    nothings: list[object] = [{"kind": "token"}, {"kind": 1}, {}, None, []]
    for unknown in nothings:
        assert parse_event(unknown) is None
    with pytest.raises(ProtocolError, match=r"event heartbeat\.late_us"):
        parse_event({"kind": "heartbeat", "beats": 3})
