"""Replay of a state device: the weights of every generation, and logs that no machine wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.state_devices import StateWriter, image, mutation
from tests.support.state_histories import History, drawn, torture_model
from vboot.errors import InputError
from vboot.journal.device import Device
from vboot.journal.entries import Kind
from vboot.journal.pages import PAGE, Model, Tensors, fingerprint
from vboot.journal.recovery import recover
from vboot.journal.replay import ReplayError, Weights, newest, replay
from vboot.weights.edits import parse_elements


def replayed(folder: Path, writer: StateWriter, model: Model, wanted: int | None = None) -> Weights:
    (folder / "s.img").write_bytes(writer.data)
    with Device(folder / "s.img") as device:
        log = recover(device)
        assert log.fault is None
        return replay(model, log, wanted=wanted)


def hash_in_plain_python(number: int, data: bytes) -> int:
    """The hash of a page, word for word as the specification has it."""
    p, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    lanes = [number + 1, 0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0]
    for words in struct.iter_unpack("<4Q", data + bytes(-len(data) % 32)):
        for lane, word in enumerate(words):
            mixed = (lanes[lane] ^ word) * p & mask
            lanes[lane] = (mixed << 29 | mixed >> 35) & mask
    found = 0
    for lane in lanes:
        mixed = (found ^ lane) * p & mask
        found = mixed ^ mixed >> 32
    return found


def test_fingerprints(tmp_path: Path) -> None:
    torture_model(tmp_path / "model.gguf", 1)
    model = Model(tmp_path / "model.gguf")
    last = model.size // PAGE
    assert 0 < model.page_bytes(last) < PAGE
    contents = {0: bytes(PAGE), 7: b"a" * PAGE, last: b"b" * model.page_bytes(last), last + 3: b"c" * PAGE}
    expected = sum(
        hash_in_plain_python(number, page) - hash_in_plain_python(number, model.page(number))
        for number, page in contents.items()
    )
    assert fingerprint(model, contents) == expected & ((1 << 64) - 1)
    assert fingerprint(model, {}) == 0


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 12))
def test_every_generation_of_a_random_history(seed: int, steps: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("history")
    history = drawn(folder, seed, steps)
    for generation in {0, *range(history.oldest, history.generation + 1)}:
        weights = replayed(folder, history.writer, history.model, generation)
        found = Tensors(history.model, weights.contents)
        for name, tensor in history.states[generation].items():
            assert bytes(found[name].data) == tensor.data, (generation, name)
    assert replayed(folder, history.writer, history.model).generation == history.generation
    with Device(folder / "s.img") as device:
        last = newest(recover(device))
    if last.generation:
        assert (last.generation, last.promoted) == (history.generation, history.promoted)


@pytest.fixture
def history(tmp_path: Path) -> History:
    torture_model(tmp_path / "model.gguf", 2)
    return History(Model(tmp_path / "model.gguf"), StateWriter(), [torture_model(tmp_path / "model.gguf", 2)])


SET = {"kind": "dense", "tensor": "evolved.0", "offset": 0, "blob": [0, 4]}


def test_a_slot_behind_the_file_is_changed(history: History, tmp_path: Path) -> None:
    writer, model = history.writer, history.model
    address, _ = model.places["evolved.0"]
    page = b"1234".ljust(PAGE, b"\0")
    sums = fingerprint(model, {address // PAGE: page})
    writer.frame(writer.entry(Kind.MUTATE, mutation([SET], b"1234"), generation=1, fingerprint=sums))
    assert dict(replayed(tmp_path, writer, model).contents) == {address // PAGE: page}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ((Kind.MUTATE, mutation([SET], b"1234"), {"generation": 2}), "its generation is 2, expected 1"),
        ((Kind.PROMOTE, b"", {"generation": 1}), "its generation is 1, expected 0"),
        ((Kind.MUTATE, mutation([SET], b"1234"), {"generation": 1}), "expected 0000000000000000"),
        ((Kind.MUTATE, mutation([SET], b"0"), {"generation": 1}), "leaves the blob"),
        ((Kind.MUTATE, mutation([]), {"generation": 1}), "the edits change nothing"),
        ((Kind.MUTATE, mutation([{"kind": "what"}]), {"generation": 1}), "its kind is 'what'"),
        ((Kind.MUTATE, mutation([{**SET, "tensor": "kernel.0"}], b"1234"), {"generation": 1}), "is protected"),
        ((Kind.MUTATE, mutation([{**SET, "tensor": "hw.mmio"}], b"1234"), {"generation": 1}), "no tensor 'hw.mmio'"),
        ((Kind.MUTATE, b"", {"generation": 1}), "a mutation of 0 bytes"),
        ((Kind.ROLLBACK, b"", {"generation": 1, "target": 5}), "returns to generation 5, which is not before it"),
        ((Kind.ROLLBACK, image({1 << 20: bytes(PAGE)}), {"generation": 1}), "page 1048576 is outside the model"),
        ((Kind.ROLLBACK, image({0: b"short"}), {"generation": 1}), "its pages have 5 bytes, expected 4096"),
        ((Kind.ROLLBACK, b"x", {"generation": 1}), "an image of 1 bytes"),
        ((Kind.IMAGE, image({0: bytes(PAGE)}), {"generation": 0}), "expected 0000000000000000"),
    ],
)
def test_a_log_that_does_not_replay(
    history: History, tmp_path: Path, entry: tuple[Kind, bytes, dict[str, int]], why: str
) -> None:
    kind, payload, values = entry
    history.writer.frame(history.writer.entry(kind, payload, **values))
    with pytest.raises(ReplayError, match=why):
        replayed(tmp_path, history.writer, history.model)


def test_a_generation_that_returned_to_a_removed_one_is_not_there(history: History, tmp_path: Path) -> None:
    """The image that the log begins with is older than the rollback, what that returns to is older still."""
    for value in (0.25, 0.5):
        assert history.mutate(parse_elements([f"float.F32.0[1]={value}"]))
    kept = history.writer.start_at_next()
    history.put_image(compact=False)
    history.return_to(1)
    history.put_image(compact=False)
    assert history.mutate(parse_elements(["float.F32.0[1]=0.75"]))
    history.writer.next_superblock(**kept)
    assert replayed(tmp_path, history.writer, history.model).contents == history.pages[4]
    assert replayed(tmp_path, history.writer, history.model, 3).contents == history.pages[3]
    with pytest.raises(InputError, match="generation 1 cannot be computed"):
        replayed(tmp_path, history.writer, history.model, 1)


def test_generations_that_are_not_there(history: History, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="generation 1 cannot be computed from what the device holds: generation 0"):
        replayed(tmp_path, history.writer, history.model, 1)
