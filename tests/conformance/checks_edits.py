"""Every kind of edit on every type it supports: the bytes it must leave behind, and its edges."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

import numpy as np

from tests.conformance.acts import expect_change, expect_refusal
from tests.conformance.client import Client
from tests.conformance.expected import Edit, dense, low_rank, program, seeded, sparse
from tests.conformance.model import COLUMNS, QUANTISED, ROWS, Tensor, mutable, tensors
from tests.conformance.reference import BLOCK_BYTES, FLOATS, to_storage
from tests.conformance.registry import Case

ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
WITH_DELTAS = (*FLOATS, "Q8_0")
_SCALES = {"normal": 0.01, "step": 1, "scale": 0.05}


def unit(tensor: Tensor) -> int:
    """Bytes of an element, or of a block."""
    return ELEMENT_BYTES.get(tensor.kind) or BLOCK_BYTES[tensor.kind]


def _reversed_units(tensor: Tensor) -> bytes:
    size = unit(tensor)
    parts = [tensor.data[at : at + size] for at in range(0, len(tensor.data), size)]
    return b"".join(reversed(parts))


def _dense(name: str, client: Client) -> None:
    tensor = mutable()[name]
    moved, size = _reversed_units(tensor), unit(tensor)
    expect_change(client, dense(name, 0, moved))
    expect_change(client, dense(name, len(moved) - size, moved[-size:]))
    expect_change(client, dense(name, size, moved[size : 2 * size]))


def _sparse(kind: str, client: Client) -> None:
    random = np.random.default_rng(3)
    count = COLUMNS * ROWS
    for op in ("set", "add"):
        for taken in (1, 7, count):
            indices = sorted(int(index) for index in random.choice(count, taken, replace=False))
            values = [float(value) for value in random.normal(0, 0.1, taken).astype(np.float32)]
            expect_change(client, sparse(f"w.{kind}", op, indices, values))


def _low_rank(kind: str, client: Client) -> None:
    random = np.random.default_rng(4)
    for rank in (1, 3, 64):
        a = random.normal(0, 0.3, (ROWS, rank)).astype(np.float32)
        b = random.normal(0, 0.3, (COLUMNS, rank)).astype(np.float32)
        expect_change(client, low_rank(f"w.{kind}", a, b, 0.0137))


def _seeded(form: str, kind: str, client: Client) -> None:
    for number, density in enumerate((1, 0.37, 1.0 - 2**-33)):
        seed = f"{0xFEDCBA9876543210 + number:016x}"
        expect_change(client, seeded(f"w.{kind}", form, seed=seed, density=density, scale=_SCALES[form]))


def _unsupported(edit: Edit, client: Client) -> None:
    expect_refusal(client, 1019, edit)


def _not_finite(edits: tuple[Edit, ...], client: Client) -> None:
    expect_refusal(client, 1005, *edits)


def _exact(edits: tuple[Edit, ...], client: Client) -> None:
    expect_change(client, *edits)


def _f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _f16(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


_NAN16, _INF16 = b"\x00\x7e", b"\x00\x7c"
_MAX32 = float(np.finfo(np.float32).max)
_ONE_A, _ONE_B = np.ones((ROWS, 1), np.float32), np.ones((COLUMNS, 1), np.float32)

NOT_FINITE: dict[str, tuple[Edit, ...]] = {
    "dense_nan_f32": (dense("w.F32", 8, b"\x00\x00\xc0\x7f"),),
    "dense_inf_f32": (dense("w.F32", 8, b"\x00\x00\x80\xff"),),
    "dense_nan_f16": (dense("w.F16", 8, _NAN16),),
    "dense_inf_f16": (dense("w.F16", 8, b"\x00\xfc"),),
    "dense_nan_bf16": (dense("w.BF16", 8, b"\xc1\x7f"),),
    "dense_nan_f64": (dense("v.F64", 8, struct.pack("<d", float("nan"))),),
    **{
        f"dense_nan_{kind.lower()}": (dense(f"w.{kind}", 0, _NAN16 + bytes(BLOCK_BYTES[kind] - 2)),)
        for kind in QUANTISED
    },
    "dense_inf_minimum_q4_1": (dense("w.Q4_1", 0, _f16(1) + _INF16 + bytes(16)),),
    "dense_inf_minimum_q5_1": (dense("w.Q5_1", 0, _f16(1) + _INF16 + bytes(20)),),
    "dense_inf_q6_k": (dense("w.Q6_K", 0, bytes(208) + _INF16),),
    "set_nan": (sparse("w.F32", "set", [3], [float("nan")]),),
    "add_inf": (sparse("w.F32", "add", [3], [float("inf")]),),
    "add_overflows_f32": (dense("w.F32", 0, _f32(_MAX32)), sparse("w.F32", "add", [0], [_MAX32])),
    "set_overflows_f16": (sparse("w.F16", "set", [3], [65520.0]),),
    "set_overflows_bf16": (sparse("w.BF16", "set", [3], [_MAX32]),),
    "set_overflows_q8_0": (sparse("w.Q8_0", "set", [3], [127 * 65520.0]),),
    "set_nan_q8_0": (sparse("w.Q8_0", "set", [3], [float("nan")]),),
    "low_rank_overflows": (low_rank("w.F16", _ONE_A * 300, _ONE_B * 300, 1),),
    "low_rank_overflows_in_the_sum": (low_rank("w.F32", _ONE_A * np.float32(1e30), _ONE_B * np.float32(1e30), 0),),
    "normal_overflows_f16": (seeded("w.F16", "normal", density=1, scale=1e6),),
    "scale_overflows": (seeded("w.Q5_1", "scale", density=1, scale=1e9),),
    "scale_overflows_q8_0": (seeded("w.Q8_0", "scale", density=1, scale=1e9),),
}

_LOW_Q4, _HIGH_Q4 = bytes(16), b"\xff" * 16
EXACT: dict[str, tuple[Edit, ...]] = {
    "minus_zero_dense": (dense("w.F32", 0, _f32(-0.0)), dense("w.F16", 0, _f16(-0.0))),
    "minus_zero_plus_zero": (dense("w.F32", 0, _f32(-0.0, -0.0)), sparse("w.F32", "add", [0], [0.0])),
    "minus_zero_set": (sparse("w.F32", "set", [5], [-0.0]), sparse("w.BF16", "set", [5], [-0.0])),
    "low_rank_of_zero_makes_minus_zero_plain": (
        dense("w.F32", 0, _f32(-0.0, 1.0)),
        low_rank("w.F32", _ONE_A * 0, _ONE_B, 1),
    ),
    "subnormal_f32": (
        dense("w.F32", 0, _f32(1e-45, 1.1754942e-38, -3e-39)),
        sparse("w.F32", "add", [0, 1, 2], [1e-45, 1e-45, 1e-39]),
    ),
    "subnormal_f16": (sparse("w.F16", "set", [0, 1, 2, 3, 4], [5.9e-8, 2.9802322e-8, 2.99e-8, 6.1e-5, -1e-7]),),
    "ties_f16": (sparse("w.F16", "set", [0, 1, 2, 3], [2049.0, 2051.0, 65519.99, -65504.0]),),
    "ties_bf16": (sparse("w.BF16", "set", [0, 1, 2, 3], [1.00390625, 1.01171875, 3.3895314e38, 1e-40]),),
    "f32_max": (sparse("w.F32", "set", [0, 1], [_MAX32, -_MAX32]),),
    "q8_0_half_away_from_zero": (
        sparse("w.Q8_0", "set", list(range(32)), [127.0, *(step + 0.5 for step in range(-16, 15))]),
    ),
    "q8_0_block_of_zeros": (sparse("w.Q8_0", "set", list(range(32)), [0.0] * 32),),
    "q8_0_tiny": (sparse("w.Q8_0", "set", list(range(32)), [1e-7 * step for step in range(1, 33)]),),
    "q8_0_d_below_f16": (sparse("w.Q8_0", "set", list(range(32)), [1e-9 * step for step in range(1, 33)]),),
    "q8_0_large": (sparse("w.Q8_0", "set", [40], [127 * 65000.0]),),
    "step_saturates_q8_0": (
        dense("w.Q8_0", 0, _f16(0.01) + b"\x7f" * 32 + _f16(0.01) + b"\x80" * 32),
        seeded("w.Q8_0", "step", density=1),
    ),
    "step_saturates_q4_0": (
        dense("w.Q4_0", 0, _f16(0.01) + _LOW_Q4 + _f16(0.01) + _HIGH_Q4),
        seeded("w.Q4_0", "step", density=1),
    ),
    "step_saturates_q4_1": (
        dense("w.Q4_1", 0, _f16(0.01, 1) + _LOW_Q4 + _f16(0.01, 1) + _HIGH_Q4),
        seeded("w.Q4_1", "step", density=1),
    ),
    "step_saturates_q5_0": (
        dense("w.Q5_0", 0, _f16(0.01) + bytes(4) + _LOW_Q4 + _f16(0.01) + b"\xff" * 4 + _HIGH_Q4),
        seeded("w.Q5_0", "step", density=1),
    ),
    "step_carries_into_the_fifth_bit": (
        dense("w.Q5_1", 0, _f16(0.01, 1) + bytes(4) + _HIGH_Q4 + _f16(0.01, 1) + b"\xff" * 4 + _LOW_Q4),
        seeded("w.Q5_1", "step", density=1),
    ),
    "scale_turns_and_vanishes": (seeded("w.Q4_0", "scale", density=1, scale=4), seeded("w.Q5_0", "scale", scale=-1e-4)),
    "normal_with_a_negative_scale": (seeded("w.BF16", "normal", scale=-0.3), seeded("w.F16", "normal", scale=-1e-6)),
    "density_of_a_few_in_2_to_32": (seeded("big", "normal", density=2**-14, scale=1),),
    "glob_in_the_middle": (seeded("blk.*.weight", "normal", scale=0.1),),
    "glob_at_the_start": (seeded("*.bias", "normal", scale=0.1),),
    "glob_over_a_model": (seeded("blk.*", "normal", seed="00000000000000ff", scale=0.1),),
    "one_seed_is_other_noise_in_each_tensor": (seeded("w.F32", "normal"), seeded("cube.F32", "normal")),
    "edits_in_order_on_the_same_bytes": (
        sparse("w.F16", "set", [9], [1.5]),
        seeded("w.F16", "normal", density=1, scale=0.1),
        low_rank("w.F16", _ONE_A, _ONE_B, 0.01),
        sparse("w.F16", "add", [9, 10], [0.25, -0.125]),
        dense("w.F16", 22, _f16(7.0)),
    ),
    "all_kinds_on_one_q8_0": (
        seeded("w.Q8_0", "step", density=0.3),
        seeded("w.Q8_0", "scale", density=0.5, scale=0.01),
        seeded("w.Q8_0", "normal", density=0.02, scale=0.01),
        sparse("w.Q8_0", "add", [64, 200], [0.01, -0.01]),
        low_rank("w.Q8_0", _ONE_A, _ONE_B, -0.003),
    ),
    "sparse_on_three_dimensions": (sparse("cube.F32", "set", [0, 13, 23], [1.0, 2.0, 3.0]),),
    "sparse_last_of_an_odd_vector": (sparse("v.F32", "add", [36], [1.0]),),
    "a_program": (program("evolved.3", bytes(range(30))),),
    "the_largest_program": (program("evolved.7", bytes(at % 251 for at in range(3 * 1364))),),
    "dense_into_a_slot": (dense("evolved.0", 5, b"any bytes"),),
    "blob_full_of_ff": (dense("v.I8", 0, b"\xff" * 48), dense("evolved.1", 0, b"\xff\n" * 2048)),
    "256_edits": tuple(sparse("w.F32", "add", [at], [0.5]) for at in range(256)),
}

_NO_FLOATS = ("w.Q4_0", "w.Q5_1", "w.Q6_K", "v.I32", "v.F64")
_UNSUPPORTED: dict[str, Edit] = {
    **{f"sparse_on_{name}": sparse(name, "set", [0], [1.0]) for name in _NO_FLOATS},
    "low_rank_on_q4_0": low_rank("w.Q4_0", _ONE_A, _ONE_B, 1),
    "low_rank_on_q6_k": low_rank("w.Q6_K", np.ones((2, 1), np.float32), np.ones((256, 1), np.float32), 1),
    "normal_on_q4_1": seeded("w.Q4_1", "normal"),
    "normal_on_i8": seeded("v.I8", "normal"),
    "step_on_f32": seeded("w.F32", "step"),
    "step_on_q6_k": seeded("w.Q6_K", "step"),
    "scale_on_f16": seeded("w.F16", "scale"),
    "a_glob_over_types_it_cannot": seeded("w.*", "normal"),
}


def cases() -> Iterator[Case]:
    """One check for each kind and type, and for each edge of the tables above."""
    yield from ((f"dense_{tensor.name}", partial(_dense, tensor.name)) for tensor in tensors() if tensor.name != "big")
    yield from ((f"sparse_{kind}", partial(_sparse, kind)) for kind in WITH_DELTAS)
    yield from ((f"low_rank_{kind}", partial(_low_rank, kind)) for kind in WITH_DELTAS)
    yield from ((f"normal_{kind}", partial(_seeded, "normal", kind)) for kind in WITH_DELTAS)
    yield from ((f"{form}_{kind}", partial(_seeded, form, kind)) for form in ("step", "scale") for kind in QUANTISED)
    yield from ((f"exact_{name}", partial(_exact, edits)) for name, edits in EXACT.items())
    yield from ((f"not_finite_{name}", partial(_not_finite, edits)) for name, edits in NOT_FINITE.items())
    yield from ((f"unsupported_{name}", partial(_unsupported, edit)) for name, edit in _UNSUPPORTED.items())


def check_what_changes_nothing_is_refused(client: Client) -> None:
    data = mutable()["w.F32"].data
    expect_refusal(client, 1008, dense("w.F32", 0, data))
    expect_refusal(client, 1008, seeded("w.F32", "normal", density=0))
    expect_refusal(client, 1008, seeded("w.Q4_0", "step", density=2**-40))
    expect_refusal(client, 1008, sparse("w.F16", "add", [4], [1e-30]))
    expect_refusal(client, 1008, seeded("w.Q5_0", "scale", scale=0))
    expect_refusal(client, 1008, low_rank("w.F32", _ONE_A, _ONE_B, 0))
    expect_refusal(client, 1008, sparse("w.Q8_0", "add", [4], [0.0]))


def check_edits_that_cancel_out_change_nothing(client: Client) -> None:
    old = mutable()["w.F32"].data[:4]
    expect_refusal(client, 1008, dense("w.F32", 0, _f32(3.5)), dense("w.F32", 0, old))
    plain = to_storage("F16", np.array([2.0], np.float32))
    held = mutable()["w.F16"].data[:2]
    expect_refusal(client, 1008, dense("w.F16", 0, plain), sparse("w.F16", "add", [0], [1.0]), dense("w.F16", 0, held))


def check_a_bad_last_edit_undoes_all_before_it(client: Client) -> None:
    good = [sparse(f"w.{kind}", "set", [at], [0.7]) for kind in WITH_DELTAS for at in range(0, 300, 9)]
    expect_refusal(client, 1005, *good, dense("w.BF16", 0, b"\x80\x7f"))
    expect_refusal(client, 1003, *good, sparse("w.F32", "set", [COLUMNS * ROWS], [1.0]))
    expect_refusal(client, 1001, *good, sparse("w.F33", "set", [0], [1.0]))
    expect_refusal(client, 1005, *good, seeded("w.Q5_1", "scale", density=1, scale=1e9))
