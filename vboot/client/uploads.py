"""Data too large for one request: sent in pieces, under an id that a request then gives instead of the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from vboot.client.session import Session
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError, RequestRefusedError
from vboot.protocol.framing import BLOB_LIMIT
from vboot.protocol.messages import Received

UPLOAD_LIMIT = 1 << 30
UNKNOWN_UPLOAD = 1012
"""The code for an upload that the machine does not have, or not any more: its runtime was started anew."""
ATTEMPTS = 3

Progress: TypeAlias = Callable[[int, int], None]
"""Told bytes sent and bytes in all, after each piece."""


def upload(session: Session, ident: str, data: bytes, *, progress: Progress, deadline: float) -> None:
    """Send `data` (1 byte to 1 GiB) whole under the id `ident` (32 hex).

    What a restart of the runtime took with it is sent again. Raises InputError for a size out of bounds;
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
            if refusal.code != UNKNOWN_UPLOAD or attempts == 0:
                raise
            # The same id: a machine holds few uploads at a time, and those that are left lie there for a minute.
            sent = 0
        else:
            progress(sent, len(data))


def _send_piece(session: Session, ident: str, data: bytes, offset: int, deadline: float) -> int:
    """Send the piece at `offset`; where the next one starts."""
    piece = data[offset : offset + BLOB_LIMIT]
    params = {"upload": ident, "offset": offset, "total": len(data)}
    reply = session.request("upload", params, piece, deadline)
    sent = offset + len(piece)
    received = decode(Received, reply.result, name="upload").received
    if received != sent:
        raise ProtocolError(f"the machine has {received} of the {sent} bytes sent", remedy="report this bug")
    return sent
