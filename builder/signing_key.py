"""Ed25519 keys as the user gives them: a private key in a PEM file, a public key in a PEM file or as 64 hex digits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from vboot.errors import InputError

# More than any Ed25519 PEM file has: a wrong path must not read a disk image into memory.
LIMIT_BYTES = 64 << 10


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted PEM file. Raises InputError if it is anything else."""
    key = _parse(path, "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong(path, f"holds {type(key).__name__}, not an Ed25519 private key")
    return key


def load_public_key(text: str) -> Ed25519PublicKey:
    """Read a public key: 64 hex digits, or the path of a PEM file with the public (or the private) key.

    Raises InputError if it is neither.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    key = _parse(Path(text), "public")
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong(Path(text), f"holds {type(key).__name__}, not an Ed25519 public key")
    return key


def _parse(path: Path, wanted: str) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES)
    except OSError as error:
        raise InputError(
            f"the {wanted} key {path} cannot be read: {error.strerror}", remedy="check the path"
        ) from error
    try:
        return load_pem_private_key(data, password=None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
    except TypeError as error:
        raise _wrong(path, "is encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _wrong(path, "holds no PEM key") from error


def _wrong(path: Path, why: str) -> InputError:
    return InputError(f"the key {path} {why}", remedy="make one with `openssl genpkey -algorithm ed25519 -out key.pem`")
