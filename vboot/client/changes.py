"""Requests that change the machine, made until they are answered: each has an id by which it is made once at most.

`Session` repeats what a restart or a lost reply leaves in doubt. Here what the machine puts off is asked again, and an
upload that it lost is sent again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from vboot.client.session import Reply, Session, Uploaded
from vboot.client.uploads import ATTEMPTS, UNKNOWN_UPLOAD, Progress, upload
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError, RequestRefusedError
from vboot.protocol.framing import BLOB_LIMIT
from vboot.protocol.messages import JournalRecord, RecordPage

_ENERGY_SPENT, _BUSY = 1009, 1017


def change(
    session: Session,
    method: str,
    params: Mapping[str, Any],
    data: bytes = b"",
    *,
    wait: bool,
    progress: Progress,
    deadline: float,
) -> Reply:
    """The reply to a change; `data` goes with it, or by upload if it is too large (`progress` is told then).

    Asked again while the machine is busy, and with `wait` while its energy is spent, unless the deadline comes first or
    the machine does not say after how long: then waiting does not help.
    Raises RequestRefusedError, LinkLostError, MachineTimeoutError, ProtocolError; InputError for data too large.
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
            return session.request(method, params, Uploaded(ident) if large else data or None, deadline)
        except RequestRefusedError as refusal:
            if refusal.code == UNKNOWN_UPLOAD and is_uploaded and uploads_left:
                is_uploaded = False
                continue
            is_put_off = refusal.code == _BUSY or (refusal.code == _ENERGY_SPENT and wait)
            if not is_put_off or refusal.retry_ms is None:
                raise
            pause = max(1, refusal.retry_ms) / 1000
            if time.monotonic() + pause >= deadline:
                raise
            session.pause(pause)


def history(session: Session, start: int, *, seconds: float) -> Iterator[JournalRecord]:
    """The journal's records from `start` on; each page may take `seconds`."""
    at: int | None = start
    while at is not None:
        reply = session.request("history", {"from": at}, None, time.monotonic() + seconds)
        page = decode(RecordPage, reply.result, name="history")
        yield from page.records
        if page.next is not None and page.next <= at:
            raise ProtocolError("the machine's history does not end", remedy="report this bug")
        at = page.next
