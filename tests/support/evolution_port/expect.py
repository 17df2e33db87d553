"""The pexpect harness: drives the evolution port of a machine line by line, and keeps what went over it.

    with machine_port(machine) as port:
        port.greet()
        port.resync()
        reply = port.request("stats")

Any Unix socket with the evolution protocol can be used. With a machine behind it, every wait ends when it ends.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu.machine import VirtualMachine
from tests.support.evolution_port.frames import RESYNC, Message, blob_header, crc32c, encode, parse_line
from tests.support.evolution_port.port_stream import PortStream, Unwatched, Watch

_GREET_SECONDS = 20.0
_REPLY_SECONDS = 10.0
_RESYNC_SECONDS = 2.5
"""After this silence the protocol has a client say hello again."""


@dataclass(frozen=True)
class Reply:
    """The answer to one request: `result` or `error` is set, and `blob` when bytes came (their CRC was right)."""

    result: Message | None
    error: Message | None
    blob: bytes | None


class EvolutionPort:
    """One connection to an evolution port. Deadlines given are taken as they are, the defaults times `scale`."""

    def __init__(
        self, path: Path, *, watch: Watch | None = None, transcript: Path | None = None, scale: float = 1.0
    ) -> None:
        self.events: list[Message] = []
        """Messages that answer no request, oldest first."""
        self._watch = watch or Unwatched()
        self._scale = scale
        self._unclaimed: list[tuple[object, Reply]] = []
        self._stream = PortStream(path, watch=self._watch, transcript=transcript, seconds=_REPLY_SECONDS * scale)

    def greet(self, *, timeout: float | None = None) -> Message:
        """Wait for the greeting `{"vector_boot": {...}}` and return its inner object. Raises BootError."""
        seconds = self._seconds(timeout, _GREET_SECONDS)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            nudge = min(until, time.monotonic() + _RESYNC_SECONDS)
            while (message := self._lenient_message(nudge)) is not None:
                if isinstance(message.get("vector_boot"), dict):
                    self._watch.check("ready")
                    return dict(message["vector_boot"])
            # It may have greeted before it saw us; this byte makes it greet again.
            self._stream.write(RESYNC, until)
        raise self._watch.failure(f"the appliance did not greet within {seconds:g} s", outcome="timeout")

    def resync(self, *, client: str = "vboot", timeout: float | None = None) -> Message:
        """Bring a line of unknown state in order, as the protocol says; the result of `hello`. Raises BootError."""
        seconds = self._seconds(timeout, _GREET_SECONDS)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._stream.write(RESYNC, until)
            ident = self._send("hello", {"protocol": 1, "client": client}, None, until)
            again = min(until, time.monotonic() + _RESYNC_SECONDS)
            while (message := self._lenient_message(again)) is not None:
                if message.get("id") == ident and isinstance(message.get("result"), dict):
                    self._watch.check("ready")
                    return dict(message["result"])
        raise self._watch.failure(f"the appliance did not answer hello within {seconds:g} s", outcome="timeout")

    def request(
        self, method: str, params: Message | None = None, *, blob: bytes | None = None, timeout: float | None = None
    ) -> Reply:
        """Send a request and wait for its reply. Raises BootError; an error reply is returned, not raised."""
        return self.reply(self.send(method, params, blob=blob), timeout=timeout)

    def send(self, method: str, params: Message | None = None, *, blob: bytes | None = None) -> str:
        """Send a request without waiting; the id for `reply`. Raises BootError when the guest does not take it."""
        self._watch.check("command")
        return self._send(method, params or {}, blob, time.monotonic() + self._seconds(None, _REPLY_SECONDS))

    def send_raw(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send raw bytes, valid or not."""
        self._watch.check("command")
        self._stream.write(data, time.monotonic() + self._seconds(timeout, _REPLY_SECONDS))

    def reply(self, ident: str | int | None, *, timeout: float | None = None) -> Reply:
        """Wait for the reply to a request (None: to what had no id). Raises BootError, also for a spoilt line.

        Replies to other requests are kept for theirs, messages that are no replies go to `events`.
        """
        for number, (other, reply) in enumerate(self._unclaimed):
            if other == ident:
                del self._unclaimed[number]
                return reply
        seconds = self._seconds(timeout, _REPLY_SECONDS)
        until = time.monotonic() + seconds
        while (line := self._stream.line(until)) is not None:
            message = parse_line(line)
            if message is None:
                raise self._watch.failure(f"the evolution port sent a line that is not a JSON object: {line[:80]!r}")
            blob = self._blob_of(message, until)
            if "id" not in message or ("result" in message) == ("error" in message):
                self.events.append(message)
                continue
            reply = Reply(message.get("result"), message.get("error"), blob)
            if message["id"] == ident:
                return reply
            self._unclaimed.append((message["id"], reply))
        raise self._watch.failure(f"no reply to request {ident!r} within {seconds:g} s", outcome="timeout")

    def shutdown(self, *, reboot: bool = False, timeout: float | None = None) -> None:
        """Ask the appliance to power off, and let it go with `bye` once it has agreed. Raises BootError."""
        reply = self.request("shutdown", {"reboot": reboot}, timeout=timeout)
        if reply.error is not None:
            raise self._watch.failure(f"the appliance refused to shut down ({reply.error.get('message')})")
        self._watch.check("bye")
        self._stream.write(
            encode({"jsonrpc": "2.0", "method": "bye"}), time.monotonic() + self._seconds(timeout, _REPLY_SECONDS)
        )

    def close(self) -> None:
        """Disconnect. Closing twice is fine."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seconds(self, timeout: float | None, default: float) -> float:
        return default * self._scale if timeout is None else timeout

    def _send(self, method: str, params: Message, blob: bytes | None, until: float) -> str:
        ident = secrets.token_hex(8)
        line = encode({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}, blob)
        self._stream.write(line, until)
        if blob is not None:
            self._stream.write(blob, until, blob=True)
        return ident

    def _lenient_message(self, until: float) -> Message | None:
        """The next message, anything else on the line skipped; None at the deadline."""
        while (line := self._stream.line(until, lenient=True)) is not None:
            message = parse_line(line)
            if message is not None:
                return message
        return None

    def _blob_of(self, message: Message, until: float) -> bytes | None:
        if "blob" not in message:
            return None
        header = blob_header(message)
        if header is None:
            raise self._watch.failure(f"the evolution port announced a blob that cannot be: {message['blob']!r}"[:200])
        blob = self._stream.exactly(header.size, until)
        if crc32c(blob) != header.crc32c:
            raise self._watch.failure(f"a blob of {header.size} bytes came with the wrong CRC")
        return blob


def machine_port(machine: VirtualMachine) -> EvolutionPort:
    """Connect to a machine's evolution port, the transcript going into its run folder. Raises BootError."""
    return EvolutionPort(machine.evolution, watch=machine, transcript=machine.folder.channel, scale=machine.accel.scale)
