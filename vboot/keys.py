"""Ed25519 keys: the files that the user gives, and the pairs that `vboot keygen` makes.

A private key is a PEM file, a public key a PEM file or 64 hex digits.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from vboot.errors import InputError

# More than any Ed25519 PEM file has: a wrong path must not read a disk image into memory.
LIMIT_BYTES = 64 << 10
PAIRS = ("code", "mutation")
"""What the pairs of `write_key_pairs` sign: images, and changes of a running machine."""
SECURE_BOOT_KEY, SECURE_BOOT_CERTIFICATE = "secureboot.key", "secureboot.crt"
_MAKE = "make one with `vboot keygen DIR`"


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted PEM file. Raises InputError if it is anything else."""
    key = _parse(path, "private")
    if isinstance(key, Ed25519PublicKey):
        raise InputError(f"the key {path} is a public one", remedy="give the private key of its pair, such as NAME.key")
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


def write_key_pairs(folder: Path) -> Mapping[str, Ed25519PublicKey]:
    """Make a new pair for each of PAIRS: NAME.key (the private one, mode 0600) and NAME.pub. Returns the public keys.

    The folder is made if it is not there. Raises InputError if one of the files exists or cannot be written; then none
    of them is written.
    """
    private = {name: Ed25519PrivateKey.generate() for name in PAIRS}
    files: dict[Path, tuple[bytes, int]] = {}
    for name, key in private.items():
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files[folder / f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600
        files[folder / f"{name}.pub"] = public, 0o644
    _write_new_files(folder, files)
    return {name: key.public_key() for name, key in private.items()}


def write_secure_boot_pair(folder: Path) -> str:
    """Make a new key and self-signed certificate for Secure Boot. Returns the SHA-256 of the certificate, in hex.

    The certificate has no end within this century, because firmware does not look at it. The folder is made if it is
    not there. Raises InputError if one of the files exists or cannot be written; then none of them is written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vector_boot Secure Boot")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new_files(
        folder,
        {
            folder / SECURE_BOOT_KEY: (private, 0o600),
            folder / SECURE_BOOT_CERTIFICATE: (certificate.public_bytes(Encoding.PEM), 0o644),
        },
    )
    return certificate.fingerprint(SHA256()).hex()


def _write_new_files(folder: Path, files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write files that do not exist, with these modes, all or none. Raises InputError."""
    with _named(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in files:
        if os.path.lexists(path):
            raise InputError(f"{path} exists, and no key is overwritten", remedy="choose another folder")
    _write_all(files)


def _write_all(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write new files under temporary names, and give them their own once all are on the disk."""
    temporary = {path: path.parent / f".vboot-{secrets.token_hex(8)}.tmp" for path in files}
    named: list[Path] = []
    try:
        for path, (data, mode) in files.items():
            with _named(path):
                _write_new(temporary[path], data, mode)
        for path in files:
            with _named(path):
                os.link(temporary[path], path)  # unlike a rename it replaces nothing
            named.append(path)
    except BaseException:
        for path in named:
            path.unlink()
        raise
    finally:
        for path in temporary.values():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError of the block as an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        remedy = "choose another folder" if isinstance(error, FileExistsError) else "choose a folder that is writable"
        raise InputError(f"cannot write {path}: {error.strerror}", remedy=remedy) from error


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
        raise InputError(
            f"the key {path} is encrypted", remedy="decrypt it with `openssl pkey -in FILE -out OTHER`"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _wrong(path, "holds no PEM key") from error


def _wrong(path: Path, why: str) -> InputError:
    return InputError(f"the key {path} {why}", remedy=_MAKE)
