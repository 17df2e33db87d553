"""Requests that change the machine. Each has an id, so that the machine makes the change once at most.

`Session` repeats a request after a restart of the runtime or a lost reply. This module repeats one that the machine
postpones (busy, or out of energy), and sends an upload again that the machine lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from vboot.client.requests import Reply, Uploaded
from vboot.client.session import ATTEMPTS, Seal, Session
from vboot.client.uploads import Progress, upload
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError, RequestRefusedError
from vboot.protocol.messages import JournalRecord, RecordPage
from vboot.protocol.tables import BLOB_LIMIT, Code


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
