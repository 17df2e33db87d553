"""Data too large for a request is uploaded, in pieces that are repeated after failures."""

from __future__ import annotations

import pytest

from tests.support.changing_machine import LARGE, UPSETS, Model, hang_up, refuse, silence, wait_briefly
from tests.support.scripted_peer import Answer, Peer
from vboot.errors import InputError
from vboot.protocol.errors import MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import Message
from vboot.weights.edits import Dense


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_briefly(monkeypatch)


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
