"""Merging and crossing related files, judged by arithmetic on what the gguf package reads, and by a machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.machine_tensors import PROTECTED
from image.compose import compose
from tests.support.gguf_models import RANDOM, Stored, machine_digest, matrix, near, normal, read, write_model
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.weights import noise
from vboot.weights.arithmetic import EditError
from vboot.weights.edits import Dense, Edit, Program, Seeded
from vboot.weights.storage_types import encode

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


def relatives(folder: Path, kinds: tuple[str, ...] = ("F32", "F32")) -> list[Path]:
    """Files of one ancestor; the first two rows of "b" are the same in all."""
    ancestor = RANDOM.normal(size=(8, 64)), RANDOM.normal(size=(3, 32))
    paths = []
    for number, kind in enumerate(kinds):
        a, b = (values + 0.05 * RANDOM.normal(size=values.shape) for values in ancestor)
        b[:2] = ancestor[1][:2]
        tensors = {"a": matrix(a, kind), "b": matrix(b, kind), "norm": near(matrix(np.ones(64)))}
        paths.append(write_model(folder / f"{number}.gguf", tensors))
    return paths


@pytest.mark.parametrize("kinds", [("F32", "F32"), ("F16", "F32", "BF16"), ("Q8_0", "Q8_0"), ("Q8_0", "F16")])
def test_a_merge_is_the_weighted_mean(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    paths = relatives(tmp_path, kinds)
    weights = [1.25, *[-0.25 / (len(paths) - 1)] * (len(paths) - 1)]
    report = GGUFSurgeon(paths[0]).merge(paths[1:], weights=weights, output=tmp_path / "out")
    assert list(report.distances) == [str(path) for path in paths[1:]]
    assert all(distance and 0.01 < distance < 0.15 for distance in report.distances.values())
    for tensor in gguf.GGUFReader(tmp_path / "out").tensors:
        assert tensor.tensor_type.name == ("F32" if tensor.name == "norm" else kinds[0])
        mean = sum(
            weight * read(path)[tensor.name].astype(np.float64) for path, weight in zip(paths, weights, strict=True)
        )
        tolerance = {"Q8_0": 0.02, "F16": 2e-3}.get(tensor.tensor_type.name, 1e-5)
        np.testing.assert_allclose(quants.dequantize(tensor.data, tensor.tensor_type), mean, atol=tolerance)


def test_blocks_that_all_share_keep_their_bytes(tmp_path: Path) -> None:
    """Also one that is not as a quantiser would make it: its greatest code is 5."""
    shared = b"\x00\x3c" + bytes([5, 3] * 16)
    paths = []
    for name in "abc":
        own = normal(1, 32, kind="Q8_0")[2]
        paths.append(write_model(tmp_path / name, {"m": ("Q8_0", (32, 2), shared + own), "n": ("I8", (3,), b"abc")}))
    surgeon = GGUFSurgeon(paths[0])
    report = surgeon.merge(paths[1:], force=True, output=tmp_path / "out")
    assert [(each.name, each.changed_blocks, each.blocks) for each in report.tensors] == [("m", 1, 2)]
    assert gguf.GGUFReader(tmp_path / "out").tensors[0].data.tobytes()[:34] == shared
    with pytest.raises(EditError, match="changes nothing"):
        surgeon.merge([write_copy(paths[0], tmp_path / "copy")])


def write_copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def test_a_merge_of_what_training_made_of_it_runs(model: Path, tmp_path: Path) -> None:
    surgeon = GGUFSurgeon(model)
    noisy: list[Edit] = [Seeded("blk.*.weight", SEED, "normal", 0.5, 0.01), Program("evolved.1", b"abc")]
    surgeon.apply(noisy, output=tmp_path / "child")
    report = surgeon.merge([tmp_path / "child"], output=tmp_path / "out")
    assert report.kept == ("evolved.1",)
    assert {each.name for each in report.tensors} == {e.name for e in surgeon.apply(noisy[:1]).tensors}
    assert machine_digest(tmp_path / "out") == report.model


def test_unrelated_models_are_not_joined(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / name, {"m": normal(64, 64), "n": normal(64, 64)}) for name in "ab"]
    surgeon = GGUFSurgeon(paths[0])
    with pytest.raises(InputError, match=r"a and .*b are not related: their distance is 1\.\d+, above 0\.5; give"):
        surgeon.merge(paths[1:])
    with pytest.raises(InputError, match="are not related"):
        surgeon.crossover(paths[1], seed=SEED)
    assert (surgeon.merge(paths[1:], force=True).distances[str(paths[1])] or 0) > 1


@pytest.mark.parametrize(
    ("other", "architecture", "why"),
    [
        ({"m": normal(4, 32)}, "else", "one is of architecture 'test', one of 'else'"),
        ({"m": normal(32, 4)}, "test", r"'m' is \[32, 4\] in one, \[4, 32\] in the other"),
        ({"m": normal(4, 32), "n": normal(3)}, "test", "only one has a tensor 'n'"),
        ({"n": normal(4, 32)}, "test", "only one has a tensor 'm'"),
    ],
)
def test_incompatible_models_are_refused(tmp_path: Path, other: dict[str, Stored], architecture: str, why: str) -> None:
    first = write_model(tmp_path / "a", {"m": normal(4, 32)})
    second = write_model(tmp_path / "b", other, architecture=architecture)
    with pytest.raises(InputError, match=why):
        GGUFSurgeon(first).merge([second], force=True)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [float("nan"), 1], [float("inf"), -float("inf")]])
def test_invalid_merge_weights_are_refused(tmp_path: Path, weights: list[float]) -> None:
    paths = relatives(tmp_path)
    with pytest.raises(InputError, match=r"expected \d weights|do not add up to 1"):
        GGUFSurgeon(paths[0]).merge(paths[1:], weights=weights)


def test_types_without_arithmetic(tmp_path: Path) -> None:
    shared = normal(4, 32)
    paths = [
        write_model(tmp_path / name, {"m": near(shared), "q": ("Q4_0", (32, 1), bytes(17) + bytes([code]))})
        for code, name in enumerate("ab")
    ]
    surgeon = GGUFSurgeon(paths[0])
    with pytest.raises(EditError, match="'q' is of type Q4_0") as caught:
        surgeon.merge(paths[1:])
    assert caught.value.code == 1019
    assert {each.name for each in surgeon.crossover(paths[1], seed=SEED, share=1).tensors} == {"m", "q"}


def inherits(name: str, *, but_not: str) -> str:
    """A seed with which a crossover of half the tensors takes the one and leaves the other."""
    seeds = map("{:016x}".format, itertools.count())
    return next(
        seed
        for seed in seeds
        if [noise.selected(noise.words(noise.key(seed, each), 0, 1), 0.5)[0] for each in (name, but_not)] == [1, 0]
    )


def test_nothing_that_is_not_finite_is_made(tmp_path: Path) -> None:
    values = RANDOM.normal(size=(9, 32)).astype(np.float32)
    first = write_model(tmp_path / "a", {"m": matrix(values), "n": matrix(values)})
    values[0, 0] = np.nan
    second = write_model(tmp_path / "b", {"m": matrix(values), "n": matrix(values)})
    surgeon = GGUFSurgeon(first)
    for join in (surgeon.merge, lambda others, **how: surgeon.crossover(others[0], seed=SEED, share=1, **how)):
        with pytest.raises(InputError, match="or it cannot be known: they hold values that are not finite"):
            join([second])
        with pytest.raises(EditError) as caught:
            join([second], force=True, output=tmp_path / "out")
        assert caught.value.code == 1005
    assert not (tmp_path / "out").exists()


def test_a_distance_is_the_same_from_both_ends(tmp_path: Path) -> None:
    values = RANDOM.normal(size=(9, 32)).astype(np.float32)
    paths = [write_model(tmp_path / f"{factor}", {"m": matrix(values * factor)}) for factor in (1, 4)]
    for path, other in (paths, paths[::-1]):
        report = GGUFSurgeon(path).merge([other], force=True)
        assert report.distances[str(other)] == pytest.approx(0.75)


def test_a_distance_that_cannot_be_known_is_none(tmp_path: Path) -> None:
    sound, spoilt = near(matrix(np.ones((9, 32)))), np.full((9, 32), np.nan)
    first = write_model(tmp_path / "a", {"m": sound, "n": matrix(spoilt)})
    spoilt[0, 0] = 1
    second = write_model(tmp_path / "b", {"m": near(sound), "n": matrix(spoilt)})
    report = GGUFSurgeon(first).crossover(second, seed=inherits("m", but_not="n"), force=True)
    assert (report.distances, [each.name for each in report.tensors]) == ({str(second): None}, ["m"])


def test_a_crossover_of_rows_is_what_a_machine_makes_of_them(
    machine: MachineClient, model: Path, tmp_path: Path
) -> None:
    surgeon = GGUFSurgeon(model)
    surgeon.apply(
        [Seeded("*attn_?.weight", SEED, "step", 0.5, 1), Program("evolved.1", b"abc")], output=tmp_path / "other"
    )
    report = surgeon.crossover(tmp_path / "other", seed=SEED, unit="row", share=0.25, output=tmp_path / "child")
    inherited: list[Edit] = []
    for tensor in gguf.GGUFReader(tmp_path / "other").tensors:
        if tensor.name in PROTECTED:
            continue
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        low = np.random.Philox(key=noise.key(SEED, tensor.name)).random_raw(len(rows)) & 0xFFFFFFFF
        inherited += [
            Dense(tensor.name, number * rows[number].nbytes, rows[number].tobytes())
            for number in np.flatnonzero(low < 1 << 30).tolist()
        ]
    start = machine.hello().generation
    for at in range(0, len(inherited), 256):
        machine.mutate(inherited[at : at + 256], confidence=0.9)
    assert machine.digest().model == report.model == GGUFSurgeon(tmp_path / "child").digest()
    machine.rollback(start)


def test_a_crossover_of_tensors_takes_each_whole(tmp_path: Path) -> None:
    ancestor = {f"t{number}": normal(2, 32) for number in range(40)}
    paths = [write_model(tmp_path / name, {key: near(t) for key, t in ancestor.items()}) for name in "ab"]
    report = GGUFSurgeon(paths[0]).crossover(paths[1], seed=SEED, output=tmp_path / "out")
    a, b, child = map(read, (*paths, tmp_path / "out"))
    mixed = {name for name in ancestor if (child[name] == b[name]).all()}
    assert 8 < len(mixed) < 32
    assert all((child[name] == a[name]).all() for name in ancestor.keys() - mixed)
    assert {each.name for each in report.tensors} == mixed
    assert GGUFSurgeon(paths[0]).crossover(paths[1], seed="0" * 16).model != report.model


def test_a_crossover_converts_to_the_first_ones_types(tmp_path: Path) -> None:
    paths = relatives(tmp_path, ("Q8_0", "F16"))
    GGUFSurgeon(paths[0]).crossover(paths[1], seed=SEED, share=1, output=tmp_path / "out")
    for tensor in gguf.GGUFReader(tmp_path / "out").tensors:
        kind = tensor.tensor_type.name
        assert kind == ("F32" if tensor.name == "norm" else "Q8_0")
        assert tensor.data.tobytes() == encode(kind, read(paths[1])[tensor.name].reshape(-1)).tobytes()


@pytest.mark.parametrize(("seed", "share"), [("00", 0.5), ("X" * 16, 0.5), (SEED, 1.5), (SEED, float("nan"))])
def test_invalid_crossover_parameters_are_refused(tmp_path: Path, seed: str, share: float) -> None:
    paths = relatives(tmp_path)
    with pytest.raises(InputError, match=r"expected a (seed|share)"):
        GGUFSurgeon(paths[0]).crossover(paths[1], seed=seed, share=share)
    with pytest.raises(EditError, match="changes nothing"):
        GGUFSurgeon(paths[0]).crossover(paths[1], seed=SEED, share=0)
