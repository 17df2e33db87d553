"""`vboot tensors` on the real executable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_machine import local_machine
from tests.support.vboot import Vboot
from vboot.client.machine import connect


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with local_machine(tmp_path_factory.mktemp("machine")) as local:
        yield local.socket


def names(vboot: Vboot, *words: str | Path) -> list[str]:
    return [each["name"] for each in vboot.json("tensors", *words)["tensors"]]


def test_all_tensors_as_a_table(vboot: Vboot, machine: Path) -> None:
    with connect(machine) as connected:
        expected = connected.tensors()
    assert vboot("tensors", machine) == 0
    lines = vboot.out.splitlines()
    assert lines[0].split() == ["tensor", "type", "shape", "bytes"]
    assert [line.split()[0] for line in lines[1:-1]] == [info.name for info in expected]
    assert [line.endswith("protected") for line in lines[1:-1]] == [info.protected for info in expected]
    assert lines[-1].startswith(f"{len(expected)} tensors, ")
    row = next(line.split() for line in lines if line.startswith("token_embd.weight"))
    assert row[1:4] == ["F16", "64", "x"]


def test_a_pattern_or_how_names_begin(vboot: Vboot, machine: Path) -> None:
    assert names(vboot, machine, "blk.*.attn_q.weight") == ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
    assert names(vboot, machine, "token_embd") == names(vboot, machine, "token_embd*")
    assert "token_embd_norm.bias" in names(vboot, machine, "token_embd")
    assert vboot("tensors", machine, "blk.9.*") == 1
    assert vboot.last_error() == (
        "vboot: error: no tensor of the machine matches blk.9.*; `vboot tensors` without a pattern lists all"
    )
    assert vboot("tensors", machine, "a", "b") == 2
    assert "expected one pattern at most, got 2" in vboot.last_error()


def test_which_machine(vboot: Vboot) -> None:
    assert vboot("tensors", "blk.*") == 1
    assert "no machine runs" in vboot.last_error()
    assert vboot("tensors", "gone", "blk.*") == 1
    assert "gone is not there; give the folder that boot printed" in vboot.last_error()
    assert vboot("tensors", "build/run/gone") == 1
    assert "a pattern that looks like a path must follow it" in vboot.last_error()
