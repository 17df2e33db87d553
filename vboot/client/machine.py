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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vboot.client import inference, uploads
from vboot.client.changes import Changes, history
from vboot.client.connected import TIMEOUT_S
from vboot.client.ports import PortOpener
from vboot.client.signer import Signer
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import MachineError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.messages import (
    Digest,
    Embeddings,
    Event,
    Interrupt,
    JournalRecord,
    Piece,
    PixelRun,
    Stats,
    TensorBytes,
    TensorInfo,
    TensorPage,
)
from vboot.protocol.tables import BLOB_LIMIT, Code

_DIGEST_SECONDS = 600.0
"""An emulated machine hashes about 50 MB a second."""
_PIXELS_SECONDS = 600.0
"""A program may have 65,536 instructions, each of which may run the network."""
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


class MachineClient(Changes):
    """A running machine, connected through `open_link`. Not for use by two threads at once or in a forked process."""

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

    def history(self, start: int = 0) -> Iterator[JournalRecord]:
        """The records of the journal from number `start` on, oldest first; requested page by page while iterating."""
        return (record for _, record in self.numbered_history(start))

    def numbered_history(self, start: int = 0) -> Iterator[tuple[int, JournalRecord]]:
        """The same, each record with its number."""
        return history(self._session, start, seconds=self.timeout)

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
