from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.config import load_config
from builder.remembered import NAME, flags_of, lost_file, recall, remember, require_files
from builder.settings import Config, Value
from vboot.errors import InputError


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def resolve(flags: Mapping[str, Value] | None = None, *, environment: Mapping[str, str] | None = None) -> Config:
    return load_config(flags=flags or {}, environment=environment or {}, file=None, recall=recall)


def built(flags: Mapping[str, Value]) -> Config:
    config = resolve(flags)
    config.image.output.mkdir(exist_ok=True)
    remember(config.image.output, config)
    return config


def test_a_folder_without_a_build_remembers_nothing() -> None:
    assert resolve().model.source == "minilm"
    assert resolve().remembered == frozenset()


def test_a_build_changes_only_what_is_asked() -> None:
    built({"model.source": "tiny", "runtime.energy": "off"})
    assert resolve().model.source == "tiny"
    assert resolve().remembered == {"model.source", "runtime.energy"}
    built({"model.type": "F32"})
    config = resolve()
    assert (config.model.source, config.model.type, config.runtime.energy) == ("tiny", "F32", "off")
    assert flags_of(config, config.remembered) == ["--model tiny", "--type F32", "--energy off"]


def test_the_default_can_be_asked_for_again() -> None:
    built({"model.source": "tiny"})
    built({"model.source": "minilm"})
    assert resolve().model.source == "minilm"
    assert recall(Path("build")) == {}


def test_what_was_given_beats_what_was_remembered() -> None:
    built({"model.source": "tiny", "model.type": "F32", "runtime.onfail": "hold"})
    Path("appliance.toml").write_text('[model]\ntype = "Q8_0"\n')
    config = resolve(environment={"VBOOT_MODEL": "tiny"})
    assert (config.model.source, config.model.type, config.runtime.onfail) == ("tiny", "Q8_0", "hold")
    assert config.remembered == {"runtime.onfail"}


def test_another_model_does_not_inherit_the_settings_of_the_last() -> None:
    built({"model.source": "tiny", "model.type": "F32", "kernel.config": Path("k")})
    assert resolve({"model.source": "tiny"}).model.type == "F32"
    config = resolve({"model.source": "own.gguf"})
    assert config.model.type is None
    assert config.kernel.config == Path("k").absolute()


def test_each_folder_has_its_own() -> None:
    built({"model.source": "tiny", "image.output": Path("a")})
    assert resolve({"image.output": Path("a")}).model.source == "tiny"
    assert resolve({"image.output": Path("b")}).model.source == "minilm"


@pytest.mark.parametrize("name", ["own.gguf", "with space\udcff\n.gguf"])
def test_a_file_is_remembered_wherever_the_next_build_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    Path(name).touch()
    output = tmp_path / "build"
    built({"model.source": name, "image.output": output})
    monkeypatch.chdir("/")
    assert resolve({"image.output": output}).model.source == str(tmp_path / name)


def test_a_file_that_was_moved_is_one_sentence() -> None:
    Path("own.gguf").touch()
    built({"model.source": "own.gguf"})
    assert lost_file(resolve()) is None
    Path("own.gguf").rename("moved.gguf")
    with pytest.raises(InputError) as error:
        require_files(resolve())
    assert str(error.value) == (
        f"the image in build was built with --model {Path('own.gguf').absolute()}, which is not there; "
        "give its new path, or forget the settings with `vboot build --defaults`"
    )
    require_files(resolve({"model.source": "moved.gguf"}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2, "settings": {}}', b"\xff", b"[" * 5000])
def test_a_damaged_record_is_no_record(data: bytes) -> None:
    built({"model.source": "tiny"})
    (Path("build") / NAME).write_bytes(data)
    assert resolve().model.source == "minilm"


def test_a_wrong_value_in_the_record_is_left_out() -> None:
    built({"model.source": "tiny"})
    settings = {"model.source": "tiny", "model.type": "Q9", "runtime.heartbeat_ms": "x", "image.output": "elsewhere"}
    (Path("build") / NAME).write_text(json.dumps({"version": 1, "settings": settings}))
    config = resolve()
    assert (config.model.source, config.model.type, config.image.output) == ("tiny", None, Path("build"))


def test_the_manifest_of_an_older_build_tells_the_model() -> None:
    Path("build").mkdir()
    configuration = {"model": {"source": "tiny", "type": None}, "runtime": {"energy": "on"}}
    (Path("build") / "manifest.json").write_text(json.dumps({"configuration": configuration}))
    assert resolve().model.source == "tiny"
    assert resolve().remembered == {"model.source"}
