"""The numpy twin against arithmetic one element at a time, the shared vectors, and the protocol's order of checks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.mutation_vectors import (
    CODE_TYPES,
    FLOAT_TYPES,
    FOLDER,
    SEED,
    WEIGHT,
    files,
    low_rank,
    seeded,
    sparse,
    tensor,
)
from vboot.errors import InputError
from vboot.weights import arithmetic, noise
from vboot.weights.arithmetic import EditError, TensorData, apply, targets
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse, SparseOp, unpack
from vboot.weights.storage_types import CODE_RANGES, block_of, codes, decode, store_codes

Scalar = np.float32


def cases() -> list[dict[str, Any]]:
    return [case for text in files().values() for case in json.loads(text)["cases"]]


def outcome(edits: list[Edit], before: TensorData, protected: tuple[str, ...] = ()) -> bytes | int:
    """The new bytes, or the code of the refusal."""
    try:
        return apply(edits, {before.name: before}, protected)[before.name]
    except EditError as refusal:
        return refusal.code


# The same arithmetic with scalars, one element after the other.


def slow_decode(kind: str, data: bytes) -> list[Scalar]:
    with np.errstate(all="ignore"):
        values = quants.dequantize(np.frombuffer(data, np.uint8), gguf.GGMLQuantizationType[kind])
    return [Scalar(value) for value in values.reshape(-1)]


def slow_encode(kind: str, values: list[Scalar]) -> bytes | None:
    """None if a value is not finite in that type."""
    with np.errstate(all="ignore"):
        if kind == "Q8_0":
            blocks = [slow_q8_0(values[i : i + 32]) for i in range(0, len(values), 32)]
            return None if None in blocks else b"".join(block for block in blocks if block)
        stored = quants.quantize(np.array(values, np.float32), gguf.GGMLQuantizationType[kind]).tobytes()
        return stored if all(math.isfinite(value) for value in slow_decode(kind, stored)) else None


def slow_q8_0(values: list[Scalar]) -> bytes | None:
    d = max(abs(value) for value in values) / Scalar(127)
    stored = np.float16(d)
    if any(math.isnan(value) for value in values) or not math.isfinite(stored):
        return None
    scaled = [value / d if d else Scalar(0) for value in values]
    rounded = [math.copysign(math.floor(abs(float(value)) + 0.5), value) for value in scaled]
    return stored.tobytes() + bytes(int(code) & 0xFF for code in rounded)


def slow_word(edit: Seeded, name: str, number: int) -> int:
    return int(np.random.Philox(key=noise.key(edit.seed, name)).random_raw(number + 1)[number])


def slow_seeded(edit: Seeded, before: TensorData) -> bytes | None:
    """Form normal."""
    values = slow_decode(before.type, before.data)
    changed: list[int] = []
    for number, value in enumerate(values):
        word = slow_word(edit, before.name, number)
        if word % 2**32 < math.floor(edit.density * 2**32):
            z = Scalar(((word >> 32).bit_count() - 16) / 4)
            with np.errstate(all="ignore"):
                values[number] = value + Scalar(edit.scale) * z
            changed.append(number)
    return slow_store(before, values, changed)


def slow_store(before: TensorData, values: list[Scalar], changed: list[int]) -> bytes | None:
    """The tensor with the blocks of the changed elements stored anew."""
    block = block_of(before.type)
    data = bytearray(before.data)
    for number in sorted({element // block.elements for element in changed}):
        stored = slow_encode(before.type, values[number * block.elements : (number + 1) * block.elements])
        if stored is None:
            return None
        data[number * block.bytes : (number + 1) * block.bytes] = stored
    return bytes(data)


def expected(before: TensorData, after: bytes | None) -> bytes | int:
    if after is None:
        return 1005
    return 1008 if after == before.data else after


_KINDS = st.sampled_from(FLOAT_TYPES)
_SEEDS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
_DATA = st.binary(min_size=4 * 64, max_size=4 * 64)
_FLOATS = st.floats(width=32)


def of_bytes(kind: str, data: bytes, elements: int = 64) -> TensorData:
    """A tensor of these bytes, so of any values; infinite and NaN made finite in float types."""
    size = elements // block_of(kind).elements * block_of(kind).bytes
    stored = np.frombuffer(data[:size], np.uint8).copy()
    with np.errstate(all="ignore"):
        finite = np.isfinite(decode(kind, stored)).reshape(-1, block_of(kind).elements).all(axis=1)
    stored.reshape(-1, block_of(kind).bytes)[~finite] = 0
    return TensorData(WEIGHT, kind, (elements,), stored.tobytes())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(_KINDS, _DATA, _SEEDS, st.floats(0, 1), st.floats(-2, 2) | _FLOATS)
def test_normal_noise_is_element_by_element_arithmetic(
    kind: str, data: bytes, seed: str, density: float, scale: float
) -> None:
    assume(math.isfinite(scale))
    before = of_bytes(kind, data)
    edit = Seeded(WEIGHT, seed, "normal", density, scale)
    assert outcome([edit], before) == expected(before, slow_seeded(edit, before))


@settings(derandomize=True, deadline=None)
@given(_KINDS, _DATA, st.sampled_from(["set", "add"]), st.dictionaries(st.integers(0, 63), _FLOATS, max_size=64))
def test_sparse_edits_are_element_by_element_arithmetic(
    kind: str, data: bytes, op: SparseOp, elements: dict[int, float]
) -> None:
    before = of_bytes(kind, data)
    values = slow_decode(kind, before.data)
    with np.errstate(all="ignore"):
        for index, value in elements.items():
            values[index] = Scalar(value) if op == "set" else values[index] + Scalar(value)
    edit = sparse(op, dict(sorted(elements.items())))
    assert outcome([edit], before) == expected(before, slow_store(before, values, list(elements)))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(_KINDS, _DATA, st.integers(1, 4), st.floats(-2, 2), st.lists(_FLOATS, min_size=3, max_size=3))
def test_low_rank_edits_are_element_by_element_arithmetic(
    kind: str, data: bytes, rank: int, scale: float, some: list[float]
) -> None:
    before = TensorData(WEIGHT, kind, (32, 2), of_bytes(kind, data).data)
    edit = low_rank((32, 2), rank, scale, size=3.0)
    edit.a.reshape(-1)[: len(some)] = some[: edit.a.size]
    values = slow_decode(kind, before.data)
    with np.errstate(all="ignore"):
        for number, value in enumerate(values):
            total = Scalar(0)
            for k in range(rank):
                total = total + edit.a[number // 32, k] * edit.b[number % 32, k]
            values[number] = value + Scalar(scale) * total
    assert outcome([edit], before) == expected(before, slow_store(before, values, list(range(64))))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.sampled_from(CODE_TYPES), st.binary(min_size=68, max_size=68), _SEEDS, st.floats(0, 1))
def test_steps_move_selected_codes_by_one_within_their_range(kind: str, data: bytes, seed: str, density: float) -> None:
    block = block_of(kind)
    before = TensorData(WEIGHT, kind, (64,), data[: 2 * block.bytes])
    edit = Seeded(WEIGHT, seed, "step", density, 1)
    after = outcome([edit], before)
    least, greatest = CODE_RANGES[kind]
    old, new = (
        codes(kind, np.frombuffer(stored, np.uint8).reshape(2, -1)).reshape(-1).tolist()
        for stored in (before.data, before.data if isinstance(after, int) else after)
    )
    for number, (was, became) in enumerate(zip(old, new, strict=True)):
        word = slow_word(edit, WEIGHT, number)
        move = (1 if word >> 63 else -1) if word % 2**32 < math.floor(density * 2**32) else 0
        assert became == min(max(was + move, least), greatest)
    if isinstance(after, bytes):  # nothing else has changed
        blocks = np.frombuffer(after, np.uint8).reshape(2, -1).copy()
        store_codes(kind, blocks, np.array(old, np.int8).reshape(2, -1))
        assert blocks.tobytes() == before.data
    else:
        assert (after, old) == (1008, new)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.sampled_from(CODE_TYPES), st.binary(min_size=340, max_size=340), st.floats(0, 1), st.floats(-4, 4))
def test_scaling_changes_the_scale_of_selected_blocks_alone(
    kind: str, data: bytes, density: float, scale: float
) -> None:
    size = block_of(kind).bytes
    before = TensorData(WEIGHT, kind, (320,), data[: 10 * size])
    edit = seeded("scale", density, scale)
    wanted: bytearray | None = bytearray(before.data)
    for number in range(10):
        word = slow_word(edit, WEIGHT, number)
        if word % 2**32 >= math.floor(density * 2**32):
            continue
        z = Scalar(((word >> 32).bit_count() - 16) / 4)
        d = np.frombuffer(before.data, "<f2", 1, number * size)[0]
        with np.errstate(all="ignore"):
            grown = np.float16(Scalar(d) * (Scalar(1) + Scalar(scale) * z))
        if not math.isfinite(grown):
            wanted = None
            break
        assert wanted is not None
        wanted[number * size : number * size + 2] = grown.tobytes()
    assert outcome([edit], before) == expected(before, bytes(wanted) if wanted is not None else None)


@settings(derandomize=True, deadline=None)
@given(_KINDS, _DATA, _DATA, st.integers(0, 1), st.integers(1, 2))
def test_the_bytes_that_were_there_undo_a_dense_edit(
    kind: str, data: bytes, other: bytes, start: int, count: int
) -> None:
    block = block_of(kind)
    before, new = of_bytes(kind, data), of_bytes(kind, other)
    piece = slice(start * block.bytes, min(start + count, 64 // block.elements) * block.bytes)
    assume(before.data[piece] != new.data[piece])
    after = outcome([Dense(WEIGHT, piece.start, new.data[piece])], before)
    assert after == before.data[: piece.start] + new.data[piece] + before.data[piece.stop :]
    changed = TensorData(WEIGHT, kind, (64,), after)
    assert outcome([Dense(WEIGHT, piece.start, before.data[piece])], changed) == before.data


@pytest.mark.parametrize("kind", FLOAT_TYPES)
def test_more_than_one_chunk_is_done_like_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tensor(kind, [96, 30])
    edits: list[Edit] = [seeded("normal", 0.3, 0.1), low_rank((96, 30), 3, 0.1)]
    if kind == "Q8_0":
        edits += [seeded("step", 0.3, 1), seeded("scale", 0.3, 0.1)]
    whole = outcome(edits, before)
    monkeypatch.setattr(arithmetic, "_CHUNK", 256)
    assert outcome(edits, before) == whole
    assert isinstance(whole, bytes)


def test_programs_fill_their_slot() -> None:
    slot = tensor("I8", [4096], name="evolved.3")
    after = outcome([Program("evolved.3", b"\xfa\x00\x01\x07\x08\x09")], slot)
    assert after == b"\2\0\0\0\xfa\x00\x01\x07\x08\x09" + bytes(4086)


def test_edits_apply_in_order_and_only_what_changed_is_returned() -> None:
    first, second = tensor("F32", [8], name="a.weight"), tensor("F32", [8], name="b.weight")
    others = [tensor("F32", [8], name="a.bias"), tensor("F32", [8], name="c.weight")]
    edits: list[Edit] = [
        Seeded("*.weight", SEED, "normal", 1, 1.0),
        Dense("c.weight", 0, others[1].data),
        Dense("b.weight", 0, bytes(4)),
    ]
    changed = apply(edits, {t.name: t for t in (first, second, *others)}, {"c.weight.s"})
    assert set(changed) == {"a.weight", "b.weight"}
    assert changed["b.weight"][:4] == bytes(4)
    assert changed["a.weight"] != changed["b.weight"]


def test_a_tensors_noise_depends_on_its_name() -> None:
    one, two = (outcome([seeded("normal", 1, 1.0, tensors="*")], tensor("F32", [8], name=name)) for name in ("a", "b"))
    assert one != two


_TENSORS = {t.name: t for t in (
    tensor("F32", [4, 2], name="w"),
    tensor("Q4_0", [32], name="q"),
    tensor("I32", [4], name="hw.mmio"),
    tensor("I8", [64], name="evolved.x"),
)}  # fmt: skip


# Each edit fails by its own check and by all that stand behind it.
@pytest.mark.parametrize(
    ("edits", "code"),
    [
        ([sparse("set", {9: 1.0, 3: 1.0}, name="none")], -32602),
        ([Dense("none", 0, b"\1"), sparse("set", {9: 1.0, 3: 1.0}, name="w")], -32602),
        ([LowRank("none", math.inf, np.ones((2, 1), np.float32), np.ones((4, 1), np.float32))], -32602),
        ([LowRank("none", 1.0, np.ones((2, 65), np.float32), np.ones((4, 65), np.float32))], -32602),
        ([LowRank("none", 1.0, np.ones((2, 0), np.float32), np.ones((4, 0), np.float32))], -32602),
        ([Dense("none", 0, b"\1")], 1001),
        ([Seeded("x*", SEED, "step", 0.5, 1)], 1001),
        ([Dense("hw.mmio", 1, b"\1")], 1002),
        ([sparse("set", {99: 1.0}, name="hw.mmio")], 1002),
        ([Seeded("hw.mmio", SEED, "normal", 0.5, 1)], 1002),
        ([Dense("w", 30, b"\1\2\3")], 1004),
        ([Sparse("q", "set", np.array([99], np.uint64), np.ones(2, np.float32))], 1004),
        ([LowRank("q", 1.0, np.ones((2, 1), np.float32), np.ones((4, 1), np.float32))], 1004),
        ([Program("evolved.x", bytes(3))], 1004),
        ([sparse("set", {99: 1.0}, name="q")], 1019),
        ([Seeded("[wq]", SEED, "normal", 0.5, 1)], 1019),
        ([Seeded("[wq]", SEED, "step", 0.5, 1)], 1019),
        ([sparse("set", {8: math.nan}, name="w")], 1003),
        ([Dense("w", 32, b"\0\0\x80\x7f")], 1003),
        ([Dense("w", 32, bytes(4)), Dense("none", 0, b"")], 1003),
        ([sparse("set", {7: math.nan}, name="w"), Dense("w", 32, bytes(4))], 1003),
        ([sparse("set", {7: math.nan}, name="w"), sparse("set", {7: 1.0}, name="w")], 1005),
        ([Dense("w", 0, b"")], 1008),
        ([], 1008),
    ],
)
def test_the_first_check_that_fails_answers(edits: list[Edit], code: int) -> None:
    before = {name: found.data for name, found in _TENSORS.items()}
    with pytest.raises(EditError) as refusal:
        apply(edits, _TENSORS, {"hw.mmio"})
    assert refusal.value.code == code
    assert refusal.value.text in str(refusal.value)
    assert before == {name: found.data for name, found in _TENSORS.items()}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Program("evolved.x", bytes(3)), "'evolved.x' is not a slot for a program"),
        (Program("evolved.0", bytes(4)), "expected whole pixels of 3 bytes, got 4 bytes"),
        (Program("evolved.0", bytes(3 * 1365)), "1365 pixels are more than the 1364 that a slot holds"),
        (Program("w", bytes(3)), "which does not support a program"),
        (Seeded("w", SEED, "step", 0.5, 1), "which does not support a seeded edit of form step"),
        (Program("none", b""), "; list the tensors with `tensors`"),
    ],
)
def test_a_refusal_says_why_as_the_machine_does(edit: Edit, text: str) -> None:
    slot = TensorData("evolved.0", "I8", (4096,), bytes(4096))
    with pytest.raises(EditError, match=text):
        apply([edit], _TENSORS | {slot.name: slot}, {"hw.mmio"})


def test_targets_are_the_exact_name_or_what_a_pattern_matches_unprotected() -> None:
    names = ["blk.0.w", "blk.1.w", "blk.*.w", "hw.mmio"]

    def found(pattern: str) -> list[str]:
        return targets(Seeded(pattern, SEED, "normal", 1, 1), names, {"hw.mmio", "blk.1.w"})

    assert found("blk.?.w") == ["blk.0.w", "blk.*.w"]
    assert found("blk.*.w") == ["blk.*.w"]
    assert found("hw.mmio") == ["hw.mmio"]
    assert found("hw.*") == []
    assert found("*") == ["blk.0.w", "blk.*.w"]
    assert targets(Dense("blk.?.w", 0, b""), names, ()) == []


def test_the_committed_vectors_are_what_the_script_makes() -> None:
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert committed == files(), "run python -m tests.support.mutation_vectors"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_vectors(case: Mapping[str, Any]) -> None:
    before = TensorData(case["tensor"], case["type"], tuple(case["shape"]), bytes.fromhex(case["before"]))
    wanted = bytes.fromhex(case["after"]) if "after" in case else case["error"]
    try:
        edits = unpack(case["edits"], bytes.fromhex(case["blob"]), shapes={before.name: before.shape})
    except InputError:
        # RequestRefusedError before there are edits to judge: parameters, parts, lengths.
        assert wanted in (-32602, 1003, 1004)
        return
    assert outcome(list(edits), before, (before.name,) if case.get("protected") else ()) == wanted


def test_millions_of_weights_take_a_second_or_so() -> None:
    big = tensor("F16", [384, 8192])
    started = time.process_time()
    assert isinstance(outcome([seeded("normal", 0.01, 1e-3)], big), bytes)
    assert time.process_time() - started < 2
