"""The isolation of a booted machine, seen from inside: mounts, processes, memory, and calls that the worker tries."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

from image.rts import HEADER_SIZE, parse_header
from initramfs import newc
from qemu.launch import start
from tests.boot.conftest import Image
from tests.boot.test_machine import result
from tests.support.evolution_port.expect import machine_port

HERE = Path(__file__).parent
FATAL_CALLS = {"socket": 41, "clone": 56, "execve": 59, "ptrace": 101, "setuid": 105, "mount": 165, "reboot": 169,
               "init_module": 175, "kexec_load": 246, "bpf": 321}  # fmt: skip
OPENAT = 257


def watched(image: Image, folder: Path) -> Path:
    """The image's archive with a PID 1 in front that leaves a watching child behind: a later archive replaces files."""
    program = folder / "watch_init"
    command = ["gcc", "-static", "-Os", "-Wall", "-Werror", "-o", str(program), str(HERE / "watch_init.c")]
    subprocess.run(command, check=True, timeout=60)
    with image.rts.open("rb") as file:
        header = parse_header(file.read(HEADER_SIZE), file_size=image.rts.stat().st_size)
        init = file.read(header.binary_size)
    own = [newc.file("program", init, mode=0o755), newc.file("init", program.read_bytes(), mode=0o755)]
    archive = folder / "initramfs.cpio"
    data = (image.folder / "initramfs.cpio").read_bytes()
    archive.write_bytes(data + bytes(-len(data) % 512) + newc.archive(own))
    return archive


def test_what_a_machine_looks_like_from_inside(tiny: Image, tmp_path: Path) -> None:
    spec = replace(tiny.spec(append="vector_boot.fault=1"), initramfs=watched(tiny, tmp_path))
    with start(spec) as machine, machine_port(machine) as port:
        port.greet()
        machine.wait_for_console("seen all\r?\n")
        check_report(machine.console.read_text(errors="replace").replace("\r", ""))
        for number, (name, call) in enumerate(FATAL_CALLS.items(), start=1):
            seen = machine.console.stat().st_size
            result(port, "fault", what="call", count=call)
            machine.wait_for_console("signal 31[^\n]*\n", start=seen)
            port.resync()
            assert result(port, "stats")["worker"]["restarts"] == number, name
        result(port, "fault", what="call", count=OPENAT)
        assert result(port, "stats")["worker"]["restarts"] == len(FATAL_CALLS)


def check_report(console: str) -> None:
    def lines(label: str) -> list[str]:
        return re.findall(rf"^seen {label} (.*)$", console, flags=re.MULTILINE)

    mounts = {line.split()[1]: set(line.split()[3].split(",")) for line in lines("mount")}
    assert {"ro", "nosuid", "nodev"} <= mounts["/"]
    assert {"nosuid", "nodev", "noexec"} <= mounts["/proc"] & mounts["/sys"] & mounts["/run"]
    assert {"nosuid", "noexec"} <= mounts["/dev"]
    assert "ro" in mounts["/sys"]
    assert mounts["/proc"] & {"hidepid=2", "hidepid=invisible"}
    assert set(mounts) == {"/", "/dev", "/proc", "/sys", "/run"}
    for process in ("supervisor", "worker"):
        rights = [line.split()[1] for line in lines(f"{process} maps")]
        assert len(rights) > 5
        assert [each for each in rights if "w" in each and "x" in each] == []
    status = dict(line.split(":\t", 1) for line in lines("worker status") if ":\t" in line)
    assert (status["Uid"], status["Gid"]) == ("\t".join(["1000"] * 4), "\t".join(["1000"] * 4))
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["Groups"].strip(), status["NoNewPrivs"], status["Seccomp"]) == ("", "1", "2")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines("worker limits")}
    for name in ("Max core file size", "Max processes", "Max locked memory", "Max realtime priority"):
        assert limits[name] == ["0", "0"], name
    assert limits["Max open files"] == ["256", "256"]
    assert "no Landlock" not in console  # else the worker has tried that it denies files
    tries = dict(line.split(" ", 1) for line in lines("try"))
    assert tries == {
        "write-root": "Read-only file system",
        "change-program": "Read-only file system",
        "write-sys": "Read-only file system",
        "make-device": "done",
        "open-device": "Permission denied",
        "execute-run": "Permission denied",
    }
