"""A disk whose boot images are signed, under firmware that starts nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.bootloader import debian_bootloader
from builder.secure_boot import SecureBootKey
from image import disk, pe, uki
from image.minilm import user_cache
from image.verity import hash_tree
from qemu.launch import start
from qemu.spec import Disk, MachineSpec
from tests.boot.conftest import Image
from tests.boot.test_machine import result
from tests.support.evolution_port.expect import machine_port
from vboot.keys import write_secure_boot_pair

MIB = 1 << 20
CODE, VARIABLES = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
OWNER = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""Who the keys are said to belong to; any GUID will do."""
REFUSED = "Access Denied|Security Violation"

pytestmark = pytest.mark.skipif(not CODE.is_file(), reason="needs firmware with Secure Boot (Debian: ovmf)")


@dataclass(frozen=True)
class Signed:
    """A key that is enrolled in the variables of a firmware, and the parts of a disk that it signs."""

    key: SecureBootKey
    variables: Path
    image: Image
    loader: bytes
    uki: bytes
    """Without a signature."""

    def spec(self, path: Path, entry: bytes, *, loader: bytes | None = None) -> MachineSpec:
        """A machine with a disk, made at `path`, whose boot image is `entry`."""
        data = self.image.rts.read_bytes()
        _, tree = hash_tree([data])
        with path.open("w+b") as file, self.image.rts.open("rb") as rts:
            disk.write_disk(
                file,
                esp=disk.esp_files(loader=loader or self.key.sign(self.loader), uki=entry, slot="A"),
                esp_bytes=64 * MIB,
                rts=rts,
                tree=tree,
                slot_bytes=disk.default_slot_bytes(len(data)),
                state_bytes=16 * MIB,
                seed=b"secure boot",
            )
        return MachineSpec(
            firmware=CODE,
            firmware_template=self.variables,
            disks=(Disk(path, "vb-disk", read_only=False),),
            memory_mib=384,
            reboots=True,
            secure_boot=True,
        )


@pytest.fixture(scope="module")
def signed(tiny: Image, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("secure-boot")
    write_secure_boot_pair(folder / "keys")
    key = SecureBootKey.of_folder(folder / "keys")
    certificate = str(key.certificate)
    enrol = [word for variable in ("--set-pk", "--add-kek", "--add-db") for word in (variable, OWNER, certificate)]
    files = ["--input", str(VARIABLES), "--output", str(folder / "vars.fd")]
    tool = [sys.executable, "-c", "from virt.firmware.vars import main; main()"]
    subprocess.run([*tool, *files, *enrol, "--secure-boot"], check=True, capture_output=True, timeout=60)
    loader = debian_bootloader(user_cache() / "bootloaders", progress=lambda *_: None)
    verity, _ = hash_tree([tiny.rts.read_bytes()])
    unsigned = uki.build(
        loader.stub.read_bytes(),
        kernel=(tiny.folder / "vmlinuz").read_bytes(),
        initramfs=(tiny.folder / "initramfs.cpio").read_bytes(),
        command_line=f"console=ttyS0 panic=-1 quiet vector_boot.onfail=reboot vector_boot.slot=A"
        f" vector_boot.verity={verity}",
        os_release=uki.os_release(version="0.1.0", slot="A"),
        release="6.1.0-test",
        version="0.1.0",
    )
    return Signed(key, folder / "vars.fd", tiny, loader.loader.read_bytes(), unsigned)


def flipped(section: str) -> Callable[[bytes], bytes]:
    """Flips one bit in the middle of a section."""

    def flip(program: bytes) -> bytes:
        found = pe.read(program, what="the image").section(section)
        assert found is not None
        at = program.index(found.data) + len(found.data) // 2
        return program[:at] + bytes([program[at] ^ 1]) + program[at + 1 :]

    return flip


def test_a_signed_disk_boots_and_keeps_its_slot(signed: Signed, tmp_path: Path) -> None:
    spec = signed.spec(tmp_path / "disk.img", signed.key.sign(signed.uki))
    with start(spec) as machine, machine_port(machine) as port:
        port.greet(timeout=180)
        assert result(port, "stats")["slot"] == "A"
        assert result(port, "hello", protocol=1, client="test")["durable"] is True


@pytest.mark.parametrize("what", ["unsigned", "another key", ".linux", ".initrd", ".cmdline"])
def test_anything_else_does_not_start(signed: Signed, tmp_path: Path, what: str) -> None:
    if what == "unsigned":
        entry = signed.uki
    elif what == "another key":
        write_secure_boot_pair(tmp_path / "other")
        entry = SecureBootKey.of_folder(tmp_path / "other").sign(signed.uki)
    else:
        entry = flipped(what)(signed.key.sign(signed.uki))
    with start(signed.spec(tmp_path / "disk.img", entry)) as machine:
        machine.wait_for_console(REFUSED)
        said = machine.console.read_text(errors="replace")
    assert "vector_boot: phase=" not in said


def test_a_boot_loader_without_a_signature_does_not_start(signed: Signed, tmp_path: Path) -> None:
    spec = signed.spec(tmp_path / "disk.img", signed.key.sign(signed.uki), loader=signed.loader)
    with start(spec) as machine:
        machine.wait_for_console(REFUSED)
        assert "vector_boot: phase=" not in machine.console.read_text(errors="replace")
