"""The image that a verb boots: the one named, or the one in the output folder, brought up to date and checked."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.boot_image import BootImage, open_image
from builder.integrity import check_image
from builder.manifest import NAME as MANIFEST_NAME
from builder.remembered import changes_image, lost_file
from builder.settings import Config
from cli.boot_watch import STEP
from cli.progress import reported
from vboot.errors import InputError
from vboot.text import path_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Demand:
    """What is demanded of an image before it boots: a signature by `key`, sound `tensors`; nothing if not `checked`."""

    key: Ed25519PublicKey | None = None
    tensors: bool = False
    checked: bool = True


def add_demands(parser: argparse.ArgumentParser) -> None:
    """Add the options that `demand_of` reads."""
    group = parser.add_argument_group("checks before the boot (kernel, initramfs, executable and header always)")
    group.add_argument("--verify", action="store_true", help="check the weights too, which means reading them all")
    group.add_argument("--key", metavar="PEM|HEX", help="Ed25519 public key that must have signed the image")
    group.add_argument(
        "--unchecked", action="store_true", help="boot files that are not those of the manifest, or have none"
    )


def demand_of(arguments: argparse.Namespace) -> Demand:
    """What the options ask for. Raises InputError if they contradict each other or there is no such key."""
    if arguments.unchecked and (arguments.key or arguments.verify):
        raise InputError("--unchecked contradicts --key and --verify", remedy="leave one of them out")
    if arguments.key is None:
        return Demand(tensors=arguments.verify, checked=not arguments.unchecked)
    from vboot.keys import load_public_key

    return Demand(load_public_key(arguments.key), tensors=arguments.verify)


def open_or_build(given: Path | None, config: Config, demand: Demand = Demand()) -> BootImage:
    """The image to boot, built first unless one is named, and checked. Raises InputError if it is not as demanded."""
    folder = config.image.output if given is None else given
    if given is None:
        _bring_up_to_date(config)
    elif not given.exists():
        raise InputError(f"{path_text(given)} is not there", remedy="give the folder of an image, or none to build it")
    elif not given.is_dir():
        raise InputError(f"{path_text(given)} is a file", remedy="give the folder of a built image")
    image = open_image(folder)
    if not demand.checked:
        return image
    if not (folder / MANIFEST_NAME).exists():
        otherwise = "" if demand.key or demand.tensors else ", or boot it as it is with `vboot boot --unchecked`"
        remedy = f"build the image again{otherwise}"
        raise InputError(f"{path_text(folder)} has no {MANIFEST_NAME}, against which it is checked", remedy=remedy)
    with reported("checking the image") as progress:
        checked = check_image(folder, key=demand.key, tensors=demand.tensors, progress=progress)
    return replace(image, checked=checked)


def _bring_up_to_date(config: Config) -> None:
    lost = lost_file(config)
    if lost is not None and not changes_image(config) and _is_whole(config.image.output):
        _say(f"{lost}; the image is booted as it is")
        return
    from cli.build import build_image

    build_image(config)


def _say(text: str) -> None:
    sys.stderr.write(f"{STEP}: {text}\n")
    sys.stderr.flush()


def _is_whole(folder: Path) -> bool:
    try:
        open_image(folder)
    except InputError:
        return False
    return True
