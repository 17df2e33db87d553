"""Uploads: mutations larger than a blob, in pieces that may be sent again."""

from __future__ import annotations

from typing import Any

from tests.conformance.acts import crash, proposal, read, rollback, state, unchanged
from tests.conformance.client import BLOB_LIMIT, Client, Message, new_id
from tests.conformance.model import mutable


def _piece(client: Client, upload: str, offset: int, total: int, data: bytes) -> Message:
    return client.ask("upload", {"upload": upload, "offset": offset, "total": total}, blob=data)


def _whole(client: Client, data: bytes) -> str:
    upload = new_id()
    for at in range(0, len(data), BLOB_LIMIT):
        part = data[at : at + BLOB_LIMIT]
        assert _piece(client, upload, at, len(data), part).result == {"received": at + len(part)}
    return upload


def _params(client: Client, tensor: str, size: int) -> dict[str, Any]:
    return proposal(client, [{"kind": "dense", "tensor": tensor, "offset": 0, "blob": [0, size]}])


def _turned(tensor: str) -> bytes:
    data = mutable()[tensor].data
    return data[4:] + data[:4]


def _use(client: Client, upload: str, data: bytes) -> None:
    """Spend an upload of bytes for `v.I8`, and put back what it changed."""
    base = state(client)
    assert client.ask("mutate", _params(client, "v.I8", len(data)), announced={"upload": upload}).code == 0
    assert read(client, "v.I8")[: len(data)] == data
    rollback(client, base[0])
    assert state(client)[1] == base[1]


def check_a_mutation_larger_than_a_blob(client: Client) -> None:
    base, data = state(client), _turned("big")
    assert len(data) > BLOB_LIMIT
    upload = _whole(client, data)
    params = _params(client, "big", len(data))
    first = client.ask("mutate", params, announced={"upload": upload}).result
    assert (first["generation"], first["replayed"]) == (base[0] + 1, False)
    assert read(client, "big") == data
    changed = state(client)
    again = client.ask("mutate", params, announced={"upload": upload}).result
    assert again == {**first, "replayed": True}
    crash(client)
    assert state(client) == changed
    assert client.ask("mutate", params, announced={"upload": upload}).result == again
    now = rollback(client, base[0])
    assert state(client) == (now, base[1])


def check_pieces_come_in_order_and_may_be_repeated(client: Client) -> None:
    upload, data = new_id(), b"0123456789"
    assert _piece(client, upload, 0, 10, data[:4]).result == {"received": 4}
    assert _piece(client, upload, 0, 10, data[:4]).result == {"received": 4}
    assert _piece(client, upload, 6, 10, data[6:]).code != 0
    assert _piece(client, upload, 4, 11, data[4:]).code != 0
    assert _piece(client, upload, 4, 10, data[4:] + b"x").code != 0
    wrong = {"bytes": 3, "crc32c": "00000000"}
    params = {"upload": upload, "offset": 4, "total": 10}
    assert client.ask("upload", params, blob=data[4:7], announced=wrong).code == 1011
    assert _piece(client, upload, 4, 10, data[4:7]).result == {"received": 7}
    client.again()
    client.resync()
    assert _piece(client, upload, 4, 10, data[4:7]).result == {"received": 7}
    assert _piece(client, upload, 7, 10, data[7:]).result == {"received": 10}
    assert _piece(client, upload, 7, 10, data[7:]).result == {"received": 10}
    _use(client, upload, data)


def check_an_upload_unfinished_or_unknown_is_missing(client: Client) -> None:
    upload, data = new_id(), b"0123456789"
    with unchanged(client):
        assert client.ask("mutate", _params(client, "v.I8", 10), announced={"upload": upload}).code == 1012
        assert _piece(client, upload, 0, 10, data[:4]).code == 0
        assert client.ask("mutate", _params(client, "v.I8", 4), announced={"upload": upload}).code == 1012
        assert client.ask("mutate", _params(client, "v.I8", 10)).code == 1012
        assert _piece(client, upload, 4, 10, data[4:]).code == 0
    _use(client, upload, data)


def check_the_fifth_open_upload(client: Client) -> None:
    """What answers the fifth is open (too many, or busy); the four go on."""
    uploads, data = [new_id() for _ in range(4)], b"0123456789"
    for upload in uploads:
        assert _piece(client, upload, 0, 10, data[:4]).code == 0
    assert _piece(client, new_id(), 0, 10, data[:4]).code in (1012, 1017)
    for upload in uploads:
        assert _piece(client, upload, 4, 10, data[4:]).result == {"received": 10}
        _use(client, upload, data)
    last = _whole(client, data)
    _use(client, last, data)


def check_limits_of_an_upload(client: Client) -> None:
    assert _piece(client, new_id(), 0, (1 << 30) + 1, b"x").code == 1012
    assert _piece(client, new_id(), 0, 0, b"x").code == -32602
    assert _piece(client, new_id(), -1, 4, b"x").code == -32602
    assert _piece(client, new_id(), 4, 8, b"x").code != 0
    assert _piece(client, "short", 0, 4, b"x").code == -32602
    assert client.ask("upload", {"upload": new_id(), "offset": 0, "total": 4}).code in (-32602, 1012)
    assert client.ask("upload", {"upload": new_id(), "offset": 0, "total": 4, "x": 1}, blob=b"x").code == -32602


def check_an_upload_survives_a_refused_mutation(client: Client) -> None:
    data = b"0123456789"
    upload = _whole(client, data)
    with unchanged(client):
        params = {**_params(client, "v.I8", 10), "confidence": 0.5}
        assert client.ask("mutate", params, announced={"upload": upload}).code == 1006
    _use(client, upload, data)
