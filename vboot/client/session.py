"""One conversation with a machine: requests and their replies, events in between, restarts survived.

The worker of a machine may die and be started again at any moment. On a socket of its own the connection then closes;
on a virtio-serial port it stays, half a message may be left on it, and the new worker greets. Either way the line is
brought in order again (a byte 0xFF, then `hello` with a fresh id, everything before its reply ignored), and a request
that may be repeated is.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vboot.client.link import Link
from vboot.client.repetition import ATTEMPTS, IDEMPOTENT, NAMED, RUNS, patience, uncertain
from vboot.protocol.decoding import decode
from vboot.protocol.errors import LinkLostError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import RESYNC, Incoming, Message, Reader, Spoilt, encode
from vboot.protocol.messages import Event, Hello, parse_event

PROTOCOL = 1
_BUSY = 1017
_EVENTS_KEPT = 1024
_SLICE_SECONDS = 0.1
_HELLO_AGAIN_SECONDS = 2.5
_CONNECT_AGAIN_SECONDS = 0.2
_BLOB_STALL_SECONDS = 2.0
_CANCEL_SECONDS = 1.0
_RECOVERY_SECONDS = 10.0
"""For the line to be brought in order while events are waited for."""


@dataclass(frozen=True)
class Uploaded:
    """Stands for the bytes of an upload that is complete, by its id (32 hex), where a request takes a blob."""

    id: str


@dataclass(frozen=True)
class Reply:
    """What a request was answered: the members of `result`, and the raw bytes if there are any."""

    result: Mapping[str, Any]
    blob: bytes | None = None


class Session:
    """Sends requests and finds their replies. Not for two threads at once.

    `open_link` makes a connection before the deadline it is given. `check` is called about ten times a second in every
    wait; what it raises ends the wait. Deadlines are times of the monotonic clock, in seconds.
    """

    def __init__(
        self, open_link: Callable[[float], Link], *, client: str, check: Callable[[], None] = lambda: None
    ) -> None:
        self.hello: Hello | None = None
        """What the machine said when the line was last brought in order."""
        self.on_event: Callable[[Event], None] | None = None
        """Gets each event as it is read; without it the newest 1024 are kept for `next_event`."""
        self._open_link = open_link
        self._client = client
        self._check = check
        self._link: Link | None = None
        self._reader = Reader()
        self._inbox: deque[Incoming] = deque()
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._in_order = False
        self._hellos: set[str] = set()
        self._subscribed: tuple[str, ...] = ()

    def establish(self, deadline: float) -> None:
        """Connect if need be and bring the line in order.

        Raises LinkLostError when nobody is there, MachineTimeoutError, RequestRefusedError.
        """
        while not self._in_order:
            self.hello = self._greet(deadline)
            self._in_order = True
            if self._subscribed:
                # A runtime that dies again has put the line out of order again.
                with suppress(LinkLostError, ProtocolError):
                    self._exchange("subscribe", {"events": list(self._subscribed)}, None, deadline)

    def request(
        self,
        method: str,
        params: Mapping[str, Any],
        blob: bytes | Uploaded | None,
        deadline: float,
        ident: str | None = None,
    ) -> Reply:
        """The reply to a request, which goes by the id `ident` (None: one that is made up) on the line.

        One of `IDEMPOTENT` or `NAMED` is repeated when the machine's runtime was started anew, a `NAMED` one also when
        its reply does not come. Raises RequestRefusedError for an error reply; LinkLostError, MachineTimeoutError or
        ProtocolError when there is none.
        """
        attempts = ATTEMPTS if method in IDEMPOTENT or method in NAMED else 1
        sent = False
        while True:
            try:
                # What came meanwhile may tell that the runtime is another one: better known before than after.
                self._catch_up()
                self.establish(deadline)
                sent = True
                return self._exchange(method, params, blob, patience(method, attempts, deadline), ident)
            except (LinkLostError, ProtocolError, MachineTimeoutError) as error:
                if not sent:
                    raise
                attempts -= 1
                lost = method in NAMED or not isinstance(error, MachineTimeoutError)
                if attempts <= 0 or not lost or time.monotonic() >= deadline:
                    raise uncertain(method, params, error) from error

    def subscribe(self, kinds: tuple[str, ...], deadline: float) -> None:
        """Have these kinds of events sent from now on, also by a runtime that is started anew."""
        self.request("subscribe", {"events": list(kinds)}, None, deadline)
        self._subscribed = kinds

    def next_event(self, deadline: float) -> Event | None:
        """The next kept event; None at the deadline. Raises LinkLostError, MachineTimeoutError."""
        while not self._events:
            if time.monotonic() >= deadline:
                return None
            self.establish(time.monotonic() + _RECOVERY_SECONDS)
            with suppress(LinkLostError, ProtocolError):
                incoming = self._wait(deadline)
                if incoming is not None:
                    self._handle(incoming, None)
        return self._events.popleft()

    def cancel(self, ident: str, deadline: float) -> None:
        """Ask that the request `ident` be ended, if it is one of `repetition.RUNS`: it is answered -32800 then.

        Waits for no answer, so that it may be called by what a waiting request calls. Raises LinkLostError,
        MachineTimeoutError.
        """
        in_order, self._in_order = self._in_order, False
        self._send(encode(_request(secrets.token_hex(8), "cancel", {"request": ident})), deadline)
        self._in_order = in_order

    def notify(self, method: str, deadline: float) -> None:
        """Send a notification, which is not answered. Raises LinkLostError, MachineTimeoutError."""
        self._send(encode({"jsonrpc": "2.0", "method": method}), deadline)

    def pause(self, seconds: float) -> None:
        """Wait for so long. Raises what `check` raises."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, _SLICE_SECONDS))

    def is_alive(self) -> bool:
        """Whether somebody is there, as far as can be told without asking. Takes in what has arrived."""
        self._catch_up()
        if self._link is None:
            try:
                self._link = self._open_link(time.monotonic())
            except MachineTimeoutError:
                return True
            except LinkLostError:
                return False
        return True

    def close(self) -> None:
        """Disconnect."""
        self._in_order = False
        if self._link is not None:
            self._link.close()
            self._link = None

    def _greet(self, deadline: float) -> Hello:
        """Bring the line in order, on a new connection if there is none."""
        while True:
            if self._link is None:
                self._link = self._open_link(deadline)
            try:
                return self._say_hello(deadline)
            except (LinkLostError, RequestRefusedError) as error:
                # Only one client is served, and that the last one has left may not have been noticed yet.
                busy = isinstance(error, LinkLostError) or error.code == _BUSY
                if not busy or time.monotonic() + _CONNECT_AGAIN_SECONDS > deadline:
                    raise
                self.close()
                time.sleep(_CONNECT_AGAIN_SECONDS)

    def _say_hello(self, deadline: float) -> Hello:
        self._hellos.clear()
        while time.monotonic() < deadline:
            # What is half read may be the rest of anything.
            self._reader = Reader()
            self._inbox.clear()
            ident = secrets.token_hex(8)
            self._hellos.add(ident)
            # A machine that is busy says so and closes: what it said is to be read although sending fails.
            with suppress(LinkLostError):
                request = _request(ident, "hello", {"protocol": PROTOCOL, "client": self._client})
                self._connected().send(RESYNC + encode(request), deadline)
            reply = self._hello_reply(min(deadline, time.monotonic() + _HELLO_AGAIN_SECONDS))
            if reply is not None:
                return decode(Hello, reply.result, name="hello")
        remedy = "end another client of it if there is one, else look at its console"
        raise MachineTimeoutError("the machine does not answer hello", remedy=remedy)

    def _hello_reply(self, deadline: float) -> Reply | None:
        """The reply to any hello that was sent on this line, everything before it ignored; None at the deadline."""
        while (incoming := self._wait(deadline)) is not None:
            if isinstance(incoming, Spoilt):
                continue
            ident = incoming.members.get("id")
            if isinstance(ident, str) and ident in self._hellos:
                self._hellos.discard(ident)
                return _reply(incoming)
            if _refusal_code(incoming) == _BUSY:
                return _reply(incoming)
        return None

    def _exchange(
        self,
        method: str,
        params: Mapping[str, Any],
        blob: bytes | Uploaded | None,
        deadline: float,
        ident: str | None = None,
    ) -> Reply:
        ident = ident or secrets.token_hex(8)
        uploaded = {"blob": {"upload": blob.id}} if isinstance(blob, Uploaded) else {}
        data = encode(_request(ident, method, params) | uploaded, None if isinstance(blob, Uploaded) else blob)
        # Left so by whatever ends the sending early, Ctrl-C included: half a message may be on the line.
        self._in_order = False
        self._send(data, deadline)
        self._in_order = True
        try:
            return self._await_reply(method, ident, deadline)
        except RequestRefusedError:
            raise
        except BaseException:  # Ctrl-C and what `check` raises included
            if method in RUNS:
                # Nobody waits for it any more, and what comes next would have to.
                with suppress(LinkLostError, MachineTimeoutError):
                    self.cancel(ident, time.monotonic() + _CANCEL_SECONDS)
            raise

    def _await_reply(self, method: str, ident: str, deadline: float) -> Reply:
        while (incoming := self._wait(deadline)) is not None:
            reply = self._handle(incoming, ident)
            if reply is not None:
                return reply
        self._in_order = False
        raise MachineTimeoutError(
            f"the machine did not answer {method} in time", remedy="try again, or allow more time"
        )

    def _handle(self, incoming: Incoming, awaited: str | None) -> Reply | None:
        """Deal with what arrived on a line in order: the reply to the request `awaited`, or None for anything else."""
        if isinstance(incoming, Spoilt):
            self._in_order = False
            raise ProtocolError(f"the machine sent {incoming.why}", remedy="report this bug")
        members = incoming.members
        if members.get("method") == "event":
            self._deliver(parse_event(members.get("params")))
        elif "vector_boot" in members:
            # Each byte 0xFF that we sent brings a greeting, the late ones after we had the reply to a hello.
            if not self._hellos:
                self._in_order = False
                raise LinkLostError("the machine's runtime was started anew", remedy="try again")
        elif members.get("id") in self._hellos:
            self._hellos.discard(members["id"])
        elif awaited is not None and (members.get("id") == awaited or _refusal_code(incoming) is not None):
            self._hellos.clear()  # answers come in order: what was not answered before never will be
            return _reply(incoming)
        return None

    def _deliver(self, event: Event | None) -> None:
        if event is not None and self.on_event is not None:
            self.on_event(event)
        elif event is not None:
            self._events.append(event)

    def _catch_up(self) -> None:
        """Take in what has arrived, without waiting."""
        with suppress(LinkLostError, ProtocolError):
            if self._link is not None:
                self._fill(0.0)
            while self._in_order and self._inbox:
                self._handle(self._inbox.popleft(), None)

    def _wait(self, deadline: float) -> Incoming | None:
        """The next thing that arrives; None at the deadline. Raises LinkLostError, and what `check` raises."""
        quiet_since = time.monotonic()
        while not self._inbox:
            self._check()
            now = time.monotonic()
            if self._fill(min(deadline, now + _SLICE_SECONDS)):
                quiet_since = now
            elif self._reader.in_blob and now - quiet_since > _BLOB_STALL_SECONDS:
                self._reader = Reader()
                return Spoilt("only a part of a blob")
            if not self._inbox and now >= deadline:
                return None
        return self._inbox.popleft()

    def _fill(self, deadline: float) -> bool:
        """Put what arrives into the inbox; whether anything did. Raises LinkLostError."""
        try:
            data = self._connected().receive(deadline)
        except LinkLostError:
            self.close()
            raise
        self._inbox.extend(self._reader.feed(data))
        return bool(data)

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self._connected().send(data, deadline)
        except LinkLostError:
            self.close()
            raise

    def _connected(self) -> Link:
        if self._link is None:
            raise LinkLostError("the connection to the machine is closed", remedy="connect again")
        return self._link


def _request(ident: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def _refusal_code(message: Message) -> int | None:
    """The code of an error that names no request: the machine could not read one, or will not serve this line."""
    error = message.members.get("error")
    code = error.get("code") if message.members.get("id") is None and isinstance(error, dict) else None
    return code if type(code) is int else None


def _reply(message: Message) -> Reply:
    """The result in a reply. Raises RequestRefusedError for an error, ProtocolError when it is neither."""
    result, error = message.members.get("result"), message.members.get("error")
    if isinstance(result, dict) and error is None:
        return Reply(result, message.blob)
    if isinstance(error, dict) and type(error.get("code")) is int and isinstance(error.get("message"), str):
        raise RequestRefusedError(error["code"], error["message"], error.get("data"))
    raise ProtocolError("the machine's answer has neither a result nor an error", remedy="report this bug")
