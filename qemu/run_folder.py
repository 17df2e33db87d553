"""The run folder: the files of one machine, from which a failure can be explained later.

`console.log` (from its first byte), `qemu.log`, `channel.jsonl` (the evolution port, both directions), `command.txt`
(can be run again), `machine.json` (how to reach the machine), `verdict.json` (how it ended), `booted.gguf` (the
model that it was booted with, also when the image is built again); of a machine that boots a disk image also
`disk.qcow2` (what it wrote) and `firmware-vars.fd`.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qemu.spec import Endpoints
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.port_files import PORTS, lock_file, port_socket, port_sockets
from vboot.text import json_text, path_text

_SOCKET_PATH_LIMIT = 107
"""The longest Unix socket path: 108 bytes with the closing zero."""
RUNS = Path("build/run")
"""The default folder of run folders, in the working folder."""
SOCKETS_ELSEWHERE = "sockets"
"""The link to the folder that holds the sockets, where the run folder's own path is too long."""
_SHORT_PREFIX = "vboot-"
_FOLDER_MODE = 0o700
"""The console and the evolution port are for the user who started the machine."""
ARTEFACTS = (
    "console.log", "qemu.log", "channel.jsonl", "command.txt", "machine.json", "verdict.json", "booted.gguf",
    "disk.qcow2", "firmware-vars.fd",
)  # fmt: skip
"""What a run writes, apart from sockets and their locks."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. `sockets` is the folder itself, or a short one elsewhere when its path is too long."""

    path: Path
    sockets: Path

    @property
    def console(self) -> Path:
        """The serial console, raw."""
        return self.path / "console.log"

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself said."""
        return self.path / "qemu.log"

    @property
    def channel(self) -> Path:
        """The evolution port's transcript."""
        return self.path / "channel.jsonl"

    @property
    def command(self) -> Path:
        """The QEMU command, quoted for a shell."""
        return self.path / "command.txt"

    @property
    def machine(self) -> Path:
        """How to reach the machine."""
        return self.path / "machine.json"

    @property
    def verdict(self) -> Path:
        """How the run ended."""
        return self.path / "verdict.json"

    @property
    def overlay(self) -> Path:
        """What the machine wrote to the disk image that it was booted from."""
        return self.path / "disk.qcow2"

    @property
    def variables(self) -> Path:
        """The machine's copy of the firmware's variables."""
        return self.path / "firmware-vars.fd"

    @property
    def model(self) -> Path:
        """A link to the composed model of the image."""
        return self.path / "booted.gguf"

    def keep_model(self, model: Path) -> None:
        """Link the model that the machine was booted with: a build replaces files, and leaves their contents alone.

        Nothing happens where there is none, or where no link can be made, as to another file system.
        """
        with suppress(OSError):
            self.model.hardlink_to(model.resolve(strict=True))

    @property
    def endpoints(self) -> Endpoints:
        """The console and the sockets, as the command line needs them."""
        return Endpoints(self.console, self.sockets / "evolution.sock", self.sockets / "qmp.sock")

    def write_json(self, path: Path, value: object) -> None:
        """Write one of the JSON artefacts whole or not at all."""
        text = json_text(value, indent=2)
        with atomic_write(path) as file:
            file.write(text.encode() + b"\n")

    def socket_files(self) -> tuple[Path, ...]:
        """The sockets and their locks; not all of them need exist."""
        ports = port_sockets(self.endpoints.evolution)
        return (*ports, *map(lock_file, ports), self.endpoints.qmp)

    def remove_sockets(self) -> None:
        """Remove the sockets and their locks, and the folder elsewhere that held them.

        A link can be made to point anywhere: in a folder that `create_run_folder` did not make, nothing is removed.
        """
        elsewhere = self.sockets != self.path
        if not elsewhere or _is_short_folder(self.sockets):
            for path in self.socket_files():
                path.unlink(missing_ok=True)
        if elsewhere:
            if _is_short_folder(self.sockets):
                with suppress(OSError):  # it holds other files
                    self.sockets.rmdir()
            (self.path / SOCKETS_ELSEWHERE).unlink(missing_ok=True)


def create_run_folder(run: Path | None = None, *, base: Path = RUNS) -> RunFolder:
    """Make `run`, or a new folder `base/<UTC time>-<pid>`, ready for one machine.

    A folder that held an earlier run is used again, its artefacts removed: a wait must never read an old console.
    Raises InputError when `run` holds anything else, or cannot be made.
    """
    try:
        path = _make_new(base) if run is None else _make_given(run)
        return RunFolder(path, _make_sockets_folder(path))
    except OSError as error:
        raise InputError(
            f"the run folder {path_text(run or base)} cannot be made ({error.strerror})", remedy="name another one"
        ) from error


def open_run_folder(run: Path) -> RunFolder:
    """The folder of a machine that was started before. Raises InputError when `run` is not one."""
    path = run.absolute()
    if not (path / "machine.json").is_file():
        raise InputError(
            f"{path_text(run)} is not the run folder of a machine", remedy="give the folder that boot printed"
        )
    elsewhere = path / SOCKETS_ELSEWHERE
    return RunFolder(path, elsewhere.readlink() if elsewhere.is_symlink() else path)


def listens(folder: RunFolder) -> bool:
    """Whether a machine has its control socket open, whoever runs it and wherever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.setblocking(False)
        try:
            stream.connect(str(folder.endpoints.qmp))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _make_new(base: Path) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    number = 1
    while True:
        path = base.absolute() / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(mode=_FOLDER_MODE)
        except FileExistsError:
            number += 1
        else:
            return path


def _make_given(run: Path) -> Path:
    path = run.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    held = {entry.name for entry in path.iterdir()}
    if held and "command.txt" not in held:
        raise InputError(
            f"the run folder {path_text(run)} holds other files", remedy="name an empty folder or an earlier run"
        )
    if SOCKETS_ELSEWHERE in held:
        RunFolder(path, (path / SOCKETS_ELSEWHERE).readlink()).remove_sockets()
    for name in ARTEFACTS:
        (path / name).unlink(missing_ok=True)
    RunFolder(path, path).remove_sockets()
    return path


def _make_sockets_folder(path: Path) -> Path:
    if _fits(path):
        return path
    short = Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX))
    if not _fits(short):
        short.rmdir()
        folders = f"{path_text(path)} and {path_text(short)}"
        raise InputError(
            f"no folder has a path short enough for Unix sockets: {folders} are too long",
            remedy="give a shorter run folder, or set TMPDIR to a shorter one",
        )
    (path / SOCKETS_ELSEWHERE).symlink_to(short)
    return short


def _is_short_folder(path: Path) -> bool:
    """Whether this is a folder as `_make_sockets_folder` makes them: named so, and of this user alone."""
    try:
        status = path.lstat()
    except OSError:
        return False
    named = path.is_absolute() and path.name.startswith(_SHORT_PREFIX)
    mode = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode))
    return named and mode == (stat.S_IFDIR, _FOLDER_MODE) and status.st_uid == os.geteuid()


def _fits(folder: Path) -> bool:
    longest = port_socket(RunFolder(folder, folder).endpoints.evolution, PORTS - 1)
    return len(os.fsencode(longest)) <= _SOCKET_PATH_LIMIT
