"""`vboot build --format disk` and `vboot boot --image` of what it made, through UEFI firmware, as a user types them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from image.disk import BootEntry, open_disk
from qemu.launch import attach
from qemu.machine import VirtualMachine
from tests.boot.test_cli_boot import BIAS, VBOOT, is_running, vboot

SLOWEST_BOOT_S = 600
GOOD = (None, None)
"""The counters of a slot that was found good, as one is that runs for a minute."""


@contextmanager
def booted(disk: Path, run: Path, *words: str) -> Iterator[dict[str, Any]]:
    """A machine that `vboot boot --detach` has left running; its description. It is killed in the end."""
    command = [*VBOOT, "boot", "--image", str(disk), "--run", str(run), "--detach", "--json", *words]
    command += ["--accel", "tcg", "--timeout", str(SLOWEST_BOOT_S)]
    try:  # which begins before the boot: it may be interrupted when QEMU already runs
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * SLOWEST_BOOT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads(done.stdout)
    finally:
        if is_running(run):
            kill(run)


def kill(run: Path) -> None:
    machine: VirtualMachine
    with attach(run) as machine:
        machine.kill()


def answer(*words: str | Path) -> dict[str, Any]:
    done = vboot(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def facts(run: Path) -> tuple[int, str]:
    """The generation of the weights, and their digest."""
    done = vboot("shell", run, script="digest --json\n")
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)
    return digest["generation"], digest["model"]


def entry(disk: Path) -> BootEntry:
    with disk.open("rb") as file:
        (found,) = open_disk(file, size=disk.stat().st_size).entries()
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def own_disk(tiny_disk: Path, tmp_path: Path) -> Path:
    """A copy that a machine may write to."""
    copy = tmp_path / "own.img"
    subprocess.run(["cp", "--sparse=always", tiny_disk, copy], check=True, timeout=60)
    return copy


def test_a_machine_writes_to_an_overlay_and_the_disk_stays_as_it_is(tiny_disk: Path, run: Path) -> None:
    before = sha256(tiny_disk)
    with booted(tiny_disk, run) as described:
        assert described["disk"] == str(tiny_disk)
        status = answer("status", run)
        assert (status["image"], status["model"], status["generation"]) == (str(tiny_disk), "vector_boot tiny", 0)
        assert answer("mutate", run, *BIAS, "--confidence", "0.9")["durable"] is True
        assert facts(run)[0] == 1
        stats = json.loads(vboot("shell", run, script="stats --json\n").stdout)
        assert stats["slot"] == "A"
        assert stats["heartbeats"] > 0
        assert "hash tree" not in vboot("logs", run).stdout.lower()
        assert (run / "booted.gguf").read_bytes() == (tiny_disk.parent / "vectorland.gguf").read_bytes()
        stopped = answer("stop", run)
        assert stopped["how"] == "shut down in order"
    assert sha256(tiny_disk) == before


def test_changes_on_the_disk_survive_that_the_power_is_cut(own_disk: Path, run: Path, tmp_path: Path) -> None:
    with booted(own_disk, run, "--persist"):
        blank = facts(run)
        assert answer("mutate", run, *BIAS, "--confidence", "0.9")["durable"] is True
        changed = facts(run)
        assert changed[0] == blank[0] + 1
        assert changed[1] != blank[1]
        second = vboot("boot", "--image", own_disk, "--persist", "--run", tmp_path / "second", "--detach")
        assert second.returncode == 1
        assert "own.img is used by another machine that runs" in second.stderr
        assert not (tmp_path / "second").exists()
        kill(run)
    assert (entry(own_disk).tries_left, entry(own_disk).tries_done) in ((2, 1), GOOD)
    with booted(own_disk, run, "--persist"):
        assert facts(run) == changed
        assert answer("stop", run)["how"] == "shut down in order"
    assert (entry(own_disk).tries_left, entry(own_disk).tries_done) in ((1, 2), GOOD)
    assert "sound disk, slot A " in vboot("verify", own_disk).stdout
