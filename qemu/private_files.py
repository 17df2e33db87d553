"""What a machine writes and nobody keeps: overlays over its disks, and its copy of the firmware's variables."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from qemu.run_folder import RunFolder
from qemu.spec import Disk, MachineSpec
from vboot.errors import ToolError
from vboot.files import named_errors

_SECONDS = 60


def with_private_files(spec: MachineSpec, folder: RunFolder) -> MachineSpec:
    """The same machine, with its overlays and variables in the run folder. Raises ToolError, OSError."""
    variables = spec.firmware_vars
    if spec.firmware_template is not None:
        variables = folder.variables
        with named_errors(variables):
            shutil.copyfile(spec.firmware_template, variables)
    disks = tuple(_overlaid(disk, folder.overlay) if disk.overlay else disk for disk in spec.disks)
    return replace(spec, disks=disks, firmware_vars=variables, firmware_template=None)


def _overlaid(disk: Disk, overlay: Path) -> Disk:
    overlay.unlink(missing_ok=True)
    # A relative name would be looked for in the overlay's folder.
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        disk.format,
        "-b",
        str(disk.path.resolve()),
        str(overlay),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()
        raise ToolError(f"qemu-img made no overlay: {said}", command=command, returncode=error.returncode) from error
    except (OSError, subprocess.SubprocessError) as error:
        remedy = "install it (Debian: qemu-utils), or boot the file itself with --persist"
        raise ToolError(f"qemu-img does not run ({error})", command=command, remedy=remedy) from error
    return replace(disk, path=overlay, format="qcow2", overlay=False)
