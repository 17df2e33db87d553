"""Publishing to files, and the consumer that reloads them: real files, a real runtime, real shaders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.fallback import current
from evolution.fallback.consumer import ReloadingConsumer
from evolution.fallback.current import Current, PublishedKernel, PublishedModel
from evolution.fallback.v6 import EvolutionDaemonV6
from evolution.fallback.wgsl_device import WgslRunner
from evolution.kernels import genome, reference, to_wgsl
from evolution.kernels.constants import quantised
from evolution.kernels.genome import Apply, EvolvedKernel, PushScalar, PushVector
from evolution.kernels.variation import normalised, weighted_sum
from tests.support.local_machine import tiny_model
from tests.unit.test_fallback_wgsl import runner_or_skip
from vboot.client.bridge import RustNeuralBridge
from vboot.errors import InputError
from vboot.protocol.errors import MachineTimeoutError
from vboot.weights.edits import Edit, Seeded

DIM = 24
VECTORS = np.random.default_rng(1).normal(0, 1, (5, DIM)).astype(np.float32)
TEXTS = ["a text", "another one"]


def kernel(weight: float) -> EvolvedKernel:
    return normalised(EvolvedKernel(DIM, weighted_sum(quantised(np.linspace(-1, 1, DIM)), weight)))


def noise(seed: int) -> list[Edit]:
    return [Seeded("blk.*.weight", f"{seed:016x}", "normal", 0.5, 0.05)]


@pytest.fixture(scope="module")
def runner() -> Iterator[WgslRunner]:
    with runner_or_skip() as found:
        yield found


@pytest.fixture
def daemon(tmp_path: Path, runner: WgslRunner) -> EvolutionDaemonV6:
    return EvolutionDaemonV6(tmp_path / "out", model=tiny_model(), runner=runner)


@pytest.fixture
def consumer(tmp_path: Path, runner: WgslRunner) -> Iterator[ReloadingConsumer]:
    with RustNeuralBridge() as bridge:
        yield ReloadingConsumer(tmp_path / "out", bridge=bridge, runner=runner)


def test_a_published_kernel_runs_where_it_is_reloaded(daemon: EvolutionDaemonV6, consumer: ReloadingConsumer) -> None:
    assert daemon.version == "EvolutionDaemonV6 (WGSL)"
    assert not consumer.poll()
    with pytest.raises(InputError, match="no kernel is published"):
        consumer.transform(VECTORS)
    for generation, weight in enumerate((-1.0, 0.5), start=1):
        published = daemon.publish(kernel(weight))
        assert published.generation == generation
        assert consumer.wait(generation=generation, timeout=120) == published
        expected = reference.run(kernel(weight), VECTORS)
        assert consumer.transform(VECTORS) == pytest.approx(expected, abs=to_wgsl.TOLERANCE)
    assert not consumer.poll()


def test_the_files_say_what_they_are(daemon: EvolutionDaemonV6, tmp_path: Path) -> None:
    daemon.publish(kernel(-1.0))
    folder = tmp_path / "out"
    source = (folder / "kernels/evolved_1.wgsl").read_bytes()
    manifest = json.loads((folder / "kernels/evolved_1.json").read_text())
    assert source.decode() == to_wgsl.source(kernel(-1.0))
    assert genome.from_json(manifest.pop("kernel")) == kernel(-1.0)
    assert manifest == {
        "file": "kernels/evolved_1.wgsl",
        "sha256": hashlib.sha256(source).hexdigest(),
        "generation": 1,
        "entry_point": "transform",
        "dim": DIM,
    }
    assert json.loads((folder / "current.json").read_text()) == {
        "layout": 1,
        "generation": 1,
        "kernel": manifest,
        "model": None,
    }


def test_a_published_model_embeds_like_the_mutated_machine(
    daemon: EvolutionDaemonV6, consumer: ReloadingConsumer
) -> None:
    with RustNeuralBridge() as bridge:
        bridge.initialize(tiny_model())
        with bridge.client() as machine:
            for seed in (1, 2):  # the second on top of the first
                machine.mutate(noise(seed), confidence=0.95, wait=True)
                daemon.publish_model(noise(seed))
                consumer.wait(generation=seed, timeout=120)
                assert np.array_equal(consumer.embed(TEXTS), machine.embed(TEXTS).vectors)


def test_a_new_daemon_continues_the_numbers_of_the_folder(
    daemon: EvolutionDaemonV6, tmp_path: Path, runner: WgslRunner
) -> None:
    daemon.publish(kernel(-1.0))
    daemon.publish_model(noise(1))
    # One that was killed before it named its file: the next publication takes the number.
    (tmp_path / "out/kernels/evolved_3.wgsl").write_text("half")
    again = EvolutionDaemonV6(tmp_path / "out", model=tiny_model(), runner=runner)
    assert again.current == daemon.current
    for weight in (1.0, 2.0, 3.0):
        last = again.publish(kernel(weight))
    assert last.generation == 5
    assert last.model == daemon.current.model
    kept = sorted(path.name for path in (tmp_path / "out").glob("*/*"))
    assert kept == ["evolved_2.gguf", *(f"evolved_{n}.{kind}" for n in (4, 5) for kind in ("json", "wgsl"))]


_KILLED = """
import os, signal, sys
from pathlib import Path
from vboot.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_daemon_had_half_written_is_removed(tmp_path: Path, runner: WgslRunner) -> None:
    models = tmp_path / "out/models"
    models.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", _KILLED, str(models / "evolved_1.gguf")], timeout=120, check=False)
    assert len(list(models.iterdir())) == 1
    EvolutionDaemonV6(tmp_path / "out", model=tiny_model(), runner=runner)
    assert not list(models.iterdir())


def test_what_fails_is_not_published(daemon: EvolutionDaemonV6, consumer: ReloadingConsumer, tmp_path: Path) -> None:
    daemon.publish(kernel(-1.0))
    before = daemon.current
    overflowing = EvolvedKernel(DIM, (PushScalar(2.0**100), Apply("mul"), Apply("dup"), Apply("mul")))
    for refused in (EvolvedKernel(DIM, (Apply("dup"),)), overflowing):
        with pytest.raises(InputError, match=r"leaves 2 values|is not finite"):
            daemon.publish(refused)
    with pytest.raises(InputError, match="no tensor"):
        daemon.publish_model([Seeded("nothing.*", "0" * 16, "normal", 0.5, 0.05)])
    assert daemon.current == before
    assert current.read(tmp_path / "out") == current.dump(before)
    assert consumer.wait(generation=1, timeout=120) == before


def test_a_shader_that_computes_something_else_is_not_published(
    daemon: EvolutionDaemonV6, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = to_wgsl.source
    monkeypatch.setattr(to_wgsl, "source", lambda kernel: source(kernel).replace("+ 0.0f;", "+ 0.001f;"))
    vector = PushVector(bytes(range(DIM)), 0.125, 0.0)
    with pytest.raises(InputError, match="differ by"):
        daemon.publish(EvolvedKernel(DIM, (vector, Apply("add"))))
    assert daemon.current == current.NOTHING


@pytest.mark.parametrize("kind", ["wgsl", "gguf"])
def test_a_consumer_keeps_what_it_has_when_a_file_is_wrong(
    daemon: EvolutionDaemonV6, consumer: ReloadingConsumer, tmp_path: Path, kind: str
) -> None:
    daemon.publish(kernel(-1.0))
    daemon.publish_model(noise(1))
    loaded = consumer.wait(generation=2, timeout=120)
    vectors = consumer.embed(TEXTS)
    published = daemon.publish(kernel(1.0)) if kind == "wgsl" else daemon.publish_model(noise(2))
    part = published.kernel if kind == "wgsl" else published.model
    assert part is not None
    path = tmp_path / "out" / part.file
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is not the file that current\.json names"):
        consumer.poll()
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        consumer.poll()
    assert consumer.current == loaded
    assert np.array_equal(consumer.embed(TEXTS), vectors)
    path.write_bytes(right)
    assert consumer.poll()
    assert consumer.current == published


@pytest.mark.parametrize("part", ["kernel", "model"])
def test_a_consumer_refuses_what_is_not_a_regular_file(
    daemon: EvolutionDaemonV6, consumer: ReloadingConsumer, tmp_path: Path, part: str
) -> None:
    published = getattr(daemon.publish(kernel(-1.0)) if part == "kernel" else daemon.publish_model(noise(1)), part)
    path = tmp_path / "out" / published.file
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"cannot read .*{path.name}, which current\.json names: Is a directory"):
        consumer.poll()
    assert consumer.current == current.NOTHING


def test_a_consumer_refuses_a_shader_that_is_not_utf_8(
    daemon: EvolutionDaemonV6, consumer: ReloadingConsumer, tmp_path: Path
) -> None:
    published = daemon.publish(kernel(-1.0)).kernel
    assert published is not None
    (tmp_path / "out" / published.file).write_bytes(b"\xff")
    forged = dataclasses.replace(published, sha256=hashlib.sha256(b"\xff").hexdigest())
    (tmp_path / "out" / current.NAME).write_bytes(current.dump(Current(2, forged, None)))
    with pytest.raises(InputError, match=r"evolved_1\.wgsl is not a shader: it is not UTF-8; publish again"):
        consumer.poll()


def test_waiting_ends(consumer: ReloadingConsumer) -> None:
    with pytest.raises(MachineTimeoutError, match="generation 1 was not published"):
        consumer.wait(generation=1, timeout=0.05)


def test_concurrent_readers_see_complete_generations(daemon: EvolutionDaemonV6, tmp_path: Path) -> None:
    done = threading.Event()
    seen: list[Current] = []

    def look() -> None:
        while not done.is_set():
            data = current.read(tmp_path / "out")
            if data is None:
                continue
            found = current.parse(data)
            assert found.kernel is not None
            try:
                source = (tmp_path / "out" / found.kernel.file).read_bytes()
            except FileNotFoundError:  # two publications later
                continue
            assert hashlib.sha256(source).hexdigest() == found.kernel.sha256
            seen.append(found)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(10):
            daemon.publish(kernel(float(number % 2)))
    finally:
        done.set()
        reader.join(10)
    assert [one.generation for one in seen] == sorted(one.generation for one in seen)
    assert len({one.generation for one in seen}) > 2


NUMBERS = st.integers(0, 9)
TEXT = st.one_of(st.sampled_from(["a/b.wgsl", "../a.wgsl", "/a.wgsl", "c" * 64, "transform"]), st.text(max_size=3))
PARTS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"file": TEXT, "sha256": TEXT, "generation": NUMBERS},
        optional={"entry_point": TEXT, "dim": st.one_of(NUMBERS, TEXT)},
    ),
)
DOCUMENTS = st.fixed_dictionaries({"layout": st.just(1), "generation": NUMBERS, "kernel": PARTS, "model": PARTS})


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=40), DOCUMENTS.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_a_current_json_or_refused(data: bytes) -> None:
    try:
        parsed = current.parse(data)
    except InputError:
        return
    assert current.parse(current.dump(parsed)) == parsed


@pytest.mark.parametrize("file", ["../out.wgsl", "/etc/passwd", "kernels/../../a.wgsl", "", "kernels//a.wgsl"])
def test_names_that_leave_the_folder_are_refused(file: str) -> None:
    part = PublishedKernel("kernels/a.wgsl", "0" * 64, 1, "transform", DIM)
    model = PublishedModel("models/a.gguf", "0" * 64, 1)
    whole = Current(1, part, model)
    assert current.parse(current.dump(whole)) == whole
    with pytest.raises(InputError, match=r"not a valid current\.json"):
        current.parse(current.dump(whole).replace(b"models/a.gguf", file.encode()))
