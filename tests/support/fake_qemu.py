"""A stand-in for QEMU that is up in milliseconds and fails on command, so that every failure path can be run.

It takes QEMU's own command line, serves the same sockets and writes the same console. The scenario says what becomes of
the machine; on the evolution port, the method of a request says what becomes of the connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

KERNEL = "[    0.000000] Linux version 0.0 (fake)\r\n[    0.100000] Run /init as init process\r\n"
APPLIANCE = "".join(
    f"vector_boot: phase={name} t_us={number * 1000}\r\n"
    for number, name in enumerate(("start", "mounts", "runtime", "tensors", "evolution", "heartbeat"))
)
FLOOD = "the same line, again and again\n" * 2000
FLOOD_BYTES = 256 << 20
PANIC = "[    0.200000] Kernel panic - not syncing: Attempted to kill init!\r\n"
GREETING = {"vector_boot": {"version": "0.0.0", "protocol": 1, "build": "0" * 12, "generation": 0}}


def install(folder: Path, scenario: str) -> str:
    """Write a program that runs this file as QEMU in `scenario`; its path. Beside it, `pid` names its last process."""
    program = folder / "fake-qemu"
    run = shlex.join([sys.executable, "-I", "-S", __file__, scenario])
    script = f'#!/bin/sh\necho $$ > {shlex.quote(str(folder / "pid"))}\nexec {run} "$@"\n'
    program.write_bytes(os.fsencode(script))
    program.chmod(0o755)
    return str(program)


def chardev(argv: list[str], name: str) -> str:
    """The path of the character device `name` on a QEMU command line."""
    option = next(word for word in argv if word.split(",")[1:2] == [f"id={name}"])
    # QEMU doubles commas in values.
    parts = option.replace(",,", "\0").split(",")
    return next(part for part in parts if part.startswith("path=")).removeprefix("path=").replace("\0", ",")


def hang() -> NoReturn:
    while True:
        time.sleep(60)


class Fake:
    def __init__(self, scenario: str, argv: list[str]) -> None:
        self.scenario = scenario
        self.console = open(chardev(argv, "console"), "wb", buffering=0)  # noqa: SIM115, PTH123
        self.listeners = {name: self.listen(chardev(argv, name)) for name in ("evolution", "qmp")}
        self.connections: dict[str, socket.socket] = {}
        self.pending = b""
        self.negotiated = False
        self.reads = True
        self.greets = scenario not in ("late-greeting", "no-greeting")

    @staticmethod
    def listen(path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(1)
        return listener

    def print(self, text: str) -> None:
        self.console.write(text.encode())

    def flood(self) -> None:
        """Print faster than anybody reads, but not so much that a test which fails fills the disk."""
        for _ in range(FLOOD_BYTES // len(FLOOD)):
            self.print(FLOOD)

    def boot(self) -> None:
        self.print(KERNEL)
        if self.scenario in ("die", "die-at-once"):
            print("qemu: something broke", file=sys.stderr)
            sys.exit(3)
        if self.scenario in ("panic", "panic-exit"):
            self.print(PANIC + "[    0.200001] the rest of the trace\r\n")
            if self.scenario == "panic-exit":
                sys.exit(0)
        elif self.scenario == "flood":
            threading.Thread(target=self.flood, daemon=True).start()
        elif self.scenario not in ("hang", "deaf"):
            self.print(APPLIANCE)

    def serve(self) -> NoReturn:
        booted = False
        while True:
            waiting = [*self.connections.values(), *self.listeners.values()]
            if not self.reads:
                waiting.remove(self.connections["evolution"])
            for ready in select.select(waiting, [], [], 5)[0]:
                self.serve_one(ready)
            # The guest starts once QMP has been negotiated, so that a test sees a started machine die.
            if not booted and self.negotiated:
                booted = True
                if self.scenario != "die-at-once":
                    time.sleep(0.02)
                self.boot()

    def serve_one(self, ready: socket.socket) -> None:
        for name, listener in self.listeners.items():
            if ready is listener and name not in self.connections:
                self.connections[name] = listener.accept()[0]
                if name == "qmp" and self.scenario != "silent-qmp":
                    self.send(
                        "qmp",
                        {
                            "QMP": {
                                "version": {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": ""},
                                "capabilities": [],
                            }
                        },
                    )
                elif name == "evolution" and self.greets:
                    self.send(name, GREETING)
        for name, connection in list(self.connections.items()):
            if ready is connection:
                try:
                    data = connection.recv(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    del self.connections[name]
                    connection.close()
                elif name == "qmp":
                    for line in data.splitlines():
                        self.monitor(json.loads(line))
                else:
                    self.evolution(data)

    def send(self, name: str, message: object, blob: bytes = b"") -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody only looked whether we listen
            self.connections[name].sendall(json.dumps(message).encode() + b"\n" + blob)

    def monitor(self, request: dict[str, Any]) -> None:
        command = request["execute"]
        if self.scenario in ("deaf", "no-quit") and command != "qmp_capabilities":
            return
        if command == "fail":
            self.send("qmp", {"id": request.get("id"), "error": {"class": "GenericError", "desc": "not today"}})
            return
        if command == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if command == "silence":
            return
        result = {"status": "running"} if command == "query-status" else request.get("arguments", {})
        reply = {"return": result}
        self.send("qmp", {**reply, "id": request["id"]} if "id" in request else reply)
        self.negotiated = True
        if command == "quit" or (command == "system_powerdown" and self.scenario != "hang"):
            self.send("qmp", {"event": "SHUTDOWN", "data": {"reason": "fake"}, "timestamp": {}})
            sys.exit(0)

    def evolution(self, data: bytes) -> None:
        self.pending += data
        while self.pending:
            line, newline, rest = self.pending.partition(b"\n")
            if b"\xff" in line:
                self.pending = self.pending.partition(b"\xff")[2]
                if self.scenario != "no-greeting":
                    self.send("evolution", GREETING)
                continue
            request = json.loads(line) if newline else {}
            size = request.get("blob", {}).get("bytes", 0)
            if not newline or len(rest) < size:
                return
            self.pending = rest[size:]
            self.answer(request, rest[:size])

    def answer(self, request: dict[str, Any], blob: bytes) -> None:
        if self.scenario == "no-greeting":
            return
        method = request["method"]
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request.get("id"), "result": request.get("params")}
        port = self.connections["evolution"]
        if method == "hello":
            self.send("evolution", {**reply, "result": {"protocol": 1, "generation": 0}})
        elif method == "echo":
            self.send("evolution", {"jsonrpc": "2.0", "method": "event", "params": {"kind": "heartbeat"}})
            self.send("evolution", {**reply, **({"blob": request["blob"]} if blob else {})}, blob)
        elif method == "refuse":
            del reply["result"]
            self.send("evolution", {**reply, "error": {"code": 1006, "message": "no confidence"}})
        elif method == "shutdown":
            self.send("evolution", reply)
        elif method in ("bye", "die"):
            sys.exit(0 if method == "bye" else 9)
        elif method == "close":
            self.connections.pop("evolution").close()
        elif method == "stop-reading":
            self.reads = False
        else:
            self.spoil(method, reply, port)

    def spoil(self, method: str, reply: dict[str, Any], port: socket.socket) -> None:
        header = {"bytes": 4, "crc32c": "00000000"}
        if method == "garbage":
            port.sendall(b"this is no JSON\n")
        elif method == "bad-crc":
            self.send("evolution", {**reply, "blob": header}, b"data")
        elif method == "half-blob":
            self.send("evolution", {**reply, "blob": header}, b"da")
        elif method == "impossible-blob":
            self.send("evolution", {**reply, "blob": {"bytes": 1 << 40, "crc32c": "00000000"}})
        elif method == "half-line":
            port.sendall(b'{"jsonrpc":')
        elif method == "long-line":
            while True:
                port.sendall(b"x" * 65536)
        elif method == "flood":
            while True:
                port.sendall(b'{"jsonrpc":"2.0","method":"event","params":{}}\n' * 1000)
        elif method == "stale":
            # The rest of a line that an earlier connection may have left before its next reply.
            port.sendall(b"x" * 70000 + b"\n\xfe\xfd half a blob\n" + json.dumps(GREETING).encode() + b'\n{"id": 5')


def main() -> NoReturn:
    scenario, argv = sys.argv[1], sys.argv[2:]
    if argv == ["--version"]:
        print("QEMU emulator version 9.8.7 (fake)")
        sys.exit(0)
    if argv == ["-cpu", "help"]:
        print("Available CPUs:\nx86 Haswell-v1  Intel Core (Haswell)\nx86 max  all features\n")
        print("Recognized CPUID flags:\n  avx")
        sys.exit(0)
    if scenario == "refuse":
        print("qemu: warning: never mind\nqemu: could not open the disk", file=sys.stderr)
        sys.exit(1)
    if scenario.startswith("kvm-exit-"):
        print("qemu: no KVM for you", file=sys.stderr)
        sys.exit(int(scenario.removeprefix("kvm-exit-")))
    if scenario.startswith("kvm-kernel-"):
        if "-kernel" not in argv:
            sys.exit(0x55)
        if scenario == "kvm-kernel-hangs":
            hang()
        print("qemu: no kernel for you", file=sys.stderr)
        sys.exit(int(scenario.removeprefix("kvm-kernel-")))
    if scenario == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if scenario == "mute":
        hang()
    Fake(scenario, argv).serve()


if __name__ == "__main__":
    main()
