"""The machines that `tests.bench.boot` starts: three of ours, busybox and two of Python, under one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.executable import build_executable
from builder.kernel import debian_kernel
from image.compose import compose
from image.minilm import user_cache
from image.rts import HEADER_SIZE
from image.rts_file import write_rts
from initramfs.build import build_initramfs
from initramfs.memory import MemoryNeed
from initramfs.module_files import load_modules
from qemu.spec import Disk, MachineSpec
from tests.bench.boot_archives import BUSYBOX_LINE, busybox_archive, python_archive
from tests.bench.boot_timing import APPEND
from tests.bench.gguf_files import synthetic, write_sparse
from tests.bench.guest.python_init import READY
from tests.bench.results import Setting
from tests.bench.rust import LOG

LOADED, FIRST_BEAT = "GGUF tensors loaded", "phase=heartbeat"
SMALL, LARGE, VOCABULARY = "vector_boot, 1 MB", "vector_boot, 1 GB", "vector_boot, 1 GB and 30,000 tokens"
BUSYBOX, PYTHON_SMALL, PYTHON_LARGE = "busybox, one line", "Python, 1 MB", "Python, 1 GB and 30,000 tokens"
OURS = (SMALL, LARGE, VOCABULARY)
_TOKENS = 30_000
# 30 x 32 MiB: 1.007 GB.
_LARGE_TENSORS = 30


@dataclass(frozen=True)
class Contender:
    """A machine, and the texts on its console: `loaded` when it has its model, `ready` when it is up."""

    spec: MachineSpec
    loaded: str
    ready: str


@dataclass(frozen=True)
class Line:
    """All contenders by name, the release of the kernel they boot, the memory each has in MiB."""

    contenders: Mapping[str, Contender]
    release: str
    memory_mib: int


def line_up(setting: Setting) -> Line:
    """Build the files of all machines in `setting.folder`. Raises VbootError."""
    folder = setting.folder

    def quiet(_phase: str, _done: int, _total: int) -> None:
        pass

    setting.say("building the executable, the kernel and the disks")
    binary = build_executable(log=LOG, progress=quiet)
    kernel = debian_kernel(user_cache() / "kernels", progress=quiet)
    modules = load_modules(kernel.modules, release=kernel.release, config=kernel.config)
    disks = {name: folder / f"disk{number}.rts" for number, name in enumerate(OURS)}
    init = _write_small(disks[SMALL], binary=binary, scratch=folder)
    _write_large(disks[LARGE], binary=binary, scratch=folder, tokens=0)
    _write_large(disks[VOCABULARY], binary=binary, scratch=folder, tokens=_TOKENS)
    archives = {
        "ours.cpio": build_initramfs(init=init, modules=modules, release=kernel.release),
        "busybox.cpio": busybox_archive(),
        "python.cpio": python_archive(modules),
    }
    for name, data in archives.items():
        (folder / name).write_bytes(data)
    memory_mib = MemoryNeed(
        kernel_bytes=kernel.init_size,
        initramfs_bytes=max(map(len, archives.values())),
        weights_bytes=disks[VOCABULARY].stat().st_size,
    ).mib

    def spec(archive: str, disk: str) -> MachineSpec:
        return MachineSpec(
            kernel=kernel.vmlinuz,
            initramfs=folder / archive,
            append=APPEND,
            disks=(Disk(disks[disk], "vb-rts", read_only=True),),
            memory_mib=memory_mib,
        )

    contenders = {name: Contender(spec("ours.cpio", name), LOADED, FIRST_BEAT) for name in OURS}
    contenders |= {
        BUSYBOX: Contender(spec("busybox.cpio", SMALL), BUSYBOX_LINE, BUSYBOX_LINE),
        PYTHON_SMALL: Contender(spec("python.cpio", SMALL), READY, READY),
        PYTHON_LARGE: Contender(spec("python.cpio", VOCABULARY), READY, READY),
    }
    return Line(contenders, kernel.release, memory_mib)


def _write_small(output: Path, *, binary: Path, scratch: Path) -> bytes:
    """The disk with the tiny model; returns its binary section, which is what /init must be."""
    composed = scratch / "composed.gguf"
    compose("tiny", composed)
    header = write_rts(output, binary=binary, tensors=composed)
    composed.unlink()
    with output.open("rb") as file:
        file.seek(HEADER_SIZE)
        return file.read(header.binary_size)


def _write_large(output: Path, *, binary: Path, scratch: Path, tokens: int) -> None:
    model, composed = scratch / "model.gguf", scratch / "composed.gguf"
    write_sparse(model, synthetic(_LARGE_TENSORS, rows=4096, columns=4096, tokens=tokens))
    compose(str(model), composed)
    write_rts(output, binary=binary, tensors=composed)
    model.unlink()
    composed.unlink()
