"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import main
from tests.support.vboot import Vboot, write_key


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
