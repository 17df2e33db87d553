"""What strategies are made of: tiers on a model, noise as edits, shaping and step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.strategies.search_space import Noise, Terrain, combine, largest, search_space
from evolution.strategies.shaping import centred_ranks, of_unit_length, pair_coefficients, standardised
from evolution.strategies.step_size import SPREAD_LIMITS, after_generation, one_fifth
from evolution.strategies.tiers import STANDARD_TIERS, Tier
from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import TensorData, apply, targets
from vboot.weights.edits import Seeded

FINITE = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=12).map(lambda values: np.array(values, np.float64))


def model(matrix_type: str, blocks: int = 12) -> Terrain:
    """A BERT's tensors, and the machine's."""
    infos = [TensorInfo("kernel.0", "I8", (4096,), 4096, True), TensorInfo("evolved.0", "I8", (4096,), 4096, False)]
    infos.append(TensorInfo("token_embd.weight", matrix_type, (64, 1000), 0, False))
    infos.append(TensorInfo("token_embd_norm.weight", "F32", (64,), 256, False))
    for number in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            infos.append(TensorInfo(f"blk.{number}.{name}.weight", matrix_type, (64, 64), 0, False))
            infos.append(TensorInfo(f"blk.{number}.{name}.bias", "F32", (64,), 256, False))
        for name in ("attn_output_norm", "layer_output_norm"):
            infos += [TensorInfo(f"blk.{number}.{name}.{end}", "F32", (64,), 256, False) for end in ("weight", "bias")]
    return tuple(infos)


def named(patterns: Sequence[str], terrain: Terrain) -> list[str]:
    """The tensors that some patterns touch, as often as they do."""
    names = [info.name for info in terrain]
    protected = {info.name for info in terrain if info.protected}
    return sorted(
        name for pattern in patterns for name in targets(Seeded(pattern, "0" * 16, "normal", 1, 1), names, protected)
    )


@pytest.mark.parametrize("matrix_type", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("tier", STANDARD_TIERS.values(), ids=lambda tier: tier.name)
def test_a_standard_tier_names_each_of_its_tensors_once(tier: Tier, matrix_type: str) -> None:
    terrain = model(matrix_type)
    suits = {"scale": ("Q8_0", "Q4_0"), "step": ("Q8_0", "Q4_0"), "low_rank": ("F16", "Q8_0"), "normal": ("F32",)}
    if tier.form != "normal" and matrix_type not in suits[tier.form]:
        with pytest.raises(InputError, match="matches no tensor of this model"):
            search_space(tier, terrain)
        return
    space = search_space(tier, terrain)
    expected = {
        "output": ["blk.11.layer_output_norm.bias", "blk.11.layer_output_norm.weight"],
        "norms": [info.name for info in terrain if "_norm." in info.name],
    }.get(tier.name, [info.name for info in terrain if info.name.startswith("blk.") and info.type == matrix_type])
    assert named(space.patterns, terrain) == sorted(expected)
    assert [matrix.name for matrix in space.matrices] == (expected if tier.form == "low_rank" else [])
    assert space.capacity >= 64


def test_patterns_that_overlap_or_name_too_much_touch_a_tensor_once() -> None:
    terrain = model("Q8_0", blocks=2)
    overlapping = search_space(Tier("mine", "normal", ("*_norm.bias", "*.bias", "blk.0.attn_q.bias")), terrain)
    assert named(overlapping.patterns, terrain) == sorted(i.name for i in terrain if i.name.endswith(".bias"))
    mixed = search_space(Tier("mine", "scale", ("blk.*.weight",)), terrain)
    assert named(mixed.patterns, terrain) == sorted(
        i.name for i in terrain if i.name.startswith("blk.") and i.type == "Q8_0"
    )


def test_protected_tensors_and_too_many_are_out_of_reach() -> None:
    with pytest.raises(InputError, match="matches no tensor of this model"):
        search_space(Tier("mine", "normal", ("kernel.0", "kernel.*")), model("F16"))
    with pytest.raises(InputError, match="at most 256"):
        search_space(STANDARD_TIERS["low_rank"], model("F16", blocks=60))


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "dense"},
        {"tensors": ()},
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"density": 0.0},
        {"density": 1.5},
        {"rank": 2},
        {"form": "step", "sigma": 0.5},
        {"form": "low_rank", "density": 0.5},
        {"form": "low_rank", "rank": 65},
    ],
)
def test_an_invalid_tier_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="tier 'mine' is not valid"):
        Tier(**{"name": "mine", "form": "normal", "tensors": ("*",), **wrong})


def changed_weights(kind: str, edits: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What edits add to a matrix of zeros, f32 (4096,)."""
    zeros = TensorData("blk.0.attn_q.weight", kind, (64, 64), bytes(4096 * 4))
    return np.frombuffer(apply(edits, {zeros.name: zeros}, ())[zeros.name], np.float32)


def test_noise_of_low_rank_is_as_large_as_normal_noise() -> None:
    matrix = TensorInfo("blk.0.attn_q.weight", "F32", (64, 64), 16384, False)
    for rank in (1, 4, 16):
        space = search_space(Tier("mine", "low_rank", ("blk.*",), sigma=0.1, rank=rank), [matrix])
        deviations = [float(changed_weights("F32", combine(space, [Noise(f"{n:016x}", 1.0)])).std()) for n in range(8)]
        assert np.mean(deviations) == pytest.approx(0.1 * np.sqrt(0.5), rel=0.1)


@pytest.mark.parametrize("form", ["normal", "low_rank"])
def test_noises_add_up(form: Any) -> None:
    matrix = TensorInfo("blk.0.attn_q.weight", "F32", (64, 64), 16384, False)
    space = search_space(Tier("mine", form, ("blk.*",), sigma=0.1), [matrix])
    one, two = Noise("0" * 16, 0.5), Noise("1" * 16, -2.0)
    parts = [changed_weights("F32", combine(space, [noise])) for noise in (one, two)]
    np.testing.assert_allclose(changed_weights("F32", combine(space, [one, two])), parts[0] + parts[1], atol=1e-6)
    opposite = combine(space, [replace(one, amount=-0.5)])
    np.testing.assert_array_equal(changed_weights("F32", opposite), -parts[0])


def test_a_move_keeps_the_largest_noises() -> None:
    space = search_space(STANDARD_TIERS["norms"], model("F16"))
    noises = [Noise(f"{n:016x}", (-1) ** n * n / 200) for n in range(200)]
    kept = largest(space, noises)
    assert kept == tuple(noises[-128:])
    assert len(combine(space, kept)) == 256
    assert largest(space, noises[:3]) == tuple(noises[1:3])


@settings(deadline=None, derandomize=True)
@given(scores=FINITE)
def test_ranks_are_centred_and_in_order(scores: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    ranks = centred_ranks(scores)
    assert abs(ranks.sum()) < 1e-9
    assert np.abs(ranks).max() <= 0.5
    for one in range(len(scores)):
        for other in range(len(scores)):
            assert (ranks[one] < ranks[other]) == (scores[one] < scores[other])


@settings(deadline=None, derandomize=True)
@given(scores=FINITE)
def test_standardised_scores_have_mean_0_and_deviation_1(scores: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    shaped = standardised(scores)
    assert np.isfinite(shaped).all()
    if np.ptp(scores / max(np.abs(scores).max(), 1e-300)) > 1e-6:
        assert shaped.mean() == pytest.approx(0, abs=1e-6)
        assert shaped.std() == pytest.approx(1)


def test_weights_of_pairs_favour_the_better_side() -> None:
    plus, minus = np.array([3.0, 1.0, 2.0, 9.0]), np.array([1.0, 2.0, 2.0, 0.0])
    for shaping in ("ranks", "signs", "standardised"):
        assert np.sign(pair_coefficients(plus, minus, shaping)).tolist() == [1, -1, 0, 1]
    assert centred_ranks(np.array([5.0, -1.0, 5.0])).tolist() == [0.25, -0.5, 0.25]
    assert pair_coefficients(plus, minus, "signs").tolist() == [1, -1, 0, 1]
    assert np.linalg.norm(of_unit_length(np.array([3.0, 4.0]))) == 1
    assert of_unit_length(np.zeros(2)).tolist() == [0, 0]


def test_step_sizes_stay_within_limits() -> None:
    small = large = 1.0
    for _ in range(100):
        small, large = one_fifth(small, False), one_fifth(large, True)
    assert (small, large) == SPREAD_LIMITS
    assert one_fifth(1.0, True) * 0.84**4 == pytest.approx(1, abs=0.01)
    assert after_generation(1.0, [None, None]) == 0.5
    assert 0.5 < after_generation(0.5, [None, 0.0]) < 1
    assert after_generation(1.0, [0.0]) == 1
