"""The torture itself: that it predicts, that it notices the slightest deviation, and that a cycle can be run again."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.statistics import percentile
from tests.torture.__main__ import explain, main
from tests.torture.draws import draw_cycle
from tests.torture.expectation import DeviationError, Request, State, check, model_digest
from tests.torture.model import SLOT_NAMES, gguf_bytes, tensors
from tests.torture.recipes import recipe
from tests.torture.run import EPOCH, CycleFailedError, TorturePlan, torture
from tests.torture.tally import Tally, progress, summary
from tests.torture.twin import Twin
from tests.torture.wire import Wire
from vboot.errors import InputError
from vboot.gguf import read_layout
from vboot.protocol.messages import TensorInfo
from vboot.weights.edits import Sparse, pack
from vboot.weights.recipe import load
from vboot.weights.storage_types import all_finite

SEED = 5
MODEL = tensors(SEED)
TYPES = {tensor.type for tensor in MODEL.values()}


def test_two_thousand_cycles_go_as_predicted(tmp_path: Path) -> None:
    tally = torture(tmp_path, TorturePlan(SEED, cycles=2000))
    assert tally.cycles == 2000
    assert tally.bytes_compared > 10_000_000
    assert len(tally.edits) == 8
    assert {-32602, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1011, 1013, 1019, 1020} <= tally.refusals.keys()
    assert {"promotions", "expiries", "replays", "disconnects", "worker deaths", "rollbacks"} <= tally.events.keys()


def test_a_single_wrong_bit_is_found_and_reported_reproducibly(tmp_path: Path) -> None:
    name = "other.Q6_K.1"
    flipped = bytes([MODEL[name].data[0] ^ 1]) + MODEL[name].data[1:]
    with pytest.raises(CycleFailedError, match=f"bytes of {name} are wrong in byte 0") as failed:
        torture(tmp_path, TorturePlan(SEED, cycles=1), model={**MODEL, name: replace(MODEL[name], data=flipped)})
    explanation = explain(failed.value, SEED)
    assert f"python -m tests.torture --seed {SEED} --from 0 --cycles 1" in explanation
    assert '"edits":' in explanation


def test_a_worker_that_dies_unasked_is_a_deviation(tmp_path: Path) -> None:
    def kill_once(tally: Tally) -> None:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for child in children:
            for worker in Path(f"/proc/{child}/task/{child}/children").read_text().split():
                os.kill(int(worker), signal.SIGKILL)

    with pytest.raises(CycleFailedError, match="closed the connection"):
        torture(tmp_path, TorturePlan(SEED, cycles=3 * EPOCH), on_progress=kill_once)


def test_the_command_counts_and_summarises(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cycles", "20", "--seed", "9", "--from", "3"]) == 0
    out = capsys.readouterr().out
    assert "cycles 23 in" in out
    assert "wrong bytes 0" in out


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, 2**40))
def test_a_cycle_follows_from_seed_and_number_alone(seed: int, number: int) -> None:
    first, again = draw_cycle(seed, number, MODEL), draw_cycle(seed, number, tensors(SEED + 1))
    assert [pack(draft.edits) for draft in first.drafts] == [pack(draft.edits) for draft in again.drafts]
    assert replace(first, drafts=()) == replace(again, drafts=())


def test_the_model_has_every_type_finite_and_its_file_reads_back() -> None:
    data = gguf_bytes(MODEL)
    layout = read_layout(memoryview(data), name="torture.gguf")
    own = {name for name in MODEL if name not in SLOT_NAMES}
    assert {tensor.name for tensor in layout.tensors} == own
    assert {"F32", "F16", "BF16", "F64", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K", "I8", "I64"} <= TYPES
    for tensor in MODEL.values():
        assert all_finite(tensor.type, np.frombuffer(tensor.data, np.uint8)), tensor.name
    for info in layout.tensors:
        assert data[info.offset : info.offset + info.size] == MODEL[info.name].data


def test_recipes_are_read_back_to_the_bit(tmp_path: Path) -> None:
    infos = {t.name: TensorInfo(t.name, t.type, t.shape, len(t.data), False) for t in MODEL.values()}
    path = tmp_path / "recipe.json"
    compared = 0
    for number in range(60):
        for draft in draw_cycle(SEED, number, MODEL).drafts:
            path.write_text(recipe(draft.edits))
            with suppress(InputError):  # those that are refused are not all recipes
                assert pack(load(path, infos.__getitem__).edits) == pack(draft.edits)
                compared += 1
    assert compared > 60


def _state(**data: bytes) -> State:
    sha256 = {name: hashlib.sha256(value).digest() for name, value in data.items()}
    return State(data, sha256, model_digest(sha256))


STATES = {4: _state(a=b"12", b=b"3"), 5: _state(a=b"19", b=b"3")}


def _reply(**result: Any) -> dict[str, Any]:
    return {"id": 1, "result": result}


def _refusal(code: int) -> dict[str, Any]:
    return {"id": 1, "error": {"code": code, "message": "no"}}


READ = Request(0, "read", {"tensor": "a", "bytes": 2}, generation=4)
MUTATE = Request(0, "mutate", {}, result={"generation": 5, "replayed": False}, generation=5)


@pytest.mark.parametrize(
    ("request_", "reply", "blob"),
    [
        (READ, _reply(generation=4), b"12"),
        (replace(READ, resent=True), _reply(generation=5), b"19"),
        (MUTATE, _reply(generation=5, replayed=False, more=1), None),
        (replace(MUTATE, resent=True), _reply(generation=5, replayed=True), None),
        (replace(MUTATE, code=1005), _refusal(1005), None),
        (replace(MUTATE, code=1005, resent=True), _refusal(1007), None),
        (Request(0, "digest", {}, generation=5), _reply(generation=5, model=STATES[5].model), None),
    ],
)
def test_what_is_as_predicted_passes(request_: Request, reply: Mapping[str, Any], blob: bytes | None) -> None:
    check(request_, reply, blob, STATES.__getitem__)


@pytest.mark.parametrize(
    ("request_", "reply", "blob", "why"),
    [
        (READ, _reply(generation=4), b"13", "wrong in byte 1"),
        (READ, _reply(generation=4), b"1", "wrong in their number"),
        (READ, _reply(generation=5), b"19", "generation 5"),
        (replace(READ, generation=5, resent=True), _reply(generation=4), b"12", "generation 4"),
        (MUTATE, _reply(generation=5, replayed=True), None, "replayed"),
        (MUTATE, _reply(generation=6, replayed=False), None, "generation"),
        (MUTATE, _refusal(1005), None, "should be accepted"),
        (MUTATE, _refusal(1007), None, "should be accepted"),
        (replace(MUTATE, resent=True), _refusal(1007), None, "should be accepted"),
        (replace(MUTATE, code=1005), _refusal(1007), None, "refused with 1005"),
        (replace(MUTATE, code=1005), _reply(generation=5), None, "refused with 1005"),
        (Request(0, "digest", {}, generation=5), _reply(generation=5, model=STATES[4].model), None, "digest"),
        (MUTATE, {"id": 1}, None, "answered"),
    ],
)
def test_what_is_not_as_predicted_is_a_deviation(
    request_: Request, reply: Mapping[str, Any], blob: bytes | None, why: str
) -> None:
    with pytest.raises(DeviationError, match=why):
        check(request_, reply, blob, STATES.__getitem__)


def test_the_double_goes_back_to_any_generation_and_ends_trials() -> None:
    twin = Twin(MODEL, run=1)
    edit = Sparse("float.F32.0", "set", np.array([3], np.uint64), np.array([1.5], np.float32))
    before = twin.state()
    assert twin.mutate(0, [edit]).code == 0
    assert twin.mutate(0, [edit]).code == 1008
    assert twin.mutate(0, [edit], defect="stale").code == 1007
    assert (twin.generation, twin.promoted) == (1, 1)
    twin.mutate(0, [replace(edit, op="add")], lease_ms=5)
    assert (twin.generation, twin.promoted, twin.on_trial) == (2, 1, True)
    twin.expire()
    assert (twin.generation, twin.promoted, twin.on_trial) == (3, 3, False)
    assert twin.state() == twin.state(1) != before
    twin.rollback(0, 0)
    assert twin.state() == before
    twin.undo_rollback()
    assert (twin.generation, twin.state()) == (3, twin.state(1))


def test_progress_and_summary() -> None:
    tally = Tally(cycles=1000, mutations=1200)
    tally.refusals[1005] = 3
    assert progress(tally, 2.0, cycles=5000).startswith("1,000 of 5,000 cycles, 1,200 mutations, 3 refusals")
    assert "1005 not finite 3" in summary(tally, 2.0)


def test_percentiles_are_samples_by_nearest_rank() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert [percentile(samples, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


def test_a_wire_without_a_machine_says_so() -> None:
    def gone() -> None:
        raise DeviationError("the machine has ended")

    with tempfile.TemporaryDirectory() as folder, pytest.raises(DeviationError, match="ended"):
        Wire(Path(folder, "none.sock"), lambda _request, _answer: None, check_alive=gone)
