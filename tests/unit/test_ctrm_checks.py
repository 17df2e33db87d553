"""The checks on a candidate, each on its own, and the judgement made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evolution.ctrm import behavioural, statistical, structural
from evolution.ctrm.calibration import CalibrationCurve
from evolution.ctrm.contract import Candidate, Check, CtrmLimits, Facts, Measured, ShadowResult
from evolution.ctrm.drift import drift
from evolution.ctrm.judge import CHECKS, judge
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Dense, Edit, Seeded, Sparse
from vboot.weights.storage_types import CODE_RANGES, decode, encode

ELEMENTS = 4096
WEIGHT = "blk.0.ffn_up.weight"
_FLOATS = {"F32": 4, "F16": 2, "BF16": 2, "Q8_0": 34}
_BLOCKS = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q6_K": 210, "IQ1_M": 56}
_NO_FLOATS = {"I8": 1, "Q8_K": 292}
BLOCK_BYTES = _FLOATS | _BLOCKS | _NO_FLOATS


def values(seed: int = 1, size: float = 0.05) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(ELEMENTS) * size).astype(np.float32)


def tensor(name: str = WEIGHT, kind: str = "F16", shape: Sequence[int] = (64, 64), **of: float) -> TensorData:
    return TensorData(name, kind, tuple(shape), encode(kind, values(**of)).tobytes())  # type: ignore[arg-type]


def info(data: TensorData, *, protected: bool = False) -> TensorInfo:
    return TensorInfo(data.name, data.type, data.shape, len(data.data), protected)


def dense(data: TensorData, after: NDArray[np.float32] | bytes) -> Dense:
    return Dense(data.name, 0, after if isinstance(after, bytes) else encode(data.type, after).tobytes())


def candidate(*tensors: TensorData, edits: Sequence[Edit]) -> Candidate:
    before = {each.name: each for each in tensors}
    return Candidate(tuple(edits), 3, before, apply(edits, before, ()))


def facts(*tensors: TensorData, shadow: ShadowResult | None = None, **limits: float) -> Facts:
    return Facts(tuple(info(each) for each in tensors), dataclasses.replace(CtrmLimits(), **limits), shadow)  # type: ignore[arg-type]


def noise(scale: float, *, tensors: str = WEIGHT, seed: int = 7) -> Seeded:
    return Seeded(tensors, f"{seed:016x}", "normal", 1.0, scale)


def refusal(some: Candidate, known: Facts) -> str | None:
    """The check that refuses a candidate."""
    refused = judge(some, known).refusal
    return None if refused is None else refused.check


# -- structural


def test_a_small_change_passes_every_check() -> None:
    weight = tensor()
    judged = judge(candidate(weight, edits=[noise(1e-3)]), facts(weight))
    assert judged.refusal is None
    assert [finding.check for finding in judged.findings] == [
        check.__name__ for check in (*structural.CHECKS, *statistical.CHECKS) if check is not statistical.vector_norm
    ]
    assert judged.confidence == 0
    assert not judged.admitted


def test_no_edit_is_refused() -> None:
    weight = tensor()
    assert refusal(Candidate((), 0, {}, {}), facts(weight)) == "number_of_edits"


def test_too_many_edits_are_refused() -> None:
    weight = tensor()
    edits = [noise(1e-3, seed=seed) for seed in range(257)]
    some = candidate(weight, edits=edits)
    assert refusal(some, facts(weight)) == "number_of_edits"
    assert judge(some, facts(weight)).reason == "number_of_edits: the number of edits is 257, above 256"
    assert refusal(candidate(weight, edits=edits[:256]), facts(weight)) is None


def test_too_large_a_blob_is_refused() -> None:
    weight = tensor()
    some = candidate(weight, edits=[dense(weight, values() * 1.01)])
    assert refusal(some, facts(weight, blob_bytes=2 * ELEMENTS)) is None
    assert refusal(some, facts(weight, blob_bytes=2 * ELEMENTS - 1)) == "size_of_blob"


def test_a_tensor_of_another_machine_is_refused() -> None:
    weight = tensor()
    some = candidate(weight, edits=[noise(1e-3)])
    judged = judge(some, facts(tensor("other")))
    assert judged.refusal is not None
    assert judged.refusal.check == "known_tensors"
    assert repr(WEIGHT) in judged.refusal.text


def test_an_invalid_edit_is_refused() -> None:
    weight = tensor()
    some = candidate(weight, edits=[noise(1e-3)])
    some = dataclasses.replace(some, edits=(*some.edits, noise(1.0, tensors="blk.9.*")))
    assert refusal(some, facts(weight)) == "known_tensors"


@pytest.mark.parametrize("name", ["hw.mmio", "cortex_journal", "kernel.0", "kernel.7"])
def test_the_machines_own_tensors_are_refused_whatever_the_list_says(name: str) -> None:
    own = tensor(name)
    some = candidate(own, edits=[noise(1e-3, tensors=name)])
    assert refusal(some, facts(own)) == "unprotected"
    hidden = dataclasses.replace(some, edits=(noise(1e-3),), before={**some.before, WEIGHT: tensor()})
    assert refusal(hidden, facts(own, tensor())) == "unprotected"


def test_what_the_machine_protects_is_refused() -> None:
    weight = tensor()
    some = candidate(weight, edits=[noise(1e-3)])
    assert refusal(some, Facts((info(weight, protected=True),))) == "unprotected"


def test_a_change_that_no_edit_makes_is_refused() -> None:
    weight, other = tensor(), tensor("output.weight")
    some = candidate(weight, other, edits=[noise(1e-3)])
    smuggled = dataclasses.replace(some, after={**some.after, other.name: some.after[WEIGHT]})
    assert refusal(some, facts(weight, other)) is None
    assert refusal(smuggled, facts(weight, other)) == "named_by_edits"


def test_another_type_shape_or_length_is_refused() -> None:
    weight = tensor()
    some = candidate(weight, edits=[noise(1e-3)])
    for known in (tensor(kind="BF16"), tensor(shape=(128, 32)), tensor(kind="F32")):
        assert refusal(some, facts(known)) == "same_storage"
    shorter = dataclasses.replace(some, after={WEIGHT: some.after[WEIGHT][:-2]})
    assert refusal(shorter, facts(weight)) == "same_storage"
    cut = dataclasses.replace(weight, data=weight.data[:-2])
    assert refusal(dataclasses.replace(some, before={WEIGHT: cut}), facts(weight)) == "same_storage"


def test_a_change_without_effect_is_refused() -> None:
    weight = tensor()
    for after in ({}, {WEIGHT: weight.data}):
        assert refusal(Candidate((noise(1e-9),), 0, {WEIGHT: weight}, after), facts(weight)) == "changes_something"


@pytest.mark.parametrize("kind", ["F16", "F32", "BF16", "Q8_0"])
def test_what_is_not_finite_is_refused(kind: str) -> None:
    weight = tensor(kind=kind)
    broken = values()
    broken[5] = np.inf
    after = encode(kind, broken).tobytes()
    some = Candidate((Dense(WEIGHT, 0, after),), 0, {WEIGHT: weight}, {WEIGHT: after})
    assert refusal(some, facts(weight)) == "finite"


# -- statistical


def found(check: Check, some: Candidate, known: Facts) -> float:
    finding = check(some, known)
    assert finding is not None
    return finding.value


@pytest.mark.parametrize("kind", ["F16", "F32", "BF16", "Q8_0"])
def test_norms_are_those_of_the_values(kind: str) -> None:
    weight = tensor(kind=kind)
    some = candidate(weight, edits=[noise(0.02)])
    old = decode(kind, np.frombuffer(weight.data, np.uint8)).astype(np.float64)
    new = decode(kind, np.frombuffer(some.after[WEIGHT], np.uint8)).astype(np.float64)
    expected = np.linalg.norm(new - old) / np.linalg.norm(old)
    assert found(statistical.matrix_norm, some, facts(weight)) == pytest.approx(expected, rel=1e-6)
    ratio = np.linalg.norm(new) / np.linalg.norm(old)
    assert found(statistical.rms_ratio, some, facts(weight)) == pytest.approx(ratio, rel=1e-6)


def test_many_tensors_add_up() -> None:
    tensors = [tensor(f"blk.{number}.ffn_up.weight", seed=number) for number in range(9)]
    some = candidate(*tensors, edits=[noise(0.01, tensors="blk.*")])
    each = found(statistical.matrix_norm, some, facts(*tensors))
    total = found(statistical.total_norm, some, facts(*tensors))
    assert total == pytest.approx(3 * each, rel=0.05)
    limit = (each + total) / 2
    assert refusal(some, facts(*tensors, matrix_norm=limit, total_norm=limit)) == "total_norm"


def test_a_bias_near_zero_is_measured_with_the_other_vectors() -> None:
    bias = tensor("blk.0.attn_k.bias", kind="F32", shape=(ELEMENTS,), size=1e-6)
    norm = tensor("blk.0.attn_output_norm.weight", kind="F32", shape=(ELEMENTS,), size=1.0)
    both = candidate(bias, norm, edits=[noise(1e-3, tensors="blk.*")])
    assert found(statistical.vector_norm, both, facts(bias, norm)) < 2e-3
    assert refusal(both, facts(bias, norm)) is None
    assert refusal(candidate(bias, edits=[noise(1e-3, tensors=bias.name)]), facts(bias, norm)) == "vector_norm"


def test_large_noise_is_refused_with_value_and_limit() -> None:
    weight = tensor()
    judged = judge(candidate(weight, edits=[noise(1.0)]), facts(weight))
    assert judged.refusal is not None
    assert (judged.refusal.check, judged.refusal.passed) == ("matrix_norm", False)
    assert judged.refusal.value > judged.refusal.limit == CtrmLimits().matrix_norm
    assert f"{WEIGHT!r} is {judged.refusal.value:.4g}, above {CtrmLimits().matrix_norm:.4g}" in judged.refusal.text
    assert judged.findings[-1] == judged.refusal


def test_growth_and_decay_are_refused_alike() -> None:
    weight = tensor()
    for factor in (1.5, 1 / 1.5):
        some = candidate(weight, edits=[dense(weight, values() * np.float32(factor))])
        assert found(statistical.rms_ratio, some, facts(weight)) == pytest.approx(1.5, rel=1e-3)
        assert refusal(some, facts(weight, rms_ratio=1.4)) == "rms_ratio"
    gone = candidate(weight, edits=[dense(weight, np.zeros(ELEMENTS, np.float32))])
    assert refusal(gone, facts(weight, matrix_norm=2, total_norm=2)) == "rms_ratio"


def test_scales_of_blocks_may_not_drift() -> None:
    weight = tensor(kind="Q8_0")
    some = candidate(weight, edits=[Seeded(WEIGHT, "00000000000000aa", "scale", 1.0, 0.3)])
    ratio = found(statistical.block_scale_ratio, some, facts(weight))
    assert 1.5 < ratio < 3
    assert refusal(some, facts(weight, block_scale_ratio=ratio - 0.01)) == "block_scale_ratio"
    assert found(statistical.block_scale_ratio, candidate(tensor(), edits=[noise(1.0)]), facts(tensor())) == 1


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_saturation_is_refused(kind: str) -> None:
    weight = tensor(kind=kind, size=6000.0 if kind == "F16" else 0.05)
    flat = np.where(values() > 0, np.float32(50_000), np.float32(-50_000))
    some = candidate(weight, edits=[dense(weight, flat)])
    assert found(statistical.saturation, some, facts(weight)) > 0.9
    free = facts(weight, matrix_norm=1e9, total_norm=1e9, rms_ratio=1e9, block_scale_ratio=1e9)
    assert refusal(some, free) == "saturation"


def test_existing_saturation_is_ignored() -> None:
    flat = np.where(values() > 0, np.float32(50_000), np.float32(-50_000))
    weight = TensorData(WEIGHT, "F16", (64, 64), encode("F16", flat).tobytes())
    some = candidate(weight, edits=[noise(1000.0)])
    assert found(statistical.saturation, some, facts(weight)) == 0


def test_an_outlier_is_refused() -> None:
    weight = tensor()
    one = Sparse(WEIGHT, "set", np.array([9], np.uint64), np.array([1.0], np.float32))
    some = candidate(weight, edits=[one])
    assert found(statistical.outlier, some, facts(weight)) == pytest.approx(1.0 / (4 * 0.05), rel=0.05)
    assert refusal(some, facts(weight, matrix_norm=9, total_norm=9)) == "outlier"
    there = dataclasses.replace(weight, data=apply([one], {WEIGHT: weight}, ())[WEIGHT])
    assert found(statistical.outlier, candidate(there, edits=[noise(1e-3)]), facts(there)) == pytest.approx(1, abs=0.01)


def test_a_constant_tensor_has_outliers_too_but_not_at_once() -> None:
    ones = TensorData("norm.weight", "F32", (ELEMENTS,), np.ones(ELEMENTS, np.float32).tobytes())
    some = candidate(ones, edits=[noise(0.01, tensors=ones.name)])
    assert found(statistical.outlier, some, facts(ones)) == pytest.approx(1.04, abs=0.02)


def test_what_was_all_zeros_and_what_is_no_number_is_left_to_the_shadow() -> None:
    zeros = TensorData("bias", "F32", (ELEMENTS,), bytes(4 * ELEMENTS))
    slot = TensorData("evolved.0", "I8", (4096,), bytes(4096))
    for before, edit in ((zeros, noise(1.0, tensors="bias")), (slot, Dense("evolved.0", 0, b"\1"))):
        some = candidate(before, edits=[edit])
        assert [check(some, facts(before)) for check in statistical.CHECKS] == [None] * len(statistical.CHECKS)
        assert refusal(some, facts(before)) is None


def test_quantised_types_that_take_steps_have_drifts() -> None:
    for kind in CODE_RANGES:
        source = np.random.default_rng(2)
        blocks = source.integers(0, 256, (8, BLOCK_BYTES[kind]), np.uint8)
        blocks[:, :2] = blocks[:, 2:4] = np.array([0.125], "<f2").view(np.uint8)
        weight = TensorData(WEIGHT, kind, (64, 4), blocks.tobytes())
        some = candidate(weight, edits=[Seeded(WEIGHT, "00000000000000aa", "step", 0.5, 1.0)])
        assert 0 < found(statistical.matrix_norm, some, facts(weight)) < 0.5


@settings(derandomize=True, deadline=None)
@given(kind=st.sampled_from(sorted(BLOCK_BYTES)), seed=st.integers(0, 1 << 32), blocks=st.integers(0, 3))
def test_any_bytes_have_a_drift_or_none(kind: str, seed: int, blocks: int) -> None:
    source = np.random.default_rng(seed)
    before, after = (source.bytes(blocks * BLOCK_BYTES[kind]) for _ in range(2))
    change = drift(TensorData("t", kind, (blocks,), before), after)
    assert (change is None) == (not blocks or kind in _NO_FLOATS)


# -- behavioural


def shown(*items: float, cosine: float = 0.1) -> Measured:
    return Measured(sum(items) / len(items), items, cosine)


BEFORE = shown(-1.0, -0.5, -1.5, -0.8)


def judged_by_shadow(after: Measured | None, *, curve: CalibrationCurve | None = None) -> tuple[str | None, float]:
    weight = tensor()
    known = facts(weight, shadow=ShadowResult(BEFORE, after))
    judged = judge(candidate(weight, edits=[noise(1e-3)]), known, curve=curve or CalibrationCurve())
    return (None if judged.refusal is None else judged.refusal.check), judged.confidence


def test_an_unchanged_score_is_certain_and_a_fallen_one_is_refused() -> None:
    assert judged_by_shadow(BEFORE) == (None, 1.0)
    assert judged_by_shadow(shown(-1.1, -0.6, -1.6, -0.9)) == ("degradation", 0.0)


def test_a_doubtful_score_passes_the_checks_but_not_the_gate() -> None:
    weight = tensor()
    known = facts(weight, shadow=ShadowResult(BEFORE, shown(-1.3, -0.3, -1.4, -0.9)))
    judged = judge(candidate(weight, edits=[noise(1e-3)]), known)
    assert judged.refusal is None
    assert 0.5 < judged.confidence < 0.8
    assert not judged.admitted
    assert judged.reason == f"confidence: {judged.confidence:.3f} is not above 0.8"


def test_embeddings_that_are_not_finite_are_refused() -> None:
    assert judged_by_shadow(None) == ("finite_embeddings", 0.0)


def test_embeddings_that_have_moved_together_are_refused() -> None:
    assert judged_by_shadow(dataclasses.replace(BEFORE, mean_cosine=0.5)) == (None, 1.0)
    assert judged_by_shadow(dataclasses.replace(BEFORE, mean_cosine=0.6)) == ("spread_lost", 0.0)


def test_a_score_of_zero_may_not_fall() -> None:
    weight = tensor()
    some = candidate(weight, edits=[noise(1e-3)])
    for after, refused in ((shown(0.0, 0.0), False), (shown(-1e-6, 0.0), True)):
        finding = behavioural.degradation(some, facts(weight, shadow=ShadowResult(shown(0.0, 0.0), after)))
        assert finding is not None
        assert finding.passed != refused


def test_the_curve_corrects_the_confidence_but_never_a_refusal() -> None:
    curve = CalibrationCurve()
    for _ in range(60):
        curve = curve.record(1.0, True).record(1.0, False)
    assert judged_by_shadow(BEFORE, curve=curve) == (None, curve.map(1.0))
    assert curve.map(1.0) == pytest.approx(0.5, abs=0.02)
    assert judged_by_shadow(None, curve=curve)[1] == 0


def test_checks_stop_at_the_first_that_fails_and_keep_what_the_curve_records() -> None:
    weight = tensor()
    known = facts(weight, shadow=ShadowResult(BEFORE, shown(-1.1, -0.5, -1.6, -0.9)))
    judged = judge(candidate(weight, edits=[noise(1e-3)]), known)
    assert judged.confidence == 0
    assert 0 < judged.raw < 0.5
    unknown = judge(candidate(weight, edits=[noise(1e-3)]), facts(tensor("other")), checks=CHECKS)
    assert [finding.passed for finding in unknown.findings] == [True, True, False]
