"""Uploads: data too large for one message, sent in pieces under an id that a request then names instead of a blob."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from vboot.client.session import ATTEMPTS, Session
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError, RequestRefusedError
from vboot.protocol.messages import Received
from vboot.protocol.tables import BLOB_LIMIT, UPLOAD_LIMIT, Code

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the work done and the total, both in bytes or both in texts."""


def upload(session: Session, ident: str, data: bytes, *, progress: Progress, deadline: float) -> None:
    """Send `data` (1 byte to 1 GiB) under the id `ident` (32 hex digits); `progress` is called after each piece.

    If a restart of the runtime loses the upload, it is sent again. Raises InputError for data of another size,
    RequestRefusedError, LinkLostError, MachineTimeoutError, ProtocolError.
    """
    if not 1 <= len(data) <= UPLOAD_LIMIT:
        raise InputError(f"{len(data)} bytes cannot be uploaded", remedy=f"upload 1 to {UPLOAD_LIMIT} bytes")
    attempts = ATTEMPTS
    sent = 0
    while sent < len(data):
        try:
            sent = _send_piece(session, ident, data, sent, deadline)
        except RequestRefusedError as refusal:
            attempts -= 1
            if refusal.code != Code.UNUSABLE_BLOB or attempts == 0:
                raise
            # The same id again: a machine keeps few uploads open, and an abandoned one takes a place for a minute.
            sent = 0
        else:
            progress(sent, len(data))


def _send_piece(session: Session, ident: str, data: bytes, offset: int, deadline: float) -> int:
    """Send the piece at `offset`; the offset of the next one."""
    piece = data[offset : offset + BLOB_LIMIT]
    params = {"upload": ident, "offset": offset, "total": len(data)}
    reply = session.request("upload", params, piece, deadline)
    sent = offset + len(piece)
    received = decode(Received, reply.result, name="upload").received
    if received != sent:
        raise ProtocolError(f"the machine has {received} of the {sent} bytes sent", remedy="report this bug")
    return sent
