"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.executable import build_executable, build_library
from cli import main
from image.compose import compose
from tests.support.listening import Listening, listening
from tests.support.state import StateMachine
from tests.support.vboot import Vboot, write_key
from vboot.client.signer import Signer
from vboot.keys import load_public_key, write_key_pairs


@pytest.fixture
def vboot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vboot:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VBOOT_MODEL", raising=False)
    monkeypatch.delenv("VBOOT_TYPE", raising=False)
    capsys.readouterr()
    return Vboot(capsys)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed image of the tiny model."""
    folder = tmp_path_factory.mktemp("image")
    write_key(folder / "key.pem")
    arguments = ["--model", "tiny", "--output", str(folder / "build"), "--signing-key", str(folder / "key.pem")]
    assert main(["build", *arguments, "--security-version", "7"]) == 0
    return folder / "build"


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable, brought up to date once for all tests."""
    return build_executable(log=tmp_path_factory.mktemp("cargo") / "log", progress=lambda *_: None)


@pytest.fixture(scope="session")
def library(executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for C and Python, which cargo has compiled with the executable."""
    return build_library(log=tmp_path_factory.mktemp("cargo") / "log", progress=lambda *_: None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The composed tiny model."""
    return compose("tiny", tmp_path_factory.mktemp("tiny") / "tiny.gguf").path


@pytest.fixture
def machine(executable: Path, model: Path, tmp_path: Path) -> Iterator[Listening]:
    """A machine that listens, beats fast and allows faults."""
    with listening(executable, model, tmp_path, "--fault", "--heartbeat-ms", "20") as running:
        yield running


@pytest.fixture
def state(executable: Path, model: Path, tmp_path: Path) -> StateMachine:
    """A machine with a new state file."""
    return StateMachine.fresh(executable, model, tmp_path)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key pairs of `vboot keygen`."""
    folder = tmp_path_factory.mktemp("keys")
    write_key_pairs(folder)
    return folder


@pytest.fixture(scope="session")
def signed_model(keys: Path, library: Path) -> Path:
    """The tiny model of machines that take signed changes only; executable and library are up to date."""
    path = keys / "signed.gguf"
    compose("tiny", path, mutation_key=load_public_key(str(keys / "mutation.pub")).public_bytes_raw())
    return path


@pytest.fixture(scope="session")
def signer(keys: Path) -> Signer:
    """Signs changes for `signed_model`."""
    return Signer.load(keys / "mutation.key")
