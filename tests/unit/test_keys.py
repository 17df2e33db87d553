from __future__ import annotations

import contextlib
import os
import stat
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

from vboot.errors import InputError
from vboot.keys import PAIRS, load_private_key, load_public_key, write_key_pairs

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
        (other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "not an Ed25519 private key"),
        (b"", "holds no PEM key"),
        (PRIVATE[:60], "holds no PEM key"),
    ]
    for data, why in cases:
        pem.write_bytes(data)
        with pytest.raises(InputError, match=f"the key .*key.pem .*{why}.*; make one with `vboot keygen"):
            load_private_key(pem)
    for data, why in ((PUBLIC, "is a public one; give the private key"), (encrypted, "is encrypted; decrypt it")):
        pem.write_bytes(data)
        with pytest.raises(InputError, match=why):
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


def test_pairs_are_new_and_private_ones_are_their_owners(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "keys"
    previous = os.umask(0)
    try:
        public = write_key_pairs(folder)
    finally:
        os.umask(previous)
    assert {path.name for path in folder.iterdir()} == {"code.key", "code.pub", "mutation.key", "mutation.pub"}
    for name in PAIRS:
        pair = load_private_key(folder / f"{name}.key"), load_public_key(str(folder / f"{name}.pub"))
        assert pair[0].public_key() == pair[1] == public[name]
        assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    assert public["code"] != public["mutation"]


@pytest.mark.parametrize("name", ["code.key", "mutation.pub"])
def test_no_file_is_overwritten_and_none_is_left_beside_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} exists, and no key is overwritten"):
        write_key_pairs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_all_four_or_none_when_a_file_appears_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def racing(source: Path, target: Path) -> None:
        if target.name == "mutation.key":
            target.write_text("another's")
        link(source, target)

    monkeypatch.setattr(os, "link", racing)
    with pytest.raises(InputError, match=r"cannot write .*mutation.key: File exists"):
        write_key_pairs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mutation.key"]


def test_a_private_key_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    opened = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = opened(path, flags, mode)
        if path.name.endswith(".tmp"):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    write_key_pairs(tmp_path)
    assert sorted(modes)[:2] == [0o600, 0o600]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        write_key_pairs(tmp_path / "file")
