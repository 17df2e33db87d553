"""The gate of `mutate`: every code that can be provoked, and which of two answers when both apply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tests.conformance.acts import crash, expect_refusal, generation, mutate, proposal, read, rollback, state, unchanged
from tests.conformance.client import Client, new_id
from tests.conformance.expected import Edit, assemble, dense, low_rank, program, seeded, sparse
from tests.conformance.model import COLUMNS, ROWS, mutable
from tests.conformance.registry import Case

Params: TypeAlias = dict[str, Any]

_GOOD = sparse("w.F32", "set", [0], [0.5])
_MISSING = sparse("w.F33", "set", [0], [0.5])
_PROTECTED = dense("hw.mmio", 0, bytes(4))
_MISALIGNED = dense("w.Q8_0", 1, bytes(34))
_WRONG_TYPE = sparse("w.Q4_0", "set", [0], [0.5])
_OUTSIDE = sparse("w.F32", "set", [COLUMNS * ROWS], [0.5])
_NAN = sparse("w.F32", "set", [0], [float("nan")])
_NOTHING = dense("w.F32", 0, mutable()["w.F32"].data[:8])
_ONE_A, _ONE_B = np.ones((ROWS, 1), np.float32), np.ones((COLUMNS, 1), np.float32)


def check_a_machine_without_a_key_takes_no_signed_change(client: Client) -> None:
    params = {"payload": "", "keyid": "0" * 64, "sig": "A" * 86 + "=="}
    assert client.ask("signed", params).code == 1010


def _with(edit: Edit, **members: Any) -> Edit:
    return Edit({**edit.members, **members}, edit.part)


EDITS: dict[str, tuple[int | set[int], tuple[Edit, ...]]] = {
    "no_such_tensor": (1001, (_MISSING,)),
    "no_such_tensor_seeded": (1001, (seeded("w.F33", "normal"),)),
    "a_glob_of_nothing": (1001, (seeded("blk.*.nothing", "normal"),)),
    "a_glob_of_protected_only": (1001, (seeded("kernel.*", "normal"), _GOOD)),
    "a_name_is_no_prefix": (1001, (seeded("blk.0", "normal"),)),
    "protected_device_page": (1002, (_PROTECTED,)),
    "protected_journal": (1002, (dense("cortex_journal", 0, b"CJ02"),)),
    "protected_kernel": (1002, (dense("kernel.0", 0, b"x"),)),
    "protected_kernel_last": (1002, (dense("kernel.7", 4095, b"x"),)),
    "protected_program": (1002, (program("kernel.3", bytes(6)),)),
    "protected_seeded": (1002, (seeded("kernel.1", "normal"),)),
    "protected_sparse": (1002, (sparse("hw.mmio", "set", [1], [1.0]),)),
    "misaligned_offset": (1004, (_MISALIGNED,)),
    "misaligned_length": (1004, (dense("w.Q8_0", 0, bytes(33)),)),
    "half_an_element": (1004, (dense("w.F16", 2, b"x"),)),
    "offset_in_an_element": (1004, (dense("v.F64", 4, bytes(8)),)),
    "sparse_length": (1004, (Edit(_GOOD.members, _GOOD.part + b"x"),)),
    "low_rank_length": (1004, (_with(low_rank("w.F32", _ONE_A, _ONE_B, 1), rank=2),)),
    "low_rank_on_a_vector": (1004, (low_rank("v.F32", np.ones((1, 1), np.float32), np.ones((37, 1), np.float32), 1),)),
    "low_rank_on_a_cube": (1004, (low_rank("cube.F32", np.ones((6, 1), np.float32), np.ones((4, 1), np.float32), 1),)),
    "a_program_of_two_bytes": (1004, (program("evolved.0", bytes(2)),)),
    "a_program_of_1365_pixels": ({1003, 1004}, (program("evolved.0", bytes(3 * 1365)),)),
    "a_program_elsewhere": ({1004, 1019, -32602}, (program("v.I8", bytes(6)),)),
    "dense_outside": (1003, (dense("w.F32", 4 * COLUMNS * ROWS, bytes(4)),)),
    "dense_partly_outside": (1003, (dense("w.F32", 4 * COLUMNS * ROWS - 4, bytes(8)),)),
    "dense_far_outside": (1003, (dense("w.F32", 2**53 - 4, bytes(4)),)),
    "sparse_outside": (1003, (_OUTSIDE,)),
    "sparse_far_outside": (1003, (sparse("w.F32", "set", [0, 2**64 - 1], [1.0, 1.0]),)),
    "sparse_unsorted": (-32602, (sparse("w.F32", "set", [3, 2], [1.0, 1.0]),)),
    "sparse_twice_the_same": (-32602, (sparse("w.F32", "add", [3, 3], [1.0, 1.0]),)),
    "257_edits": (1013, (_GOOD,) * 257),
}
"""Single faults of edits."""

PAIRS: dict[str, tuple[int, tuple[Edit, ...]]] = {
    "1013_before_1001": (1013, (_MISSING,) * 257),
    "1001_before_1004": (1001, (low_rank("w.F33", _ONE_A[:1], _ONE_B[:1], 1),)),
    "1002_before_1004_alignment": (1002, (dense("hw.mmio", 2, bytes(3)),)),
    "1002_before_1004_shape": (1002, (low_rank("kernel.0", _ONE_A, _ONE_B, 1),)),
    "1002_before_1003": (1002, (dense("kernel.0", 4096, b"x"),)),
    "1004_before_1019": (1004, (low_rank("v.Q4_0", _ONE_A, _ONE_B, 1),)),
    "1004_before_1019_of_a_program": (1004, (program("w.F32", bytes(5)),)),
    "1004_before_1003": (1004, (dense("w.F32", 4 * COLUMNS * ROWS + 1, bytes(4)),)),
    "1019_before_1003": (1019, (sparse("v.I32", "set", [48], [1.0]),)),
    "1003_before_1005": (1003, (_OUTSIDE, _NAN)),
    "1003_before_1005_later": (1003, (_NAN, _OUTSIDE)),
    "1019_before_1005": (1019, (_NAN, _WRONG_TYPE)),
    "1003_before_1008": (1003, (_NOTHING, _OUTSIDE)),
    "1005_before_1008": (1005, (_NOTHING, _NAN)),
    "the_first_edit_answers_1002": (1002, (_PROTECTED, _MISSING)),
    "the_first_edit_answers_1004": (1004, (_MISALIGNED, _PROTECTED)),
    "the_first_edit_answers_1019": (1019, (_WRONG_TYPE, _MISALIGNED)),
    "the_first_edit_answers_1003": (1003, (_OUTSIDE, _WRONG_TYPE)),
    "a_sound_edit_before": (1001, (_GOOD, _MISSING, _PROTECTED)),
}
"""Two faults at once, the neighbours of the table: the first condition answers."""


def _refused(code: int | set[int], edits: tuple[Edit, ...], client: Client) -> None:
    got = expect_refusal(client, code, *edits)
    if got.code == 1013:
        assert 256 in got.data.values()


Change: TypeAlias = Callable[[Params], None]


def _set(**members: Any) -> Change:
    return lambda params: params.update(members)


def _drop(name: str) -> Change:
    return lambda params: params.pop(name)


def _edit(**members: Any) -> Change:
    return lambda params: params["edits"][0].update(members)


def _both(first: Change, second: Change) -> Change:
    def change(params: Params) -> None:
        first(params)
        second(params)

    return change


PARAMS: dict[str, tuple[int | set[int], Change]] = {
    **{f"without_{name}": (-32602, _drop(name)) for name in ("id", "base_generation", "confidence", "edits")},
    "an_unknown_param": (-32602, _set(lease=5)),
    "an_id_too_short": (-32602, _set(id="ab")),
    "an_id_in_capitals": (-32602, _set(id="AB" * 16)),
    "an_id_of_other_letters": (-32602, _set(id="xy" * 16)),
    "an_id_of_number": (-32602, _set(id=5)),
    "a_negative_generation": (-32602, _set(base_generation=-1)),
    "a_fractional_generation": (-32602, _set(base_generation=0.5)),
    "a_generation_as_text": (-32602, _set(base_generation="0")),
    "an_origin_of_number": (-32602, _set(origin=5)),
    "edits_of_another_type": (-32602, _set(edits={})),
    "no_edit": ({-32602, 1008}, _set(edits=[])),
    "an_edit_of_another_type": (-32602, _set(edits=["dense"])),
    "a_lease_of_text": (-32602, _set(lease_ms="5")),
    "a_negative_lease": (-32602, _set(lease_ms=-5)),
    "digest_as_text": (-32602, _set(digest="yes")),
    "an_unknown_kind": (-32602, _edit(kind="xor")),
    "an_edit_of_no_kind": (-32602, lambda params: params["edits"][0].pop("kind")),
    "an_unknown_member_of_an_edit": (-32602, _edit(offsets=4)),
    "an_edit_with_no_tensor": (-32602, lambda params: params["edits"][0].pop("tensor")),
    "an_unknown_op": (-32602, _edit(op="mul")),
    "a_part_of_one_number": (-32602, _edit(blob=[0])),
    "a_part_of_three_numbers": (-32602, _edit(blob=[0, 12, 0])),
    "a_part_at_a_negative_place": (-32602, _edit(blob=[-1, 12])),
    "a_part_that_leaves_the_blob": (1003, _edit(blob=[4, 12])),
    "a_part_far_outside_the_blob": (1003, _edit(blob=[2**53 - 12, 12])),
    "confidence_at_the_limit": (1006, _set(confidence=0.8)),
    "confidence_of_nothing": (1006, _set(confidence=0)),
    "confidence_above_one": (1006, _set(confidence=1.0000001)),
    "confidence_below_zero": (1006, _set(confidence=-0.9)),
    "confidence_of_text": ({1006, -32602}, _set(confidence="0.9")),
    "confidence_of_null": ({1006, -32602}, _set(confidence=None)),
    "a_generation_to_come": (1007, _set(base_generation=2**53 - 1)),
    "1007_before_1006": (1007, _set(base_generation=2**53 - 1, confidence=0)),
    "1006_before_1001": (1006, _both(_set(confidence=0.1), _edit(tensor="no"))),
    "32602_before_1007": (-32602, _set(base_generation=2**53 - 1, colour="red")),
    "32602_before_1006": (-32602, _both(_set(confidence=0), _edit(op="mul"))),
}
SEEDED: dict[str, tuple[int | set[int], dict[str, Any]]] = {
    "density_above_one": (-32602, {"density": 1.01}),
    "density_below_zero": (-32602, {"density": -0.01}),
    "a_short_seed": (-32602, {"seed": "ff"}),
    "a_seed_in_capitals": (-32602, {"seed": "FF" * 8}),
    "an_unknown_form": (-32602, {"form": "uniform"}),
    "a_scale_beyond_f32": ({-32602, 1005}, {"scale": 1e39}),
    "a_step_of_two": ({-32602, 1004}, {"tensors": "w.Q8_0", "form": "step", "scale": 2}),
}
RANKS = (0, 65, -1, 1.5, "1")


def _bad_params(code: int | set[int], change: Change, client: Client) -> None:
    members, blob = assemble([_GOOD])
    params = proposal(client, members)
    change(params)
    with unchanged(client):
        got = client.ask("mutate", params, blob=blob)
        assert got.code in ({code} if isinstance(code, int) else code), got.body
        if got.code == 1007:
            assert got.data == {"generation": generation(client)}


def cases() -> Iterator[Case]:
    """One check for each row of the tables."""
    for name, (code, edits) in (*EDITS.items(), *PAIRS.items()):
        yield name, partial(_refused, code, edits)
    yield from ((name, partial(_bad_params, code, change)) for name, (code, change) in PARAMS.items())
    for name, (code, members) in SEEDED.items():
        yield name, partial(_refused, code, (_with(seeded("w.F32", "normal"), **members),))


def check_ranks_out_of_bounds(client: Client) -> None:
    for rank in RANKS:
        expect_refusal(client, {-32602, 1004}, _with(low_rank("w.F32", _ONE_A, _ONE_B, 1), rank=rank))
    wide = low_rank("w.F32", np.ones((ROWS, 65), np.float32), np.ones((COLUMNS, 65), np.float32), 1)
    expect_refusal(client, {-32602, 1004}, wide)


def check_parts_that_overlap(client: Client) -> None:
    members, blob = assemble([_GOOD, sparse("w.F16", "set", [0], [0.5])])
    members[1]["blob"] = [8, 12]
    with unchanged(client):
        assert client.ask("mutate", proposal(client, members), blob=blob).code == 1003


def check_confidence_just_above_the_limit(client: Client) -> None:
    for confidence in (0.8000000000000002, 1, 1.0):
        before = state(client)
        assert mutate(client, _GOOD, confidence=confidence).code == 0
        rollback(client, before[0])
        assert state(client)[1] == before[1]


def check_a_glob_never_matches_protected_tensors(client: Client) -> None:
    before = state(client)
    names = ("kernel.0", "kernel.7")
    held = [client.ask("read", {"tensor": name, "bytes": 4096}).blob for name in names]
    assert mutate(client, seeded("*.weight", "normal", scale=0.5), dense("evolved.2", 0, b"xyz")).code == 0
    assert [client.ask("read", {"tensor": name, "bytes": 4096}).blob for name in names] == held
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_an_older_generation_is_stale(client: Client) -> None:
    before = state(client)
    assert mutate(client, _GOOD).code == 0
    got = expect_refusal(client, 1007, _GOOD, base_generation=before[0])
    assert got.data == {"generation": before[0] + 1}
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_order_of_what_stands_before_the_gate(client: Client) -> None:
    """Method, params, blob, id, generation: each time the request violates two of them."""
    before = state(client)
    used, blob = _used(client)
    stale = state(client)
    other = {**used, "origin": "another"}
    wrong, unknown = {"bytes": len(blob), "crc32c": "00000000"}, {"upload": new_id()}
    assert client.ask("nonesuch", {"x": 1}, blob=blob, announced=wrong).code == -32601
    assert client.ask("mutate", {**other, "x": 1}, blob=blob, announced=wrong).code == -32602
    assert client.ask("mutate", {**other, "x": 1}, announced=unknown).code == -32602
    assert client.ask("mutate", {**other, "x": 1}).code == -32602
    assert client.ask("mutate", other, announced=unknown).code == 1012
    assert client.ask("mutate", other, blob=blob, announced=wrong).code == 1011
    assert client.ask("mutate", {**other, "confidence": 0}, blob=blob).code == 1020
    assert client.ask("mutate", other, blob=blob).code == 1020
    assert client.ask("mutate", {**other, "id": new_id(), "confidence": 0}, blob=blob).code == 1007
    assert state(client) == stale
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def _used(client: Client) -> tuple[Params, bytes]:
    """A change that was applied: what to send to have it replayed."""
    members, blob = assemble([_GOOD])
    params = proposal(client, members)
    assert blob is not None
    assert client.ask("mutate", params, blob=blob).code == 0
    return params, blob


def check_a_replay_gets_the_old_reply(client: Client) -> None:
    before = state(client)
    members, blob = assemble([_GOOD])
    params = proposal(client, members, digest=True)
    first = client.ask("mutate", params, blob=blob).result
    second = client.ask("mutate", dict(reversed(params.items())), blob=blob).result
    assert mutate(client, sparse("w.F16", "set", [7], [3.0])).code == 0
    third = client.ask("mutate", params, blob=blob).result
    crash(client)
    last = client.ask("mutate", params, blob=blob).result
    assert first["replayed"] is False
    assert second == third == last == {**first, "replayed": True}
    rollback(client, before[0])
    assert client.ask("mutate", params, blob=blob).result == second
    assert state(client) == (before[0] + 3, before[1])


def check_an_id_cannot_mean_two_things(client: Client) -> None:
    before = state(client)
    params, blob = _used(client)
    now = state(client)
    for change in ({"confidence": 0.95}, {"origin": "x"}, {"base_generation": now[0]}, {"lease_ms": 60_000}):
        assert client.ask("mutate", {**params, **change}, blob=blob).code == 1020, change
    assert client.ask("mutate", params, blob=blob[:-1] + b"\x01").code == 1020
    assert client.ask("rollback", {"id": params["id"], "to": before[0]}).code == 1020
    crash(client)
    assert client.ask("mutate", {**params, "origin": "x"}, blob=blob).code == 1020
    assert state(client) == now
    rollback(client, before[0])


def check_the_id_of_a_refused_mutation_may_be_used_again(client: Client) -> None:
    before = state(client)
    members, blob = assemble([_GOOD])
    params = proposal(client, members)
    assert client.ask("mutate", {**params, "confidence": 0.5}, blob=blob).code == 1006
    assert client.ask("mutate", {**params, "base_generation": before[0] + 9}, blob=blob).code == 1007
    assert client.ask("mutate", params, blob=blob).result["replayed"] is False
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_read_and_digest_refuse(client: Client) -> None:
    read_cases: tuple[tuple[Params, int | set[int]], ...] = (
        ({"tensor": "w.F33", "bytes": 1}, 1001),
        ({"tensor": "w.F32", "offset": 1277, "bytes": 4}, 1003),
        ({"tensor": "w.F32", "offset": 2**53 - 1, "bytes": 4}, 1003),
        ({"tensor": "big", "bytes": (1 << 20) + 1}, 1012),
        ({"tensor": "w.F32", "bytes": 0}, {-32602, 1003}),
        ({"tensor": "w.F32", "offset": -1, "bytes": 4}, -32602),
    )
    for params, code in read_cases:
        assert client.ask("read", params).code in ({code} if isinstance(code, int) else code), params
    assert client.ask("digest", {"tensors": ["w.F32", "w.F33"]}).code == 1001
    assert client.ask("digest", {"tensors": ["w.F32"] * 257}).code in (-32602, 1013)


def check_emptiness_of_a_slot(client: Client) -> None:
    assert read(client, "evolved.5") == bytes(4096)


def check_what_this_model_cannot_do(client: Client) -> None:
    assert client.ask("generate", {"prompt": "x", "max_tokens": 1}).code == 1018
    assert client.ask("embed", {"texts": ["x"]}).code == 1018
