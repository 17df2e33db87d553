from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from qemu.spec import Disk, Endpoints, MachineSpec, command
from vboot.errors import InputError

PATHS = Endpoints(Path("/run/a,b/console.log"), Path("/run/a,b/evolution.sock"), Path("/run/a,b/qmp.sock"))
DIRECT = MachineSpec(
    kernel=Path("/img/vmlinuz"),
    initramfs=Path("/img/initramfs.cpio"),
    append="console=ttyS0 panic=-1",
    disks=(Disk(Path("/img/a,b.rts"), "vb-rts", True), Disk(Path("/img/state.qcow2"), "vb-state", False, "qcow2")),
    memory_mib=384,
)


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


def test_direct_boot_names_kernel_initramfs_and_command_line() -> None:
    argv = command(DIRECT, PATHS, "tcg", qemu="/opt/qemu")
    assert argv[0] == "/opt/qemu"
    for pair in [
        ("-kernel", "/img/vmlinuz"),
        ("-initrd", "/img/initramfs.cpio"),
        ("-append", "console=ttyS0 panic=-1"),
        ("-machine", "q35"),
        ("-accel", "tcg"),
        ("-cpu", "max,-erms,-fsrm"),
        ("-m", "384M"),
        ("-smp", "2"),
        ("-display", "none"),
    ]:
        assert pair in pairs(argv)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert "-bios" not in argv


def test_only_an_emulated_processor_without_a_choice_lacks_repeated_moves() -> None:
    assert ("-cpu", "max") in pairs(command(DIRECT, PATHS, "kvm"))
    assert ("-cpu", "Haswell") in pairs(command(replace(DIRECT, cpu="Haswell"), PATHS, "tcg"))


def test_ports_are_named_and_commas_in_paths_doubled() -> None:
    argv = command(DIRECT, PATHS, "kvm")
    assert ("-chardev", "file,id=console,path=/run/a,,b/console.log") in pairs(argv)
    assert ("-chardev", "socket,id=evolution,path=/run/a,,b/evolution.sock,server=on,wait=off") in pairs(argv)
    assert ("-chardev", "socket,id=qmp,path=/run/a,,b/qmp.sock,server=on,wait=off") in pairs(argv)
    assert ("-mon", "chardev=qmp,mode=control") in pairs(argv)
    port = "virtserialport,bus=ports.0,nr=1,chardev=evolution,name=org.vectorland.evolution.0"
    assert ("-device", port) in pairs(argv)


def test_sixteen_clients_have_a_port_each_and_the_guest_sees_port_0_last() -> None:
    argv = command(DIRECT, PATHS, "tcg")
    ports = [value for _, value in pairs(argv) if value.startswith("virtserialport,")]
    names = [f"org.vectorland.evolution.{number}" for number in (*range(1, 16), 0)]
    assert [port.rpartition("name=")[2] for port in ports] == names
    places = [int(port.partition("nr=")[2].partition(",")[0]) for port in ports]
    assert sorted(places) == list(range(1, 17))
    assert ("-device", "virtio-serial-pci,id=ports,max_ports=17") in pairs(argv)
    assert ("-chardev", "socket,id=evolution15,path=/run/a,,b/evolution.15.sock,server=on,wait=off") in pairs(argv)
    assert argv.index("virtio-serial-pci,id=ports,max_ports=17") < argv.index(ports[0])


def test_disks_carry_serial_format_and_protection() -> None:
    argv = command(DIRECT, PATHS, "tcg")
    assert [value for option, value in pairs(argv) if option == "-blockdev"] == [
        "driver=raw,node-name=disk0,read-only=on,file.driver=file,file.filename=/img/a,,b.rts,file.auto-read-only=off",
        "driver=qcow2,node-name=disk1,read-only=off,"
        "file.driver=file,file.filename=/img/state.qcow2,file.auto-read-only=off,cache.direct=off,cache.no-flush=off",
    ]
    assert ("-device", "virtio-blk-pci,drive=disk0,serial=vb-rts") in pairs(argv)
    # A failed write is told to the guest: by default QEMU would stop the machine when the host's disk is full.
    state = "virtio-blk-pci,drive=disk1,serial=vb-state,write-cache=on,werror=report,rerror=report"
    assert ("-device", state) in pairs(argv)


def test_a_disk_that_the_machine_writes_to_is_no_input() -> None:
    assert DIRECT.inputs() == tuple(map(Path, ("/img/vmlinuz", "/img/initramfs.cpio", "/img/a,b.rts")))


def test_firmware_is_a_rom_alone_and_flash_with_its_variables() -> None:
    rom = MachineSpec(firmware=Path("/fw/OVMF.fd"))
    assert ("-bios", "/fw/OVMF.fd") in pairs(command(rom, PATHS, "tcg"))
    flash = MachineSpec(firmware=Path("/fw/CODE.fd"), firmware_vars=Path("/fw/VARS.fd"))
    argv = command(flash, PATHS, "tcg")
    assert ("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/fw/CODE.fd") in pairs(argv)
    assert ("-drive", "if=pflash,unit=1,format=raw,readonly=off,file=/fw/VARS.fd") in pairs(argv)
    assert "-bios" not in argv


def test_watchdog_and_extra_arguments_are_there_only_on_request() -> None:
    plain = command(DIRECT, PATHS, "tcg")
    assert "i6300esb" not in plain
    spec = MachineSpec(kernel=Path("/k"), watchdog="poweroff", extra=("-snapshot",))
    argv = command(spec, PATHS, "tcg")
    assert ("-device", "i6300esb") in pairs(argv)
    assert ("-action", "watchdog=poweroff") in pairs(argv)
    assert argv[-1] == "-snapshot"


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    argv = command(MachineSpec(kernel=Path("k")), Endpoints(Path("c"), Path("e"), Path("q")), "tcg")
    assert ("-kernel", f"{tmp_path}/k") in pairs(argv)
    assert ("-chardev", f"file,id=console,path={tmp_path}/c") in pairs(argv)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "neither a kernel nor firmware"),
        ({"firmware": Path("f"), "append": "quiet"}, "need a kernel"),
        ({"kernel": Path("k"), "firmware_vars": Path("v")}, "need their firmware"),
        ({"kernel": Path("k"), "memory_mib": 0}, "0 MiB"),
        ({"kernel": Path("k"), "watchdog": "bark"}, "bark"),
    ],
)
def test_an_invalid_specification_is_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        MachineSpec(**options)  # type: ignore[arg-type]


def test_a_serial_that_virtio_would_cut_is_refused() -> None:
    with pytest.raises(InputError, match="20 bytes"):
        Disk(Path("d"), "x" * 21, True)
