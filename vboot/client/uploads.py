"""Uploads: data too large for one message, sent in pieces under an id that a request then names instead of a blob."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, TypeAlias

from vboot.client.requests import Reply
from vboot.client.session import ATTEMPTS, Session
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import LinkLostError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.messages import Received
from vboot.protocol.tables import BLOB_LIMIT, UPLOAD_LIMIT, Code

_OUTSTANDING = 4
"""Pieces sent before the reply to the first: the machine takes in one while others are on the way."""
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
            # The first piece alone: a machine that refuses the upload is not sent more of it.
            sent = _send_piece(session, ident, data, sent, deadline)
            progress(sent, len(data))
            for end, reply in _send_pieces(session, ident, data, sent, deadline):
                sent = _received(reply, end, end)
                progress(sent, len(data))
        except RequestRefusedError as refusal:
            attempts -= 1
            if refusal.code != Code.UNUSABLE_BLOB or attempts == 0:
                raise
            # The same id again: a machine keeps few uploads open, and an abandoned one takes a place for a minute.
            sent = 0


def _send_pieces(
    session: Session, ident: str, data: bytes, offset: int, deadline: float
) -> Iterator[tuple[int, Reply]]:
    """Send all pieces from `offset` on without waiting for each reply. Yields each reply, and where its piece ends.

    It ends when a reply is lost: the next piece that is sent alone tells what the machine has.
    """
    pieces = [_piece(ident, data, start) for start in range(offset, len(data), BLOB_LIMIT)]
    now = time.monotonic()
    patience = now + (deadline - now) / ATTEMPTS  # a lost reply must leave time to send its piece again
    replies = session.pipeline("upload", pieces, patience, most=_OUTSTANDING)
    with closing(replies), suppress(LinkLostError, MachineTimeoutError, ProtocolError):
        for (_, piece), reply in zip(pieces, replies, strict=True):
            offset += len(piece)
            yield offset, reply


def _send_piece(session: Session, ident: str, data: bytes, offset: int, deadline: float) -> int:
    """Send the piece at `offset`; the offset of the next one, which is a later one if more had arrived before."""
    params, piece = _piece(ident, data, offset)
    reply = session.request("upload", params, piece, deadline)
    return _received(reply, offset + len(piece), len(data))


def _received(reply: Reply, least: int, most: int) -> int:
    """How many bytes the machine has. Raises ProtocolError unless that is from `least` to `most`."""
    received = decode(Received, reply.result, name="upload").received
    if not least <= received <= most:
        raise ProtocolError(f"the machine has {received} of the {least} bytes sent", remedy="report this bug")
    return received


def _piece(ident: str, data: bytes, offset: int) -> tuple[Mapping[str, Any], memoryview]:
    """The params and the bytes of the piece at `offset`."""
    params = {"upload": ident, "offset": offset, "total": len(data)}
    return params, memoryview(data)[offset : offset + BLOB_LIMIT]
