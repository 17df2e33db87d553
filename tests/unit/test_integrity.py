"""Images with one flipped bit, before QEMU would read them; the files are stand-ins that hold no machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.integrity import Checked, check_image, require_unchanged
from builder.manifest import OutputFile, render_manifest
from image.rts import FIELD_OFFSETS, HEADER_SIZE, pack_header
from image.rts_file import write_rts
from tests.support.kernel_files import bzimage
from tests.support.vboot import KEY, PUBLIC_HEX, Vboot
from vboot.errors import InputError

KEY_ID = hashlib.sha256(bytes.fromhex(PUBLIC_HEX)).hexdigest()
FILES = ("vmlinuz", "initramfs.cpio", "vectorland.gguf", "vector_boot.rts")


def make_image(
    folder: Path, key: Ed25519PrivateKey | None, *, stated: str | None = None, manifest_key: bool = True
) -> Path:
    """An image; `stated` instead of the public key ("": none), without `manifest_key` an unsigned manifest."""
    folder.mkdir()
    (folder / "vmlinuz").write_bytes(bzimage(init_size=30 << 20))
    (folder / "initramfs.cpio").write_bytes(os.urandom(5000))
    (folder / "vectorland.gguf").write_bytes(b"GGUF" + os.urandom(9000))
    (folder / "elf").write_bytes(b"\x7fELF" + os.urandom(7000))
    rts, tensors = folder / "vector_boot.rts", folder / "vectorland.gguf"
    header = write_rts(rts, binary=folder / "elf", tensors=tensors, signing_key=key, security_version=3)
    (folder / "elf").unlink()
    facts = {"header_sha256": hashlib.sha256(pack_header(header)).hexdigest()}
    if key is not None:
        facts["public_key"] = key.public_key().public_bytes_raw().hex() if stated is None else stated
    if stated == "":
        del facts["public_key"]
    outputs = [(name, (folder / name).read_bytes()) for name in FILES]
    manifest = render_manifest(
        outputs=[OutputFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in outputs],
        inputs={"rts": facts, "compose": {"source": "tiny", "name": "vector_boot tiny"}},
        tools={},
        configuration={},
        signing_key=key if manifest_key else None,
    )
    (folder / "manifest.json").write_bytes(manifest)
    return folder


@pytest.fixture(params=["signed", "unsigned"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", KEY if request.param == "signed" else None)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", KEY)


def flip(path: Path, *, byte: int, bit: int = 0) -> None:
    """Flip one bit; the times of the file stay as they were, as when a disk fails."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_sound_image(image: Path) -> None:
    checked = check_image(image, tensors=True, composed=True)
    assert {path.name for path in checked.stamps} == set(FILES)
    require_unchanged(checked)


@pytest.mark.parametrize("name", ["vmlinuz", "initramfs.cpio", "manifest.json"])
def test_one_bit_in_a_file(image: Path, name: str) -> None:
    size = (image / name).stat().st_size
    for byte in (0, size // 3, size - 2):
        flip(image / name, byte=byte)
        with pytest.raises(InputError, match=name):
            check_image(image)
        flip(image / name, byte=byte)
    check_image(image)


def test_one_bit_in_the_header(image: Path) -> None:
    for byte in (*FIELD_OFFSETS.values(), 31, 143, 207, HEADER_SIZE - 1):
        flip(image / "vector_boot.rts", byte=byte, bit=byte % 8)
        with pytest.raises(InputError, match=r"vector_boot\.rts"):
            check_image(image)
        flip(image / "vector_boot.rts", byte=byte, bit=byte % 8)


def test_one_bit_in_the_executable(image: Path) -> None:
    flip(image / "vector_boot.rts", byte=HEADER_SIZE + 4000)
    with pytest.raises(InputError, match=r"vector_boot\.rts: binary_sha256 at offset 40"):
        check_image(image)


def test_one_bit_in_the_tensors_is_found_when_they_are_verified(image: Path) -> None:
    flip(image / "vector_boot.rts", byte=(image / "vector_boot.rts").stat().st_size - 100)
    check_image(image)
    with pytest.raises(InputError, match=r"vector_boot\.rts: tensor_sha256 at offset 72"):
        check_image(image, tensors=True)


def test_one_bit_in_the_composed_model(image: Path) -> None:
    flip(image / "vectorland.gguf", byte=5000)
    check_image(image, tensors=True)
    with pytest.raises(InputError, match=r"vectorland\.gguf has SHA-256 .*, expected"):
        check_image(image, composed=True)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_file_that_is_cut_or_missing(image: Path, name: str) -> None:
    os.truncate(image / name, (image / name).stat().st_size - 1)
    with pytest.raises(InputError, match=name):
        check_image(image, composed=True)
    (image / name).unlink()
    with pytest.raises(InputError, match=rf"{name}.*No such file"):
        check_image(image, composed=True)


def test_a_demanded_key(signed: Path, tmp_path: Path) -> None:
    assert check_image(signed, key=KEY.public_key()).signed_by == KEY_ID
    other = Ed25519PrivateKey.generate()
    with pytest.raises(InputError, match="is signed by the key"):
        check_image(signed, key=other.public_key())
    with pytest.raises(InputError, match="is unsigned, expected a signature by the key"):
        check_image(make_image(tmp_path / "unsigned", None), key=KEY.public_key())


@pytest.mark.parametrize("manifest_key", [True, False])
def test_a_signer_that_cannot_be_checked_is_not_believed(vboot: Vboot, tmp_path: Path, manifest_key: bool) -> None:
    image = make_image(tmp_path / "image", KEY, stated="", manifest_key=manifest_key)
    for verb in ("verify {}", "boot --accel tcg --image {}"):
        assert vboot(*(word.format(image) for word in verb.split())) == 1
        assert f"says it is signed by the key {KEY_ID}, but manifest.json does not hold the" in vboot.last_error()
        assert KEY_ID not in vboot.out


@pytest.mark.parametrize("stated", ["{folder}/fifo", "fifo", "{folder}/key.pub", PUBLIC_HEX[:-1], PUBLIC_HEX + "\n"])
def test_a_manifest_does_not_choose_which_file_is_read(tmp_path: Path, stated: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)  # so that a reader fails instead of waiting, and finds this
    os.write(writer, b"rubbish")
    image = make_image(tmp_path / "image", KEY, stated=stated.format(folder=tmp_path))
    with pytest.raises(InputError, match=r"manifest\.json states the public key .*, expected 64 hex digits"):
        check_image(image)
    assert os.read(writer, 7) == b"rubbish"
    os.close(writer)


def test_a_manifest_that_is_a_fifo(signed: Path) -> None:
    (signed / "manifest.json").unlink()
    os.mkfifo(signed / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json is not a regular file"):
        check_image(signed)


def test_a_file_exchanged_together_with_its_digest(signed: Path, tmp_path: Path) -> None:
    # Whoever can write to the folder can write a manifest, too, but not one that is signed.
    forged = make_image(tmp_path / "forged", Ed25519PrivateKey.generate())
    for name in ("vmlinuz", "initramfs.cpio", "manifest.json"):
        (signed / name).write_bytes((forged / name).read_bytes())
    with pytest.raises(InputError):
        check_image(signed, key=KEY.public_key())
    unsigned = make_image(tmp_path / "unsigned", None)
    (signed / "manifest.json").write_bytes((unsigned / "manifest.json").read_bytes())
    with pytest.raises(InputError, match="is unsigned"):
        check_image(signed, key=KEY.public_key())


def test_a_file_that_changes_after_the_check(image: Path) -> None:
    checked = check_image(image)
    (image / "vmlinuz").write_bytes((image / "vmlinuz").read_bytes())
    with pytest.raises(InputError, match="vmlinuz was changed while the machine started"):
        require_unchanged(checked)
    (image / "vmlinuz").unlink()
    with pytest.raises(InputError, match="vmlinuz was changed"):
        require_unchanged(checked)
    require_unchanged(Checked())


@pytest.mark.parametrize("verb", ["boot", "demo"])
def test_a_damaged_image_does_not_boot(vboot: Vboot, signed: Path, verb: str) -> None:
    flip(signed / "vmlinuz", byte=-10)
    assert vboot(verb, "--image", signed, "--accel", "tcg") == 1
    assert "vmlinuz has SHA-256" in vboot.last_error()
    assert "accelerator" not in vboot.err


@pytest.mark.parametrize("verb", ["boot", "demo"])
def test_an_image_without_manifest_does_not_boot(vboot: Vboot, signed: Path, verb: str) -> None:
    (signed / "manifest.json").unlink()
    assert vboot(verb, "--image", signed, "--accel", "tcg") == 1
    missing = f"vboot: error: {signed} has no manifest.json, against which it is checked; build the image again"
    assert vboot.last_error() == f"{missing}, or boot it as it is with `vboot boot --unchecked`"
    assert "accelerator" not in vboot.err


def test_what_boot_demands(vboot: Vboot, signed: Path) -> None:
    flip(signed / "vector_boot.rts", byte=(signed / "vector_boot.rts").stat().st_size - 100)
    for words, message in (
        (["--verify"], "tensor_sha256"),
        (["--key", "ab" * 32], "is signed by the key"),
        (["--key", "gone.pub"], "the public key gone.pub cannot be read"),
        (["--unchecked", "--verify"], "--unchecked contradicts --key and --verify"),
    ):
        assert vboot("boot", "--image", signed, "--accel", "tcg", *words) == 1
        assert message in vboot.last_error()


def test_verify_names_the_first_thing_wrong(vboot: Vboot, signed: Path) -> None:
    flip(signed / "vector_boot.rts", byte=(signed / "vector_boot.rts").stat().st_size - 100)
    assert vboot("verify", signed) == 1
    assert "tensor_sha256" in vboot.last_error()
    flip(signed / "initramfs.cpio", byte=10)
    assert vboot("verify", signed) == 1
    assert "initramfs.cpio has SHA-256" in vboot.last_error()
    assert vboot("verify", signed.parent) == 1
    assert "manifest.json cannot be read" in vboot.last_error()
