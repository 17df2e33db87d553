"""The client of a running machine.

    with connect(Path("build/run/...")) as machine:
        print(machine.stats().heartbeats)
        weights = machine.read("blk.0.attn_q.weight")

Every method waits at most `timeout` seconds: its own argument, or else that of `connect`. Every method may raise
RequestRefusedError (the machine answered with an error), LinkLostError (the machine or the connection has ended),
MachineTimeoutError, ProtocolError, and ForkedProcessError in a process forked from the one that connected.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from vboot.client import changes, inference, uploads
from vboot.client.link import Link
from vboot.client.ports import PortOpener
from vboot.client.requests import Reply
from vboot.client.session import PROTOCOL, Session
from vboot.client.signer import Signer, sealed
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import MachineError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.messages import (
    Checkpoint,
    Digest,
    Embeddings,
    Event,
    Hello,
    Interrupt,
    JournalRecord,
    Mutation,
    Piece,
    PixelRun,
    Promotion,
    Reloaded,
    Rollback,
    Stats,
    TensorBytes,
    TensorInfo,
    TensorPage,
)
from vboot.protocol.tables import BLOB_LIMIT, Code
from vboot.weights.edits import Edit, pack

TIMEOUT_S = 10.0
"""Seconds that a request may take, unless the caller says otherwise."""
_DIGEST_SECONDS = 600.0
"""An emulated machine hashes about 50 MB a second."""
_CHANGE_SECONDS = 120.0
"""A change may touch every weight, and an emulated machine is slow."""
_PIXELS_SECONDS = 600.0
"""A program may have 65,536 instructions, each of which may run the network."""
_RELOAD_SECONDS = 180.0
"""An image is hashed, a probe run made, a model loaded, a running request awaited, and then comes the probation."""
_UPLOAD_BYTES_PER_SECOND = 1 << 20
_GENERATIONS_TRIED = 3


def connect(
    path: Path,
    *,
    timeout: float = TIMEOUT_S,
    client: str = "vboot.client",
    check: Callable[[], None] = lambda: None,
    signer: Signer | None = None,
) -> MachineClient:
    """Connect to the machine of a run folder or behind a Unix socket; returns once it has answered `hello`.

    A virtual machine has several ports, and the client takes a free one. `timeout`: seconds that a request may take.
    `client`: the name by which the machine and its other clients know this one, to which ", pid N" is added. `check` is
    called about ten times a second during every wait; an exception that it raises ends the wait. `signer` signs changes
    of a machine that takes signed ones only; without it they raise InputError there. Raises LinkLostError if no machine
    listens there, MachineTimeoutError if it does not answer, MachineBusyError at once if all its connections are taken,
    RequestRefusedError if it has another version of the protocol.
    """
    ports = PortOpener(path, client)
    name = f"{client}, pid {os.getpid()}"
    try:
        return MachineClient(ports, timeout=timeout, client=name, check=check, silence=ports.silence, signer=signer)
    except MachineTimeoutError as error:
        raise ports.explained(error) from None


class MachineClient:
    """A running machine, connected through `open_link`. Not for use by two threads at once or in a forked process."""

    def __init__(
        self,
        open_link: Callable[[float], Link],
        *,
        timeout: float = TIMEOUT_S,
        client: str = "vboot",
        check: Callable[[], None] = lambda: None,
        silence: Callable[[], float | None] = lambda: None,
        signer: Signer | None = None,
    ) -> None:
        self.timeout = timeout
        """Seconds that a request may take."""
        self.signer = signer
        """Signs changes, if the machine takes signed ones only."""
        self._client = client
        self._session = Session(open_link, client=client, check=check, silence=silence)
        try:
            self._session.establish(self._deadline(None))
        except BaseException:
            self._session.close()
            raise

    @property
    def greeted(self) -> Hello:
        """The reply to `hello` when the connection was last made; the method `hello` asks again."""
        assert self._session.hello is not None, "set by establish"
        return self._session.hello

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        blob: bytes | None = None,
        *,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Reply:
        """Send any request of the protocol and return its reply. `id`: the id of the request (None: a random one)."""
        return self._session.request(method, params or {}, blob, self._deadline(timeout), id)

    def hello(self) -> Hello:
        """Version, generation, limits and state of the machine."""
        return decode(Hello, self.request("hello", {"protocol": PROTOCOL, "client": self._client}).result, name="hello")

    def stats(self) -> Stats:
        """Counters and measurements of the machine."""
        return decode(Stats, self.request("stats").result, name="stats")

    def tensors(self, prefix: str = "") -> tuple[TensorInfo, ...]:
        """All tensors whose names start with `prefix`, in the model's order."""
        found: list[TensorInfo] = []
        seen: set[str] = set()
        cursor: str | None = ""
        while cursor is not None:
            seen.add(cursor)
            reply = self.request("tensors", {"prefix": prefix, **({"cursor": cursor} if cursor else {})})
            page = decode(TensorPage, reply.result, name="tensors")
            found += page.tensors
            cursor = page.next
            if cursor in seen:
                raise ProtocolError("the machine's list of tensors does not end", remedy="report this bug")
        return tuple(found)

    def tensor(self, name: str) -> TensorInfo:
        """One tensor's description. Raises InputError when the model has none of that name."""
        for info in self.tensors(name):
            if info.name == name:
                return info
        raise InputError(f"there is no tensor {name!r}", remedy="see `tensors` for those there are")

    def read(self, tensor: str, *, offset: int = 0, size: int | None = None) -> TensorBytes:
        """`size` bytes of a tensor from byte `offset` (None: up to its end), all of the same generation.

        Raises InputError if the offset lies outside the tensor and `size` is None or 0; RequestRefusedError (1003) for
        any other range outside it; MachineError if the weights change too often to read a large range in one state.
        """
        if size is None or size == 0:  # the protocol has no read of 0 bytes
            total = self.tensor(tensor).bytes
            if not 0 <= offset <= total:
                raise InputError(f"byte {offset} lies outside {tensor!r}", remedy=f"start at 0 to {total}")
            size = total - offset if size is None else 0
        if size == 0:
            return TensorBytes(tensor, offset, b"", self.hello().generation)
        for _ in range(_GENERATIONS_TRIED):
            pieces = list(self.pieces(tensor, offset=offset, size=size))
            generations = {piece.generation for piece in pieces}
            if len(generations) == 1:
                return TensorBytes(tensor, offset, b"".join(piece.data for piece in pieces), generations.pop())
        raise MachineError(f"{tensor!r} kept changing while it was read", remedy="read a smaller range")

    def pieces(
        self, tensor: str, *, offset: int = 0, size: int, generation: int | None = None
    ) -> Iterator[TensorBytes]:
        """`size` bytes (1 or more) of a tensor from byte `offset`, in pieces of at most 1 MiB, requested one by one.

        Every piece is of one generation, but two may be of different ones, unless they are of an older `generation`.
        Raises RequestRefusedError: 1003 for a range outside the tensor, 1014 if that generation is not kept any more.
        """
        of = {} if generation is None else {"generation": generation}
        for start in range(offset, offset + max(1, size), BLOB_LIMIT):
            want = min(BLOB_LIMIT, offset + size - start)
            params = {"tensor": tensor, "offset": start, "bytes": want, **of}
            reply = self.request("read", params, timeout=_DIGEST_SECONDS if of else None)
            piece = decode(Piece, reply.result, name="read")
            if reply.blob is None or len(reply.blob) != want:
                raise ProtocolError(f"the machine did not send the {want} bytes asked for", remedy="report this bug")
            yield TensorBytes(tensor, start, reply.blob, piece.generation)

    def digest(
        self,
        tensors: Sequence[str] | None = None,
        *,
        generation: int | None = None,
        timeout: float = _DIGEST_SECONDS,
    ) -> Digest:
        """SHA-256 of the model and of these tensors (None: of the first 256 by name).

        `generation`: an older one that is kept (None: the current one).
        """
        params: dict[str, Any] = {} if tensors is None else {"tensors": list(tensors)}
        if generation is not None:
            params["generation"] = generation
        return decode(Digest, self.request("digest", params, timeout=timeout).result, name="digest")

    def interrupt(self, vector: int = 255) -> Interrupt:
        """Raise a neural interrupt (0 to 255); the runtime handles it at once, not at the next heartbeat."""
        return decode(Interrupt, self.request("interrupt", {"vector": vector}).result, name="interrupt")

    def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = True,
        truncate: inference.Truncate = "end",
        progress: uploads.Progress = lambda _done, _total: None,
        timeout: float | None = None,
    ) -> Embeddings:
        """The embeddings of any number of texts of any length, all by the same generation of the weights.

        `normalize`: scale each vector to length 1. `truncate`: what to do with a text of more tokens than the model
        reads: "end" ignores the rest of it and marks it in the result, "refuse" raises TextTooLongError. `progress` is
        called with the number of texts done and of all. `timeout`: seconds for all texts (None: what they may take on
        a slow machine). An exception during the wait (KeyboardInterrupt, one of `check`) cancels the request.
        RequestRefusedError: 1018 if the model has no network, 1005 if the weights give values that are not finite.
        """
        limit = None if timeout is None else self._deadline(timeout)
        return inference.embed(
            self._session,
            texts,
            normalize=normalize,
            truncate=truncate,
            patience=self.timeout,
            limit=limit,
            progress=progress,
        )

    def execute_pixels(
        self, pixels: bytes | Sequence[tuple[int, int, int]], *, timeout: float = _PIXELS_SECONDS
    ) -> PixelRun:
        """Run a pixel program: three bytes a pixel, or one tuple (r, g, b) a pixel. It changes no weights.

        If the runtime restarts meanwhile, the program runs again, and raises its neural interrupts again.
        """
        return inference.execute_pixels(self._session, pixels, deadline=self._deadline(timeout))

    def cancel(self, request_id: str) -> None:
        """Ask the machine to end an `embed` or `execute_pixels` request: it is then refused with -32800.

        It does not wait for a reply, so `check` and `on_event` may call it during the wait for that request.
        """
        self._session.cancel(request_id, self._deadline(None))

    def mutate(
        self,
        edits: Sequence[Edit],
        *,
        confidence: float,
        base_generation: int | None = None,
        origin: str = "",
        lease_ms: int | None = None,
        digest: bool = False,
        id: str | None = None,  # noqa: A002
        wait: bool = False,
        progress: uploads.Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> Mutation:
        """Change the weights by `edits`, applied in order: all of them, or none.

        `base_generation`: the generation that the edits were made for (None: the current one); for another one the
        machine refuses them (1007). `lease_ms`: make it a trial, which is rolled back after so many milliseconds unless
        it is promoted or renewed. `digest`: whether the reply holds the SHA-256 of the changed tensors. `wait`: wait
        until the machine has the energy for it. `progress` is called with bytes sent and bytes in all if the edits are
        so large that they need an upload.

        Even if the runtime restarts or the connection ends meanwhile, the machine makes the change once at most. If the
        reply is lost, call again with the `id` (32 hex digits) that the error names and the same `base_generation`.
        """
        members, data = pack(edits)
        params = {
            "id": id or secrets.token_hex(16),
            "base_generation": self.hello().generation if base_generation is None else base_generation,
            "confidence": confidence,
            "origin": origin,
            "edits": members,
            **({"lease_ms": lease_ms} if lease_ms is not None else {}),
            **({"digest": True} if digest else {}),
        }
        reply = self._change("mutate", params, data, wait=wait, progress=progress, timeout=timeout)
        return decode(Mutation, reply.result, name="mutate")

    def rollback(
        self,
        to: int,
        *,
        reason: str = "",
        base_generation: int | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Rollback:
        """Make a new generation with the weights of generation `to`, equal to the bit.

        `base_generation`: the generation that must be the current one (None: any; where changes are signed, the
        current one, so that nobody can use the signed rollback again).
        RequestRefusedError: 1014 if that generation is not kept any more, 1007 if another one is current.
        """
        params: dict[str, Any] = {"id": id or secrets.token_hex(16), "to": to, "reason": reason}
        if base_generation is None and self.greeted.signed:
            base_generation = self.hello().generation
        if base_generation is not None:
            params["base_generation"] = base_generation
        return decode(Rollback, self._change("rollback", params).result, name="rollback")

    def promote(self, generation: int, *, id: str | None = None) -> Promotion:  # noqa: A002
        """Keep this generation permanently; this ends a trial."""
        params = {"id": id or secrets.token_hex(16), "generation": generation}
        return decode(Promotion, self._change("promote", params).result, name="promote")

    def renew(self, generation: int, lease_ms: int) -> None:
        """Let the trial with this generation end in `lease_ms` milliseconds from now."""
        own = {"id": secrets.token_hex(16)} if self.greeted.signed else {}
        self._change("renew", {"generation": generation, "lease_ms": lease_ms, **own})

    def checkpoint(self, label: str = "") -> Checkpoint:
        """Have the journal store all changed weights, so that recovery has less to repeat."""
        return decode(Checkpoint, self._change("checkpoint", {"label": label}).result, name="checkpoint")

    def history(self, start: int = 0) -> Iterator[JournalRecord]:
        """The records of the journal from number `start` on, oldest first; requested page by page while iterating."""
        return (record for _, record in self.numbered_history(start))

    def numbered_history(self, start: int = 0) -> Iterator[tuple[int, JournalRecord]]:
        """The same, each record with its number."""
        return changes.history(self._session, start, seconds=self.timeout)

    def reload(
        self,
        data: bytes,
        *,
        what: Literal["binary", "rts"] = "binary",
        key: str | None = None,
        progress: uploads.Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> Reloaded:
        """Replace the worker process by one of another executable, sent as it is or in an RTS image of the same model.

        `key`: the public key that signed the image, 64 hex digits. It returns once the new worker has passed its
        probation, 10 s unless the machine was started with another one; only this connection waits for it.
        """
        params: dict[str, Any] = {"what": what} | ({} if key is None else {"key": key})
        if self.greeted.signed:  # so that nobody can bring this executable back with a copy of the request
            hello = self.hello()
            params |= {"base_generation": hello.generation, "base_build": hello.build}
        seconds = _RELOAD_SECONDS + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        reply = self._change("reload", params, data, progress=progress, timeout=seconds)
        return decode(Reloaded, reply.result, name="reload")

    def upload(
        self,
        data: bytes,
        *,
        progress: uploads.Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> str:
        """Send data too large for one request in pieces of 1 MiB; returns the id (32 hex digits) of the upload.

        The machine keeps it for at least 60 s.
        """
        seconds = self.timeout + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        ident = secrets.token_hex(16)
        uploads.upload(self._session, ident, data, progress=progress, deadline=self._deadline(seconds))
        return ident

    def subscribe(self, kinds: Sequence[str], *, on_event: Callable[[Event], None] | None = None) -> None:
        """Receive these kinds of events from now on, and no others, also after a restart of the runtime.

        `on_event` is called with each event, during the wait of any method; without it they are kept for `events`.
        """
        self._session.on_event = on_event
        self._session.subscribe(tuple(kinds), self._deadline(None))

    def events(self, *, timeout: float) -> Iterator[Event]:
        """The events subscribed to, as they arrive, for `timeout` seconds."""
        deadline = self._deadline(timeout)
        while (event := self._session.next_event(deadline)) is not None:
            yield event

    def shutdown(self, *, reboot: bool = False) -> None:
        """Power the machine off, or reboot it; it does so once it has received our notification `bye`."""
        self.request("shutdown", {"reboot": reboot})
        self._session.notify("bye", self._deadline(None))

    def wait_until_gone(self, *, timeout: float) -> bool:
        """Wait until the machine has ended; False if it has not after `timeout` seconds."""
        deadline = self._deadline(timeout)
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def allows_faults(self) -> bool:
        """Whether this machine accepts the test method `fault`."""
        try:
            self.request("fault", {"what": ""})
        except RequestRefusedError as refusal:
            return refusal.code == Code.INVALID_PARAMS
        return True

    def fault(self, what: str, *, count: int = 1) -> None:
        """Make the worker process fail, for tests; `what` is one of FAULT_KINDS in `vboot.protocol.tables`."""
        self.request("fault", {"what": what, "count": count})

    def is_alive(self) -> bool:
        """Whether the machine is connected or listens; nothing is sent."""
        return self._session.is_alive()

    def close(self) -> None:
        """Disconnect; the machine keeps running."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _change(
        self,
        method: str,
        params: Mapping[str, Any],
        data: bytes = b"",
        *,
        wait: bool = False,
        progress: uploads.Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> Reply:
        seconds = _CHANGE_SECONDS + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        return changes.change(
            self._session,
            method,
            params,
            data,
            wait=wait,
            progress=progress,
            deadline=self._deadline(seconds),
            seal=lambda hello: sealed(self.signer, hello, method, params, data),
        )

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)
