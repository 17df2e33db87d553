"""Which accelerator a machine runs under: KVM where it has proved to run a guest, else emulation (TCG).

`/dev/kvm` may exist, open, create a VM and still never run a guest, so the only evidence is a guest that ran: a ROM of
a few instructions whose exit code QEMU hands back, and then a kernel, which hangs on some hosts where the ROM runs. The
verdict is kept for this host boot and this QEMU.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from qemu.process import boot_id, spawn
from vboot.errors import BootError, InputError, ToolError
from vboot.files import atomic_write

QEMU = "qemu-system-x86_64"
AccelName: TypeAlias = Literal["kvm", "tcg"]

_KVM = Path("/dev/kvm")
_NO_GUEST = "KVM does not run a guest on this host; `vboot doctor` says why"
_PROBE_SECONDS = 5.0
_KERNEL_SECONDS = 20.0
_PROOF = 0x2A
_TCG_SCALE = 6.0


@dataclass(frozen=True)
class Accel:
    """An accelerator that works here, and why it was chosen, for people; `detail` is what QEMU said, if it failed."""

    name: AccelName
    reason: str
    detail: str = ""

    @property
    def scale(self) -> float:
        """What every deadline is multiplied by: 1 under KVM, 6 under emulation."""
        return 1.0 if self.name == "kvm" else _TCG_SCALE


@dataclass(frozen=True)
class Verdict:
    """What trying KVM has shown: its `fault`, "" when guests ran, and whether a kernel was among them."""

    fault: str
    kernel_ran: bool = False


def select(wanted: str, *, kernel: Path | None = None, qemu: str = QEMU, cache: Path | None = None) -> Accel:
    """`auto`: the best that works; `tcg`: emulation, nothing probed; `kvm`: KVM or a BootError that says why not.

    `kernel` is the one that will be booted.
    """
    if wanted == "tcg":
        return Accel("tcg", "emulation was asked for")
    if wanted not in ("auto", "kvm"):
        raise InputError(f"accelerator {wanted!r} is unknown", remedy="use auto, kvm or tcg")
    found = probe(qemu, kernel=kernel, cache=cache)
    if wanted == "kvm" and found.name != "kvm":
        raise BootError(
            f"KVM was asked for, but {found.detail or found.reason}", phase="spawn", remedy="use auto or tcg"
        )
    return found


def probe(
    qemu: str = QEMU,
    *,
    kernel: Path | None = None,
    cache: Path | None = None,
    device: Path | None = None,
    seconds: float = _PROBE_SECONDS,
    kernel_seconds: float = _KERNEL_SECONDS,
) -> Accel:
    """KVM if a guest ran under it, else TCG with the reason.

    Takes up to `seconds` the first time after a host boot, and with a `kernel` up to `kernel_seconds` more. Without one
    the ROM alone decides, unless a kernel was tried since the host booted. `cache` is the file that remembers (default:
    accel.json in the user's cache folder); it may not be writable. Raises ToolError when `qemu` cannot be run at all.
    """
    refusal = _cannot_open(device or _KVM)
    if refusal:
        return Accel("tcg", refusal)
    cache = cache or _default_cache()
    key = f"{boot_id()} {qemu} {qemu_version(qemu)}"
    known = _remembered(cache, key)
    verdict = known or Verdict(_run_rom(qemu, seconds))
    if kernel and not verdict.fault and not verdict.kernel_ran:
        verdict = Verdict(_run_kernel(qemu, kernel, kernel_seconds), kernel_ran=True)
    if verdict != known:
        record = {"key": key, "kvm_fault": verdict.fault, "kernel_ran": verdict.kernel_ran}
        with contextlib.suppress(OSError, InputError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(cache) as file:
                file.write(json.dumps(record).encode() + b"\n")
    reason = verdict.fault
    return Accel("tcg", _NO_GUEST, reason) if reason else Accel("kvm", "a test guest ran under KVM")


def qemu_version(qemu: str = QEMU) -> str:
    """The first line of `qemu --version`. Raises ToolError when it cannot be run."""
    return _output(qemu, "--version").partition("\n")[0].strip()


def _output(qemu: str, *words: str) -> str:
    command = [qemu, *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(
            f"{qemu} does not run ({error})", command=command, remedy="install QEMU (Debian: qemu-system-x86)"
        ) from error
    return done.stdout.decode("utf-8", "replace")


def require_cpu_model(cpu: str, *, qemu: str = QEMU) -> None:
    """Raises InputError when QEMU has no such model as in "Haswell,-avx2", ToolError when QEMU does not run."""
    model = cpu.partition(",")[0]
    models = cpu_models(_output(qemu, "-cpu", "help"))
    if model not in models:
        nearest = difflib.get_close_matches(model, models, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise InputError(
            f"{qemu} has no processor model {model!r}", remedy=f"{hint}`{qemu} -cpu help` lists {len(models)} models"
        )


def cpu_models(listing: str) -> tuple[str, ...]:
    """The names of processor models in what `qemu-system-x86_64 -cpu help` prints."""
    lines = listing.partition("Available CPUs:")[2].strip("\n").split("\n\n", 1)[0].splitlines()
    # Older versions of QEMU write the architecture before each name.
    return tuple(words[1] if words[0] == "x86" and len(words) > 1 else words[0] for words in map(str.split, lines))


def parse_verdict(data: bytes, *, key: str) -> Verdict | None:
    """What a cache file remembers for `key`; None when the file does not say."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    fault = record.get("kvm_fault")
    return Verdict(fault, kernel_ran=record.get("kernel_ran") is True) if isinstance(fault, str) else None


def debug_exit_rom(value: int) -> bytes:
    """A 64 KiB ROM whose reset vector writes `value` to the isa-debug-exit port 0xf4 and halts.

    QEMU then exits with status `value << 1 | 1`, which nothing but a running vCPU can bring about.
    """
    # mov al, value; out 0xf4, al; hlt; jmp to the hlt. The CPU starts 16 bytes below the end.
    code = bytes([0xB0, value, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD])
    return bytes(0x10000 - 16) + code.ljust(16, b"\0")


def _cannot_open(device: Path) -> str | None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"this host has no {device}"
    except PermissionError:
        return f"{device} may not be opened by this user (the group kvm may)"
    except OSError as error:
        return f"{device} cannot be opened ({error.strerror})"
    return None


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "vector_boot" / "accel.json"


def _remembered(cache: Path, key: str) -> Verdict | None:
    try:
        return parse_verdict(cache.read_bytes(), key=key)
    except OSError:
        return None


def _run_rom(qemu: str, seconds: float) -> str:
    """Run the ROM under KVM; "" when it ran, else why KVM cannot be used."""
    with tempfile.TemporaryDirectory(prefix="vboot-probe-") as folder:
        rom = Path(folder, "probe.rom")
        rom.write_bytes(debug_exit_rom(_PROOF))
        words = ["-m", "16M", "-bios", str(rom), "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        status, text = _run_guest(qemu, words, Path(folder), seconds)
    if status is None:
        return f"/dev/kvm opens, but a test guest did not run within {seconds:g} s"
    if status == (_PROOF << 1 | 1):
        return ""
    lines = text.strip().splitlines()
    return f"QEMU could not use KVM ({lines[-1] if lines else f'exit status {status}'})"


def _run_kernel(qemu: str, kernel: Path, seconds: float) -> str:
    """Boot a kernel under KVM; "" when it came as far as the panic that it finds no root, else why KVM cannot be used.

    The panic makes it reboot, and QEMU end. The kernel's console need not be the serial line: an end within the time is
    the evidence.
    """
    with tempfile.TemporaryDirectory(prefix="vboot-probe-") as folder:
        words = ["-m", "256M", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1", "-no-reboot"]
        words += ["-serial", f"file:{folder}/console"]
        status, text = _run_guest(qemu, words, Path(folder), seconds)
    if status is None:
        return f"a test ROM ran under KVM, but the kernel did not come up within {seconds:g} s"
    return "" if status == 0 else f"the kernel did not run under KVM ({text.strip() or f'exit status {status}'})"


def _run_guest(qemu: str, words: list[str], folder: Path, seconds: float) -> tuple[int | None, str]:
    """The exit status of QEMU with these options under KVM, None when it did not end in time, and what it said."""
    log = folder / "qemu.log"
    command = [qemu, "-machine", "q35", "-accel", "kvm", "-cpu", "max", "-display", "none", "-nodefaults"]
    process = spawn([*command, "-no-user-config", *words], log=log)
    try:
        ended = process.wait(seconds)
    finally:
        process.kill()
    return (process.status if ended else None), log.read_text("utf-8", "replace")
