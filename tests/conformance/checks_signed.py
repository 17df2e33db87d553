"""A machine with a mutation key: what it takes unsigned, what only signed, and what a copy of a signed change does."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.conformance.acts import crash, generation, proposal, read, state, unchanged
from tests.conformance.client import Client, new_id
from tests.conformance.model import mutable

KEY = Ed25519PrivateKey.from_private_bytes(b"the conformance suite's own key.")
_TYPE = b"application/vnd.vector-boot.v1+json"
_NEW = bytes(range(16))
_EDIT = {"kind": "dense", "tensor": "v.I8", "offset": 0, "blob": [0, len(_NEW)]}


def _appliance(client: Client) -> str:
    hello = client.result("hello", protocol=1, client="conformance")
    assert hello["signed"] is True
    appliance = str(hello["appliance"])
    assert len(bytes.fromhex(appliance)) == 16
    return appliance


def _seal(payload: Any, *, key: Ed25519PrivateKey = KEY, kind: bytes = _TYPE) -> dict[str, Any]:
    text = json.dumps(payload).encode()
    signature = key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(text), text))
    return {
        "payload": base64.b64encode(text).decode(),
        "keyid": hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest(),
        "sig": base64.b64encode(signature).decode(),
    }


def _payload(client: Client, method: str, params: dict[str, Any], blob: bytes | None = None) -> dict[str, Any]:
    digest = {} if blob is None else {"blob_sha256": hashlib.sha256(blob).hexdigest()}
    return {"appliance": _appliance(client), "method": method, "params": params, **digest}


def _mutation(client: Client, **more: Any) -> dict[str, Any]:
    return _payload(client, "mutate", proposal(client, [_EDIT], **more), _NEW)


def check_unsigned_changes_are_1010(client: Client) -> None:
    _appliance(client)
    with unchanged(client):
        assert client.ask("mutate", proposal(client, [_EDIT]), blob=_NEW).code == 1010
        assert client.ask("rollback", {"id": new_id(), "to": 0}).code == 1010
        assert client.ask("promote", {"id": new_id(), "generation": 0}).code == 1010
        assert client.ask("renew", {"generation": 0, "lease_ms": 1}).code == 1010
    assert client.ask("mutate", {}).code == -32602  # parameters come first
    assert client.ask("checkpoint", {}).code == 0


def check_a_signed_change_is_made_once(client: Client) -> None:
    base = state(client)
    sealed = _seal(_mutation(client))
    first = client.ask("signed", sealed, blob=_NEW).result
    assert (first["generation"], first["replayed"]) == (base[0] + 1, False)
    assert read(client, "v.I8")[: len(_NEW)] == _NEW
    assert client.ask("signed", sealed, blob=_NEW).result == {**first, "replayed": True}
    crash(client)
    assert client.ask("signed", sealed, blob=_NEW).result == {**first, "replayed": True}
    back = _payload(client, "rollback", {"id": new_id(), "to": base[0], "base_generation": base[0] + 1})
    made = client.ask("signed", _seal(back)).result
    assert (made["restored"], made["replayed"]) == (base[0], False)
    assert state(client)[1] == base[1]
    late = _payload(client, "rollback", {"id": new_id(), "to": base[0] + 1, "base_generation": base[0] + 1})
    refused = client.ask("signed", _seal(late))
    assert (refused.code, refused.body["error"]["data"]) == (1007, {"generation": made["generation"]})


def check_wrong_envelopes_are_refused(client: Client) -> None:
    good = _mutation(client)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with unchanged(client):
        for sealed, code in (
            (_seal(good, key=other), 1010),
            ({**_seal(good, key=other), "keyid": _seal(good)["keyid"]}, 1010),
            (_seal(good, kind=b"application/json"), 1010),
            (_seal({**good, "appliance": "00" * 16}), 1010),
            (_seal({**good, "more": 1}), -32602),
            (_seal({**good, "method": "shutdown"}), -32602),
            (_seal({name: value for name, value in good.items() if name != "blob_sha256"}), 1010),
            ({**_seal(good), "more": 1}, -32602),
            ({**_seal(good), "sig": "AAAA"}, -32602),
            (_seal({**good, "params": {**good["params"], "base_generation": generation(client) + 1}}), 1007),
        ):
            assert client.ask("signed", sealed, blob=_NEW).code == code
        assert client.ask("signed", _seal(good), blob=_NEW[::-1]).code == 1010
        assert client.ask("signed", _seal(good)).code == 1012
        upload = new_id()
        swapped = {"upload": upload, "offset": 0, "total": len(_NEW)}
        assert client.ask("upload", swapped, blob=_NEW[::-1]).code == 0
        assert client.ask("signed", _seal(good), announced={"upload": upload}).code == 1010


def check_a_signed_renewal_needs_an_id_and_counts_once(client: Client) -> None:
    trial = client.ask("signed", _seal(_mutation(client, lease_ms=60_000)), blob=_NEW).result["generation"]
    renewal = {"generation": trial, "lease_ms": 100_000}
    assert client.ask("signed", _seal(_payload(client, "renew", renewal))).code == -32602
    sealed = _seal(_payload(client, "renew", {**renewal, "id": new_id()}))
    assert client.ask("signed", sealed).result == {}
    assert client.ask("signed", sealed).result == {}
    back = _payload(client, "rollback", {"id": new_id(), "to": 0})
    assert client.ask("signed", _seal(back)).result["restored"] == 0
    assert read(client, "v.I8") == mutable()["v.I8"].data
    assert client.ask("signed", sealed).result == {}  # known, and without effect
    other = _payload(client, "renew", {**renewal, "id": new_id()})
    assert client.ask("signed", _seal(other)).code == 1014
