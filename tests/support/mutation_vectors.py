"""Makes tests/vectors/mutation: edits on one tensor each, and what becomes of it; the Rust tests read them too.

    python -m tests.support.mutation_vectors

A file is {"cases": [{"name", "tensor", "type", "shape": [ne0, ...], "before": hex, "edits": [wire members],
"blob": hex, "after": hex}, ...]}, or with "error": code in place of "after"; "protected": true where the tensor is.
The codes are written down here by hand; the bytes are the numpy twin's, whose own tests compare it with arithmetic
element by element.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vboot.weights import noise
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, SeededForm, Sparse, SparseOp, pack
from vboot.weights.storage_types import CODE_RANGES, FLOAT_STORAGE, block_of, codes, encode, store_codes

FOLDER = Path(__file__).parents[1] / "vectors" / "mutation"

Case = dict[str, Any]

FLOAT_TYPES = ("F32", "F16", "BF16", "Q8_0")
CODE_TYPES = tuple(CODE_RANGES)
INTEGER_TYPES = ("I8", "I16", "I32", "I64")
SEED = "00c0ffee00c0ffee"
WEIGHT = "blk.0.attn_q.weight"

# By type: what makes its first block not finite, at which byte.
_NOT_FINITE_F16 = {
    **dict.fromkeys(("F16", "Q4_0", "Q5_0", "Q8_0", "Q1_0", "Q2_0", "IQ4_NL"), (0,)),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
NOT_FINITE: dict[str, tuple[tuple[int, bytes], ...]] = {
    **{kind: tuple((at, b"\x00\x7c") for at in places) for kind, places in _NOT_FINITE_F16.items()},
    "F32": ((0, b"\x00\x00\x80\xff"), (0, b"\x01\x00\x80\x7f")),
    "F64": ((0, b"\x00\x00\x00\x00\x00\x00\xf0\x7f"),),
    "BF16": ((0, b"\x80\x7f"),),
    "Q8_K": ((0, b"\x00\x00\xc0\x7f"),),
    "IQ1_M": ((48, b"\x00\x00\x00\x00\x00\xc0\x00\x70"),),
    "MXFP4": ((0, b"\xff"),),
    "NVFP4": ((0, b"\x7f"), (3, b"\x7f")),
}


def random_bytes(name: str, count: int) -> NDArray[np.uint8]:
    """Bytes that only the name decides."""
    return noise.words(noise.key(SEED, name), 0, -(-count // 8)).astype("<u8").view(np.uint8)[:count].copy()


def random_floats(name: str, count: int, *, size: float = 1.0) -> NDArray[np.float32]:
    """Numbers between -size and size that only the name decides."""
    words = noise.words(noise.key(SEED, name), 0, count)
    return ((words >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - 1) * np.float32(size)


def tensor(kind: str, shape: Sequence[int], *, name: str = WEIGHT) -> TensorData:
    """A tensor of finite random content."""
    count, block = int(np.prod(shape)), block_of(kind)
    label = f"{kind} {list(shape)}"
    if kind in FLOAT_STORAGE:
        return TensorData(name, kind, tuple(shape), encode(kind, random_floats(label, count)).tobytes())
    if kind == "F64":
        return TensorData(name, kind, tuple(shape), random_floats(label, count).astype("<f8").tobytes())
    data = random_bytes(label, count // block.elements * block.bytes).reshape(-1, block.bytes)
    for at, pattern in NOT_FINITE.get(kind, ()):
        data[:, at : at + len(pattern)] = 0x31 if kind != "IQ1_M" else 0x11
    return TensorData(name, kind, tuple(shape), data.tobytes())


def with_floats(kind: str, values: Sequence[float], shape: Sequence[int]) -> TensorData:
    """A tensor whose first elements are these, the others 0."""
    all_values = np.zeros(int(np.prod(shape)), np.float32)
    all_values[: len(values)] = values
    return TensorData(WEIGHT, kind, tuple(shape), encode(kind, all_values).tobytes())


def done(name: str, before: TensorData, *edits: Edit) -> Case:
    """A case that the machine accepts."""
    members, blob = pack(edits)
    after = apply(edits, {before.name: before}, ())[before.name]
    return _case(name, before, members, blob) | {"after": after.hex()}


def refused(name: str, code: int, before: TensorData, *edits: Edit, protected: bool = False) -> Case:
    """A case that the machine refuses."""
    return refused_wire(name, code, before, *pack(edits), protected=protected)


def refused_wire(
    name: str, code: int, before: TensorData, members: list[dict[str, Any]], blob: bytes, *, protected: bool = False
) -> Case:
    """A case that the machine refuses, for members that no edit packs to."""
    case = _case(name, before, members, blob) | {"error": code}
    return case | {"protected": True} if protected else case


def _case(name: str, before: TensorData, members: list[dict[str, Any]], blob: bytes) -> Case:
    return {
        "name": name,
        "tensor": before.name,
        "type": before.type,
        "shape": list(before.shape),
        "before": before.data.hex(),
        "edits": members,
        "blob": blob.hex(),
    }


def sparse(op: SparseOp, elements: dict[int, float], *, name: str = WEIGHT) -> Sparse:
    """A sparse edit of these elements."""
    return Sparse(name, op, np.array(list(elements), np.uint64), np.array(list(elements.values()), np.float32))


def seeded(form: SeededForm, density: float, scale: float, *, tensors: str = WEIGHT, seed: str = SEED) -> Seeded:
    """A seeded edit."""
    return Seeded(tensors, seed, form, density, scale)


def low_rank(shape: tuple[int, int], rank: int, scale: float, *, size: float = 1.0) -> LowRank:
    """A low-rank edit with random factors for a tensor of this shape."""
    a = random_floats(f"A {shape}", shape[1] * rank, size=size).reshape(shape[1], rank)
    b = random_floats(f"B {shape}", shape[0] * rank, size=size).reshape(shape[0], rank)
    return LowRank(WEIGHT, scale, a, b)


def dense_cases() -> Iterator[Case]:
    """Every type, its last block replaced; what is not finite; offsets."""
    for kind in (*NOT_FINITE, *INTEGER_TYPES):
        block = block_of(kind)
        before = tensor(kind, [2 * block.elements])
        new = tensor(kind, [3 * block.elements]).data[-block.bytes :]
        yield done(f"{kind} last block", before, Dense(WEIGHT, block.bytes, new))
        for at, pattern in NOT_FINITE.get(kind, ()):
            spoilt = bytearray(new)
            spoilt[at : at + len(pattern)] = pattern
            one_block, edit = tensor(kind, [block.elements]), Dense(WEIGHT, 0, bytes(spoilt))
            yield refused(f"{kind} not finite at byte {at}: {pattern.hex()}", 1005, one_block, edit)
    f16 = tensor("F16", [8])
    yield done("negative zero, subnormal, greatest", f16, Dense(WEIGHT, 2, bytes.fromhex("0080 0100 ff7b fffb")))
    yield done("last element, then first", f16, Dense(WEIGHT, 14, b"\1\2"), Dense(WEIGHT, 0, b"\3\4"))
    yield done(
        "the later of two edits on the same bytes holds", f16, Dense(WEIGHT, 0, b"\1\1"), Dense(WEIGHT, 0, b"\2\2")
    )
    yield refused(
        "two edits that undo each other", 1008, f16, Dense(WEIGHT, 0, b"\1\1"), Dense(WEIGHT, 0, f16.data[:2])
    )
    yield refused("the same bytes", 1008, f16, Dense(WEIGHT, 0, f16.data))
    yield refused("no bytes", 1008, f16, Dense(WEIGHT, 16, b""))
    yield refused("offset inside an element", 1004, f16, Dense(WEIGHT, 1, b"\1\2"))
    yield refused("half an element", 1004, f16, Dense(WEIGHT, 0, b"\1"))
    yield refused("half an element, and outside", 1004, f16, Dense(WEIGHT, 16, b"\1"))
    yield refused("one element too many", 1003, f16, Dense(WEIGHT, 14, b"\1\2\3\4"))
    yield refused("far outside", 1003, f16, Dense(WEIGHT, (1 << 53) - 2, b"\1\2"))
    yield refused("not finite, but outside", 1003, f16, Dense(WEIGHT, 16, b"\x00\x7c"))
    q4 = tensor("Q4_0", [64])
    yield refused("offset inside a block", 1004, q4, Dense(WEIGHT, 2, bytes(18)))
    yield refused("half a block", 1004, q4, Dense(WEIGHT, 0, bytes(9)))
    yield refused("another name", 1001, f16, Dense(WEIGHT + "s", 0, b"\1\2"))
    yield refused("a pattern is no name", 1001, f16, Dense("blk.*", 0, b"\1\2"))
    mmio = tensor("I32", [4], name="hw.mmio")
    yield refused("protected", 1002, mmio, Dense("hw.mmio", 0, bytes(4)), protected=True)
    yield refused("protected, and misaligned", 1002, mmio, Dense("hw.mmio", 1, bytes(4)), protected=True)
    yield refused("the second edit outside", 1003, f16, Dense(WEIGHT, 0, b"\x00\x7c"), Dense(WEIGHT, 16, b"\1\2"))


def sparse_cases() -> Iterator[Case]:
    """Set and add on every type, at the ends of what it holds."""
    edges = {0: -0.0, 1: 1e-45, 2: -1e-39, 3: 5.9604645e-08, 4: 2.9802322e-08, 5: 65504.0, 40: 1.0009765, 63: -3.0}
    for kind in FLOAT_TYPES:
        before = tensor(kind, [32, 3])
        yield done(f"{kind} set", before, sparse("set", edges))
        yield done(f"{kind} add", before, sparse("add", edges | {95: 0.1}))
        before = tensor(kind, [32])
        yield done(f"{kind} set all", before, sparse("set", dict(enumerate(random_floats("all", 32).tolist()))))
        for value in (float("inf"), float("-inf"), float("nan")):
            yield refused(f"{kind} set {value}", 1005, before, sparse("set", {7: value}))
        yield refused(f"{kind} no elements", 1008, before, sparse("set", {}))
        yield refused(f"{kind} set what is there", 1008, with_floats(kind, [0.0], [32]), sparse("set", {5: 0.0}))
        yield refused(f"{kind} outside", 1003, before, sparse("add", {31: 1.0, 32: 1.0}))
        yield refused(f"{kind} far outside", 1003, before, sparse("set", {(1 << 64) - 1: 1.0}))
        yield refused(f"{kind} unsorted", -32602, before, sparse("set", {6: 1.0, 5: 1.0}))
    twice = Sparse(WEIGHT, "add", np.array([5, 5], np.uint64), np.array([1, 1], np.float32))
    yield refused("one index twice", -32602, tensor("F32", [32]), twice)
    yield refused(
        "unsorted, and no such tensor", -32602, tensor("F32", [32]), sparse("set", {2: 1.0, 1: 1.0}, name="x")
    )
    greatest = {"F32": 3.4028235e38, "F16": 65504.0, "BF16": 3.3895314e38, "Q8_0": 8.3e6}
    for kind, value in greatest.items():
        yield refused(f"{kind} overflow", 1005, with_floats(kind, [value], [32]), sparse("add", {0: value}))
    yield done("F16 rounds down to the greatest", tensor("F16", [4]), sparse("set", {0: 65519.0}))
    yield refused("F16 rounds up to infinity", 1005, tensor("F16", [4]), sparse("set", {0: 65520.0}))
    yield refused("BF16 rounds up to infinity", 1005, tensor("BF16", [4]), sparse("set", {0: 3.4e38}))
    halves = {0: 1.00048828125, 1: 1.00146484375, 2: 1.0004883, 3: 6.1005e-05, 4: 8.9406967e-08}
    yield done("F16 ties to even", tensor("F16", [8]), sparse("set", halves))
    yield done(
        "BF16 ties to even", tensor("BF16", [8]), sparse("set", {0: 1.00390625, 1: 1.01171875, 2: 1.0039063, 3: 1e-40})
    )
    small = {i: (i - 16) * 1e-40 for i in range(32)}
    yield done("Q8_0 too small for an inverse", tensor("Q8_0", [64]), sparse("set", small))
    yield done(
        "Q8_0 scale rounds to zero", tensor("Q8_0", [64]), sparse("set", {i: v * 1e33 for i, v in small.items()})
    )
    yield done("Q8_0 subnormal scale", tensor("Q8_0", [64]), sparse("set", {i: v * 1e35 for i, v in small.items()}))
    yield done("Q8_0 block of zeros", tensor("Q8_0", [64]), sparse("set", dict.fromkeys(range(32), 0.0)))
    ties = {0: 127.0, **{i: i - 15.5 for i in range(1, 32)}}
    yield done("Q8_0 ties away from zero", tensor("Q8_0", [64]), sparse("set", ties))
    near_ties = {0: 127.0, 1: 0.49999997, 2: -0.49999997, 3: 0.50000006, 4: 126.49999, 5: -126.50001}
    yield done("Q8_0 nearly ties", with_floats("Q8_0", [], [32]), sparse("set", near_ties))
    for kind in ("Q4_0", "Q4_K", "F64", *INTEGER_TYPES):
        yield refused(f"{kind} is not for sparse edits", 1019, tensor(kind, [256]), sparse("set", {0: 1.0}))
    yield refused("Q4_0, and outside", 1019, tensor("Q4_0", [32]), sparse("set", {32: 1.0}))
    members = [{"kind": "sparse", "tensor": WEIGHT, "op": "set", "blob": [0, 11]}]
    yield refused_wire("not 12 bytes an element", 1004, tensor("F32", [4]), members, bytes(11))
    yield refused_wire("not 12 bytes an element, of Q4_0", 1004, tensor("Q4_0", [32]), members, bytes(11))


def low_rank_cases() -> Iterator[Case]:
    """Ranks, shapes around the panels of an implementation, what does not fit."""
    for kind in FLOAT_TYPES:
        for shape, rank, scale in (((32, 3), 1, 1.0), ((64, 2), 3, 0.1)):
            yield done(f"{kind} {list(shape)} rank {rank}", tensor(kind, shape), low_rank(shape, rank, scale))
    yield done("F16 long row", tensor("F16", [288, 1]), low_rank((288, 1), 2, -1e-3))
    yield done("F32 rank 64", tensor("F32", [3, 2]), low_rank((3, 2), 64, 0.3))
    yield done("F32 odd columns", tensor("F32", [45, 3]), low_rank((45, 3), 5, 1e-2))
    yield done(
        "Q8_0 scale 0 quantises anew",
        _with_codes(tensor("Q8_0", [64, 1]), lambda old: old // 2),
        low_rank((64, 1), 1, 0.0),
    )
    yield refused("F32 scale 0", 1008, tensor("F32", [4, 2]), low_rank((4, 2), 1, 0.0))
    for kind in FLOAT_TYPES:
        yield refused(f"{kind} overflow", 1005, tensor(kind, [32, 1]), low_rank((32, 1), 1, 1e30, size=1e30))
    yield refused("scale too large for f32", 1005, tensor("F32", [4, 2]), low_rank((4, 2), 1, 1e300))
    yield refused("one dimension", 1004, tensor("F32", [8]), low_rank((4, 2), 1, 1.0))
    yield refused("three dimensions", 1004, tensor("F32", [4, 2, 1]), low_rank((4, 2), 1, 1.0))
    yield refused("other columns", 1004, tensor("F32", [5, 2]), low_rank((4, 2), 1, 1.0))
    yield refused("one dimension of Q4_0", 1004, tensor("Q4_0", [32]), low_rank((32, 1), 1, 1.0))
    yield refused("Q4_0", 1019, tensor("Q4_0", [32, 1]), low_rank((32, 1), 1, 1.0))
    yield refused("I8", 1019, tensor("I8", [4, 2]), low_rank((4, 2), 1, 1.0))
    for rank in (0, 65):
        members = [{"kind": "low_rank", "tensor": WEIGHT, "rank": rank, "scale": 1.0, "blob": [0, 8 * rank]}]
        yield refused_wire(f"rank {rank}", -32602, tensor("F32", [1, 1]), members, bytes(8 * rank))


def seeded_cases() -> Iterator[Case]:
    """Every form on every type that has it; densities; what is at the end of its range."""
    for kind in FLOAT_TYPES:
        before = tensor(kind, [96])
        for density in (0.02, 0.5):
            yield done(f"{kind} normal {density}", before, seeded("normal", density, 1e-2))
        yield done(f"{kind} normal 1", before, seeded("normal", 1.0, 1e-3, seed="ffffffffffffffff"))
        before = tensor(kind, [32])
        yield refused(f"{kind} normal 0", 1008, before, seeded("normal", 0.0, 1.0))
        yield refused(f"{kind} normal overflow", 1005, before, seeded("normal", 1.0, 3e38))
        yield refused(f"{kind} normal scale too large for f32", 1005, before, seeded("normal", 1.0, 1e300))
    yield done("F16 normal, long", tensor("F16", [288]), seeded("normal", 0.5, 1e-3))
    small_codes = _with_codes(tensor("Q8_0", [160]), lambda old: old // 2)
    yield done("Q8_0 normal scale 0 quantises what is selected", small_codes, seeded("normal", 0.02, 0.0))
    yield done("F32 negative zeros and scale 0", with_floats("F32", [-0.0] * 32, [32]), seeded("normal", 1.0, 0.0))
    yield done("F16 half of the noise is lost", with_floats("F16", [1.0] * 64, [64]), seeded("normal", 1.0, 4e-4))
    yield done("two in a row", tensor("F32", [40]), seeded("normal", 0.5, 0.1), seeded("normal", 0.5, -0.3))
    not_finite = TensorData(WEIGHT, "F16", (8,), b"\x00\x7c" * 8)
    yield refused("infinite already", 1005, not_finite, seeded("normal", 1.0, 1.0))
    yield refused("infinite already, not selected", 1008, not_finite, seeded("normal", 1e-9, 1.0))
    for kind in CODE_TYPES:
        before = tensor(kind, [160])
        for density in (0.1, 1.0):
            yield done(f"{kind} step {density}", before, seeded("step", density, 1))
        for density in (0.3, 1.0):
            yield done(f"{kind} scale {density}", before, seeded("scale", density, 0.25))
        before = tensor(kind, [64])
        for end in CODE_RANGES[kind]:
            at_end = _with_codes(before, lambda old, end=end: np.full_like(old, end))  # type: ignore[misc]
            yield done(f"{kind} step from {end}", at_end, seeded("step", 1.0, 1))
        yield refused(f"{kind} step 0", 1008, before, seeded("step", 0.0, 1))
        yield refused(f"{kind} scale 0", 1008, before, seeded("scale", 1.0, 0.0))
        yield refused(f"{kind} scale overflow", 1005, before, seeded("scale", 1.0, 1e9))
        yield refused(f"{kind} step by 2", -32602, before, seeded("step", 0.5, 2.0))
    yield from _seeded_names()
    for form, kinds in (("normal", ("Q4_0", "F64", "I8")), ("step", ("F32", "F16", "I8")), ("scale", ("F32", "Q4_K"))):
        for kind in kinds:
            edit = Seeded(WEIGHT, SEED, form, 0.5, 1.0)  # type: ignore[arg-type]
            yield refused(f"{kind} is not for {form}", 1019, tensor(kind, [256]), edit)
    yield refused("density above 1", -32602, tensor("F32", [4]), seeded("normal", 1.5, 1.0))
    yield refused("density below 0", -32602, tensor("F32", [4]), seeded("normal", -0.5, 1.0))
    yield refused("no seed", -32602, tensor("F32", [4]), seeded("normal", 0.5, 1.0, seed="c0ffee"))


def _with_codes(before: TensorData, change: Callable[[NDArray[np.int8]], NDArray[np.int8]]) -> TensorData:
    blocks = np.frombuffer(before.data, np.uint8).reshape(-1, block_of(before.type).bytes).copy()
    store_codes(before.type, blocks, change(codes(before.type, blocks)))
    return TensorData(before.name, before.type, before.shape, blocks.tobytes())


def _seeded_names() -> Iterator[Case]:
    before = tensor("F32", [8])
    for pattern in ("*.weight", "blk.*.weight", "blk.?.attn_[kqv].weight", "blk.[!1-9].*", "*q*w*t"):
        yield done(f"pattern {pattern}", before, seeded("normal", 1.0, 1.0, tensors=pattern))
    for pattern in ("BLK.*", "blk.?", "blk.[1-9].*", "blk.[!0].*", "*.bias", "blk.0.attn_q.weigh[t", ""):
        yield refused(f"pattern {pattern!r} matches nothing", 1001, before, seeded("normal", 1.0, 1.0, tensors=pattern))
    named = tensor("F32", [8], name="odd[1].*")
    yield done("a name that looks like a pattern", named, seeded("normal", 1.0, 1.0, tensors="odd[1].*"))
    unicode = tensor("F32", [8], name="größe.✓")
    yield done("a name that is not ASCII", unicode, seeded("normal", 1.0, 1.0, tensors="gr??e.*"))
    mmio = tensor("I32", [4], name="hw.mmio")
    exact, pattern_edit = (seeded("normal", 1.0, 1.0, tensors=pattern) for pattern in ("hw.mmio", "hw.*"))
    yield refused("protected by name", 1002, mmio, exact, protected=True)
    yield refused("protected by pattern", 1001, mmio, pattern_edit, protected=True)


def program_cases() -> Iterator[Case]:
    """Programs of no, some and all pixels; what is no slot."""
    slot = tensor("I8", [4096], name="evolved.0")
    yield done("a program", slot, Program("evolved.0", bytes.fromhex("fa0000 010203")))
    yield done("no pixels", slot, Program("evolved.0", b""))
    empty = TensorData("evolved.7", "I8", (4096,), bytes(4096))
    yield done("most pixels", empty, Program("evolved.7", random_bytes("pixels", 3 * 1364).tobytes()))
    yield refused("the same program", 1008, empty, Program("evolved.7", b""))
    yield refused("one pixel too many", 1004, tensor("I8", [64], name="evolved.1"), Program("evolved.1", bytes(4095)))
    yield refused("half a pixel", 1004, tensor("I8", [64], name="evolved.1"), Program("evolved.1", bytes(4)))
    yield refused("not a slot", 1004, tensor("I8", [64]), Program(WEIGHT, bytes(3)))
    yield refused(
        "a built-in", 1002, tensor("I8", [64], name="kernel.0"), Program("kernel.0", bytes(3)), protected=True
    )
    yield refused("not I8", 1019, tensor("F32", [4], name="evolved.x"), Program("evolved.x", bytes(3)))
    yield refused("not the size of a slot", 1004, tensor("I8", [64], name="evolved.x"), Program("evolved.x", bytes(3)))
    yield refused("not I8, and half a pixel", 1004, tensor("F32", [4]), Program(WEIGHT, bytes(4)))
    yield refused("not I8, and one pixel too many", 1004, tensor("F32", [4]), Program(WEIGHT, bytes(4095)))


def wire_cases() -> Iterator[Case]:
    """Parts that are not as the protocol wants them, and members that are not."""
    before = tensor("F32", [8])
    dense: Case = {"kind": "dense", "tensor": WEIGHT, "offset": 0}
    apart, overlapping = ([dense | {"blob": [0, 8]}, dense | {"blob": [start, 8]}] for start in (8, 4))
    blob = random_floats("parts", 4).astype("<f4").tobytes()
    yield refused_wire("parts overlap", 1003, before, overlapping, blob)
    inside = [dense | {"blob": [0, 8]}, dense | {"blob": [4, 0]}, dense | {"blob": [8, 8]}]
    after = blob[8:] + before.data[8:]
    yield _case("an empty part inside another", before, inside, blob) | {"after": after.hex()}
    yield _case("an empty part before the one around it", before, inside[::-1], blob) | {
        "after": (blob[:8] + before.data[8:]).hex()
    }
    yield refused_wire("a part leaves the blob", 1003, before, apart, blob[:-1])
    yield refused_wire("a part beyond the blob", 1003, before, [dense | {"blob": [1 << 52, 4]}], blob)
    yield refused_wire(
        "parts overlap, and a name is unknown",
        1003,
        before,
        [*overlapping, dense | {"tensor": "x", "blob": [8, 8]}],
        blob,
    )
    wrong_members: dict[str, dict[str, Any]] = {
        "unknown kind": {"kind": "sprase"},
        "unknown member": {"Offset": 4},
        "negative offset": {"offset": -4},
        "offset is text": {"offset": "0"},
        "part of three": {"blob": [0, 4, 4]},
        "negative part": {"blob": [0, -4]},
    }
    for name, wrong in wrong_members.items():
        yield refused_wire(name, -32602, before, [{**dense, "blob": [0, 4], **wrong}], blob)
    yield refused_wire("no part", -32602, before, [dense], blob)
    yield refused_wire("no offset", -32602, before, [{"kind": "dense", "tensor": WEIGHT, "blob": [0, 4]}], blob)
    wrong_op = {"kind": "sparse", "tensor": WEIGHT, "op": "Set", "blob": [0, 12]}
    yield refused_wire("unknown op", -32602, before, [wrong_op], bytes(12))
    short = [{"kind": "low_rank", "tensor": WEIGHT, "rank": 1, "scale": 1.0, "blob": [0, 16]}]
    yield refused_wire("factors too short", 1004, tensor("F32", [4, 2]), short, blob)
    yield refused_wire("factors too short, of Q4_0", 1004, tensor("Q4_0", [32, 2]), short, blob)


def files() -> dict[str, str]:
    """Text of each file by its name."""
    makers = (dense_cases, sparse_cases, low_rank_cases, seeded_cases, program_cases, wire_cases)
    return {f"{make.__name__.removesuffix('_cases')}.json": _dump(list(make())) for make in makers}


def _dump(cases: list[Case]) -> str:
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    return f'{{"cases": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, "utf-8")
