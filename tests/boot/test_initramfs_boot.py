"""Boots our archive under Debian's kernel: a small PID 1 reports what it finds and loads the modules in our order."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from builder.kernel import debian_kernel
from image.minilm import user_cache
from initramfs import newc
from initramfs.build import SENTINEL, build_initramfs
from initramfs.memory import MIB, MemoryNeed
from initramfs.module_files import load_modules
from initramfs.modules import Module

HERE = Path(__file__).parent
KERNELS = user_cache() / "kernels"
BOOT_TIMEOUT_S = 120


def compiled_init(folder: Path) -> bytes:
    program = folder / "report_init"
    command = ["gcc", "-static", "-Os", "-Wall", "-Werror", "-o", str(program), str(HERE / "report_init.c")]
    subprocess.run(command, check=True, timeout=60)
    return program.read_bytes()


def boot(folder: Path, *, kernel: Path, initramfs: bytes, memory_mib: int) -> str:
    (folder / "initramfs.cpio").write_bytes(initramfs)
    disk = folder / "disk"
    disk.write_bytes(bytes(MIB))
    # `quiet` keeps kernel messages, errors excepted, out of the middle of PID 1's lines.
    command = [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", str(memory_mib),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(folder / "initramfs.cpio"), "-append", "console=ttyS0 panic=-1 quiet",
        "-drive", f"if=none,id=disk,format=raw,file={disk}", "-device", "virtio-blk-pci,drive=disk,serial=vb-rts",
        "-chardev", "null,id=port", "-device", "virtio-serial-pci",
        "-device", "virtserialport,nr=1,chardev=port,name=org.vectorland.evolution.0",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOOT_TIMEOUT_S, check=True
    )
    return done.stdout.replace("\r", "")


def values(console: str, label: str) -> list[str]:
    """What PID 1 said after `label`."""
    return re.findall(rf"^{label} (.*)$", console, flags=re.MULTILINE)


def test_the_archive_boots_and_its_modules_load_in_order(tmp_path: Path) -> None:
    kernel = debian_kernel(KERNELS, progress=lambda _phase, _done, _total: None)
    modules = load_modules(kernel.modules, release=kernel.release, config=kernel.config)
    archive = build_initramfs(init=compiled_init(tmp_path), modules=modules, release=kernel.release)
    need = MemoryNeed(kernel_bytes=kernel.init_size, initramfs_bytes=len(archive), weights_bytes=0, workspace_bytes=0)

    console = boot(tmp_path, kernel=kernel.vmlinuz, initramfs=archive, memory_mib=need.mib)

    assert "init done" in console, console[-4000:]
    assert values(console, "release") == [kernel.release]
    assert values(console, "sentinel") == [sentinel_of(archive)]
    assert values(console, "node") == ["/dev/console 20600 5:1", "/dev/null 20666 1:3", "/dev/kmsg 20644 1:11"]
    assert values(console, "mount") == ["proc 0", "sys 0", "dev 0"]
    assert values(console, "module") == [f"/{module.archive_path} loaded" for module in modules]
    assert values(console, "block") == ["vb-rts"]
    assert values(console, "port") == ["org.vectorland.evolution.0"]
    assert values(console, "rng") == ["virtio_rng.0"]
    available_kib = int(values(console, "MemAvailable:")[0].split()[0])
    assert need.mib * MIB - available_kib * 1024 < need.running_bytes * 64 // 63
    assert_known_order(modules)


def sentinel_of(archive: bytes) -> str:
    """The digest that the sentinel should hold, computed over what precedes it."""
    end = archive.rindex(newc.MAGIC, 0, archive.rindex(SENTINEL.encode() + b"\0"))
    return hashlib.sha256(archive[:end]).hexdigest()


def assert_known_order(modules: list[Module]) -> None:
    """These drivers are modules of Debian's cloud kernel, so the boot above has shown something."""
    names = [module.name for module in modules]
    chain = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "virtio_console", "virtio_rng"]
    assert [name for name in names if name in chain] == chain
    assert all(names.index(f"virtio_pci_{kind}_dev") < names.index("virtio_pci") for kind in ("legacy", "modern"))


def test_memory_below_the_formula_loses_the_sentinel(tmp_path: Path) -> None:
    kernel = debian_kernel(KERNELS, progress=lambda _phase, _done, _total: None)
    filler = [newc.file("filler", bytes(64 * MIB))]
    archive = build_initramfs(init=compiled_init(tmp_path), modules=[], release=kernel.release, extra=filler)
    need = MemoryNeed(kernel_bytes=kernel.init_size, initramfs_bytes=len(archive), weights_bytes=0, workspace_bytes=0)
    # Without the margin and the rounding, 32 and 16 MiB.
    console = boot(tmp_path, kernel=kernel.vmlinuz, initramfs=archive, memory_mib=need.mib - 48)
    assert "write error" in console
    assert values(console, "sentinel") == ["missing"]
