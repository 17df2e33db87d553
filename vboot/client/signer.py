"""Signs changes for machines that take signed ones only: the DSSE envelope of spec/protocol.md, `signed`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vboot.errors import InputError
from vboot.protocol.messages import Hello
from vboot.protocol.tables import LINE_LIMIT, METHODS

if TYPE_CHECKING:
    # Importing it takes longer than most commands, and few of them sign.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = b"application/vnd.vector-boot.v1+json"
_LINE_MARGIN = 512
"""Bytes of a line around the payload: key id, signature, the request's id and the announcement of its blob."""

Call: TypeAlias = tuple[str, Mapping[str, Any]]
"""A method and its parameters."""


@dataclass(frozen=True)
class Signer:
    """Signs changes with a private mutation key."""

    key: Ed25519PrivateKey

    @classmethod
    def load(cls, path: Path) -> Signer:
        """With the key in a PEM file. Raises InputError if it has no unencrypted Ed25519 private key."""
        from vboot.keys import load_private_key

        return cls(load_private_key(path))

    @cached_property
    def key_id(self) -> str:
        """SHA-256 of the public key, in hex."""
        return hashlib.sha256(self.key.public_key().public_bytes_raw()).hexdigest()

    def sign(self, method: str, params: Mapping[str, Any], blob: bytes, *, appliance: str) -> Mapping[str, str]:
        """The parameters of `signed` for a change of the machine `appliance`; `blob` is b"" for a change without one.

        Raises InputError if they do not fit a line.
        """
        members = {"appliance": appliance, "method": method, "params": params}
        if blob:
            members["blob_sha256"] = hashlib.sha256(blob).hexdigest()
        payload = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        data = payload.encode("utf-8")
        limit = (LINE_LIMIT - _LINE_MARGIN) // 4 * 3
        if len(data) > limit:
            what = f"the change has {len(data)} bytes beside its blob, and a signed one at most {limit}"
            raise InputError(what, remedy="make it in several changes, each with fewer edits")
        signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(data), data)
        return {
            "payload": base64.b64encode(data).decode(),
            "keyid": self.key_id,
            "sig": base64.b64encode(self.key.sign(signed)).decode(),
        }


def sealed(signer: Signer | None, hello: Hello, method: str, params: Mapping[str, Any], blob: bytes) -> Call:
    """What to send for a change: it is signed if the machine takes signed ones only.

    Raises InputError if there is no signer for such a machine.
    """
    if not (METHODS[method].signed and hello.signed):
        return method, params
    if signer is None:
        raise InputError("this machine takes signed changes only", remedy="give --key FILE")
    return "signed", signer.sign(method, params, blob, appliance=hello.appliance or "")
