"""Executables for reloads in tests: sound ones, damaged ones, and ones that fail on purpose."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.evolution_port.expect import EvolutionPort, Reply
from tests.support.evolution_port.frames import encode
from tests.support.listening import PATIENCE, result

STUB = Path(__file__).with_name("reload_stub.c")
BLOB_BYTES = 1 << 20
SOUND_PROBE = "say(PROBED, 1, 2)"
_MACHINE, _ENTRY, _SECTIONS, _PROGRAMS = 18, 24, 40, 32
"""Offsets in the header of an ELF file."""


@dataclass(frozen=True)
class Bad:
    """An executable that cannot be reloaded, and why."""

    name: str
    data: bytes
    reason: str


def another(executable: Path, mark: bytes) -> bytes:
    """A sound executable with another digest: bytes behind its last section are no part of it."""
    return executable.read_bytes() + mark


def stub(folder: Path, name: str, *, probe: str = SOUND_PROBE, worker: str = "crash()") -> bytes:
    """An executable that does this in a probe run and that as a worker."""
    out = folder / name
    command = ["cc", "-static", "-O1", f"-DPROBE={probe}", f"-DWORKER={worker}", "-o", str(out), str(STUB)]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes()


def damaged(executable: Path) -> Iterator[Bad]:
    """Executables that are refused for their headers alone."""
    sound = executable.read_bytes()
    yield Bad("one byte", b"x", "format")
    yield Bad("text", b"expected an ELF file " * 1000, "format")
    yield Bad("script", b"#!/bin/sh\nexit 0\n", "format")
    yield Bad("header", sound[:64], "format")
    yield Bad("half", sound[: len(sound) // 2], "format")
    yield Bad("without its last byte", sound[:-1], "format")
    yield Bad("dynamic", Path(shutil.which("true") or "/bin/true").read_bytes(), "format")
    yield Bad("another machine", patched(sound, _MACHINE, struct.pack("<H", 40)), "format")
    yield Bad("32 bits", patched(sound, 4, b"\x01"), "format")
    yield Bad("big-endian", patched(sound, 5, b"\x02"), "format")
    yield Bad("object file", patched(sound, 16, struct.pack("<H", 1)), "format")
    yield Bad("core dump", patched(sound, 16, struct.pack("<H", 4)), "format")
    yield Bad("entry outside", patched(sound, _ENTRY, struct.pack("<Q", 1 << 40)), "format")
    yield Bad("program headers outside", patched(sound, _PROGRAMS, struct.pack("<Q", 1 << 40)), "format")
    yield Bad("section headers outside", patched(sound, _SECTIONS, struct.pack("<Q", 1 << 40)), "format")


def failing(executable: Path, folder: Path) -> Iterator[Bad]:
    """Executables that fail when they run."""
    sound = executable.read_bytes()
    (entry,) = struct.unpack_from("<Q", sound, _ENTRY)
    yield Bad("invalid code", patched(sound, file_offset(sound, entry), b"\x00" * 64), "probe")
    for name, probe, reason in [
        ("exits in the probe", "return 3", "probe"),
        ("says nothing in the probe", "(void)0", "probe"),
        ("crashes in the probe", "crash()", "probe"),
        ("says something else in the probe", "say(200, 0, 0)", "probe"),
        ("hangs in the probe", "hang()", "probe"),
        ("another protocol", "say(PROBED, 2, 2)", "version"),
        ("another state", "say(PROBED, 1, 99)", "version"),
    ]:
        yield Bad(name, stub(folder, "stub", probe=probe), reason)
    for name, worker, reason in [
        ("exits while it starts", "return 0", "start"),
        ("crashes while it starts", "crash()", "start"),
        ("closes its socket while it starts", "close(3); hang()", "start"),
        ("hangs while it starts", "hang()", "start"),
        ("crashes when it is ready", "be_ready(); wait_for_state(); crash()", "switch"),
        ("hangs when it is ready", "be_ready(); hang()", "switch"),
        ("takes over too early", "say(TOOK_OVER, 0, 0); hang()", "switch"),
        ("takes over and crashes", "be_ready(); wait_for_state(); say(TOOK_OVER, 0, 0); crash()", "probation"),
    ]:
        yield Bad(name, stub(folder, "stub", worker=worker), reason)


def patched(data: bytes, at: int, change: bytes) -> bytes:
    return data[:at] + change + data[at + len(change) :]


def file_offset(elf: bytes, address: int) -> int:
    """Where the byte at an address of an executable is in its file."""
    (start,) = struct.unpack_from("<Q", elf, _PROGRAMS)
    (count,) = struct.unpack_from("<H", elf, 56)
    for number in range(count):
        kind, _, offset, virtual, _, size = struct.unpack_from("<IIQQQQ", elf, start + 56 * number)
        if kind == 1 and virtual <= address < virtual + size:
            return int(offset + address - virtual)
    raise AssertionError(f"no segment holds {address:#x}")


def upload(port: EvolutionPort, ident: str, data: bytes) -> str:
    for offset in range(0, len(data), BLOB_BYTES):
        piece = data[offset : offset + BLOB_BYTES]
        reply = port.request("upload", {"upload": ident, "offset": offset, "total": len(data)}, blob=piece)
        assert reply.error is None, reply.error
    return ident


def ask(port: EvolutionPort, ident: str, upload_id: str, what: str = "binary") -> str:
    """Ask for a reload without waiting for the reply; the id for `port.reply`."""
    message = {"jsonrpc": "2.0", "id": ident, "method": "reload", "params": {"what": what}}
    port.send_raw(encode(message | {"blob": {"upload": upload_id}}))
    return ident


_numbers = iter(range(1, 1 << 32))


def reload(port: EvolutionPort, data: bytes, what: str = "binary") -> Reply:
    number = next(_numbers)
    upload_id = upload(port, f"{number:032x}", data)
    return port.reply(ask(port, f"reload {number}", upload_id, what), timeout=PATIENCE)


def build(port: EvolutionPort) -> str:
    return str(result(port, "hello", protocol=1, client="test")["build"])


def worker_pid(port: EvolutionPort) -> int:
    return int(result(port, "stats")["worker"]["pid"])
