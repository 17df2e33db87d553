"""`make deps` on hosts of every kind, made of links to the few programs that the script itself needs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import builder
from builder.doctor import host_tools

SCRIPT = Path(builder.__file__).with_name("install_deps.sh")
CARGO_TOML = SCRIPT.parent.parent / "vector_boot" / "Cargo.toml"
NEEDED_BY_THE_SCRIPT = ("sh", "dirname", "sed", "tr", "env", "echo")
COMMANDS = [tool.probe for tool in host_tools() if not tool.probe.startswith("/")]


class Host:
    """A folder as a host: `bin` is all of PATH, and `log` tells what was run with what arguments."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.log, self.home = folder / "bin", folder / "log", folder / "home"
        self.script = folder / "builder" / "install_deps.sh"
        for path in (self.bin, self.home, self.script.parent, folder / "vector_boot"):
            path.mkdir(parents=True)
        for name in NEEDED_BY_THE_SCRIPT:
            (self.bin / name).symlink_to(shutil.which(name) or name)
        shutil.copy(SCRIPT, self.script)
        shutil.copy(CARGO_TOML, folder / "vector_boot")
        (folder / "there").write_bytes(b"")
        files = f"{folder}/nowhere* {folder}/the*|firmware|boot|x\n"
        commands = "".join(f"{name}|{name}-package|build|x\n" for name in COMMANDS)
        (self.script.parent / "host_tools.txt").write_text(f"# comment\n\n{commands}{files}")
        self.has("id", "echo 0")
        self.has("python3")
        for name in COMMANDS:
            self.has(name)
        self.has_rust(self.bin, "1.99.0")

    def has(self, name: str, script: str = "") -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script or 'exit 0'}\n")
        path.chmod(0o755)

    def has_rust(self, folder: Path, version: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("cargo", "rustc"):
            (folder / name).write_text(f"#!/bin/sh\necho 'rustc {version} (abc 2026-01-01)'\n")
            (folder / name).chmod(0o755)

    def has_apt(self, *, installs: str = "") -> None:
        self.has("apt-get", f'echo "$DEBIAN_FRONTEND apt-get $*" >>{self.log}\n{installs}')

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", self.script, *arguments], capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": str(self.bin), "HOME": str(self.home)},
        )  # fmt: skip

    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def silent(result: subprocess.CompletedProcess[str]) -> bool:
    return (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_nothing_is_missing(host: Host) -> None:
    assert silent(host.run())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_missing_command_names_its_package(host: Host, name: str) -> None:
    host.lacks(name)
    result = host.run()
    assert result.returncode == 1
    assert f"missing: {name}-package; install" in result.stderr


def test_missing_file(host: Host) -> None:
    (host.home.parent / "there").unlink()
    assert "missing: firmware; install" in host.run().stderr


def without_python(host: Host) -> None:
    host.lacks("python3")


def with_old_python(host: Host) -> None:
    host.has("python3", "exit 1")


def without_rust(host: Host) -> None:
    host.lacks("cargo", "rustc")


def with_old_rust(host: Host) -> None:
    host.has_rust(host.bin, "1.87.9")


def with_broken_rust(host: Host) -> None:
    host.has("rustc", "exit 1")


@pytest.mark.parametrize(
    ("change", "packages"),
    [
        (without_python, "python3 python3-venv"),
        (with_old_python, "python3 python3-venv"),
        (without_rust, "rustc-web cargo-web"),
        (with_old_rust, "rustc-web cargo-web"),
        (with_broken_rust, "rustc-web cargo-web"),
    ],
)
def test_missing_languages(host: Host, change: Callable[[Host], None], packages: str) -> None:
    change(host)
    result = host.run()
    assert result.returncode == 1
    assert f"missing: {packages}; install" in result.stderr


@pytest.mark.parametrize("version", ["1.89.0", "1.100.1", "2.0.0", "1.90.0-nightly"])
def test_new_enough_rust_from_rustup(host: Host, version: str) -> None:
    without_rust(host)
    host.has_rust(host.home / ".cargo/bin", version)
    assert silent(host.run())


def test_virtual_environment_answers_for_python(host: Host) -> None:
    without_python(host)
    venv = host.script.parent.parent / ".venv" / "bin"
    venv.mkdir(parents=True)
    shutil.copy(host.bin / "gcc", venv / "python")
    assert silent(host.run())


def test_root_installs_what_is_missing(host: Host) -> None:
    program = shutil.copy(host.bin / "gcc", host.home)
    host.lacks("gcc", "make")
    copy = f"{shutil.which('cp')} {program} {host.bin}/$name"
    host.has_apt(installs=f"case $* in *install*) for name in gcc make; do {copy}; done;; esac")
    result = host.run()
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "vboot: installing gcc-package make-package\n"
    assert host.ran() == [
        "noninteractive apt-get -qq update",
        "noninteractive apt-get -qq install --yes --no-install-recommends gcc-package make-package",
    ]


def test_what_apt_cannot_bring_is_an_error(host: Host) -> None:
    with_old_rust(host)
    host.has_apt()
    result = host.run()
    assert result.returncode == 1
    assert "still missing, or too old, after installing: rustc-web cargo-web" in result.stderr


def test_failure_of_apt_is_a_failure(host: Host) -> None:
    host.lacks("gcc")
    host.has_apt(installs="exit 100")
    assert host.run().returncode == 100


def test_others_use_sudo(host: Host) -> None:
    host.has("id", "echo 1000")
    host.has_apt()
    host.lacks("gcc")
    result = host.run()
    assert result.returncode == 1
    assert "run as root: apt-get update && apt-get install --no-install-recommends gcc-package" in result.stderr
    assert host.ran() == []
    host.has("sudo", f'echo sudo >>{host.log}; exec "$@"')
    host.run()
    assert host.ran()[:2] == ["sudo", "noninteractive apt-get -qq update"]


def test_dry_run_only_says_what_it_would_do(host: Host) -> None:
    host.lacks("gcc")
    host.has_apt()
    result = host.run("--dry-run")
    assert result.returncode == 0
    assert "apt-get -qq install --yes --no-install-recommends gcc-package" in result.stdout
    assert host.ran() == []


def test_a_host_that_has_everything_gets_no_message() -> None:
    result = subprocess.run(["sh", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert silent(result), result.stderr
