"""The import rules of pyproject.toml hold, and `lint-imports` finds an import that breaks one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES: list[str] = RULES["root_packages"]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # Without the checkout in which this Python is installed: its `qemu` would be merged with the copy's.
    code = (
        f"import sys; sys.path = [{str(folder)!r}, *(path for path in sys.path if path not in ('', {str(ROOT)!r}))]; "
    )
    code += "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", code, "--no-logo", "--no-cache"]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_package_is_under_the_rules() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = {name for name in wheel["only-include"] if any((ROOT / name).rglob("*.py"))}
    assert packages == set(PACKAGES)


def test_the_project_keeps_its_rules() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("vboot/protocol/framing.py", "import cli", "Imports only go down"),
        ("builder/plan.py", "import cli.answer", "Imports only go down"),
        ("builder/plan.py", "import evolution", "Imports only go down"),
        ("evolution/bridge.py", "import builder", "Imports only go down"),
        ("image/rts.py", "import initramfs.newc", "Imports only go down"),
        ("initramfs/newc.py", "import qemu.accel", "Imports only go down"),
        ("qemu/console.py", "import image.rts", "Imports only go down"),
        ("evolution/bridge.py", "import qemu.accel", "evolution reaches"),
        ("qemu/console.py", "import vboot.protocol.framing", "The build does not use"),
        ("builder/apt.py", "import vboot.client.machine", "The build does not use"),
        ("vboot/gguf.py", "import vboot.weights.edits", "vboot in layers"),
        ("vboot/weights/edits.py", "import vboot.client.machine", "vboot in layers"),
        ("vboot/errors.py", "import vboot.files", "vboot in layers"),
        ("cli/__init__.py", "import vboot.client.machine", "The command line loads"),
        ("cli/answer.py", "import builder.plan", "The command line loads"),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(copy: Path, module: str, line: str, rule: str) -> None:
    path = copy / module
    before = path.read_text()
    # Inside a function: an import that runs late counts like any other.
    path.write_text(f"{before}\n\ndef planted() -> None:\n    {line}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert any(text.startswith(rule) for text in broken), done.stdout
