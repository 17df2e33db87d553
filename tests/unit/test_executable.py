from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.elf_check import check_executable, check_library
from builder.executable import (
    build_executable,
    build_library,
    crate_files,
    executable_path,
    find_toolchain,
    included_files,
    library_path,
    minimum_rust,
    parse_dep_info,
    parse_rust_version,
    ready_library,
)
from vboot.errors import InputError, ToolError

MANIFEST = """
[package]
name = "vector_boot"
version = "0.1.0"
edition = "2021"
rust-version = "1.88"

[lib]
crate-type = ["cdylib", "rlib"]

[[bin]]
name = "vector_boot"
path = "src/main.rs"
required-features = ["standalone"]

[dependencies]
away = { path = "../away" }

[features]
standalone = []

[profile.release]
strip = true
"""


LOCK = """version = 4

[[package]]
name = "away"
version = "0.3.0"

[[package]]
name = "vector_boot"
version = "0.1.0"
dependencies = ["away"]
"""


def ignore(phase: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crate of the same shape as ours, built once, in a folder whose name has spaces and backslashes."""
    folder = tmp_path_factory.mktemp("crate") / "vector boot\\ a\\b\u3000c\td\ne"
    (folder / "src").mkdir(parents=True)
    (folder / "Cargo.toml").write_text(MANIFEST)
    (folder / "Cargo.lock").write_text(LOCK)
    (folder / "src/lib.rs").write_text(
        '#[no_mangle]\npub extern "C" fn neural_init() -> i32 { away::third(&std::env::args().collect::<Vec<_>>()) }\n'
    )
    # As the crates in cargo's home, it is compiled by its absolute path, which the panic's message names.
    away = folder.parent / "away"
    (away / "src").mkdir(parents=True)
    (away / "Cargo.toml").write_text('[package]\nname = "away"\nversion = "0.3.0"\nedition = "2021"\n')
    (away / "src/lib.rs").write_text("pub fn third(words: &[String]) -> i32 { words[2].len() as i32 }\n")
    (folder / "src/main.rs").write_text(
        'fn main() { print!("{}{}", vector_boot::neural_init(), include_str!("../data.txt")); }\n'
    )
    (folder / "data.txt").write_text("data")
    phases: list[str] = []
    build_executable(crate=folder, log=folder / "log", progress=lambda phase, *_: phases.append(phase))
    assert phases == ["compiling away", "compiling vector_boot"]
    return folder


def test_executable_is_a_fit_static_pie(crate: Path) -> None:
    with executable_path(crate).open("rb") as file:
        assert check_executable(file) == []


def test_library_is_built_beside_it(crate: Path) -> None:
    assert build_library(crate=crate, log=crate / "log", progress=ignore) == library_path(crate)
    with library_path(crate).open("rb") as file:
        assert check_library(file, functions=["neural_init"]) == []


def test_the_library_is_compiled_with_the_executable(crate: Path) -> None:
    phases: list[str] = []
    library_path(crate).unlink(missing_ok=True)
    assert ready_library(crate=crate, progress=lambda phase, *_: phases.append(phase)) == library_path(crate)
    assert library_path(crate).is_file()
    assert phases == []  # nothing was compiled


def test_every_compiled_file_is_known(crate: Path) -> None:
    assert {Path(os.path.relpath(path, crate)).as_posix() for path in included_files(crate)} == {
        "../away/src/lib.rs",
        "src/lib.rs",
        "src/main.rs",
        "data.txt",
    }
    assert {path.name for path in crate_files(crate)} >= {"Cargo.toml", "Cargo.lock", "image_rustc.sh"}


def test_no_path_of_this_host_is_in_what_is_built(crate: Path) -> None:
    build_library(crate=crate, log=crate / "log", progress=ignore)
    for path in (executable_path(crate), library_path(crate)):
        data = path.read_bytes()
        assert b"/crates/away-0.3.0/src/lib.rs" in data
        assert os.fsencode(crate.parent) not in data
        assert os.fsencode(Path.home() / ".cargo") not in data


def test_the_configuration_of_cargo_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crate, home = tmp_path / "a/crate", tmp_path / "home"
    monkeypatch.setenv("CARGO_HOME", str(home))
    files = [tmp_path / "a/.cargo/config.toml", crate / ".cargo/config", home / "config.toml"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    assert set(files) <= set(crate_files(crate))


def test_compiler_errors_are_shown(crate: Path, tmp_path: Path) -> None:
    source = crate / "src/main.rs"
    sound = source.read_text()
    source.write_text("fn main() { missing() }\n")
    try:
        with pytest.raises(ToolError, match=r"cargo rustc failed: .*cargo ended with exit status 101") as error:
            build_executable(crate=crate, log=tmp_path / "log", progress=ignore)
    finally:
        source.write_text(sound)
    assert "cannot find function `missing`" in error.value.stderr
    assert str(tmp_path / "log") in str(error.value)
    assert "cannot find function" in (tmp_path / "log").read_text()


def test_unfit_executable_is_refused(crate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest = crate / "Cargo.toml"
    sound = manifest.read_text()
    manifest.write_text(sound.replace("strip = true", "strip = false"))
    try:
        with pytest.raises(ToolError, match="not fit to be PID 1: It carries a symbol table"):
            build_executable(crate=crate, log=tmp_path / "log", progress=ignore)
    finally:
        manifest.write_text(sound)


def test_no_crate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the Rust crate is not at"):
        build_executable(crate=tmp_path, log=tmp_path / "log", progress=ignore)
    assert included_files(tmp_path) == ()


FakeToolchain = Callable[[Path, str], None]


@pytest.fixture
def fake_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeToolchain]:
    """Puts programs named cargo and rustc into a folder; the home and the PATH have no others."""
    find_toolchain.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/path:{tmp_path}/later")

    def install(folder: Path, version: str) -> None:
        folder.mkdir(parents=True)
        for name in ("cargo", "rustc"):
            (folder / name).write_text(f"#!/bin/sh\necho 'rustc {version} (abc 2026-01-01)'\n")
            (folder / name).chmod(0o755)

    yield install
    find_toolchain.cache_clear()


def test_toolchain_on_the_path_comes_first(fake_toolchain: FakeToolchain, tmp_path: Path) -> None:
    fake_toolchain(tmp_path / "path", "1.89.0")
    fake_toolchain(tmp_path / ".cargo/bin", "1.99.0")
    assert find_toolchain().rustc == tmp_path / "path/rustc"


def test_toolchain_that_is_too_old_is_passed_over(fake_toolchain: FakeToolchain, tmp_path: Path) -> None:
    fake_toolchain(tmp_path / "path", "1.88.9")
    fake_toolchain(tmp_path / ".cargo/bin", "1.100.0")
    assert find_toolchain().version == "rustc 1.100.0 (abc 2026-01-01)"
    find_toolchain.cache_clear()
    fake_toolchain(tmp_path / "later", "1.99.0")
    assert find_toolchain().cargo == tmp_path / "later/cargo"


def test_cargo_uses_the_compiler_beside_it(fake_toolchain: FakeToolchain, tmp_path: Path) -> None:
    fake_toolchain(tmp_path / "path", "1.63.0")
    fake_toolchain(tmp_path / "later", "1.99.0")
    (tmp_path / "later/cargo").write_text('#!/bin/sh\necho "compiler $VBOOT_RUSTC"\nexit 1\n')
    with pytest.raises(ToolError) as error:
        build_executable(log=tmp_path / "log", progress=ignore)
    assert error.value.stderr == f"compiler {tmp_path}/later/rustc"


def test_no_toolchain_is_new_enough(fake_toolchain: FakeToolchain, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no cargo with rustc 1\.89 or newer \(none is installed\); run `make deps`"):
        find_toolchain()
    fake_toolchain(tmp_path / "path", "1.63.0")
    with pytest.raises(ToolError, match=r"path/rustc is rustc 1\.63\.0"):
        find_toolchain()


def test_without_cargo_the_library_is_taken_as_it_is(fake_toolchain: FakeToolchain, tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text('[package]\nrust-version = "1.89"\n')
    expected = r"the library of the runtime is not built, and no cargo with rustc 1\.89 .*; run `make deps`"
    with pytest.raises(ToolError, match=expected):
        ready_library(crate=tmp_path, progress=ignore)
    library_path(tmp_path).parent.mkdir(parents=True)
    library_path(tmp_path).touch()
    assert ready_library(crate=tmp_path, progress=ignore) == library_path(tmp_path)


def test_minimum_is_what_the_crate_says(tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text('[package]\nrust-version = "2.7.1"\n')
    assert minimum_rust(tmp_path) == (2, 7)
    (tmp_path / "Cargo.toml").write_text("[package]\n")
    with pytest.raises(InputError, match="names no rust-version"):
        minimum_rust(tmp_path)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("rustc 1.88.0 (6b00bc388 2025-06-23)\n", (1, 88)),
        ("rustc 1.90.0-nightly", (1, 90)),
        ("", None),
        ("cargo 1.8.0", None),
    ],
)
def test_rust_version(text: str, version: tuple[int, int] | None) -> None:
    assert parse_rust_version(text) == version


PATHS = st.lists(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=12), max_size=5)


@given(PATHS)
@settings(derandomize=True, deadline=None)
def test_dependencies_are_read_back(names: list[str]) -> None:
    # Like cargo: only spaces are escaped. A name that ends in a backslash cannot be told from one with a space.
    names = [name.rstrip("\\") for name in names]
    escaped = " ".join(("/" + name).replace(" ", "\\ ") for name in names)
    assert parse_dep_info(f"/target:\\ of/x: {escaped}\n") == tuple(Path("/" + name) for name in dict.fromkeys(names))


@given(st.text(max_size=50))
@settings(derandomize=True, deadline=None)
def test_any_text_has_dependencies_or_none(text: str) -> None:
    parse_dep_info(text)
    parse_rust_version(text)
