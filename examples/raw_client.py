"""A client of the evolution protocol in one file, from spec/protocol.md alone: standard library only.

    python3 examples/raw_client.py SOCKET

It brings the line into a known state, lists the tensors, reads one of them, and says what the machine did last.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from typing import Any


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


class RefusedError(Exception):
    """The machine answered with an error."""


class Client:
    """A connection to a machine at a Unix socket. Waits at most `timeout` seconds for each reply."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._timeout = timeout
        self._pending = b""
        self._synchronise()

    def ask(self, method: str, blob: bytes = b"", **params: Any) -> tuple[dict[str, Any], bytes]:
        """Send a request and return the result and the blob of its reply.

        Raises RefusedError, TimeoutError or ConnectionError.
        """
        ident = secrets.token_hex(8)
        self._send(ident, method, params, blob)
        until = time.monotonic() + self._timeout
        while True:
            message = json.loads(self._line(until))
            data = self._bytes(message["blob"]["bytes"], until) if "blob" in message else b""
            if data and f"{crc32c(data):08x}" != message["blob"]["crc32c"]:
                raise ConnectionError("the checksum of a blob is wrong")
            if message.get("id") != ident:
                continue  # a greeting, an event
            if "error" in message:
                raise RefusedError(f"{message['error']['message']} (code {message['error']['code']})")
            return message["result"], data

    def _send(self, ident: str, method: str, params: dict[str, Any], blob: bytes = b"") -> None:
        request = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
        if blob:
            request["blob"] = {"bytes": len(blob), "crc32c": f"{crc32c(blob):08x}"}
        self._socket.sendall(json.dumps(request).encode() + b"\n" + blob)

    def _synchronise(self) -> None:
        """Section 15 of the protocol: 0xFF, `hello`, and nothing counts before its reply."""
        for _ in range(4):
            ident = secrets.token_hex(8)
            self._socket.sendall(b"\xff")
            self._send(ident, "hello", {"protocol": 1, "client": "raw_client"})
            until = time.monotonic() + 2.5
            try:
                while ident.encode() not in self._line(until):
                    pass
            except TimeoutError:
                continue
            return
        raise TimeoutError("the machine does not answer")

    def _line(self, until: float) -> bytes:
        while b"\n" not in self._pending:
            self._receive(until)
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _bytes(self, count: int, until: float) -> bytes:
        while len(self._pending) < count:
            self._receive(until)
        data, self._pending = self._pending[:count], self._pending[count:]
        return data

    def _receive(self, until: float) -> None:
        self._socket.settimeout(max(until - time.monotonic(), 0.001))
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the machine closed the connection")
        self._pending += data


def main(path: str) -> None:
    """Print what the machine says of itself."""
    client = Client(path)
    stats, _ = client.ask("stats")
    print(f"generation {stats['generation']}, {stats['heartbeats']} heartbeats, state {stats['state']}")
    page, _ = client.ask("tensors", prefix="kernel.")
    print("built-in programs:", ", ".join(tensor["name"] for tensor in page["tensors"]))
    _, page_bytes = client.ask("read", tensor="hw.mmio", bytes=8)
    print("hw.mmio begins", page_bytes.hex())
    history, _ = client.ask("history")
    print("newest record:", history["records"][-1]["kind"])
    try:
        client.ask("read", tensor="no such tensor", bytes=1)
    except RefusedError as refusal:
        print("refused:", refusal)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: raw_client.py SOCKET")
    main(sys.argv[1])
