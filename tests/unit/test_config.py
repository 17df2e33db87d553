from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.config import line_of, load_config, parse_toml
from builder.settings import SETTINGS, Config, Setting, Value
from vboot.errors import InputError


def parse(text: str, folder: Path = Path("conf")) -> dict[str, Value]:
    return parse_toml(text, origin="appliance.toml", folder=folder)


def resolve(
    file: Path | None = None,
    *,
    flags: Mapping[str, Value] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    return load_config(flags=flags or {}, environment=environment or {}, file=file)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "appliance.toml"
    path.write_text('[model]\nsource = "models/own.gguf"\n[machine]\ncpus = 3\n')
    return path


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve()
    assert (config.model.source, config.model.type) == ("minilm", None)
    assert config.image.output == Path("build")
    assert (config.machine.memory_mib, config.machine.accel) == (0, "auto")
    assert (config.runtime.heartbeat_ms, config.runtime.onfail) == (100, "poweroff")


def test_file_in_the_working_directory_is_read(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toml.parent)
    assert resolve().machine.cpus == 3


def test_flag_beats_environment_beats_file_beats_default(toml: Path) -> None:
    assert resolve(toml).model.source == str(toml.parent / "models/own.gguf")
    assert resolve(toml, environment={"VBOOT_MODEL": "tiny"}).model.source == "tiny"
    assert resolve(toml, environment={"VBOOT_MODEL": "tiny"}, flags={"model.source": "x.gguf"}).model.source == "x.gguf"
    assert resolve(toml).machine.accel == "auto"


def test_variables_meant_for_other_programs_do_not_count(toml: Path) -> None:
    assert resolve(toml, environment={"MODEL": "x.gguf", "TYPE": "F32", "CPUS": "9"}) == resolve(toml)
    assert resolve(toml, environment={"VBOOT_TYPE": "F32"}).model.type == "F32"


def test_an_empty_model_is_a_mistake_and_not_the_default() -> None:
    with pytest.raises(InputError) as error:
        resolve(environment={"VBOOT_MODEL": ""})
    assert str(error.value) == (
        "environment variable VBOOT_MODEL (MODEL= of make): model.source = '' is empty; "
        "give minilm|tiny|PATH, or leave it out"
    )


def test_a_wrong_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(InputError) as error:
        resolve(environment={"VBOOT_TYPE": "Q8"})
    assert str(error.value).startswith(
        "environment variable VBOOT_TYPE (TYPE= of make): model.type = 'Q8' is not one of F16, F32, Q8_0"
    )


@pytest.mark.parametrize("name", ["my model.gguf", "a;b", "q'u\"o", "new\nline", "by\udcffte", "x=y,%", "#", "n" * 200])
def test_any_file_name_is_a_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert resolve(environment={"VBOOT_MODEL": name}).model.source == name
    assert resolve(flags={"model.source": name}).model.source == name
    if name.isprintable():
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        (tmp_path / "a.toml").write_text(f'[model]\nsource = "{quoted}"\n')
        assert resolve(tmp_path / "a.toml").model.source == str(tmp_path / name)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_bytes(b"\xef\xbb\xbf[machine]\r\ncpus = 5\r\n")
    assert resolve(file).machine.cpus == 5


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("[machine]\ncpus = 5\n".encode("utf-16"), "it begins with the byte-order mark of UTF-16"),
        ("# \u00e9t\u00e9\n".encode("latin-1"), "byte 2 is wrong"),
    ],
)
def test_another_encoding_is_named_in_one_sentence(data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_bytes(data)
    with pytest.raises(InputError) as error:
        resolve(file)
    assert str(error.value) == f"{file} is not UTF-8: {why}; save it as UTF-8"


def test_a_fifo_is_refused_without_being_opened_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("appliance.toml")
    for file in (None, tmp_path / "appliance.toml"):
        with pytest.raises(InputError, match="is not a regular file; name another with --config"):
            resolve(file)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        resolve(file)


def test_relative_paths_start_at_the_file() -> None:
    values = parse('[model]\nsource = "own.gguf"\n[image]\noutput = "out"\n[kernel]\nsource = "/boot/vmlinuz"\n')
    assert values == {
        "model.source": "conf/own.gguf",
        "image.output": Path("conf/out"),
        "kernel.source": "/boot/vmlinuz",
    }
    assert parse('[model]\nsource = "tiny"\n[kernel]\nsource = "debian"\n') == {
        "model.source": "tiny",
        "kernel.source": "debian",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[model]\nsorce = "x"', ["appliance.toml:2", "model.sorce", "'x'", "did you mean model.source?"]),
        ("\n\n[modle]\n", ["appliance.toml:3", "[modle]", "did you mean [model]?"]),
        ("[model]\nmemory_mib = 5", ["appliance.toml:2", "model.memory_mib", "did you mean machine.memory_mib?"]),
        ("[zzz]\nqqq = 1", ["appliance.toml:1", "[zzz]", "expected one of [model], [image]"]),
        ('model = "tiny"', ["appliance.toml:1", "model is a section"]),
        ("[machine]\n\ncpus = 65", ["appliance.toml:3", "machine.cpus = 65", "1 to 64"]),
        ("[machine]\ncpus = 0", ["appliance.toml:2", "machine.cpus = 0"]),
        ("[machine]\ncpus = true", ["appliance.toml:2", "machine.cpus = True", "whole number"]),
        ("[machine]\ncpus = 2.0", ["appliance.toml:2", "machine.cpus = 2.0", "whole number"]),
        ("[image]\nsecurity_version = 18446744073709551616", ["appliance.toml:2", "image.security_version"]),
        ("[image]\nsecurity_version = -1", ["image.security_version = -1"]),
        ("[runtime]\nheartbeat_ms = 9", ["runtime.heartbeat_ms = 9", "10 to 10000"]),
        ("[runtime]\nfault = 2", ["runtime.fault = 2", "0 to 1"]),
        ('[model]\ntype = "Q8"', ["appliance.toml:2", "model.type = 'Q8'", "did you mean Q8_0?"]),
        ("[model]\nsource = 3", ["model.source = 3", "string"]),
        ('[model]\nsource = ""', ["model.source = ''", "empty"]),
        ('[machine]\nappend = "a\\nb"', ["appliance.toml:2", "machine.append", "cannot be printed"]),
        ('[machine]\nappend = "a\\u0000"', ["machine.append", "cannot be printed"]),
        ('[image]\noutput = "a\\u0000"', ["image.output", "NUL"]),
        ("[machine\n", ["appliance.toml is not TOML", "line 1"]),
        ("a = " + "[" * 3000, ["appliance.toml is not TOML"]),
    ],
)
def test_errors_name_key_value_line_and_the_nearest_right_one(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_of_every_integer_are_accepted() -> None:
    for setting in SETTINGS:
        if setting.kind == "integer":
            text = f"[{setting.section}]\n{setting.key} = "
            for value in (setting.minimum, setting.maximum):
                assert parse(text + str(value)) == {setting.name: value}
                assert setting.from_text(str(value)) == value
            for value in (setting.minimum - 1, setting.maximum + 1):
                with pytest.raises(InputError, match=setting.key):
                    parse(text + str(value))


@pytest.mark.parametrize("text", ["", " 2", "2 ", "1_0", "0x2", "٢", "2.0", "--2", "9" * 5000])
def test_flag_integers_are_plain_decimal(text: str) -> None:
    cpus = next(setting for setting in SETTINGS if setting.name == "machine.cpus")
    with pytest.raises(InputError, match=r"machine\.cpus"):
        cpus.from_text(text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml cannot be read"):
        resolve(tmp_path / "gone.toml")
    with pytest.raises(InputError, match="cannot be read"):
        resolve(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"[model]\n# \xe9\n")
    with pytest.raises(InputError, match="not UTF-8: byte 10 is wrong"):
        resolve(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[a]\nb = 1\n", ("a", "b"), 2),
        ("a.b = 1\n", ("a", "b"), 1),
        ("\na = { c = 2, b = 1 }\n", ("a", "b"), 2),
        ("[ \"a\" ]\n\n# b = 3\n'b' = 1", ("a", "b"), 4),
        ("[x]\nb = 1\n[a]\nc = [\n1,\n[2],\n]\nb = 1\n", ("a", "b"), 8),
        ('[a]\nc = """\nb = 1\n[x]\n"""\nb = """\n\n"""\n', ("a", "b"), 6),
        ("[[a]]\n", ("a",), 1),
        ("[x]\n[a.b]\n", ("a", "b"), 2),
        ("[a]\r\nb = 1\r\n", ("a", "b"), 2),
        ("[a]\nb = 1\n", ("a", "c"), None),
        ("", ("a",), None),
    ],
)
def test_line_of_a_key(text: str, path: tuple[str, ...], line: int | None) -> None:
    assert line_of(text, path) == line


def _toml_value(setting: Setting) -> st.SearchStrategy[str]:
    if setting.kind == "integer":
        return st.integers(setting.minimum, setting.maximum).map(str)
    if setting.choices and setting.kind == "text":
        return st.sampled_from(setting.choices).map(lambda text: f"'{text}'")
    return st.text("abc/. ", min_size=1, max_size=8).map(lambda text: f"'{text}'")


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_every_good_file_is_accepted_and_changes_only_what_it_says(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(SETTINGS), unique=True))
    text = "".join(f"{setting.name} = {data.draw(_toml_value(setting))}\n" for setting in chosen)
    assert set(parse(text)) == {setting.name for setting in chosen}


@given(st.text("abmodel[]{}=\"'\n#.,0123 \\u_", max_size=60) | st.text(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_text_is_accepted_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        parse(text)
    line_of(text, ("model", "source"))
