"""The files generated from the tables in `spec/` are up to date, and the protocol's tables agree with the code."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from image.gguf_writer import TensorType
from image.machine_tensors import machine_tensors
from vboot.protocol.tables import MACHINE_TENSORS, METHODS

ROOT = Path(__file__).resolve().parents[2]
GENERATED: Mapping[Path, Callable[[], str]] = runpy.run_path(str(ROOT / "spec" / "generate.py"))["GENERATED"]


@pytest.mark.parametrize("path", GENERATED, ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert (ROOT / path).read_text("utf-8") == GENERATED[path](), "run .venv/bin/python spec/generate.py"


def test_what_runs_beside_can_be_cancelled_and_nothing_else() -> None:
    for method in METHODS.values():
        assert method.cancellable == (method.runs == "beside"), method.name
        assert not (method.passes and method.runs != "inline"), method.name
        assert not (method.changes_weights and method.repeat != "by_id"), method.name


def test_an_id_makes_every_change_repeatable() -> None:
    for method in METHODS.values():
        if method.name == "signed":  # the id is in its payload
            continue
        ids = {parameter.name for parameter in method.parameters if parameter.type == "hex16" and parameter.required}
        assert (method.repeat == "by_id") == bool(ids), method.name


def test_a_composed_file_holds_the_machine_tensors_of_the_table() -> None:
    composed = [(tensor.name, TensorType(tensor.type).name, tensor.dims) for tensor in machine_tensors()]
    assert composed == [(tensor.name, tensor.type, (tensor.elements,)) for tensor in MACHINE_TENSORS]
