"""Edits of a file: a machine given the same ones, and the gguf package, are the judges of what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import PROTECTED
from evolution.surgeon.operation import Change, Operation
from evolution.surgeon.rewrite import rewrite
from evolution.surgeon.runtime_check import runtime_check
from image.compose import compose
from tests.support.gguf_models import extents, machine_digest, normal, write_model
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import RequestRefusedError
from vboot.weights.arithmetic import EditError
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse

QUERY = "blk.0.attn_q.weight"
SEED = "00c0ffee00c0ffee"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, with blocks of Q8_0, vectors of F32 and the machine's tensors."""
    return compose("tiny", tmp_path_factory.mktemp("model") / "tiny.gguf", type="Q8_0").path


@pytest.fixture(scope="module")
def machine(model: Path) -> Iterator[MachineClient]:
    with RustNeuralBridge(energy=False) as bridge:
        bridge.initialize(model)
        yield bridge.client()


seeds = st.integers(0, 2**64 - 1).map("{:016x}".format)
densities = st.sampled_from([0.001, 0.3, 1.0])
indices = st.just(np.array([0, 70, 4095], np.uint64))
factor = st.just(np.eye(64, 2, dtype=np.float32))
ops = st.sampled_from(["set", "add"])
good: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Seeded, st.sampled_from(["blk.*.weight", QUERY]), seeds, st.just("normal"), densities, st.just(0.01)),
    st.builds(Seeded, st.sampled_from(["*attn_?.weight", QUERY]), seeds, st.just("step"), densities, st.just(1.0)),
    st.builds(Seeded, st.sampled_from(["*ffn_up.weight", QUERY]), seeds, st.just("scale"), densities, st.just(0.1)),
    st.builds(Sparse, st.just(QUERY), ops, indices, st.just(np.array([1, -2, 0.5], np.float32))),
    st.builds(LowRank, st.just(QUERY), st.sampled_from([0.0, 0.01]), factor, factor),
    st.builds(Dense, st.just(QUERY), st.just(34), st.binary(min_size=32, max_size=32).map(b"\x00\x24".__add__)),
    st.builds(Program, st.just("evolved.2"), st.just(b"abcdef")),
)
names = st.sampled_from([QUERY, "token_embd_norm.bias", "hw.mmio", "kernel.3", "evolved.1", "gone", "kernel.*", "*"])
scales = st.sampled_from([0.0, 1.0, 1e38])
bad: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Seeded, names, seeds, st.sampled_from(["normal", "step", "scale"]), st.just(1.0), scales),
    st.builds(Sparse, names, ops, indices, st.just(np.array([0, 0, 1e38], np.float32))),
    st.builds(LowRank, names, scales, factor, factor),
    st.builds(Dense, names, st.sampled_from([0, 1, 34, 1 << 40]), st.just(b"\xff" * 34)),
    st.builds(Program, names, st.binary(max_size=12)),
)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(changes=st.lists(good, min_size=1, max_size=3) | st.lists(good | bad, min_size=1, max_size=2))
def test_edits_do_what_a_machine_does(
    machine: MachineClient, model: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[Edit]
) -> None:
    surgeon = GGUFSurgeon(model)
    start = machine.hello().generation
    try:
        made = machine.mutate(changes, confidence=0.9, digest=True)
    except RequestRefusedError as refusal:
        with pytest.raises(EditError, match=rf"\(code {refusal.code}\)"):
            surgeon.apply(changes)
        return
    expected = machine.digest().model
    machine.rollback(start)
    output = tmp_path_factory.mktemp("out") / "evolved.gguf"
    report = surgeon.apply(changes, output=output)
    assert report.model == expected != report.model_before == surgeon.digest() == machine.digest().model
    assert {each.name: each.sha256 for each in report.tensors} == made.sha256
    assert (len(report.tensors), report.changed_bytes) == (made.changed.tensors, made.changed.bytes)
    assert surgeon.apply(changes) == dataclasses.replace(report, output=None)
    assert surgeon.verify(output, changes) == report


def test_all_outside_the_changed_tensors_is_kept(model: Path, tmp_path: Path) -> None:
    changes: list[Edit] = [Seeded("blk.0.attn_?.weight", SEED, "step", 0.1, 1), Program("evolved.7", b"abc")]
    names = {each.name for each in GGUFSurgeon(model).apply(changes, output=tmp_path / "out").tensors}
    before, after = (np.frombuffer(path.read_bytes(), np.uint8) for path in (model, tmp_path / "out"))
    outside = np.ones(len(before), bool)
    for name in names:
        outside[extents(model)[name]] = False
    assert len(names) == 4
    assert (before[outside] == after[outside]).all()
    assert (before != after).any()


def test_padding_of_other_writers_is_kept(tmp_path: Path) -> None:
    """Bytes between tensors mean nothing and stay, also where the file ends without padding, or offsets move."""
    tensors = {"a": normal(3), "b": normal(2, 32, kind="F16"), "c": normal(5)}
    data = bytearray(write_model(tmp_path / "in", tensors).read_bytes())
    places = extents(tmp_path / "in")
    gap = slice(places["a"].stop, places["b"].start)
    data[gap] = b"?" * (gap.stop - gap.start)
    assert gap.stop > gap.start
    (tmp_path / "in").write_bytes(data[: places["c"].stop])
    surgeon = GGUFSurgeon(tmp_path / "in")
    surgeon.apply([Seeded("b", SEED, "normal", 1, 0.1)], output=tmp_path / "edited")
    surgeon.requantise({"b": "Q8_0"}, output=tmp_path / "smaller")
    for name in ("edited", "smaller"):
        written = (tmp_path / name).read_bytes()
        assert written[gap] == data[gap]
        assert written[extents(tmp_path / name)["c"]] == data[places["c"]]
        assert len(written) == extents(tmp_path / name)["c"].stop


def test_the_digest_is_a_machines(model: Path, tmp_path: Path) -> None:
    """Also of a file without the machine's tensors, which a machine makes for itself."""
    plain = write_model(tmp_path / "plain", {"zz": normal(4, 32, kind="F16"), "é": normal(3)}, architecture="unknown")
    for path in (model, plain):
        assert GGUFSurgeon(path).digest() == machine_digest(path)


def test_what_a_machine_protects_is_protected(machine: MachineClient, model: Path) -> None:
    surgeon = GGUFSurgeon(model)
    assert {info.name for info in machine.tensors() if info.protected} == PROTECTED
    assert {info.name: info for info in machine.tensors()} == surgeon.tensors()
    for name in sorted(PROTECTED):
        with pytest.raises(EditError, match=f"'{name}' is protected") as edited:
            surgeon.apply([Dense(name, 0, bytes(4))])
        with pytest.raises(EditError, match=f"'{name}' is protected") as retyped:
            surgeon.requantise({name: "F16"})
        assert edited.value.code == retyped.value.code == 1002


def test_no_operation_reaches_a_protected_tensor(model: Path) -> None:
    """All operations use the same check, which refuses it."""
    file = GGUFFile(model, runtime_check)
    operation = Operation(iter([Change("kernel.7", np.ones(4096, np.uint8))]))
    with pytest.raises(EditError, match=r"'kernel\.7' is protected"):
        rewrite(file, operation, None, lambda *_: None)


def test_unknown_tensors(model: Path) -> None:
    with pytest.raises(InputError, match="has no tensor 'gone'"):
        GGUFSurgeon(model).tensor("gone")


@pytest.mark.parametrize("where", ["header", "changed tensor", "another tensor", "padding", "end"])
def test_a_file_with_anything_else_done_to_it_is_found(tmp_path: Path, where: str) -> None:
    tensors = {"a": normal(5, 32), "b": normal(3), "c": normal(5, 32)}
    surgeon = GGUFSurgeon(write_model(tmp_path / "in", tensors))
    changes = [Seeded("a", SEED, "normal", 0.5, 0.1)]
    surgeon.apply(changes, output=tmp_path / "out")
    assert surgeon.verify(tmp_path / "out", changes).output == str(tmp_path / "out")
    data = bytearray((tmp_path / "out").read_bytes())
    places = extents(tmp_path / "out")
    at = {
        "header": data.index(b"a note"),
        "changed tensor": places["a"].start + 40,
        "another tensor": places["c"].start + 4,
        "padding": places["b"].stop + 1,
        "end": places["c"].stop - 1,
    }
    data[at[where]] ^= 1
    (tmp_path / "other").write_bytes(data)
    names = {"changed tensor": "in tensor 'a'", "another tensor": "in tensor 'c'", "end": "in tensor 'c'"}
    place = f"{names.get(where, 'outside of the tensors')}, first at byte {at[where]}"
    with pytest.raises(InputError, match=f"other is not .*in with these edits: it differs {place}"):
        surgeon.verify(tmp_path / "other", changes)


def test_padding_at_the_end_is_not_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path / "in", {"a": normal(5, 32), "b": normal(3)})
    whole = path.read_bytes()
    path.write_bytes(whole[: extents(path)["b"].stop])
    surgeon = GGUFSurgeon(path)
    changes = [Seeded("a", SEED, "normal", 0.5, 0.1)]
    surgeon.apply(changes, output=tmp_path / "out")
    size = (tmp_path / "out").stat().st_size
    (tmp_path / "out").write_bytes((tmp_path / "out").read_bytes() + whole[size:])
    for base, name, place in ((path, "out", f"byte {size}"), (tmp_path / "out", "in", "byte ")):
        with pytest.raises(InputError, match=f"{name} is not .*, first at {place}"):
            GGUFSurgeon(base).verify(tmp_path / name, changes)
