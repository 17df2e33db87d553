"""The client of a running machine.

    with connect(Path("build/run/.../evolution.sock")) as machine:
        print(machine.stats().heartbeats)
        weights = machine.read("blk.0.attn_q.weight")

Every method waits at most `timeout` seconds, those given to `connect` unless it has its own. It raises
RequestRefusedError for an
error of the machine's, LinkLostError when the machine is gone, MachineTimeoutError, or ProtocolError.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vboot.client import changes, inference, uploads
from vboot.client.link import Link, SocketLink
from vboot.client.session import PROTOCOL, Reply, Session
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import MachineError, ProtocolError, RequestRefusedError
from vboot.protocol.framing import BLOB_LIMIT
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
    Rollback,
    Stats,
    TensorBytes,
    TensorInfo,
    TensorPage,
)
from vboot.weights.edits import Edit, pack

TIMEOUT_S = 10.0
_DIGEST_SECONDS = 600.0
"""An emulated machine hashes about 50 MB a second."""
_CHANGE_SECONDS = 120.0
"""A change may touch every weight, and an emulated machine is slow."""
_PIXELS_SECONDS = 600.0
"""A program may have 65,536 instructions, and each may run the network."""
_UPLOAD_BYTES_PER_SECOND = 1 << 20
_GENERATIONS_TRIED = 3
_WRONG_PARAMS = -32602


def connect(
    path: Path, *, timeout: float = TIMEOUT_S, client: str = "vboot", check: Callable[[], None] = lambda: None
) -> MachineClient:
    """The machine behind a Unix socket, once it has answered hello.

    `check` is called about ten times a second in every wait; what it raises ends the wait. Raises LinkLostError when
    nobody
    listens there, MachineTimeoutError when nobody answers, RequestRefusedError when another client is served or the
    protocol is another.
    """
    return MachineClient(lambda deadline: SocketLink(path, deadline), timeout=timeout, client=client, check=check)


class MachineClient:
    """A running machine, reached through the links that `open_link` makes. Not for two threads at once."""

    def __init__(
        self,
        open_link: Callable[[float], Link],
        *,
        timeout: float = TIMEOUT_S,
        client: str = "vboot",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.timeout = timeout
        """Seconds that a request may take."""
        self._client = client
        self._session = Session(open_link, client=client, check=check)
        try:
            self._session.establish(self._deadline(None))
        except BaseException:
            self._session.close()
            raise

    @property
    def greeted(self) -> Hello:
        """What the machine said of itself when it was last connected to; `hello` asks again."""
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
        """Any request of the protocol and its reply. `id` is its name on the line (None: one is made up)."""
        return self._session.request(method, params or {}, blob, self._deadline(timeout), id)

    def hello(self) -> Hello:
        """Who the machine is."""
        return decode(Hello, self.request("hello", {"protocol": PROTOCOL, "client": self._client}).result, name="hello")

    def stats(self) -> Stats:
        """How the machine is."""
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

        Raises InputError for an open or empty range outside the tensor, RequestRefusedError for any other such range;
        MachineError when the weights change too often for a large range to be read in one state.
        """
        if size is None or size == 0:  # a machine reads no empty range: what it says of the tensor is enough
            total = self.tensor(tensor).bytes
            if not 0 <= offset <= total:
                raise InputError(f"byte {offset} lies outside {tensor!r}", remedy=f"start at 0 to {total}")
            size = total - offset if size is None else 0
        if size == 0:
            return TensorBytes(tensor, offset, b"", self.hello().generation)
        for _ in range(_GENERATIONS_TRIED):
            pieces = list(self._read_pieces(tensor, offset, size))
            generations = {generation for generation, _ in pieces}
            if len(generations) == 1:
                return TensorBytes(tensor, offset, b"".join(data for _, data in pieces), generations.pop())
        raise MachineError(f"{tensor!r} kept changing while it was read", remedy="read a smaller range")

    def digest(self, tensors: Sequence[str] | None = None, *, timeout: float = _DIGEST_SECONDS) -> Digest:
        """SHA-256 of the model and of these tensors (None: of the first 256). It takes as long as hashing takes."""
        params = {} if tensors is None else {"tensors": list(tensors)}
        return decode(Digest, self.request("digest", params, timeout=timeout).result, name="digest")

    def interrupt(self, vector: int = 255) -> Interrupt:
        """Raise a neural interrupt; the runtime takes it now, not at the next beat."""
        return decode(Interrupt, self.request("interrupt", {"vector": vector}).result, name="interrupt")

    def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = True,
        progress: uploads.Progress = lambda _done, _total: None,
        timeout: float | None = None,
    ) -> Embeddings:
        """The embeddings of any number of texts, all by the same generation of the weights.

        `normalize`: each of length 1. It may take as long as the texts may take a slow machine, or `timeout` in all.
        `progress` is told texts done and texts in all. What ends the waiting early (Ctrl-C, `check`) cancels it.
        RequestRefusedError with 1018 by a model without a network, with 1005 when the weights give no finite values.
        """
        limit = None if timeout is None else self._deadline(timeout)
        return inference.embed(
            self._session, texts, normalize=normalize, patience=self.timeout, limit=limit, progress=progress
        )

    def execute_pixels(
        self, pixels: bytes | Sequence[tuple[int, int, int]], *, timeout: float = _PIXELS_SECONDS
    ) -> PixelRun:
        """Run a pixel program: three bytes for each pixel, or (r, g, b). It changes no weights.

        A restart of the runtime has it run again, and the neural interrupts that it raises are raised again then.
        """
        return inference.execute_pixels(self._session, pixels, deadline=self._deadline(timeout))

    def cancel(self, request_id: str) -> None:
        """Ask that a request which runs the network be ended: it is refused with -32800 then, if it has not ended.

        It does not wait for an answer, so it may be called while that request is waited for, by `check` or `on_event`.
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
        """Change the weights by `edits`, in order, all or none.

        It is made for the generation `base_generation` (None: the current one) and refused (1007) for any other.
        `lease_ms`: it is on trial, and taken back unless promoted or renewed in time. `digest`: have the reply tell
        the changed tensors' SHA-256. `wait`: also for energy. `progress` is told of an upload, if one is needed.

        Whatever becomes of the runtime and the line meanwhile, it is made once at most. When the reply is lost for
        good, call again with the `id` (32 hex) of the error and the same `base_generation` to learn what happened.
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

    def rollback(self, to: int, *, reason: str = "", id: str | None = None) -> Rollback:  # noqa: A002
        """Make the weights those of generation `to` again, to the bit.

        RequestRefusedError with 1014 if it is no longer kept.
        """
        params = {"id": id or secrets.token_hex(16), "to": to, "reason": reason}
        return decode(Rollback, self._change("rollback", params).result, name="rollback")

    def promote(self, generation: int, *, id: str | None = None) -> Promotion:  # noqa: A002
        """Keep this generation for good: a trial that led to it is no trial any more."""
        params = {"id": id or secrets.token_hex(16), "generation": generation}
        return decode(Promotion, self._change("promote", params).result, name="promote")

    def renew(self, generation: int, lease_ms: int) -> None:
        """Let the trial that led to this generation last `lease_ms` from now on."""
        self._change("renew", {"generation": generation, "lease_ms": lease_ms})

    def checkpoint(self, label: str = "") -> Checkpoint:
        """Have the weights written down whole, so that less is to be replayed."""
        return decode(Checkpoint, self._change("checkpoint", {"label": label}).result, name="checkpoint")

    def history(self, start: int = 0) -> Iterator[JournalRecord]:
        """The journal from the record number `start` on, oldest first, asked for as it is read."""
        return changes.history(self._session, start, seconds=self.timeout)

    def upload(
        self,
        data: bytes,
        *,
        progress: uploads.Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> str:
        """Send data larger than a request holds, in pieces of 1 MiB; its id (32 hex) stands for it for 60 s or more."""
        seconds = self.timeout + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        ident = secrets.token_hex(16)
        uploads.upload(self._session, ident, data, progress=progress, deadline=self._deadline(seconds))
        return ident

    def subscribe(self, kinds: Sequence[str], *, on_event: Callable[[Event], None] | None = None) -> None:
        """Have these kinds of events sent from now on, and only these; they survive a restart of the runtime.

        `on_event` gets each while any method here waits; without it they are kept for `events`.
        """
        self._session.on_event = on_event
        self._session.subscribe(tuple(kinds), self._deadline(None))

    def events(self, *, timeout: float) -> Iterator[Event]:
        """The events subscribed to, as they come, for `timeout` seconds."""
        deadline = self._deadline(timeout)
        while (event := self._session.next_event(deadline)) is not None:
            yield event

    def shutdown(self, *, reboot: bool = False) -> None:
        """Have the machine end in order: it powers off (or reboots) as soon as we have taken note, and we have."""
        self.request("shutdown", {"reboot": reboot})
        self._session.notify("bye", self._deadline(None))

    def wait_until_gone(self, *, timeout: float) -> bool:
        """Wait for a machine that is to end; whether it has within `timeout` seconds."""
        deadline = self._deadline(timeout)
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def allows_faults(self) -> bool:
        """Whether `fault` is served here."""
        try:
            self.request("fault", {"what": ""})
        except RequestRefusedError as refusal:
            return refusal.code == _WRONG_PARAMS
        return True

    def fault(self, what: str, *, count: int = 1) -> None:
        """Make the machine suffer one of `messages.FAULTS`, for tests."""
        self.request("fault", {"what": what, "count": count})

    def is_alive(self) -> bool:
        """Whether the machine is still there, as far as can be told without asking it."""
        return self._session.is_alive()

    def close(self) -> None:
        """Disconnect; the machine runs on."""
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
        deadline = self._deadline(seconds)
        return changes.change(self._session, method, params, data, wait=wait, progress=progress, deadline=deadline)

    def _read_pieces(self, tensor: str, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Generation and bytes of each blob that makes up the range."""
        for start in range(offset, offset + max(1, size), BLOB_LIMIT):
            want = min(BLOB_LIMIT, offset + size - start)
            reply = self.request("read", {"tensor": tensor, "offset": start, "bytes": want})
            piece = decode(Piece, reply.result, name="read")
            if reply.blob is None or len(reply.blob) != want:
                raise ProtocolError(f"the machine did not send the {want} bytes asked for", remedy="report this bug")
            yield piece.generation, reply.blob

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)
