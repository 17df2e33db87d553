"""Images and machines for the boot tests: images are built once, and every machine is ended."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from cli import main
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import Disk, MachineSpec
from tests.support.evolution_port.expect import EvolutionPort, machine_port
from vboot.errors import BootError

BUILD = Path(__file__).parents[2] / "build" / "test"
APPEND = "console=ttyS0 panic=-1 quiet"
_LOOKS, _LOOK_SECONDS = 20, 0.05


@dataclass(frozen=True)
class Image:
    """The files of a built image, and specifications of machines that boot it."""

    folder: Path

    @property
    def rts(self) -> Path:
        return self.folder / "vector_boot.rts"

    def spec(self, *, append: str = "", disks: tuple[Disk, ...] | None = None, memory_mib: int = 256) -> MachineSpec:
        return MachineSpec(
            kernel=self.folder / "vmlinuz",
            initramfs=self.folder / "initramfs.cpio",
            append=f"{APPEND} {append}".strip(),
            disks=(Disk(self.rts, "vb-rts", read_only=True),) if disks is None else disks,
            memory_mib=memory_mib,
        )

    def spec_with(self, rts: Path, *, append: str = "") -> MachineSpec:
        """The same machine with another RTS disk (the container of executable and model)."""
        return self.spec(append=append, disks=(Disk(rts, "vb-rts", read_only=True),))


class SharedMachine:
    """A machine that several tests use. If it ends, the running test fails, and the next one gets a new machine.

    A fixture of module scope makes it; the tests' own fixtures call `machine` and `port`.
    """

    def __init__(self, spec: MachineSpec) -> None:
        self._spec = spec
        self._resources = ExitStack()
        self._machine: VirtualMachine | None = None
        self._port: EvolutionPort | None = None

    def machine(self) -> VirtualMachine:
        """The running machine."""
        if self._machine is None:
            self._machine = self._resources.enter_context(start(self._spec))
        return self._machine

    def port(self) -> EvolutionPort:
        """A connection to it that has been greeted."""
        if self._port is None:
            self._port = self._resources.enter_context(machine_port(self.machine()))
            self._port.greet()
            self._port.resync()
        return self._port

    def explain_failure(self) -> None:
        """Called when a test has failed: raise BootError if the machine has ended, and drop it."""
        for _ in range(_LOOKS):
            if self._machine is None:
                return
            try:
                self._machine.check()
            except BootError:
                self.close()
                raise
            time.sleep(_LOOK_SECONDS)  # its socket closes a moment before the process can be reaped

    def close(self) -> None:
        """End the machine."""
        resources, self._resources = self._resources, ExitStack()
        self._machine = self._port = None
        resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None]:
    """When a test fails because its machine ended, report the end of the machine."""
    try:
        yield
    except Exception:
        for value in item.funcargs.values():
            if isinstance(value, SharedMachine):
                value.explain_failure()
        raise


def built(model: str) -> Image:
    folder = BUILD / model
    assert main(["build", "--model", model, "--output", str(folder)]) == 0
    return Image(folder)


@pytest.fixture(scope="session")
def tiny() -> Image:
    return built("tiny")


@pytest.fixture(scope="session")
def minilm() -> Image:
    return built("minilm")


@pytest.fixture(scope="session")
def tiny_disk() -> Path:
    """The disk of the tiny model, which firmware boots. Nothing may write to it."""
    folder = BUILD / "tiny-disk"
    assert main(["build", "--model", "tiny", "--format", "disk", "--output", str(folder)]) == 0
    return folder / "vector_boot.img"
