"""A session with a machine: requests and their replies, events between them, and recovery from restarts.

The worker process of a machine may crash and be restarted at any moment. The connection on a Unix socket then
closes; a virtio-serial port stays open, may hold half a message, and the new worker greets on it. In both cases the
session synchronises the connection (it sends a byte 0xFF and `hello` with a new id, and ignores everything before the
reply), and repeats the request if the protocol's table allows it.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from vboot.client.connection import Connection
from vboot.client.forks import Owner
from vboot.client.link import Link
from vboot.client.requests import (
    Reply,
    Request,
    Uploaded,
    attempt_deadline,
    final_error,
    parse_reply,
    refusal_code,
    repeatable,
)
from vboot.protocol.decoding import decode
from vboot.protocol.errors import (
    LinkLostError,
    MachineBusyError,
    MachineTimeoutError,
    ProtocolError,
    RequestRefusedError,
)
from vboot.protocol.framing import RESYNC, Bytes, Incoming, Spoilt, encode, encode_line
from vboot.protocol.messages import Event, Hello, parse_event
from vboot.protocol.tables import METHODS, Code

PROTOCOL = 1
"""Version of the protocol."""
ATTEMPTS = 3
"""How often a request that may be repeated is sent."""
_EVENTS_KEPT = 1024
_HELLO_AGAIN_SECONDS = 2.5
_CONNECT_AGAIN_SECONDS = 0.2
_BUSY_SECONDS = 0.5
"""How long a machine with all connections taken is asked again: it may not have noticed that a client has left."""
_CANCEL_SECONDS = 1.0
_RECOVERY_SECONDS = 10.0
"""Time to synchronise the connection while waiting for events."""


Seal: TypeAlias = Callable[[Hello], tuple[str, Mapping[str, Any]]]


class Session:
    """Sends requests and finds their replies. Not to be used by two threads at once, nor in a forked process.

    `open_link` connects before the deadline it is given. `check` is called about ten times a second during every wait;
    an exception that it raises ends the wait. `silence` says how many seconds a new connection may stay without any
    data until another is opened instead (None: for ever). Deadlines are times of the monotonic clock in seconds.
    """

    def __init__(
        self,
        open_link: Callable[[float], Link],
        *,
        client: str,
        check: Callable[[], None] = lambda: None,
        silence: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.hello: Hello | None = None
        """The reply to the `hello` that last synchronised the connection."""
        self.on_event: Callable[[Event], None] | None = None
        """Called with each event as it arrives; without it the newest 1024 events are kept for `next_event`."""
        self._owner = Owner("this client")
        self._connection = Connection(open_link, check)
        self._client = client
        self._silence = silence
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._in_order = False
        self._hellos: set[str] = set()
        self._subscribed: tuple[str, ...] = ()

    def establish(self, deadline: float) -> None:
        """Connect, unless connected, and synchronise the connection.

        Raises LinkLostError if no machine listens, MachineTimeoutError, RequestRefusedError, ForkedProcessError.
        """
        self._owner.require()
        while not (self._in_order and self._connection.is_open):
            self.hello = self._greet(deadline)
            self._in_order = True
            if self._subscribed:
                # If the runtime crashes again here, the loop synchronises the connection again.
                with suppress(LinkLostError, ProtocolError):
                    self._exchange(Request("subscribe", {"events": list(self._subscribed)}), deadline)

    def request(
        self,
        method: str,
        params: Mapping[str, Any],
        blob: Bytes | Uploaded | None,
        deadline: float,
        ident: str | None = None,
        *,
        seal: Seal | None = None,
    ) -> Reply:
        """Send a request with the id `ident` (None: a random one) and return its reply.

        `seal` says what is sent in its place, given the machine's latest `hello`; its errors are raised.
        A method that is safe to repeat (see `vboot.protocol.tables`) is repeated if the machine's runtime was
        restarted; one that is safe to repeat by its id also if no reply comes in time. Raises RequestRefusedError for
        an error reply; LinkLostError, MachineTimeoutError or ProtocolError if there is none; ForkedProcessError.
        """
        self._owner.require()
        attempts = 1 if repeatable(method) == "never" else ATTEMPTS
        sent = False
        while True:
            try:
                # Data that arrived meanwhile may show that the runtime was restarted: find out before sending.
                self._catch_up()
                self.establish(deadline)
                wire = (method, params) if seal is None or self.hello is None else seal(self.hello)
                sent = True
                request = Request(*wire, blob, ident or secrets.token_hex(8))
                return self._exchange(request, attempt_deadline(method, attempts, deadline))
            except (LinkLostError, ProtocolError, MachineTimeoutError) as error:
                if not sent:
                    raise
                attempts -= 1
                lost = repeatable(method) == "by_id" or not isinstance(error, MachineTimeoutError)
                if attempts <= 0 or not lost or time.monotonic() >= deadline:
                    raise final_error(method, params, error) from error

    def pipeline(
        self, method: str, requests: Iterable[tuple[Mapping[str, Any], Bytes]], deadline: float, *, most: int
    ) -> Generator[Reply, None, None]:
        """The replies to requests of a method, each a pair of params and blob, of which at most `most` are outstanding.

        None is repeated: after an exception, or when the iterator is closed, some may have been done. Raises
        RequestRefusedError, LinkLostError, MachineTimeoutError, ProtocolError, ForkedProcessError.
        """
        self._owner.require()
        self._catch_up()
        self.establish(deadline)
        outstanding: deque[str] = deque()
        try:
            for params, blob in requests:
                if len(outstanding) == most:
                    yield self._await_reply(method, outstanding.popleft(), deadline)
                request = Request(method, params, blob)
                self._post(request, deadline)
                outstanding.append(request.ident)
            while outstanding:
                yield self._await_reply(method, outstanding.popleft(), deadline)
        finally:
            if outstanding:
                self._in_order = False  # the next request is sent after a `hello`, so replies to these are ignored

    def subscribe(self, kinds: tuple[str, ...], deadline: float) -> None:
        """Subscribe to these kinds of events; a restarted runtime is subscribed to again."""
        self.request("subscribe", {"events": list(kinds)}, None, deadline)
        self._subscribed = kinds

    def next_event(self, deadline: float) -> Event | None:
        """The next kept event; None at the deadline. Raises LinkLostError, MachineTimeoutError, ForkedProcessError."""
        self._owner.require()
        while not self._events:
            if time.monotonic() >= deadline:
                return None
            self.establish(time.monotonic() + _RECOVERY_SECONDS)
            with suppress(LinkLostError, ProtocolError):
                incoming = self._connection.wait(deadline)
                if incoming is not None:
                    self._handle(incoming, None)
        return self._events.popleft()

    def cancel(self, ident: str, deadline: float) -> None:
        """Ask the machine to end the request `ident`, if its method can be cancelled: it is then refused with -32800.

        It does not wait for a reply, so `check` and `on_event` may call it during a wait. Raises LinkLostError,
        MachineTimeoutError, ForkedProcessError.
        """
        self._owner.require()
        in_order, self._in_order = self._in_order, False
        self._send(encode(Request("cancel", {"request": ident}).members()), deadline)
        self._in_order = in_order

    def notify(self, method: str, deadline: float) -> None:
        """Send a notification, which gets no reply. Raises LinkLostError, MachineTimeoutError, ForkedProcessError."""
        self._owner.require()
        self._send(encode({"jsonrpc": "2.0", "method": method}), deadline)

    def pause(self, seconds: float) -> None:
        """Wait. Raises what `check` raises."""
        self._connection.pause(seconds)

    def is_alive(self) -> bool:
        """Whether a machine is connected or listens. It reads what has arrived and sends nothing."""
        self._owner.require()
        self._catch_up()
        if not self._connection.is_open:
            try:
                self._connection.open(time.monotonic())
            except (MachineTimeoutError, MachineBusyError):
                return True
            except LinkLostError:
                return False
        return True

    def close(self) -> None:
        """Disconnect. In a forked process: only forget the connection of the other process."""
        self._in_order = False
        self._connection.close(forget=not self._owner.is_current())

    def _greet(self, deadline: float) -> Hello:
        """Synchronise the connection; connect first if there is none."""
        started = time.monotonic()
        refused: RequestRefusedError | None = None
        while True:
            if not self._connection.is_open:
                self._connection.open(deadline)
            try:
                return self._say_hello(deadline)
            except MachineTimeoutError:
                if refused is None:
                    raise
                raise refused from None  # the deadline passed between two tries: that it was busy says more
            except (LinkLostError, RequestRefusedError) as error:
                # The machine may have no free connection until it notices that an earlier client has left.
                passing = isinstance(error, LinkLostError) or error.code == Code.BUSY
                until = min(deadline, started + _BUSY_SECONDS) if isinstance(error, MachineBusyError) else deadline
                if not passing or time.monotonic() + _CONNECT_AGAIN_SECONDS > until:
                    raise
                refused = error if isinstance(error, RequestRefusedError) else refused
                self.close()
                time.sleep(_CONNECT_AGAIN_SECONDS)

    def _say_hello(self, deadline: float) -> Hello:
        self._hellos.clear()
        while time.monotonic() < deadline:
            self._connection.begin_message()
            hello = Request("hello", {"protocol": PROTOCOL, "client": self._client})
            self._hellos.add(hello.ident)
            # A busy machine says so and closes the connection: read its message although sending fails.
            with suppress(LinkLostError):
                self._connection.send(RESYNC + encode(hello.members()), deadline)
            silence = None if self._connection.heard else self._silence()
            reply = self._hello_reply(min(deadline, time.monotonic() + (silence or _HELLO_AGAIN_SECONDS)))
            if reply is not None:
                return decode(Hello, reply.result, name="hello")
            if silence is not None and not self._connection.heard and time.monotonic() < deadline:
                self.close()
                self._connection.open(deadline)
        remedy = "end other clients of this machine, or read its console"
        raise MachineTimeoutError("the machine does not answer hello", remedy=remedy)

    def _hello_reply(self, deadline: float) -> Reply | None:
        """The reply to any hello sent on this connection; what comes before it is ignored. None at the deadline."""
        while (incoming := self._connection.wait(deadline)) is not None:
            if isinstance(incoming, Spoilt):
                continue
            ident = incoming.members.get("id")
            if isinstance(ident, str) and ident in self._hellos:
                self._hellos.discard(ident)
                return parse_reply(incoming)
            if refusal_code(incoming) == Code.BUSY:
                return parse_reply(incoming)
        return None

    def _exchange(self, request: Request, deadline: float) -> Reply:
        """Send a request and wait for its reply."""
        self._post(request, deadline)
        try:
            return self._await_reply(request.method, request.ident, deadline)
        except RequestRefusedError:
            raise
        except BaseException:  # also KeyboardInterrupt, and what `check` raises
            if request.method in METHODS and METHODS[request.method].cancellable:
                # Later requests would have to wait for the end of this one, whose reply is no longer needed.
                with suppress(LinkLostError, MachineTimeoutError):
                    self.cancel(request.ident, time.monotonic() + _CANCEL_SECONDS)
            raise

    def _post(self, request: Request, deadline: float) -> None:
        """Send a request."""
        blob = request.bytes_after_line()
        line = encode_line(request.members(), blob)
        # It stays False if an exception such as KeyboardInterrupt ends the sending: half a message may have been sent.
        self._in_order = False
        self._send(line, deadline, blob or b"")
        self._in_order = True

    def _await_reply(self, method: str, ident: str, deadline: float) -> Reply:
        while (incoming := self._connection.wait(deadline)) is not None:
            reply = self._handle(incoming, ident)
            if reply is not None:
                return reply
        self._in_order = False
        raise MachineTimeoutError(
            f"the machine did not answer {method} in time", remedy="try again, or allow more time with --timeout"
        )

    def _handle(self, incoming: Incoming, awaited: str | None) -> Reply | None:
        """Process an incoming message: the reply to the request `awaited`, or None for anything else."""
        if isinstance(incoming, Spoilt):
            self._in_order = False
            raise ProtocolError(f"the machine sent {incoming.why}", remedy="report this bug")
        members = incoming.members
        if members.get("method") == "event":
            self._deliver(parse_event(members.get("params")))
        elif "vector_boot" in members:
            # Each byte 0xFF is answered by a greeting, which may come after the reply to a later hello.
            if not self._hellos:
                self._in_order = False
                raise LinkLostError("the machine's runtime was restarted", remedy="try again")
        elif members.get("id") in self._hellos:
            self._hellos.discard(members["id"])
        elif awaited is not None and (members.get("id") == awaited or refusal_code(incoming) is not None):
            self._hellos.clear()  # replies come in order: a hello without a reply will not get one any more
            return parse_reply(incoming)
        return None

    def _deliver(self, event: Event | None) -> None:
        if event is not None and self.on_event is not None:
            self.on_event(event)
        elif event is not None:
            self._events.append(event)

    def _catch_up(self) -> None:
        """Process what has arrived, without waiting."""
        with suppress(LinkLostError, ProtocolError):
            self._connection.read_arrived()
            while self._in_order and (incoming := self._connection.next_arrived()) is not None:
                self._handle(incoming, None)

    def _send(self, data: bytes, deadline: float, blob: Bytes = b"") -> None:
        try:
            self._connection.send(data, deadline, blob)
        except LinkLostError:
            self.close()
            raise
