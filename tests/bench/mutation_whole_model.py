"""All weights changed at once: by a short recipe, by sending all bytes, and by rebuilding the file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from image.bert import ModelType
from image.compose import compose
from tests.bench.mutation_machines import Connected, local
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.sampling import alternate
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Dense, Edit, Seeded, pack

RECIPE, SHIPPED, REBUILT = "seeded recipe", "changed tensors shipped", "new file, new process"
_TYPES: tuple[ModelType, ...] = ("F16", "Q8_0")
_EDIT = Seeded("*.weight", "00c0ffee00c0ffee", "normal", 0.01, 0.001)
_HOW = (
    "Noise on 1 % of all weights of minilm (`*.weight`), energy unlimited, in three ways with the same result: the"
    " recipe in one message; the changed tensors as dense edits in one upload, computed beforehand; and without this"
    " machine, where numpy applies the noise, gguf-py writes a new file, and a new process opens it. Each ends when the"
    " model answers, the last one with its digest. Each change is rolled back before the next turn; that is not timed."
)


def run(setting: Setting) -> Result:
    """Measure both types. Raises VbootError."""
    cases, facts = [], []
    for model_type in _TYPES:
        setting.say(f"minilm in {model_type}")
        model = setting.folder / f"{model_type}.gguf"
        compose("minilm", model, type=model_type)
        case, fact = _measure(setting, model, f"minilm in {model_type}")
        cases.append(case)
        facts.append(fact)
        model.unlink()
    return Result("Changing a whole model", _HOW, tuple(cases), tuple(facts), {"gguf": version("gguf")})


def _measure(setting: Setting, model: Path, name: str) -> tuple[Case, BenchFinding]:
    held = _read(model)
    changed = apply([_EDIT], held, _others(held))
    shipped = [Dense(tensor, 0, data) for tensor, data in changed.items()]
    with local(model) as line:
        contenders = {
            RECIPE: partial(_mutate, line, [_EDIT]),
            SHIPPED: partial(_mutate, line, shipped),
            REBUILT: partial(_rebuild, setting.folder, model, held),
        }
        samples = alternate(contenders, rounds=setting.choose(full=7, quick=1), warm_up=setting.choose(full=1, quick=0))
    case = Case(name, "s", samples)
    recipe_bytes = len(json.dumps(pack([_EDIT])[0][0], separators=(",", ":")))
    shipped_bytes = sum(len(data) for data in changed.values())
    compared = ", ".join(f"{case.ratio(way):.3g} times as long {way}" for way in (SHIPPED, REBUILT))
    took = quantity(case.summary().median, "s")
    sizes = f"{recipe_bytes} bytes of recipe against {quantity(shipped_bytes, 'bytes')} of tensors"
    return case, BenchFinding(name, f"{took}, {compared}; {sizes}")


def _read(model: Path) -> dict[str, TensorData]:
    reader = gguf.GGUFReader(model)
    return {
        tensor.name: TensorData(
            tensor.name, tensor.tensor_type.name, tuple(int(dim) for dim in tensor.shape), tensor.data.tobytes()
        )
        for tensor in reader.tensors
    }


def _others(held: dict[str, TensorData]) -> set[str]:
    """The machine's own tensors, which a pattern never matches."""
    return {name for name in held if not name.endswith(".weight")}


def _mutate(line: Connected, edits: Sequence[Edit]) -> float:
    generation = line.machine.hello().generation
    start = time.perf_counter()
    line.machine.mutate(edits, confidence=0.9, base_generation=generation)
    seconds = time.perf_counter() - start
    line.machine.rollback(generation)
    return seconds


def _rebuild(folder: Path, model: Path, held: dict[str, TensorData]) -> float:
    output = folder / "rebuilt.gguf"
    start = time.perf_counter()
    changed = apply([_EDIT], held, _others(held))
    _write(model, output, changed)
    with local(output) as line:
        line.machine.digest([])
        seconds = time.perf_counter() - start
    output.unlink()
    return seconds


def _write(model: Path, output: Path, changed: dict[str, bytes]) -> None:
    """The model again, with other bytes for what changed, as gguf-py's own tools write it."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents())
    writer.add_custom_alignment(reader.alignment)
    for field in reader.fields.values():
        if field.name in ("general.architecture", "general.alignment") or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub_kind)
    for tensor in reader.tensors:
        data = changed.get(tensor.name)
        values = tensor.data if data is None else _like(tensor, data)
        writer.add_tensor(tensor.name, values, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _like(tensor: gguf.ReaderTensor, data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, tensor.data.dtype).reshape(tensor.data.shape)
