"""The shared test vectors of signed changes: `python -m tests.support.signed_vectors` writes them again.

They are made with `cryptography` from the words of the specification alone, not with the client that they test.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "signed" / "envelopes.json"
SEED = bytes(range(32))
OTHER_SEED = bytes(range(1, 33))
TYPE = b"application/vnd.vector-boot.v1+json"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group of Ed25519: a signature with this added to its second half must be refused."""

APPLIANCE = "00112233445566778899aabbccddeeff"
ID = "5f0c1d2e3b4a59687766554433221100"
PROMOTE = {"appliance": APPLIANCE, "method": "promote", "params": {"id": ID, "generation": 7}}
EDIT = {"kind": "program", "tensor": "evolved.0", "blob": [0, 6]}
MUTATE = {
    "appliance": APPLIANCE,
    "method": "mutate",
    "params": {"id": ID, "base_generation": 0, "confidence": 0.9, "edits": [EDIT]},
    "blob_sha256": hashlib.sha256(b"cat\xfa\xff\x00").hexdigest(),
}
ROLLBACK = {"appliance": APPLIANCE, "method": "rollback", "params": {"id": ID, "to": 0, "base_generation": 3}}
RENEW = {"appliance": APPLIANCE, "method": "renew", "params": {"id": ID, "generation": 7, "lease_ms": 1000}}


def pre_authentication_encoding(kind: bytes, payload: bytes) -> bytes:
    """What DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def canonical(payload: Any) -> bytes:
    """The JSON text that the client signs: members in order, no white space."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def keyid(seed: bytes) -> str:
    """SHA-256 of the public key that belongs to a private one."""
    return hashlib.sha256(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()).hexdigest()


def envelope(payload: bytes, *, seed: bytes = SEED, signed: bytes | None = None) -> dict[str, str]:
    """The envelope of a payload; `signed` replaces the bytes that the signature is made for."""
    what = pre_authentication_encoding(TYPE, payload) if signed is None else signed
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(what)
    return {
        "payload": base64.b64encode(payload).decode(),
        "keyid": keyid(seed),
        "sig": base64.b64encode(signature).decode(),
    }


def cases() -> Iterator[dict[str, Any]]:
    """Each case: name, the parameters of `signed`, and the outcome: "opened", "parameters", "signature", "payload"."""
    for payload in (PROMOTE, MUTATE, ROLLBACK, RENEW):
        yield _case(f"{payload['method']}", envelope(canonical(payload)), "opened", payload)
    spaced = b' {"params" : {"generation":7,"\\u0069d":"%s"}, "blob_sha256":null,\n"method":"promote",' % ID.encode()
    spaced += b'"appliance":"%s"}\t' % APPLIANCE.encode()
    yield _case("white space and escapes", envelope(spaced), "opened", PROMOTE)
    yield from _wrong_payloads()
    yield from _wrong_signatures()
    yield from _wrong_parameters()


def _wrong_payloads() -> Iterator[dict[str, Any]]:
    text = canonical(PROMOTE)
    wrong = {
        "empty payload": b"",
        "no JSON": b"promote",
        "text behind it": text + b" {}",
        "list": b"[" + text + b"]",
        "not UTF-8": text.replace(b"promote", b"promot\xff"),
        "byte-order mark": b"\xef\xbb\xbf" + text,
        "unknown member": canonical({**PROMOTE, "reason": ""}),
        "repeated member": text[:-1] + b',"method":"rollback"}',
        "repeated member of params": text.replace(b'"generation":7', b'"generation":7,"generation":8'),
        "repeated through an escape": text.replace(b'"generation":7', b'"generation":7,"\\u0067eneration":8'),
        "repeated in an edit": canonical(MUTATE).replace(b'"kind":"program"', b'"kind":"program","kind":"dense"'),
        "no appliance": canonical({name: value for name, value in PROMOTE.items() if name != "appliance"}),
        "short appliance": canonical({**PROMOTE, "appliance": APPLIANCE[:-2]}),
        "upper-case appliance": canonical({**PROMOTE, "appliance": APPLIANCE.upper()}),
        "no method": canonical({name: value for name, value in PROMOTE.items() if name != "method"}),
        "unsigned method": canonical({**PROMOTE, "method": "shutdown"}),
        "unknown method": canonical({**PROMOTE, "method": "Promote"}),
        "envelope in an envelope": canonical({**PROMOTE, "method": "signed", "params": envelope(text)}),
        "list of params": canonical({**PROMOTE, "params": [7]}),
        "no params": canonical({**PROMOTE, "params": None}),
        "wrong blob_sha256": canonical({**PROMOTE, "blob_sha256": "00"}),
        "too deep": text.replace(b"7", b"[" * 200 + b"]" * 200),
    }
    for name, payload in wrong.items():
        yield _case(name, envelope(payload), "payload")


def _wrong_signatures() -> Iterator[dict[str, Any]]:
    text = canonical(PROMOTE)
    good = envelope(text)
    signature = base64.b64decode(good["sig"])
    greater = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    split = TYPE[:-1], TYPE[-1:] + b" %d " % len(text) + text
    wrong = {
        "other key": envelope(text, seed=OTHER_SEED),
        "other key under this key's id": {**envelope(text, seed=OTHER_SEED), "keyid": keyid(SEED)},
        "id of another key": {**good, "keyid": keyid(OTHER_SEED)},
        "other payload": {**good, "payload": envelope(text.replace(b"7", b"8"))["payload"]},
        "payload alone signed": envelope(text, signed=text),
        "other payload type": envelope(text, signed=pre_authentication_encoding(b"application/json", text)),
        "empty payload type": envelope(text, signed=pre_authentication_encoding(b"", text)),
        "type and payload cut elsewhere": envelope(text, signed=pre_authentication_encoding(*split)),
        "no lengths": envelope(text, signed=b"DSSEv1 " + TYPE + b" " + text),
        "other version of DSSE": envelope(
            text, signed=pre_authentication_encoding(TYPE, text).replace(b"DSSEv1", b"DSSEv2", 1)
        ),
        "all-zero signature": {**good, "sig": base64.b64encode(bytes(64)).decode()},
        "second half not reduced": {**good, "sig": base64.b64encode(signature[:32] + greater).decode()},
    }
    for name, made in wrong.items():
        yield _case(name, made, "signature")


def _wrong_parameters() -> Iterator[dict[str, Any]]:
    good = envelope(b'{"a":">>>???"}')
    wrong: dict[str, dict[str, Any]] = {
        "no payload": {name: value for name, value in good.items() if name != "payload"},
        "no keyid": {name: value for name, value in good.items() if name != "keyid"},
        "no sig": {name: value for name, value in good.items() if name != "sig"},
        "unknown parameter": {**good, "payloadType": TYPE.decode()},
        "payload not text": {**good, "payload": 7},
        "payload without padding": {**good, "payload": base64.b64encode(b"1234").decode().rstrip("=")},
        "payload with a line end": {**good, "payload": good["payload"] + "\n"},
        "URL-safe payload": {**good, "payload": base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode()},
        "bits behind the payload": {**good, "payload": "Zh=="},
        "upper-case keyid": {**good, "keyid": good["keyid"].upper()},
        "short sig": {**good, "sig": base64.b64encode(bytes(63)).decode()},
        "long sig": {**good, "sig": base64.b64encode(bytes(65)).decode()},
        "sig as hex": {**good, "sig": base64.b64decode(good["sig"]).hex()},
    }
    for name, made in wrong.items():
        yield _case(name, made, "parameters")


def _case(name: str, params: dict[str, Any], outcome: str, call: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "params": params, "outcome": outcome, **({"call": call} if call else {})}


def rendered() -> str:
    """The file of vectors."""
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw().hex()
    about = "Envelopes of signed changes, and what a machine with this public key makes of them"
    data = {"about": about, "private_key": SEED.hex(), "public_key": public, "cases": list(cases())}
    return json.dumps(data, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(rendered(), "utf-8")
