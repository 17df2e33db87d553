"""Kernels as WGSL, compiled and run on the adapter of this host."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from evolution.fallback import wgsl_device
from evolution.fallback.wgsl_device import WgslRunner
from evolution.kernels import reference, to_wgsl
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
    ReduceTo,
)
from evolution.kernels.variation import mutate, normalised, projection, weighted_sum
from vboot.errors import InputError, ToolError

DIM = 51
_RNG = np.random.default_rng(5)
VECTORS = _RNG.normal(0, 1, (20, DIM)).astype(np.float32)
VECTORS[0] = 0
VECTORS[1] = np.linspace(-90, 90, DIM)
POOL = pool_of(VECTORS, directions=3)
KERNEL = normalised(EvolvedKernel(DIM, weighted_sum(POOL[0], -1.0)))
ALL_INSTRUCTIONS: tuple[Instruction, ...] = (
    *projection(POOL[1], -1.0),
    *(
        instruction
        for act in ACTS
        for instruction in (Apply("dup"), Activate(act), PushScalar(0.5), Activate(act), Apply("mul"), Apply("add"))
    ),
    *(
        instruction
        for norm in NORMS
        for instruction in (Apply("dup"), Normalise(norm), Apply("swap"), POOL[0], Apply("drop"), Apply("add"))
    ),
    *(instruction for reduce in REDUCES for instruction in (Apply("dup"), ReduceTo(reduce), Apply("add"))),
)


def runner_or_skip(**options: float) -> WgslRunner:
    runner = WgslRunner(**options)
    try:
        runner.validate(to_wgsl.source(EvolvedKernel(3, ())))
    except InputError as error:
        if error.remedy != wgsl_device.INSTALL:
            raise
        pytest.skip(error.what)
    return runner


@pytest.fixture(scope="module")
def runner() -> Iterator[WgslRunner]:
    with runner_or_skip() as found:
        yield found


def distance(kernel: EvolvedKernel, runner: WgslRunner) -> float:
    """From the reference, in parts of each vector's largest element."""
    expected, found = reference.run(kernel, VECTORS), runner.run(kernel, VECTORS)
    size = np.maximum(np.abs(expected).max(axis=1), np.float32(1e-30))
    return float((np.abs(found - expected).max(axis=1) / size).max())


def test_every_instruction_computes_what_the_reference_does(runner: WgslRunner) -> None:
    assert distance(EvolvedKernel(DIM, ALL_INSTRUCTIONS), runner) <= to_wgsl.TOLERANCE


@pytest.mark.parametrize("name", [*ACTS, *NORMS])
def test_functions_and_norms_over_their_whole_range(runner: WgslRunner, name: str) -> None:
    instruction = Activate(name) if name in ACTS else Normalise(name)  # type: ignore[arg-type]
    assert distance(EvolvedKernel(DIM, (instruction,)), runner) <= to_wgsl.TOLERANCE


def test_an_evolved_kernel_computes_what_the_reference_does(runner: WgslRunner) -> None:
    kernel = EvolvedKernel(DIM, ())
    for number in range(8):
        kernel = mutate(kernel, POOL, Draws("00000000000000aa", str(number)))
    assert distance(normalised(kernel), runner) <= to_wgsl.TOLERANCE


def test_a_shader_is_refused_in_one_sentence_that_says_where(runner: WgslRunner) -> None:
    source = to_wgsl.source(KERNEL)
    broken = source.replace("let row = group.x;", "let row: i32 = group.x;")
    line = broken[: broken.index("let row: i32")].count("\n") + 1
    with pytest.raises(InputError, match=f"refuses the shader: .* at line {line}, column") as refused:
        runner.validate(broken)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="refuses the shader"):
        runner.validate(source, entry_point="other")
    runner.validate(source)


def test_results_that_are_not_finite_are_refused(runner: WgslRunner) -> None:
    with pytest.raises(InputError, match="row 1 is not finite"):
        runner.run(EvolvedKernel(3, (Normalise("l2"),)), np.array([[1, 2, 3], [1e30, 1, 1]], np.float32))


def test_vectors_of_another_length_are_refused(runner: WgslRunner) -> None:
    with pytest.raises(InputError, match="expected f32 vectors of 51 elements"):
        runner.run(KERNEL, VECTORS[:, :3])


def test_no_vectors_have_no_results(runner: WgslRunner) -> None:
    assert runner.run(KERNEL, VECTORS[:0]).shape == (0, DIM)


def test_a_process_that_hangs_is_replaced(runner: WgslRunner) -> None:
    many = np.tile(VECTORS, (500, 1))  # more than the line to it holds
    expected = runner.run(KERNEL, VECTORS)
    pid = runner.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    runner.timeout, patience = 0.2, runner.timeout
    with pytest.raises(ToolError, match="hung while running a shader"):
        runner.run(KERNEL, many)
    runner.timeout = patience
    assert runner.pid is None
    assert np.array_equal(runner.run(KERNEL, VECTORS), expected)


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wgsl_device, "_COMMAND", ["/bin/sh", "-c", "echo no driver >&2", "sh"])
    with WgslRunner() as runner, pytest.raises(ToolError, match="crashed while starting the graphics adapter") as lost:
        runner.validate("")
    assert lost.value.stderr == "no driver"


def test_without_wgpu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "import runpy, sys; sys.modules['wgpu'] = None; "
    child = hidden + "runpy.run_module('evolution.fallback.wgsl_child', run_name='__main__')"
    monkeypatch.setattr(wgsl_device, "_COMMAND", [sys.executable, "-c", child])
    with WgslRunner() as runner, pytest.raises(InputError, match=r"no adapter for WGSL .*wgpu") as refused:
        runner.validate("")
    assert refused.value.remedy == wgsl_device.INSTALL
