"""The steps that make a disk for UEFI firmware: hash tree, unified kernel images, the disk, copies in other formats."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import image
from builder.boot_steps import INITRAMFS_NAME, VMLINUZ_NAME
from builder.command_line import command_line
from builder.secure_boot import SecureBootKey
from builder.settings import Config, DiskSettings, RuntimeSettings
from builder.steps import Context, Facts, Step
from qemu.state_file import default_mib
from vboot.errors import InputError, ToolError
from vboot.files import atomic_write

if TYPE_CHECKING:
    from builder.bootloader import Bootloader

DISK_NAME = "vector_boot.img"
TREE_NAME = "vector_boot.verity"
UKI_NAMES = {"A": "vb-a.efi", "B": "vb-b.efi"}
COPIES = {"qcow2": "qcow2", "vmdk": "vmdk", "vhdx": "vhdx"}
"""Formats of virtual machines: the name of each for qemu-img, which is the extension of its file too."""
_UNLISTED = ("vmdk", "vhdx")
"""Formats with random identifiers: they are not the same when they are made twice, so no manifest lists them."""
_FORMATS = ("direct", "disk", *COPIES)
# Virtual machines have a serial console, PCs a screen; the last one named is /dev/console.
_CONSOLES = {"vm": "console=ttyS0", "metal": "console=ttyS0 console=tty0"}
_CONVERT_SECONDS = 3600


def formats_of(config: Config) -> tuple[str, ...]:
    """The formats that are asked for. Raises InputError for one that does not exist, or for copies without the disk."""
    formats = tuple(dict.fromkeys(part.strip() for part in config.image.format.split(",")))
    unknown = next((name for name in formats if name not in _FORMATS), None)
    if unknown is not None:
        raise InputError(f"image.format: {unknown!r} is unknown, expected some of {', '.join(_FORMATS)}")
    if "direct" in formats and len(formats) > 1:
        raise InputError("image.format: direct stands alone, because a disk brings its files too")
    if set(formats) & set(COPIES) and "disk" not in formats:
        raise InputError(
            f"image.format: {formats[0]} is a copy of the disk", remedy=f"ask for disk,{','.join(formats)}"
        )
    return formats


def plan_disk(config: Config, *, rts: Path) -> list[Step]:
    """The steps after the initramfs, which give the disk; none if no disk is asked for. Raises InputError."""
    formats = formats_of(config)
    if "disk" not in formats:
        return []
    folder = config.image.output
    loader = bootloader_step()
    tree, disk = folder / TREE_NAME, folder / DISK_NAME
    key = None if config.image.secure_boot is None else SecureBootKey.of_folder(config.image.secure_boot)
    images = uki_step(config, folder=folder, tree=tree, stub=loader.outputs[1], key=key)
    steps = [
        loader,
        verity_step(rts, tree),
        images,
        disk_step(
            config.disk, loader=loader.outputs[0], uki=images.outputs[0], rts=rts, tree=tree, key=key, output=disk
        ),
    ]
    return [*steps, *(copy_step(disk, kind) for kind in formats if kind in COPIES and kind not in _UNLISTED)]


def plan_unlisted_copies(config: Config) -> list[Step]:
    """The steps after the manifest: copies of the disk that are not the same when they are made twice."""
    kinds = [kind for kind in formats_of(config) if kind in _UNLISTED]
    return [copy_step(config.image.output / DISK_NAME, kind) for kind in kinds]


def bootloader_step() -> Step:
    """Fetches systemd-boot and its stub into the user's cache."""
    from builder.bootloader import debian_bootloader
    from image.minilm import user_cache

    cache = user_cache() / "bootloaders"

    def fetch(context: Context) -> Bootloader:
        return debian_bootloader(cache, progress=context.progress)

    def run(context: Context) -> Facts:
        found = fetch(context)
        hashes = {"loader_sha256": context.sha256(found.loader), "stub_sha256": context.sha256(found.stub)}
        return {"package": f"{found.package.name} {found.package.version}", **hashes}

    from builder.bootloader import paths_in

    return Step(name="bootloader", title="boot loader", doing="fetching", run=run, outputs=paths_in(cache))


def verity_step(rts: Path, output: Path) -> Step:
    """Writes the hash tree by which the kernel checks every block of the image that it reads."""

    def run(context: Context) -> Facts:
        from image.streams import read_chunks
        from image.verity import hash_tree

        with rts.open("rb") as file:
            verity, tree = hash_tree(read_chunks(file, offset=0, size=rts.stat().st_size))
        with atomic_write(output) as target:
            target.write(tree)
        return {"root": verity.root.hex(), "data_blocks": verity.data_blocks}

    return Step(
        name="verity", title="hash tree", run=run, inputs=(rts, *_sources("verity")), outputs=(output,)
    )  # fmt: skip


def uki_step(config: Config, *, folder: Path, tree: Path, stub: Path, key: SecureBootKey | None = None) -> Step:
    """Writes a unified kernel image for each slot. They differ in one word of the command line, and their names."""
    vmlinuz, initramfs = folder / VMLINUZ_NAME, folder / INITRAMFS_NAME
    base = f"{_CONSOLES[config.kernel.profile]} panic=-1 quiet"
    words = command_line(_of_disk(config.runtime), "", base=base)
    from importlib.metadata import version

    ours = version("vector-boot")

    def run(context: Context) -> Facts:
        from image import uki

        verity = context.facts["verity"]
        facts: dict[str, str | int] = {"command_line": words}
        for slot, name in UKI_NAMES.items():
            data = uki.build(
                stub.read_bytes(),
                kernel=vmlinuz.read_bytes(),
                initramfs=initramfs.read_bytes(),
                command_line=f"{words} vector_boot.slot={slot} "
                f"vector_boot.verity={verity['root']}:{verity['data_blocks']}",
                os_release=uki.os_release(version=ours, slot=slot),
                release=str(context.facts["kernel"]["release"]),
                version=ours,
            )
            if key is not None:
                # A signature holds the time; this is what two builds have in common.
                facts[f"unsigned_sha256_{slot.lower()}"] = hashlib.sha256(data).hexdigest()
                data = key.sign(data)
            with atomic_write(folder / name) as file:
                file.write(data)
        return facts

    return Step(
        name="uki",
        title="boot images",
        run=run,
        inputs=(vmlinuz, initramfs, tree, stub, *(key.files if key else ()), *_sources("uki", "pe")),
        parameters={"command_line": words, "version": ours},
        outputs=tuple(folder / name for name in UKI_NAMES.values()),
    )


def disk_step(
    settings: DiskSettings,
    *,
    loader: Path,
    uki: Path,
    rts: Path,
    tree: Path,
    output: Path,
    key: SecureBootKey | None = None,
) -> Step:
    """Writes the disk: a boot entry and the image in slot A, an empty slot B, a blank state partition."""

    def run(context: Context) -> Facts:
        from image import disk

        rts_bytes = rts.stat().st_size
        state_mib = settings.state_mib or default_mib(rts_bytes)
        slot_bytes = settings.slot_mib << 20 if settings.slot_mib else disk.default_slot_bytes(rts_bytes)
        manager = loader.read_bytes() if key is None else key.sign(loader.read_bytes())
        esp = disk.esp_files(loader=manager, uki=uki.read_bytes(), slot="A")
        seed = hashlib.sha256("".join(map(context.sha256, (loader, uki, rts))).encode()).digest()
        context.progress("writing the disk", 0, 0)
        with rts.open("rb") as source, atomic_write(output) as target:
            made = disk.write_disk(
                target,
                esp=esp,
                esp_bytes=settings.esp_mib << 20,
                rts=source,
                tree=tree.read_bytes(),
                slot_bytes=slot_bytes,
                state_bytes=state_mib << 20,
                seed=seed,
            )
        return {"disk_guid": str(made.disk_guid), "slot_mib": slot_bytes >> 20, "state_mib": state_mib}

    return Step(
        name="disk",
        run=run,
        inputs=(loader, uki, rts, tree, *(key.files if key else ()), *_sources("disk", "gpt", "fat32", "fat_names")),
        parameters={"esp_mib": settings.esp_mib, "slot_mib": settings.slot_mib, "state_mib": settings.state_mib},
        outputs=(output,),
    )


def copy_step(disk: Path, kind: str) -> Step:
    """Writes the disk in a format of virtual machines."""
    output = disk.with_suffix(f".{kind}")

    def run(context: Context) -> Facts:
        context.progress(f"writing {output.name}", 0, 0)
        with atomic_write(output) as target:
            _convert(disk, COPIES[kind], Path(target.name))
        return {}

    return Step(name=kind, run=run, inputs=(disk,), outputs=(output,))


def _convert(disk: Path, kind: str, output: Path) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", kind, str(disk.resolve()), str(output.resolve())]
    remedy = "install it (Debian: qemu-utils)"
    try:
        done = subprocess.run(command, capture_output=True, timeout=_CONVERT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"qemu-img does not run ({error})", command=command, remedy=remedy) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise ToolError(f"qemu-img made no {kind}: {said}", command=command, returncode=done.returncode)


def _of_disk(runtime: RuntimeSettings) -> RuntimeSettings:
    """A slot that cannot start reboots, so that the boot loader counts its tries and takes the other one at last."""
    return replace(runtime, onfail="reboot") if runtime.onfail == "poweroff" else runtime


def _sources(*modules: str) -> Sequence[Path]:
    """The code that writes a file; a change of it repeats the step."""
    folder = Path(image.__file__).parent
    return [folder / f"{name}.py" for name in modules]
