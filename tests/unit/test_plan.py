from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from builder.cache import open_cache
from builder.config import load_config
from builder.executable import executable_path
from builder.pipeline import run
from builder.plan import executable_step, plan_build
from builder.progress import PlainReporter
from builder.settings import Value
from builder.steps import Step
from vboot.check import CheckError
from vboot.errors import InputError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(**flags: Value) -> dict[str, Step]:
    config = load_config(
        flags={name.replace("__", "."): value for name, value in flags.items()}, environment={}, file=None
    )
    return {step.name: step for step in plan_build(config)}


def names(paths: tuple[Path, ...]) -> set[str]:
    return {path.name for path in paths}


def test_steps_of_each_kind_of_model(tmp_path: Path) -> None:
    rest = ["compose", "rts", "kernel", "initramfs", "sbom", "manifest"]
    assert list(plan()) == ["executable", "weights", *rest]
    assert list(plan(model__source="tiny")) == ["executable", *rest]
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    assert list(plan(model__source="own.gguf")) == ["executable", *rest]


def test_everything_a_step_reads_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    own = plan(model__source="own.gguf", image__signing_key=Path("key.pem"))
    assert "own.gguf" in names(own["compose"].inputs)
    assert {"vector_boot", "vectorland.gguf", "key.pem"} <= names(own["rts"].inputs)
    outputs = tuple(path for step in own.values() for path in step.outputs)[:-1]
    assert own["manifest"].inputs == (*outputs, Path("key.pem"))
    minilm = plan()
    assert minilm["weights"].outputs[0] in minilm["compose"].inputs


def test_changed_builder_builds_again() -> None:
    steps = plan(model__source="tiny")
    assert {"compose.py", "machine_tensors.py", "hw_mmio.toml"} <= names(steps["compose"].inputs)
    assert {"rts.py", "rts_file.py"} <= names(steps["rts"].inputs)


def test_sources_of_the_executable_count(tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text('[package]\nrust-version = "1.88"\n')
    listing = executable_path(tmp_path).with_suffix(".d")
    listing.parent.mkdir(parents=True)
    listing.write_text(f"x: {tmp_path}/src/main.rs {tmp_path}/data.txt {tmp_path}/target/generated.rs\n")
    step = executable_step(tmp_path)
    assert names(step.inputs) >= {"Cargo.toml", "image_rustc.sh"}
    assert names(step.discovered()) == {"main.rs", "data.txt"}


def test_an_image_brings_the_library_for_python() -> None:
    assert names(executable_step().outputs) == {"vector_boot", "libvector_boot.so"}


def test_environment_that_changes_the_executable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = executable_step().parameters
    monkeypatch.setenv("RUSTFLAGS", "-C opt-level=0")
    assert executable_step().parameters == {**plain, "RUSTFLAGS": "-C opt-level=0"}


def test_a_huge_file_that_is_no_model_is_never_hashed(tmp_path: Path) -> None:
    huge = tmp_path / "huge.gguf"
    huge.touch()
    os.truncate(huge, 100 << 30)
    with pytest.raises(
        CheckError, match=r'huge\.gguf: R1: magic: offset 0: is "\\x00\\x00\\x00\\x00", expected "GGUF"'
    ):
        plan(model__source=str(huge))
    with huge.open("r+b") as file:
        file.write(b"GGUF\x03\0\0\0")
    step = plan(model__source=str(huge))["compose"]
    with pytest.raises(CheckError, match=r"R\d+: "), open_cache(tmp_path / "build") as cache:
        run([step], cache=cache, reporter=PlainReporter(io.StringIO()))
    assert str(huge) not in cache.files


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("minilmm", "did you mean minilm?"),
        ("gone.gguf", "use minilm, tiny or the path of a GGUF file"),
        (".", "use minilm"),
    ],
)
def test_model_that_is_not_there(source: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"model.source = '{source}' is neither") as error:
        plan(model__source=source)
    assert hint in str(error.value)
