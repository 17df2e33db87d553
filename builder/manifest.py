"""manifest.json: what an image consists of and what it was made from. No time stamps: same input, same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.settings import Config
from builder.steps import Facts
from vboot.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NAME = "manifest.json"
VERSION = 1
SEAL = "seal"
"""The member that seals the others: their SHA-256, and in a signed image a signature of it."""
_SIGNED_PREFIX = b"vector_boot manifest 1\n"


@dataclass(frozen=True)
class OutputFile:
    """A file of the image: its name within the output folder, size in bytes, SHA-256 (hex)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read and whose seal holds: `inputs` by step, `key_id` in hex (None: unsigned).

    `configuration` is what stands there, which may be anything.
    """

    outputs: Mapping[str, OutputFile]
    inputs: Mapping[str, Facts]
    sha256: str
    key_id: str | None
    signature: str | None
    configuration: object = None

    def require_signature(self, key: Ed25519PublicKey, *, origin: str) -> None:
        """Raises InputError if the signature is not by `key`."""
        from cryptography.exceptions import InvalidSignature

        try:
            signature = bytes.fromhex(self.signature or "")
            if signature.hex() != self.signature:
                raise ValueError("not in the form that is written")
            key.verify(signature, _signed(self.sha256))
        except (InvalidSignature, ValueError):
            raise InputError(
                f"the signature of {origin} is not by the key {self.key_id} that it names", remedy=_AGAIN
            ) from None


_AGAIN = "run `vboot build` again, or fetch the image again from its source"


def render_manifest(
    *,
    outputs: list[OutputFile],
    inputs: Mapping[str, Facts],
    tools: Mapping[str, str],
    configuration: Mapping[str, Any],
    signing_key: Ed25519PrivateKey | None = None,
) -> bytes:
    """The manifest as JSON with sorted keys, sealed, and signed if there is a key.

    `inputs` holds the facts of each step by its name, `tools` versions by tool, `configuration` settings by section.
    """
    document: dict[str, Any] = {
        "version": VERSION,
        "outputs": {output.path: {"bytes": output.size, "sha256": output.sha256} for output in outputs},
        "inputs": {name: dict(facts) for name, facts in inputs.items() if facts},
        "tools": dict(tools),
        "configuration": dict(configuration),
    }
    seal = {"sha256": hashlib.sha256(_rendered(document)).hexdigest()}
    if signing_key is not None:
        public = signing_key.public_key().public_bytes_raw()
        seal["key_id"] = hashlib.sha256(public).hexdigest()
        seal["signature"] = signing_key.sign(_signed(seal["sha256"])).hex()
    return _rendered({**document, SEAL: seal})


def _rendered(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    # Bytes of a file name that are not UTF-8 are surrogates here; they must be escaped to be valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _signed(sha256: str) -> bytes:
    """The bytes that a signature covers."""
    return _SIGNED_PREFIX + bytes.fromhex(sha256)


def read_manifest(data: bytes, *, origin: str) -> Manifest:
    """Read a manifest and check its seal. Raises InputError, which names `origin`, if it is damaged or no manifest."""
    outputs = parse_outputs(data, origin=origin)
    document = json.loads(data)
    seal = document.pop(SEAL, None)
    inputs = document.get("inputs")
    members = seal if isinstance(seal, dict) else {}
    key_id, signature = members.get("key_id"), members.get("signature")
    if not isinstance(members.get("sha256"), str):
        raise InputError(f"{origin} has no seal, the digest of its own contents", remedy=_AGAIN)
    sha256 = hashlib.sha256(_rendered(document)).hexdigest()
    if members["sha256"] != sha256 or _rendered({**document, SEAL: seal}) != data:
        raise InputError(
            f"{origin} is damaged: its contents have SHA-256 {sha256}, expected {members['sha256']}", remedy=_AGAIN
        )
    if not (isinstance(inputs, dict) and all(isinstance(facts, dict) for facts in inputs.values())):
        raise InputError(f"{origin} is not a manifest", remedy=_AGAIN)
    texts = (key_id if isinstance(key_id, str) else None, signature if isinstance(signature, str) else None)
    return Manifest(outputs, inputs, sha256, *texts, configuration=document.get("configuration"))


def parse_outputs(data: bytes, *, origin: str) -> dict[str, OutputFile]:
    """The outputs a manifest lists, by path. Raises InputError, which names `origin`, if it is not a manifest."""
    try:
        document = json.loads(data)
        version = document["version"]
        outputs = {
            path: OutputFile(path, entry["bytes"], entry["sha256"]) for path, entry in document["outputs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{origin} is not a manifest", remedy=_AGAIN) from error
    if version != VERSION:
        raise InputError(
            f"{origin} is a manifest of version {version}, expected {VERSION}", remedy="use the vboot that wrote it"
        )
    if not all(type(output.size) is int and isinstance(output.sha256, str) for output in outputs.values()):
        raise InputError(f"{origin} is not a manifest", remedy=_AGAIN)
    return outputs


def file_name(path: Path) -> str:
    """The last part of a path as UTF-8 text; bytes that are not UTF-8 are written as "\\xff"."""
    return os.fsencode(path.name).decode(errors="backslashreplace")


def configuration_of(config: Config) -> dict[str, dict[str, Any]]:
    """The settings that shape the image, by section.

    Of a path only the last part is kept; the output folder and the machine's settings are left out. So the same image
    built in another folder has the same manifest.
    """
    return {
        "model": {
            "source": file_name(Path(config.model.source)),
            "type": config.model.type,
            "pooling": config.model.pooling,
            "max_tokens": config.model.max_tokens,
        },
        "image": {
            "security_version": config.image.security_version,
            "signing_key": config.image.signing_key and file_name(config.image.signing_key),
            "mutation_key": config.image.mutation_key and file_name(config.image.mutation_key),
            "format": config.image.format,
            "secure_boot": config.image.secure_boot and file_name(config.image.secure_boot),
        },
        "disk": {
            "esp_mib": config.disk.esp_mib,
            "slot_mib": config.disk.slot_mib,
            "state_mib": config.disk.state_mib,
        },
        "kernel": {
            "source": file_name(Path(config.kernel.source)),
            "config": config.kernel.config and file_name(config.kernel.config),
            "modules": config.kernel.modules and file_name(config.kernel.modules),
            "profile": config.kernel.profile,
        },
        "runtime": {
            "heartbeat_ms": config.runtime.heartbeat_ms,
            "onfail": config.runtime.onfail,
            "energy": config.runtime.energy,
            "fault": config.runtime.fault,
        },
    }
