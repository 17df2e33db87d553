"""A machine that was built with a key serves no other images than those signed with it, and no older ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.boot_steps import TRUST
from builder.kernel import debian_kernel
from image.minilm import user_cache
from image.rts import HEADER_SIZE, parse_header
from image.rts_file import write_rts
from initramfs import newc
from initramfs.build import build_initramfs
from initramfs.module_files import load_modules
from qemu.launch import start
from qemu.spec import Disk, MachineSpec
from tests.boot.conftest import Image
from tests.boot.test_machine import error, result
from tests.support.evolution_port.expect import machine_port
from vboot.protocol.tables import Code

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


@pytest.fixture(scope="module")
def signed(tiny: Image, tmp_path_factory: pytest.TempPathFactory) -> MachineSpec:
    """A machine whose initramfs asks for images of KEY, of security version 5 at least."""
    kernel = debian_kernel(user_cache() / "kernels", progress=lambda *_: None)
    modules = load_modules(kernel.modules, release=kernel.release, config=kernel.config)
    trust = f"{KEY.public_key().public_bytes_raw().hex()}:5\n".encode()
    path = tmp_path_factory.mktemp("trust") / "initramfs.cpio"
    path.write_bytes(
        build_initramfs(
            init=executable_of(tiny), modules=modules, release=kernel.release, extra=[newc.file(TRUST, trust)]
        )
    )
    return replace(tiny.spec(), initramfs=path)


def executable_of(tiny: Image) -> bytes:
    """The executable of the image, as its archive has it."""
    data = tiny.rts.read_bytes()
    header = parse_header(data[:HEADER_SIZE], file_size=len(data))
    return data[HEADER_SIZE : header.tensor_offset]


def image_of(tiny: Image, folder: Path, *, key: Ed25519PrivateKey | None, version: int) -> Disk:
    binary = folder / "binary"
    binary.write_bytes(executable_of(tiny))
    path = folder / "image.rts"
    tensors = tiny.folder / "vectorland.gguf"
    write_rts(path, binary=binary, tensors=tensors, security_version=version, signing_key=key)
    return Disk(path, "vb-rts", read_only=True)


@pytest.mark.parametrize("version", [5, 6])
def test_an_image_of_the_key_is_served(tiny: Image, signed: MachineSpec, tmp_path: Path, version: int) -> None:
    disk = image_of(tiny, tmp_path, key=KEY, version=version)
    with start(replace(signed, disks=(disk,))) as machine, machine_port(machine) as port:
        port.greet()
        assert result(port, "hello", protocol=1, client="test")["emergency"] is None
        assert result(port, "embed", texts=["a text"])["count"] == 1


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ((None, 5), "key_id: offset 104: is all zero (unsigned)"),
        ((OTHER, 5), "key_id: offset 104: is e577275f"),
        ((KEY, 4), "expected security version 5 or newer, got 4"),
    ],
)
def test_any_other_image_is_refused(
    tiny: Image, signed: MachineSpec, tmp_path: Path, made: tuple[Ed25519PrivateKey | None, int], why: str
) -> None:
    key, version = made
    disk = image_of(tiny, tmp_path, key=key, version=version)
    with start(replace(signed, disks=(disk,))) as machine, machine_port(machine) as port:
        port.greet()
        emergency = result(port, "hello", protocol=1, client="test")["emergency"]
        assert emergency.startswith("the image is refused: ")
        assert why in emergency
        assert error(port, "embed", texts=["a text"]) == Code.EMERGENCY
