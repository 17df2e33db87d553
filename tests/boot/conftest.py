"""Images and machines for the boot tests: built once, and every machine ended whatever happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import main
from qemu.spec import Disk, MachineSpec

BUILD = Path(__file__).parents[2] / "build" / "test"
APPEND = "console=ttyS0 panic=-1 quiet"


@dataclass(frozen=True)
class Image:
    """The files of a built image, and the machines that boot it."""

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
        """The same machine with another RTS disk."""
        return self.spec(append=append, disks=(Disk(rts, "vb-rts", read_only=True),))


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
