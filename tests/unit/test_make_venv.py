"""When `make` makes the virtual environment again; Python is a script here that records what it is asked to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRESH = ["venv --clear .venv", "install -r", "install -e"]
UPDATED = ["install -r", "install -e"]

PYTHON = r"""#!/bin/sh
here=$(dirname "$0")
case "$*" in
-c*) echo "$BASE/python3" ;;
-VV) cat "$BASE/version" ;;
*venv*) echo "venv --clear .venv" >>"$BASE/log"; rm -rf .venv
    mkdir -p .venv/bin; cp "$BASE/python3" .venv/bin/python ;;
*requirements.lock*) [ ! -e "$BASE/fail" ] || exit 1; echo "install -r" >>"$BASE/log" ;;
*-e*) echo "install -e" >>"$BASE/log" ;;
esac
"""


class Checkout:
    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base

    def make(self) -> list[str]:
        """Run the script and return what it did."""
        log = self.base / "log"
        log.write_text("")
        path = f"{self.base}:{os.environ['PATH']}"
        command = ["sh", "builder/make_venv.sh", ".venv"]
        self.code = subprocess.run(
            command, cwd=self.folder, env={"PATH": path, "BASE": str(self.base)}, stdout=subprocess.DEVNULL, check=False
        ).returncode
        return log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    base, folder = tmp_path / "base", tmp_path / "one"
    base.mkdir()
    (base / "python3").write_text(PYTHON)
    (base / "python3").chmod(0o755)
    (base / "version").write_text("Python 3.11.7 (main)\n")
    (folder / "builder").mkdir(parents=True)
    (folder / "vector_boot").mkdir()
    shutil.copy(ROOT / "builder" / "make_venv.sh", folder / "builder")
    (folder / "requirements.lock").write_text("numpy==1\n")
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "vector_boot" / "Cargo.toml").write_text('[package]\nversion = "1.0.0"\n')
    return Checkout(folder, base)


def test_it_is_made_once(checkout: Checkout) -> None:
    assert checkout.make() == FRESH
    assert checkout.make() == []


def test_another_checkout_path_makes_it_again(checkout: Checkout, tmp_path: Path) -> None:
    checkout.make()
    shutil.copytree(checkout.folder, tmp_path / "an other, 100%")
    moved = Checkout(tmp_path / "an other, 100%", checkout.base)
    assert moved.make() == FRESH
    assert moved.make() == []
    assert checkout.make() == []


def test_another_python_makes_it_again(checkout: Checkout) -> None:
    checkout.make()
    (checkout.base / "version").write_text("Python 3.12.1 (main)\n")
    assert checkout.make() == FRESH


def test_a_record_of_an_older_kind_makes_it_again(checkout: Checkout) -> None:
    checkout.make()
    (checkout.folder / ".venv" / ".ready").write_text("")
    assert checkout.make() == FRESH


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_other_packages_are_installed_into_it(checkout: Checkout, name: str) -> None:
    checkout.make()
    path = checkout.folder / name
    path.write_text(path.read_text() + "# changed\n")
    assert checkout.make() == UPDATED


def test_another_version_is_installed_into_it(checkout: Checkout) -> None:
    checkout.make()
    (checkout.folder / "vector_boot" / "Cargo.toml").write_text('[package]\nversion = "1.0.1"\n')
    assert checkout.make() == UPDATED


def test_after_a_failure_it_goes_on(checkout: Checkout) -> None:
    (checkout.base / "fail").write_text("")
    checkout.make()
    assert checkout.code != 0
    (checkout.base / "fail").unlink()
    assert checkout.make() == FRESH
