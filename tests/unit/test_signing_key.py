from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.signing_key import load_private_key, load_public_key
from vboot.errors import InputError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RAW = KEY.public_key().public_bytes_raw()


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return tmp_path / "key.pem"


def test_private_key(pem: Path) -> None:
    pem.write_bytes(PRIVATE)
    assert load_private_key(pem).private_bytes_raw() == bytes(range(32))


def test_public_key_from_pem_and_hex(pem: Path) -> None:
    for data in (PUBLIC, PRIVATE):
        pem.write_bytes(data)
        assert load_public_key(str(pem)).public_bytes_raw() == RAW
    for text in (RAW.hex(), RAW.hex().upper()):
        assert load_public_key(text).public_bytes_raw() == RAW


def test_other_keys_are_refused(pem: Path) -> None:
    other = generate_private_key(SECP256R1())
    encrypted = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    cases = [
        (PUBLIC, "not an Ed25519 private key"),
        (other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "not an Ed25519 private key"),
        (encrypted, "is encrypted"),
        (b"", "holds no PEM key"),
        (PRIVATE[:60], "holds no PEM key"),
    ]
    for data, why in cases:
        pem.write_bytes(data)
        with pytest.raises(InputError, match=f"the key .*key.pem .*{why}.*; make one with `openssl"):
            load_private_key(pem)
    pem.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="not an Ed25519 public key"):
        load_public_key(str(pem))


@pytest.mark.parametrize("text", ["gone.pem", "ab" * 31, "zz" * 32])
def test_neither_hex_nor_a_file(text: str) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_public_key(text)


@given(st.binary(max_size=80) | st.integers(0, len(PRIVATE) - 1).map(lambda n: PRIVATE[:n] + b"?" + PRIVATE[n + 1 :]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_any_file_is_a_key_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    pem = tmp_path_factory.getbasetemp() / "any.pem"
    pem.write_bytes(data)
    with contextlib.suppress(InputError):
        load_private_key(pem)
