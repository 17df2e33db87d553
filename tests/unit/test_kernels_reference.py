"""Kernels in numpy: the formulas, and the running machine's results to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evolution.kernels import functions, reference, to_pixels
from evolution.kernels.constants import pool_of
from evolution.kernels.draws import Draws
from evolution.kernels.genome import (
    ACTS,
    NORMS,
    REDUCES,
    Activate,
    Apply,
    EvolvedKernel,
    Instruction,
    Normalise,
    PushScalar,
    PushVector,
    ReduceTo,
)
from evolution.kernels.variation import mutate
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.tables import PROGRAM_PIXELS_LIMIT

DIM = 51
"""Odd, and no multiple of the sixteen lanes."""
SLOT = 3
_RNG = np.random.default_rng(5)
VECTORS = (_RNG.normal(0, 1, (24, DIM)) * 10.0 ** _RNG.integers(-3, 3, (24, 1))).astype(np.float32)
VECTORS[0] = 0
VECTORS[1, ::2] = -0.0
VECTORS[2] = np.linspace(-90, 90, DIM)
POOL = pool_of(VECTORS, directions=3)
SQUARE = (Apply("dup"), Apply("mul"))


@pytest.fixture(scope="module")
def machine() -> Iterator[MachineClient]:
    with RustNeuralBridge(energy=False) as bridge:
        bridge.initialize()
        with bridge.client() as client:
            yield client


def live(machine: MachineClient, kernel: EvolvedKernel, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    machine.mutate([to_pixels.edit(kernel, slot=SLOT)], confidence=0.95)
    programs = to_pixels.calls(kernel, vectors, slot=SLOT)
    output = b"".join(machine.execute_pixels(program).output for program in programs)
    return np.frombuffer(output, "<f4").reshape(vectors.shape)


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


CASES: dict[str, tuple[Instruction, ...]] = {
    "nothing": (),
    **{f"act {name}": (Activate(name),) for name in ACTS},
    **{f"norm {name}": (Normalise(name),) for name in NORMS},
    **{f"reduce {name}": (Apply("dup"), ReduceTo(name), Apply("add")) for name in REDUCES},
    "scalar": (PushScalar(-0.0), Apply("add"), PushScalar(float(np.float32(1 / 3))), Apply("mul")),
    "act of a scalar": (PushScalar(-1.5), Activate("tanh"), Apply("mul")),
    "vector": (POOL[0], Apply("add"), POOL[1], Apply("mul")),
    "swap, drop": (POOL[0], Apply("swap"), Apply("drop"), Apply("dup"), Normalise("layer"), Apply("mul")),
    "constant result": (Apply("drop"), POOL[1], Normalise("rms")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_machine_computes_the_same_bits(machine: MachineClient, name: str) -> None:
    kernel = EvolvedKernel(DIM, CASES[name])
    assert same_bits(live(machine, kernel, VECTORS), reference.run(kernel, VECTORS))


def test_evolved_kernels_compute_the_same_bits(machine: MachineClient) -> None:
    kernel, compared = EvolvedKernel(DIM, ()), 0
    for number in range(60):
        child = mutate(kernel, POOL, Draws("00000000000000aa", str(number)))
        try:
            expected = reference.run(child, VECTORS)
            found = live(machine, child, VECTORS)
        except (InputError, RequestRefusedError):
            continue
        kernel, compared = child, compared + 1
        assert same_bits(found, expected), child
    assert compared > 30
    assert len(kernel.instructions) > 10


def test_what_is_not_finite_is_refused_as_the_machine_refuses_it(machine: MachineClient) -> None:
    kernel = EvolvedKernel(3, (*SQUARE, *SQUARE))
    vectors = np.array([[1, 2, 3], [1, 1e30, 1]], np.float32)
    with pytest.raises(InputError, match="row 1 is not finite"):
        reference.run(kernel, vectors)
    with pytest.raises(RequestRefusedError) as refused:
        live(machine, kernel, vectors)
    assert refused.value.code == 1005
    # A norm that overflows gives no zeros.
    with pytest.raises(InputError, match="row 0 is not finite"):
        reference.run(EvolvedKernel(3, (Normalise("l2"),)), np.full((1, 3), 1e30, np.float32))


def test_many_vectors_take_several_programs(machine: MachineClient) -> None:
    kernel = EvolvedKernel(384, (Normalise("layer"),))
    vectors = np.random.default_rng(2).normal(0, 1, (150, 384)).astype(np.float32)
    assert len(list(to_pixels.calls(kernel, vectors, slot=SLOT))) > 1
    assert same_bits(live(machine, kernel, vectors), reference.run(kernel, vectors))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (functions.relu, lambda x: max(x, 0.0)),
        (functions.gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        (functions.silu, lambda x: x * _sigmoid(x)),
        (functions.tanh, math.tanh),
        (functions.sigmoid, _sigmoid),
    ],
)
def test_functions_follow_their_formulas(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], formula: Callable[[float], float]
) -> None:
    x = np.linspace(-12, 12, 2001, dtype=np.float32)
    assert function(x) == pytest.approx(np.array([formula(value) for value in x.tolist()]), abs=2e-6, rel=2e-6)


def test_the_fused_multiply_add_rounds_once() -> None:
    """Against exact rational arithmetic, where f32 and even f64 sums would round twice."""
    from fractions import Fraction

    rng = np.random.default_rng(3)
    a, b, c = (np.ldexp(rng.normal(0, 1, 4000), rng.integers(-30, 30, 4000)).astype(np.float32) for _ in range(3))
    c[::3] = -(a * b)[::3]
    # The product lies between two f32, and a sum in f64 forgets the addend that decides.
    a[1::3], b[1::3] = np.copysign(np.float32(1 + 2**-12), a[1::3]), 1 + 2**-12
    c[1::3] = np.ldexp(np.sign(c[1::3]), -70)
    found = functions.mul_add(a, b, c)
    for fused, exact in zip(
        found.tolist(),
        (Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)),
        strict=True,
    ):
        error = abs(Fraction(fused) - exact)
        for neighbour in (np.nextafter(np.float32(fused), np.float32(side)) for side in (-np.inf, np.inf)):
            assert error <= abs(Fraction(float(neighbour)) - exact)


def test_vectors_of_another_length_are_refused() -> None:
    kernel = EvolvedKernel(DIM, ())
    wrong: list[Any] = [VECTORS[0], VECTORS[:, :3], VECTORS.astype(np.float64)]
    for vectors in wrong:
        with pytest.raises(InputError, match=r"expected .*vectors of 51 elements"):
            reference.run(kernel, vectors)
    with pytest.raises(InputError, match=r"expected .*vectors of 51 elements"):
        list(to_pixels.calls(kernel, VECTORS[:, :3], slot=0))


def test_a_slot_bounds_a_kernel() -> None:
    phrase = (PushVector(bytes(384), 1.0, 0.0), Apply("add"))
    assert len(to_pixels.program(EvolvedKernel(384, phrase * 9))) <= 3 * PROGRAM_PIXELS_LIMIT
    with pytest.raises(InputError, match="a slot holds 1364"):
        to_pixels.program(EvolvedKernel(384, phrase * 10))
    with pytest.raises(InputError, match="expected a slot from 0 to 7, got 8"):
        to_pixels.edit(EvolvedKernel(384, ()), slot=8)
