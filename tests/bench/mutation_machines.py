"""The machines that the mutation benchmarks change: in a local process, and in a virtual machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qemu.accel import select
from qemu.launch import start
from qemu.spec import Disk, MachineSpec
from qemu.state_file import STATE_SERIAL
from tests.bench.boot_timing import APPEND
from tests.bench.host import REPOSITORY
from tests.support.local_machine import local_machine
from vboot.client.link import SocketLink
from vboot.client.machine import MachineClient
from vboot.errors import ToolError
from vboot.protocol.framing import Bytes

UNIX, SERIAL = "Unix socket", "virtio-serial"
WEIGHT = "blk.0.ffn_up.weight"
"""A matrix of minilm: 384 columns, 1536 rows."""

_ANSWER_SECONDS = 60.0
_BUILD_SECONDS = 1800.0
_MEMORY_MIB = 768
_RUN_FOLDER = REPOSITORY / "build" / "run" / "bench-mutation"


@dataclass(frozen=True)
class Connected:
    """A machine, the number of bytes sent and received over its connection, and where others connect to it."""

    machine: MachineClient
    wire_bytes: Callable[[], int]
    socket: Path


class _CountingLink(SocketLink):
    def __init__(self, path: Path, deadline: float, count: Callable[[int], None]) -> None:
        super().__init__(path, deadline)
        self._count = count

    def send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        self._count(len(data) + len(blob))
        super().send(data, deadline, blob)

    def receive(self, deadline: float) -> bytes:
        data = super().receive(deadline)
        self._count(len(data))
        return data


@contextmanager
def local(model: Path, *, state: Path | None = None, options: Sequence[str] = ()) -> Iterator[Connected]:
    """The executable of the release, serving `model` without limits on energy; with `state`, durably."""
    # A short path of its own: that of a socket may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        durable = ("--state", str(state)) if state else ()
        every = ("--energy", "off", "--fault", *durable, *options)
        with local_machine(Path(folder), *every, model=model) as running, _connect(running.socket) as line:
            yield line


@contextmanager
def booted(image: Path, *, accel: str = "auto", state: Path | None = None, append: str = "") -> Iterator[Connected]:
    """A virtual machine of the image in this folder; with `state`, a durable one. `append`: more for its kernel."""
    durable = (Disk(state, STATE_SERIAL, read_only=False),) if state else ()
    spec = MachineSpec(
        kernel=image / "vmlinuz",
        initramfs=image / "initramfs.cpio",
        append=f"{APPEND} vector_boot.energy=off {append}".rstrip(),
        disks=(Disk(image / "vector_boot.rts", "vb-rts", read_only=True), *durable),
        memory_mib=_MEMORY_MIB,
    )
    with start(spec, accel=select(accel), run=_RUN_FOLDER) as running:
        running.wait_for_console(r"phase=heartbeat t_us=[0-9]+\s")
        with _connect(running.evolution) as line:
            yield line


def build_image(output: Path, *, model_type: str, model: str = "minilm") -> Path:
    """An image of a model; its vectorland.gguf serves the local machine too. Raises ToolError."""
    options = ["--model", model, "--type", model_type, "--output", str(output)]
    command = [sys.executable, "-m", "builder", "build", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ToolError(f"the image could not be built ({last})", command=command, stderr=done.stderr)
    return output


@contextmanager
def _connect(path: Path) -> Iterator[Connected]:
    counted = [0]

    def count(size: int) -> None:
        counted[0] += size

    def open_link(deadline: float) -> SocketLink:
        return _CountingLink(path, deadline, count)

    with MachineClient(open_link, timeout=_ANSWER_SECONDS, client="bench") as machine:
        yield Connected(machine, lambda: counted[0], path)
