"""Pixel programs on the running machine: the built-in kernels, evolved ones, the network, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.local_machine import local_machine
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError
from vboot.weights.edits import Program
from vboot.weights.pixels import assemble

HELLO = [(72, 101, 108), (101, 108, 108), (108, 111, 111), (250, 255, 0)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineClient]:
    with local_machine(tmp_path_factory.mktemp("pixels"), "--fault") as local, connect(local.socket) as client:
        yield client


def run(machine: MachineClient, text: str) -> NDArray[np.float32]:
    return np.frombuffer(machine.execute_pixels(assemble(text)).output, "<f4")


def code(machine: MachineClient, program: bytes) -> int:
    with pytest.raises(RequestRefusedError) as refused:
        machine.execute_pixels(program)
    return refused.value.code


def test_neural_exec_embeds_the_text_and_raises_its_interrupt(machine: MachineClient) -> None:
    before = machine.stats()
    ran = machine.execute_pixels(HELLO)
    assert (ran.result, ran.steps) == (1, 1)
    expected = machine.embed(["Helellloo"]).vectors[0]
    assert np.array_equal(np.frombuffer(ran.output, "<f4"), expected)
    after = machine.stats()
    assert after.interrupts == before.interrupts + 1
    assert after.pixels_processed == before.pixels_processed + 4


def test_the_built_in_kernels_do_what_they_say(machine: MachineClient) -> None:
    values = np.frombuffer(machine.read("token_embd.weight").data, "<f2").astype(np.float64)
    assert run(machine, 'text "token_embd.weight"\nCALL kernel.1') == pytest.approx(np.linalg.norm(values), rel=1e-5)
    a, b = np.array([1, 2, 3]), np.array([3, 2, -1])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    similarity = run(machine, "f32 1 2 3\nINPUT f32\nf32 3 2 -1\nINPUT f32\nCALL kernel.0")
    assert similarity == pytest.approx(cosine, rel=1e-5)
    health = run(machine, "CALL kernel.2")
    assert (len(health), health[1], health[4]) == (1024, 1, 100)


def test_an_evolved_program_is_called_as_soon_as_it_is_there(machine: MachineClient) -> None:
    assert code(machine, assemble("CALL evolved.3")) == 1004
    machine.mutate([Program("evolved.3", assemble("f32 4 5 6\nINPUT f32\nREDUCE sum\nOUT"))], confidence=0.9)
    assert run(machine, "CALL evolved.3").tolist() == [15]
    machine.rollback(0)
    assert code(machine, assemble("CALL evolved.3")) == 1004


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (b"\xfa\x0b\x00", 1004),  # DROP of nothing
        (b"\xfa\x77\x00", -32602),  # no such instruction
        (assemble('text "no.such"\nTENSOR\nOUT'), 1001),
        (assemble("f32 1e38 1e38 1e38\nINPUT f32\nDUP\nMUL\nOUT"), 1005),
    ],
)
def test_a_fault_changes_nothing(machine: MachineClient, program: bytes, expected: int) -> None:
    before = machine.stats()
    assert code(machine, bytes(np.array(HELLO, np.uint8).tobytes()) + program) == expected
    after = machine.stats()
    assert (after.interrupts, after.pixels_processed) == (before.interrupts, before.pixels_processed)
    assert after.worker.restarts == before.worker.restarts


def test_the_program_is_needed(machine: MachineClient) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        machine.request("execute_pixels")
    assert refused.value.code == 1012


def test_a_model_without_a_network_runs_programs_all_the_same(tmp_path: Path) -> None:
    from tests.conformance.model import write_model

    model = write_model(tmp_path / "model.gguf")
    with local_machine(tmp_path, model=model) as local, connect(local.socket) as client:
        assert run(client, "f32 1 2 3\nINPUT f32\nREDUCE max\nOUT").tolist() == [3]
        assert code(client, np.array(HELLO, np.uint8).tobytes()) == 1018
