"""Running the network through the client, against a peer in this process; and how alike vectors are."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.scripted_peer import GREETING, Host, Peer
from vboot.client import connection as connection_module
from vboot.client import session as session_module
from vboot.client.inference import cosine_similarities
from vboot.client.machine import MachineClient
from vboot.client.texts import fit
from vboot.errors import InputError
from vboot.protocol.errors import (
    MachineError,
    MachineTimeoutError,
    ProtocolError,
    RequestRefusedError,
    TextTooLongError,
)
from vboot.protocol.framing import Message, encode
from vboot.protocol.messages import PixelRun
from vboot.protocol.tables import LINE_LIMIT, TEXTS_LIMIT


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_HELLO_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_SLICE_SECONDS", 0.01)


def result(texts: Sequence[str], generation: int = 0) -> tuple[dict[str, Any], bytes]:
    """Two numbers for each text: its length and its first character."""
    rows = np.array([(len(text), ord(text[:1] or " ")) for text in texts], "<f4")
    tokens = [len(text) + 2 for text in texts]
    return {"count": len(texts), "dim": 2, "tokens": tokens, "generation": generation}, rows.tobytes()


def embedding(generations: Iterator[int] = itertools.repeat(0)) -> Host:  # noqa: B008
    def embed(peer: Peer, message: Message) -> None:
        assert len(encode(message.members)) <= LINE_LIMIT
        peer.reply(message, *result(message.members["params"]["texts"], next(generations)))

    return Host(embed=embed)


def asked(host: Host) -> list[list[str]]:
    requests = [request.members for peer in host.peers for request in peer.requests]
    return [members["params"]["texts"] for members in requests if members["method"] == "embed"]


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.builds(str.__mul__, st.sampled_from(["x", '"', "\u6a5f"]), st.integers(0, 20_000)),
        ),
        min_size=1,
        max_size=200,
    )
)
def test_any_texts_go_in_as_few_requests_as_they_fit(texts: list[str]) -> None:
    host = embedding()
    made = MachineClient(host.open).embed(texts)
    batches = asked(host)
    assert [text for batch in batches for text in batch] == texts
    assert all(1 <= len(batch) <= TEXTS_LIMIT for batch in batches)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= 4096 for batch in batches)
    assert made.tokens == tuple(len(text) + 2 for text in texts)
    assert made.vectors.dtype == np.float32
    assert made.vectors.tobytes() == result(texts)[1]


def test_a_request_is_full_before_the_next_one() -> None:
    host = embedding()
    reported: list[tuple[int, int]] = []
    MachineClient(host.open).embed(["x"] * 130, progress=lambda done, total: reported.append((done, total)))
    assert [len(batch) for batch in asked(host)] == [64, 64, 2]
    assert reported == [(64, 130), (128, 130), (130, 130)]


def test_texts_that_cannot_be_sent() -> None:
    machine = MachineClient(embedding().open)
    with pytest.raises(InputError, match="no text"):
        machine.embed([])
    with pytest.raises(InputError, match="got one str; give a list"):
        machine.embed("A cat")
    with pytest.raises(InputError, match="cannot be written as JSON"):
        machine.embed(["\ud800"])


def test_what_the_machine_cut_and_what_the_client_cut_are_marked() -> None:
    def embed(peer: Peer, message: Message) -> None:
        texts = message.members["params"]["texts"]
        members, blob = result(texts)
        peer.reply(message, members | {"truncated": [text.startswith("cut") for text in texts]}, blob)

    too_long = "\u0e01" * 70_000
    texts = ["cut here", "whole", too_long, "x" * 5000, "cut here too"]
    assert MachineClient(Host(embed=embed).open).embed(texts).truncated == (True, False, True, False, True)
    # A machine that does not report it.
    assert MachineClient(embedding().open).embed(["cut here", too_long]).truncated == (False, True)


def test_a_refusal_names_the_text_of_the_whole_list() -> None:
    def embed(peer: Peer, message: Message) -> None:
        assert message.members["params"]["truncate"] == "refuse"
        texts = message.members["params"]["texts"]
        if "long" in texts:
            peer.refuse(message, 1004, data={"text": texts.index("long")})
        else:
            members, blob = result(texts)
            peer.reply(message, members | {"truncated": [False] * len(texts)}, blob)

    machine = MachineClient(Host(embed=embed).open)
    with pytest.raises(TextTooLongError, match="text 72 ") as caught:
        machine.embed([*["x"] * 71, "long", "x"], truncate="refuse")
    assert (caught.value.text, caught.value.code, caught.value.data) == (71, 1004, {"text": 71})
    # The machine accepts the part that it gets, but the text is longer than any line.
    with pytest.raises(TextTooLongError, match="text 2 "):
        machine.embed(["x", "\u0e01" * 70_000], truncate="refuse")
    assert machine.embed(["x"], truncate="refuse").truncated == (False,)
    with pytest.raises(InputError, match="expected truncate 'end' or 'refuse', got 'start'"):
        machine.embed(["x"], truncate="start")  # type: ignore[arg-type]


PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.builds(
        str.__mul__, st.sampled_from([" ", "\t\r\n ", "\0", "a", "ab ", "0.", "\u6a5f", '"']), st.integers(0, 30_000)
    ),
)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_sent_of_a_text_fits_a_line_and_starts_with_its_words(text: str) -> None:
    sent, cut = fit(text)
    assert len(encode({"texts": [sent]})) <= LINE_LIMIT - 100
    if len(encode_json(text)) <= LINE_LIMIT - 256:
        assert (sent, cut) == (text, False)
    if not cut:
        assert words(sent) == words(text)
    assert words(sent) == words(text)[: len(words(sent))] or not re.search(r"[ -~\u4e00-\u9fff]", sent)


def encode_json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode() + b","


def words(text: str) -> list[str]:
    """As the tokenizer of the machine sees them, without accents: more than 100 characters are one unknown word."""
    clean = "".join(" " if char in "\t\n\r" else char for char in text if char in "\t\n\r" or char >= " ")
    found = re.findall(
        r"[!-/:-@\[-`{-~\u4e00-\u9fff]|[^ !-/:-@\[-`{-~\u4e00-\u9fff]+", re.sub("[\x7f-\x9f]", "", clean)
    )
    return [word if len(word) <= 100 else "unknown" for word in found]


def test_embeddings_of_two_generations_are_not_mixed() -> None:
    machine = MachineClient(embedding(iter([1, 2, 2, 2, 2])).open)
    made = machine.embed(["x"] * 70)
    assert (made.generation, len(made.tokens)) == (2, 70)
    with pytest.raises(MachineError, match="kept changing"):
        MachineClient(embedding(itertools.count()).open).embed(["x"] * 70)


def test_normalize_is_sent_only_when_it_is_false() -> None:
    host = embedding()
    machine = MachineClient(host.open)
    machine.embed(["a"])
    machine.embed(["a"], normalize=False)
    params = [request.members["params"] for request in host.peer.requests if request.members["method"] == "embed"]
    assert params == [{"texts": ["a"]}, {"texts": ["a"], "normalize": False}]


@pytest.mark.parametrize(
    "change",
    [{"count": 2}, {"tokens": [1, 2]}, {"truncated": [True, True]}, {"dim": 0}, {"dim": 3}, {"tokens": "x"}],
)
def test_an_inconsistent_reply_is_refused(change: dict[str, Any]) -> None:
    def embed(peer: Peer, message: Message) -> None:
        members, blob = result(["a"])
        peer.reply(message, members | change, blob)

    with pytest.raises(ProtocolError):
        MachineClient(Host(embed=embed).open).embed(["a"])


def test_what_a_restart_interrupts_is_run_again() -> None:
    answers: Iterator[Callable[[Peer, Message], None]] = iter(
        [
            lambda peer, _message: peer.say(GREETING),
            lambda peer, message: peer.reply(message, *result(["a"])),
            lambda peer, _message: peer.say(GREETING),
            lambda peer, message: peer.reply(message, {"result": 1, "steps": 3}, b"\0\0\x80?"),
        ]
    )

    def answer(peer: Peer, message: Message) -> None:
        next(answers)(peer, message)

    machine = MachineClient(Host(embed=answer, execute_pixels=answer).open)
    assert machine.embed(["a"]).tokens == (3,)
    assert machine.execute_pixels(b"\xfa\x02\0\xfa\x0d\0") == PixelRun(1, 3, b"\0\0\x80?")


def test_a_run_that_is_given_up_is_cancelled_and_the_line_goes_on() -> None:
    host = Host(embed=lambda _peer, _message: None)
    machine = MachineClient(host.open)
    with pytest.raises(MachineTimeoutError, match="did not answer embed"):
        machine.embed(["a"], timeout=0.05)
    embed, cancel = (request.members for request in host.peer.requests[-2:])
    assert (cancel["method"], cancel["params"]) == ("cancel", {"request": embed["id"]})
    machine.request("stats")
    assert host.peer.methods()[-2:] == ["hello", "stats"]


def test_what_was_refused_is_not_cancelled() -> None:
    host = Host(embed=lambda peer, message: peer.refuse(message, 1018))
    with pytest.raises(RequestRefusedError):
        MachineClient(host.open).embed(["a"])
    assert "cancel" not in host.peer.methods()


def test_pixels_are_bytes_or_triples() -> None:
    sent: list[bytes | None] = []

    def run(peer: Peer, message: Message) -> None:
        sent.append(message.blob)
        peer.reply(message, {"result": 1, "steps": 0})

    machine = MachineClient(Host(execute_pixels=run).open)
    assert machine.execute_pixels([(250, 0, 1), (1, 2, 255)]) == PixelRun(1, 0, b"")
    machine.execute_pixels(b"abc")
    assert sent == [bytes([250, 0, 1, 1, 2, 255]), b"abc"]
    wrong: list[Any] = [b"", b"ab", [(1, 2)], [(1, 2, 256)], [(1, 2, -1)], [(1, 2), (1, 2, 3, 4)], [1], b"abc" * 349526]
    for pixels in wrong:
        with pytest.raises(InputError, match="pixels"):
            machine.execute_pixels(pixels)
    assert len(sent) == 2


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(derandomize=True, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=FINITE))
def test_similarities_of_any_vectors(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    similarities = cosine_similarities(vectors)
    assert similarities.shape == (len(vectors), len(vectors))
    assert np.array_equal(similarities, similarities.T)
    assert (np.abs(similarities) <= 1).all()
    assert np.allclose(np.diag(similarities), vectors.any(axis=1), atol=1e-12)


def test_similarities_are_cosines() -> None:
    vectors = np.array([[1, 0], [1, 1], [0, -3], [0, 0]], np.float32)
    half = np.sqrt(0.5)
    expected = [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 0]]
    assert np.allclose(cosine_similarities(vectors), expected, atol=1e-15)
