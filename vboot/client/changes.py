"""Requests that change the machine. Each has an id, so that the machine makes the change once at most.

`Session` repeats a request after a restart of the runtime or a lost reply. `change` repeats one that the machine
postpones (busy, or out of energy), and sends an upload again that the machine lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from vboot.client.connected import Connected
from vboot.client.requests import Reply, Uploaded
from vboot.client.session import ATTEMPTS, Seal, Session
from vboot.client.signer import sealed
from vboot.client.uploads import Progress, upload
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError, RequestRefusedError
from vboot.protocol.messages import (
    Checkpoint,
    JournalRecord,
    Mutation,
    Promotion,
    RecordPage,
    Reloaded,
    Rollback,
    Updated,
    UpdateWritten,
)
from vboot.protocol.tables import BLOB_LIMIT, Code
from vboot.weights.edits import Edit, pack

_CHANGE_SECONDS = 120.0
"""A change may touch every weight, and an emulated machine is slow."""
_RELOAD_SECONDS = 180.0
"""An image is hashed, a probe run made, a model loaded, a running request awaited, and then comes the probation."""
_UPLOAD_BYTES_PER_SECOND = 1 << 20
_HASHED_BYTES_PER_SECOND = 4 << 20
"""Twice, by an emulated machine whose disk is slow."""


class Changes(Connected):
    """The requests that change a machine."""

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
        progress: Progress = lambda _sent, _total: None,
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

    def reload(
        self,
        data: bytes,
        *,
        what: Literal["binary", "rts"] = "binary",
        key: str | None = None,
        progress: Progress = lambda _sent, _total: None,
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

    def update(
        self,
        bundle: bytes,
        contents: Iterable[bytes],
        *,
        slot_bytes: int,
        slot_sha256: str,
        key: str | None = None,
        progress: Progress = lambda _sent, _total: None,
    ) -> str:
        """Write the slot that does not run, and have the next boot start it, on trial. Returns the slot's letter.

        `bundle`: the header of the RTS image (512 bytes), then the boot file. `contents`: pieces of at most 1 MiB of
        what the partition gets, `slot_bytes` in all, with this SHA-256 (64 hex digits): the image, zeros up to a
        multiple of 4096, the hash tree. `key`: the public key that signed the image, 64 hex digits.
        RequestRefusedError: 1023, `data.reason` says why; the slot that runs is untouched.
        """
        params: dict[str, Any] = {"slot_bytes": slot_bytes, "slot_sha256": slot_sha256}
        params |= {} if key is None else {"key": key}
        if self.greeted.signed:  # so that nobody can bring this build back with a copy of the request
            hello = self.hello()
            params |= {"base_generation": hello.generation, "base_build": hello.build}
        self._change("update_begin", params, bundle)
        written = 0
        for piece in contents:
            reply = self._change("update_write", {"offset": written}, piece)
            written = decode(UpdateWritten, reply.result, name="update_write").written
            progress(written, slot_bytes)
        seconds = _RELOAD_SECONDS + slot_bytes / _HASHED_BYTES_PER_SECOND
        reply = self._change("update_commit", {}, timeout=seconds)
        return decode(Updated, reply.result, name="update_commit").slot

    def upload(
        self,
        data: bytes,
        *,
        progress: Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> str:
        """Send data too large for one request in pieces of 1 MiB; returns the id (32 hex digits) of the upload.

        The machine keeps it for at least 60 s.
        """
        seconds = self.timeout + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        ident = secrets.token_hex(16)
        upload(self._session, ident, data, progress=progress, deadline=self._deadline(seconds))
        return ident

    def _change(
        self,
        method: str,
        params: Mapping[str, Any],
        data: bytes = b"",
        *,
        wait: bool = False,
        progress: Progress = lambda _sent, _total: None,
        timeout: float | None = None,
    ) -> Reply:
        seconds = _CHANGE_SECONDS + len(data) / _UPLOAD_BYTES_PER_SECOND if timeout is None else timeout
        return change(
            self._session,
            method,
            params,
            data,
            wait=wait,
            progress=progress,
            deadline=self._deadline(seconds),
            seal=lambda hello: sealed(self.signer, hello, method, params, data),
        )


def change(
    session: Session,
    method: str,
    params: Mapping[str, Any],
    data: bytes = b"",
    *,
    wait: bool,
    progress: Progress,
    deadline: float,
    seal: Seal | None = None,
) -> Reply:
    """Make a change and return the reply. `data` goes with it as a blob, or as an upload (reported to `progress`).
    `seal` signs it, if the machine wants that.

    The request is repeated while the machine is busy, and with `wait` while it has no energy; not beyond the deadline,
    and not if the machine does not say when to try again.
    Raises RequestRefusedError, LinkLostError, MachineTimeoutError, ProtocolError; InputError if data is too large.
    """
    large = len(data) > BLOB_LIMIT
    ident = secrets.token_hex(16)
    is_uploaded = False
    uploads_left = ATTEMPTS
    while True:
        try:
            if large and not is_uploaded:
                upload(session, ident, data, progress=progress, deadline=deadline)
                is_uploaded = True
                uploads_left -= 1
            return session.request(method, params, Uploaded(ident) if large else data or None, deadline, seal=seal)
        except RequestRefusedError as refusal:
            if refusal.code == Code.UNUSABLE_BLOB and is_uploaded and uploads_left:
                is_uploaded = False
                continue
            is_postponed = refusal.code == Code.BUSY or (refusal.code == Code.NO_ENERGY and wait)
            if not is_postponed or refusal.retry_ms is None:
                raise
            pause = max(1, refusal.retry_ms) / 1000
            if time.monotonic() + pause >= deadline:
                raise
            session.pause(pause)


def history(session: Session, start: int, *, seconds: float) -> Iterator[tuple[int, JournalRecord]]:
    """The records of the journal from number `start` on, oldest first, each with its number.

    Each page may take `seconds`. A machine does not keep all records: the first may have a higher number.
    """
    page = _history_page(session, start, seconds, limit=1)
    # What follows the first record is the only thing that tells its number.
    number = start if page.next is None else page.next - 1
    while True:
        for record in page.records:
            yield number, record
            number += 1
        if page.next is None:
            return
        number = page.next
        page = _history_page(session, number, seconds)


def _history_page(session: Session, start: int, seconds: float, *, limit: int | None = None) -> RecordPage:
    params = {"from": start} | ({} if limit is None else {"limit": limit})
    reply = session.request("history", params, None, time.monotonic() + seconds)
    page = decode(RecordPage, reply.result, name="history")
    if page.next is not None and page.next <= start:
        raise ProtocolError("the machine's history does not end", remedy="report this bug")
    return page
