"""`vboot reload` on the real executable: by file and by image, signed and not, and what it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from image.compose import compose
from image.rts_file import write_rts
from tests.support.local_machine import local_machine, tiny_model
from tests.support.reloading import another
from tests.support.vboot import KEY, PUBLIC_HEX, Vboot, write_gguf
from vboot.client.machine import connect


@contextmanager
def quick(folder: Path, model: Path | None = None) -> Iterator[Path]:
    with local_machine(folder, "--reload-probation-ms", "50", model=model) as local:
        yield local.socket


def build_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def rts(
    folder: Path, executable: bytes, model: Path, *, key: Ed25519PrivateKey | None = None, version: int = 0
) -> Path:
    folder.mkdir()
    program = folder / "program"
    program.write_bytes(executable)
    write_rts(folder / "vector_boot.rts", binary=program, tensors=model, signing_key=key, security_version=version)
    return folder


def test_an_executable(vboot: Vboot, executable: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_bytes(another(executable, b"x"))
    with quick(tmp_path) as machine:
        assert vboot("reload", machine, "--executable", new) == 0, vboot.err
        build = build_of(new.read_bytes())
        assert vboot.out.startswith(f"build {build} serves; for ")
        with connect(machine) as client:
            assert client.hello().build == build
        done = vboot.json("reload", machine, "--executable", executable)
        assert done["build"] == build_of(executable.read_bytes())
        assert done["gap_us"] > 0
        new.write_bytes(b"no executable")
        error = vboot.json("reload", machine, "--executable", new, code=1)["error"]
        assert (error["code"], error["data"]) == (1021, {"reason": "format"})


def test_an_image_of_the_same_model(vboot: Vboot, executable: Path, tmp_path: Path) -> None:
    new = another(executable, b"x")
    image = rts(tmp_path / "image", new, tiny_model())
    padded = new + bytes(-(512 + len(new)) % 4096)
    with quick(tmp_path) as machine:
        for named in (image, image / "vector_boot.rts"):
            assert vboot.json("reload", machine, "--image", named)["build"] == build_of(padded)
    # A machine that runs an image compares the models by the digest in its header.
    with quick(tmp_path, model=image / "vector_boot.rts") as machine:
        assert vboot.json("reload", machine, "--image", image)["build"] == build_of(padded)


def test_an_image_of_another_model_or_a_damaged_one(vboot: Vboot, executable: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "plain.gguf")
    other = compose(str(tmp_path / "plain.gguf"), tmp_path / "other.gguf").path
    image = rts(tmp_path / "image", executable.read_bytes(), other)
    broken = rts(tmp_path / "broken", executable.read_bytes(), tiny_model()) / "vector_boot.rts"
    with quick(tmp_path) as machine:
        assert refusal(vboot, machine, image) == "model"
        said = vboot.last_error()
        assert "a reload keeps the weights: boot the image to run its model" in said
        assert "executable that was built for this machine" not in said
        sound = broken.read_bytes()
        for at, reason in [(0, "format"), (100_000, "format"), (len(sound) - 1, "format")]:
            broken.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            assert refusal(vboot, machine, broken) == reason, at
        broken.write_bytes(sound[:-1])
        assert refusal(vboot, machine, broken) == "format"
        with connect(machine) as client:
            assert client.hello().build == build_of(executable.read_bytes())


def test_a_signed_machine_takes_only_what_its_key_has_signed(vboot: Vboot, executable: Path, tmp_path: Path) -> None:
    own = executable.read_bytes()
    other_key = Ed25519PrivateKey.generate()
    booted = rts(tmp_path / "booted", own, tiny_model(), key=KEY, version=7)
    newer = rts(tmp_path / "newer", own + b"x", tiny_model(), key=KEY, version=8)
    older = rts(tmp_path / "older", own + b"x", tiny_model(), key=KEY, version=6)
    foreign = rts(tmp_path / "foreign", own + b"x", tiny_model(), key=other_key, version=8)
    unsigned = rts(tmp_path / "unsigned", own + b"x", tiny_model())
    forged = tmp_path / "forged.rts"
    data = bytearray((newer / "vector_boot.rts").read_bytes())
    data[150] ^= 1
    forged.write_bytes(data)
    with quick(tmp_path, model=booted / "vector_boot.rts") as machine:
        other_hex = other_key.public_key().public_bytes_raw().hex()
        for image, key, reason in [
            (newer, None, "signature"),
            (newer, other_hex, "signature"),
            (foreign, other_hex, "signature"),
            (foreign, PUBLIC_HEX, "signature"),
            (unsigned, PUBLIC_HEX, "signature"),
            (forged, PUBLIC_HEX, "signature"),
            (older, PUBLIC_HEX, "security_version"),
        ]:
            assert refusal(vboot, machine, image, key) == reason, (image, key)
        assert vboot("reload", machine, "--executable", executable) == 1
        assert "reload a signed image, not an executable" in vboot.err
        done = vboot.json("reload", machine, "--image", newer, "--code-key", PUBLIC_HEX)
        with connect(machine) as client:
            assert client.hello().build == done["build"] != build_of(own)


def test_what_is_not_sent(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    cases: list[tuple[list[str | Path], str]] = [
        (["--executable", tmp_path / "none"], "No such file"),
        (["--executable", tmp_path / "empty"], "no file of 1 byte to 1 GiB"),
        (["--executable", tmp_path], "no file of 1 byte to 1 GiB"),
        (["--executable", tmp_path / "empty", "--code-key", PUBLIC_HEX], "--code-key belongs to an image"),
        (["--image", tmp_path / "empty", "--code-key", "frob"], "frob"),
    ]
    for words, text in cases:
        assert vboot("reload", tmp_path / "socket", *words) == 1
        assert text in vboot.err
    assert vboot("reload", tmp_path / "socket") == 2


def refusal(vboot: Vboot, machine: Path, image: Path, key: str | None = None) -> str:
    """The reason for which an image is refused."""
    options = () if key is None else ("--code-key", key)
    error = vboot.json("reload", machine, "--image", image, *options, code=1)["error"]
    assert error["code"] == 1021
    return str(error["data"]["reason"])
