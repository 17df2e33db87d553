"""The RTS header codec, and the vectors shared with the Rust reader."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from image import rts
from image.rts import RtsError, RtsHeader, pack_header, parse_header
from image.rts_file import key_id, verify_open, verify_rts
from tests.support.rts_vectors import BINARY_SIZES, FOLDER, Vector, base_file, load_vectors

README = (FOLDER / "README.md").read_text("utf-8")
VECTORS = load_vectors()
TEST_KEY = Ed25519PublicKey.from_public_bytes(bytes.fromhex(re.findall(r"public key: `(\w+)`", README)[0]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector, tmp_path: Path) -> None:
    path = tmp_path / "file.rts"
    path.write_bytes(vector.data)
    key = TEST_KEY if vector.key else None

    def read() -> RtsHeader:
        if not vector.device:
            return verify_rts(path, public_key=key)
        with io.FileIO(path) as file:
            return verify_open(file, block_device=True, public_key=key)

    if vector.verdict == "reject":
        with pytest.raises(RtsError) as caught:
            read()
        error = caught.value
        assert error.field == vector.field
        text = str(error)
        assert "\n" not in text
        for part in (error.field, str(error.offset), error.value, error.expected):
            assert part in text
        assert error.offset == rts.FIELD_OFFSETS.get(error.field, error.offset) or error.field == "reserved"
    else:
        assert read().bootable == (vector.verdict == "accept")


def test_vectors_cover_every_field() -> None:
    rejected = {vector.field for vector in VECTORS if vector.verdict == "reject"}
    # Any security version is valid in itself: only a signature protects it.
    assert rejected == {*rts.FIELD_OFFSETS, "header", "binary", "tensors", "trailing"} - {"security_version"}


def test_readme_describes_the_bases() -> None:
    for base, size in BINARY_SIZES.items():
        digest = hashlib.sha256(base_file(base)).hexdigest()
        assert f"| `{base}` | {size} | {len(base_file(base))} | `{digest}` |" in README
    blocks = ["".join(line.split()) for line in re.findall(r"(?:^      [0-9a-f]+\n)+", README, re.MULTILINE)]
    file = base_file("unpadded")
    assert file[512:576].hex() == blocks[0]
    assert file[576:].hex() == blocks[1] + "00" * 27 + "0000803f" * 8
    assert f"`{key_id(TEST_KEY).hex()}`" in README


def test_packed_bytes_are_the_documented_layout() -> None:
    header = RtsHeader(
        binary_size=0x0102030405060708,
        tensor_size=0x1112131415161718,
        binary_sha256=b"\xb1" * 32,
        tensor_sha256=b"\xb2" * 32,
        key_id=b"\xb3" * 32,
        security_version=0x2122232425262728,
        signature=b"\xb4" * 64,
    )
    assert pack_header(header).hex() == (
        "52545301000000010000000000000200010203040506070801020304050609081112131415161718"
        + ("b1" * 32 + "b2" * 32 + "b3" * 32)
        + "2122232425262728"
        + ("b4" * 64 + "00" * 304)
    )


digests = st.binary(min_size=32, max_size=32)
pairs = st.one_of(
    st.just((bytes(32), bytes(64))),
    st.tuples(digests.filter(any), st.binary(min_size=64, max_size=64).filter(any)),
)
sizes = st.integers(0, 2**63 - 512)


headers = st.builds(
    lambda n, m, first, second, pair, version: RtsHeader(n, m, first, second, pair[0], version, pair[1]),
    sizes,
    sizes,
    digests,
    digests,
    pairs,
    st.integers(0, 2**64 - 1),
)


@settings(derandomize=True, deadline=None)
@given(header=headers)
def test_headers_survive_the_round_trip(header: RtsHeader) -> None:
    assert parse_header(pack_header(header), file_size=header.total_size) == header


@settings(derandomize=True, deadline=None)
@given(head=st.binary(max_size=600), file_size=st.integers(0, 2**64), block_device=st.booleans())
def test_any_bytes_are_parsed_or_refused(head: bytes, file_size: int, block_device: bool) -> None:
    with pytest.raises(RtsError):
        parse_header(head, file_size=file_size, block_device=block_device)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(offset=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_flipped_header_bit_is_refused_or_read_back(offset: int, bit: int) -> None:
    good = base_file("padded")
    head = bytearray(good[:512])
    head[offset] ^= 1 << bit
    try:
        header = parse_header(bytes(head), file_size=len(good))
    except RtsError:
        return
    # Digests and the security version alone may hold anything.
    assert 40 <= offset < 104 or 136 <= offset < 144
    assert pack_header(header) == head
