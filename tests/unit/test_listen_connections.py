"""`vector_boot --listen` with clients that ask for much and read nothing: memory stays bounded, others are served."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import google_crc32c

from tests.support.evolution_port.expect import EvolutionPort
from tests.support.listening import Listening, line, result

MIB = 1 << 20
_LONG = b"cortex_journal\0" + bytes([250, 1, 0]) + bytes([250, 10, 0, 250, 6, 1, 250, 11, 0]) * 21_000


def anonymous_bytes(pid: int) -> int:
    """The memory of a process that is in no file."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def with_blob(ident: object, method: str, params: dict[str, object], blob: bytes) -> bytes:
    crc = f"{google_crc32c.value(blob):08x}"
    return line(ident, method, params, blob={"bytes": len(blob), "crc32c": crc}) + blob


def flood(stream: socket.socket, data: memoryview) -> memoryview:
    """Send as much as is taken, without reading; what is left."""
    stream.setblocking(False)
    with suppress(BlockingIOError):
        while data:
            data = data[stream.send(data) :]
    return data


def served(observer: EvolutionPort, beats: int) -> None:
    """The observer is answered for so many beats."""
    first = result(observer, "stats")["heartbeats"]
    while result(observer, "stats")["heartbeats"] < first + beats:
        pass


def test_replies_that_nobody_reads_take_bounded_memory(machine: Listening) -> None:
    observer = machine.connect()
    worker = result(observer, "stats")["worker"]["pid"]
    before = anonymous_bytes(worker)
    with ExitStack() as stack:
        for _ in range(15):
            stream = stack.enter_context(machine.raw())
            reads = (line(n, "read", {"tensor": "cortex_journal", "bytes": MIB}) for n in range(64))
            flood(stream, memoryview(b"".join(reads)))
        served(observer, 20)
        assert anonymous_bytes(worker) - before < 64 * MIB
    observer.close()


def test_requests_that_wait_take_bounded_memory(machine: Listening) -> None:
    """Behind a run, 14 clients offer 112 MiB of requests."""
    observer = machine.connect()
    stats = result(observer, "stats")
    before = [anonymous_bytes(stats[process]["pid"]) for process in ("worker", "supervisor")]
    piece = with_blob("piece", "upload", {"upload": "1" * 32, "offset": 0, "total": MIB}, bytes(MIB))
    with ExitStack() as stack:
        runner = stack.enter_context(machine.raw())
        runner.sendall(with_blob("run", "execute_pixels", {}, _LONG))
        streams = [stack.enter_context(machine.raw()) for _ in range(14)]
        for stream in streams:
            stream.sendall(line("first", "digest"))
        unsent = [memoryview(piece * 8) for _ in streams]
        for _ in range(16):
            for place, stream in enumerate(streams):
                unsent[place] = flood(stream, unsent[place])
            served(observer, 1)
        after = [anonymous_bytes(stats[process]["pid"]) for process in ("worker", "supervisor")]
        assert any(unsent), "reading has not paused"
        assert after[0] - before[0] < 96 * MIB
        assert after[1] - before[1] < MIB
    observer.close()
