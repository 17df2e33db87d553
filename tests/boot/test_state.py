"""A machine with a state disk: changes are there when it boots again, and a disk it cannot use is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import Disk
from tests.boot.conftest import Image
from tests.boot.test_machine import result
from tests.support.evolution_port.expect import EvolutionPort, machine_port
from tests.support.state import MIB, Facts, change_id, mutated, refusal


@contextmanager
def booted(image: Image, state: Path, *, read_only: bool = False) -> Iterator[tuple[VirtualMachine, EvolutionPort]]:
    """A machine with this state disk, which may be killed."""
    spec = image.spec()
    disk = Disk(state, "vb-state", read_only=read_only)
    with start(replace(spec, disks=(disk, *spec.disks))) as machine, machine_port(machine) as port:
        port.greet()
        yield machine, port


@pytest.fixture
def state(tmp_path: Path) -> Path:
    file = tmp_path / "state.img"
    with file.open("wb") as blank:
        blank.truncate(16 * MIB)
    return file


def test_changes_are_there_after_the_power_was_cut(tiny: Image, state: Path) -> None:
    with booted(tiny, state) as (machine, port):
        assert result(port, "hello", protocol=1, client="test")["durable"] is True
        for number in range(3):
            assert mutated(port, number, number)["durable"] is True
        promoted = Facts.of(port)
        assert mutated(port, 3, 3, lease_ms=600_000)["durable"] is False
        machine.kill()
    with booted(tiny, state) as (machine, port):
        assert Facts.of(port) == Facts(5, promoted.digest)
        assert mutated(port, 1, 1)["replayed"] is True
        kinds = [record["kind"] for record in result(port, "history")["records"]]
        assert kinds[:6] == ["mutate", "mutate", "mutate", "mutate", "lease_expired", "boot"]
        assert result(port, "rollback", id=change_id(9), to=1)["durable"] is True
        rolled = Facts.of(port)
        machine.kill()
    content = state.read_bytes()
    with booted(tiny, state, read_only=True) as (_, port):
        assert Facts.of(port) == rolled
        assert refusal(port)["data"] == {"reason": "read_only"}
    assert state.read_bytes() == content


def test_a_disk_with_something_else_is_left_alone(tiny: Image, state: Path) -> None:
    with state.open("r+b") as disk:
        disk.seek(9 * MIB)
        disk.write(b"a photograph")
    content = state.read_bytes()
    with booted(tiny, state) as (machine, port):
        assert result(port, "hello", protocol=1, client="test")["durable"] is False
        assert refusal(port)["data"] == {"reason": "foreign"}
        assert result(port, "stats")["state"] == "beating"
        said = machine.console.read_text(errors="replace")
        assert said.count("vector_boot: journal: the state device holds something else") == 1
    assert state.read_bytes() == content
