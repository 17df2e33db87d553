"""The steps that make the image bootable: the kernel, and the initramfs in which the executable is PID 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import initramfs
from builder.cache import Progress
from builder.settings import KernelSettings
from builder.steps import Context, Facts, Step
from vboot.errors import InputError
from vboot.files import atomic_write

if TYPE_CHECKING:
    from builder.kernel import Kernel

VMLINUZ_NAME = "vmlinuz"
INITRAMFS_NAME = "initramfs.cpio"
TRUST = "etc/vector_boot.trust"
"""In the archive: the public key that images must be signed with, a colon, and the least security version."""


def kernel_step(kernel: KernelSettings, output: Path) -> Step:
    """Copies the kernel, Debian's or the user's own, and checks its configuration."""
    given = tuple(path for path in (_own_kernel(kernel), kernel.config) if path)

    def run(context: Context) -> Facts:
        found = _find(kernel, context.progress)
        with atomic_write(output) as file:
            file.write(found.vmlinuz.read_bytes())
        return {"release": found.release, "package": found.package, "sha256": found.sha256}

    return Step(
        name="kernel", doing="fetching", run=run, inputs=given, parameters=_parameters(kernel), outputs=(output,)
    )


def initramfs_step(kernel: KernelSettings, *, rts: Path, vmlinuz: Path, output: Path) -> Step:
    """The archive. `/init` has the bytes of the RTS image's binary section, because PID 1 compares the two at boot."""
    modules = tuple(sorted(path for path in kernel.modules.rglob("*.ko*"))) if kernel.modules else ()

    def run(context: Context) -> Facts:
        from image.rts import HEADER_SIZE, parse_header
        from initramfs import newc
        from initramfs.build import build_initramfs
        from initramfs.memory import MemoryNeed
        from initramfs.module_files import load_modules
        from initramfs.modules import MACHINE, PHYSICAL_DISKS

        found = _find(kernel, context.progress)
        with rts.open("rb") as file:
            header = parse_header(file.read(HEADER_SIZE), file_size=rts.stat().st_size)
            init = file.read(header.binary_size)
        wanted = (*MACHINE, *PHYSICAL_DISKS) if kernel.profile == "metal" else MACHINE
        loaded = load_modules(found.modules, release=found.release, config=found.config, wanted=wanted)
        extra = [newc.file(TRUST, trust.encode())] if (trust := _trust(context.facts["rts"])) else []
        archive = build_initramfs(init=init, modules=loaded, release=found.release, extra=extra)
        with atomic_write(output) as target:
            target.write(archive)
        need = MemoryNeed(kernel_bytes=found.init_size, initramfs_bytes=len(archive), weights_bytes=header.tensor_size)
        return {"modules": len(loaded), "memory_mib": need.mib}

    return Step(
        name="initramfs",
        title="initial RAM disk",
        run=run,
        inputs=(rts, vmlinuz, *modules, *_sources()),
        parameters=_parameters(kernel),
        outputs=(output,),
    )


def _trust(rts: Facts) -> str:
    """Which images the machine serves, for a signed one: those of the same key that are not older. Else ""."""
    return f"{rts['public_key']}:{rts['security_version']}\n" if "public_key" in rts else ""


def _find(kernel: KernelSettings, progress: Progress) -> Kernel:
    from builder.kernel import debian_kernel, kernel_from_path
    from image.minilm import user_cache

    own = _own_kernel(kernel)
    if kernel.source == "own":
        from builder.own_kernel import own_kernel

        built = own_kernel(user_cache() / "kernels", profile=kernel.profile, progress=progress)
        found = kernel_from_path(built.vmlinuz, config=built.config)
        return replace(found, package=f"built from {built.package.name} {built.package.version}, {kernel.profile}")
    if own is None:
        flavour = "amd64" if kernel.profile == "metal" else "cloud-amd64"
        return debian_kernel(user_cache() / "kernels", flavour=flavour, progress=progress)
    return kernel_from_path(own, config=kernel.config, modules=kernel.modules)


def _own_kernel(kernel: KernelSettings) -> Path | None:
    if kernel.source in {"debian", "own"}:
        return None
    path = Path(kernel.source)
    if not path.is_file():
        raise InputError(
            f"kernel.source = {kernel.source!r} is neither 'debian' nor 'own' nor a file",
            remedy="use debian, own or the path of a bzImage",
        )
    return path


def _parameters(kernel: KernelSettings) -> dict[str, object]:
    return {"source": kernel.source, "modules": str(kernel.modules or ""), "profile": kernel.profile}


def _sources() -> tuple[Path, ...]:
    """The code that writes the archive; a change of it repeats the step."""
    folder = Path(initramfs.__file__).parent
    return tuple(sorted(path for path in folder.rglob("*") if path.suffix in {".py", ".j2"}))
