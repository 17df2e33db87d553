"""`vboot boot` and `vboot stop` without a real guest: what is asked of QEMU, what is refused, what failing looks like.

The fake QEMU stands in where a machine has to fail on command; tests/boot runs real ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.boot_image import open_image
from builder.command_line import command_line
from builder.settings import RuntimeSettings
from cli.boot_watch import last_words
from cli.machines import newest_running
from cli.stop import end_in_order
from image.rts import RtsHeader, pack_header
from initramfs.memory import MIB, MemoryNeed
from qemu.accel import Accel
from qemu.launch import start
from qemu.machine import VirtualMachine
from qemu.spec import MachineSpec
from tests.support import fake_qemu
from tests.support.kernel_files import bzimage
from tests.support.vboot import PUBLIC_HEX, Vboot, write_gguf, write_key
from vboot.errors import InputError

FAST = Accel("kvm", "a fake needs no emulation")


@pytest.fixture
def vboot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vboot:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VBOOT_MODEL", raising=False)
    monkeypatch.delenv("VBOOT_TYPE", raising=False)
    capsys.readouterr()
    return Vboot(capsys)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The files of an image, as far as the host looks into them."""
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "vmlinuz").write_bytes(bzimage(init_size=30 * MIB))
    (folder / "initramfs.cpio").write_bytes(bytes(2 * MIB))
    header = RtsHeader(binary_size=4096 - 512, tensor_size=MIB)
    (folder / "vector_boot.rts").write_bytes(pack_header(header) + bytes(header.total_size - 512))
    return folder


@pytest.fixture
def install_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts the fake on the PATH as QEMU, with a scenario."""

    def install(scenario: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        Path(fake_qemu.install(folder, scenario)).rename(folder / "qemu-system-x86_64")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


# the image


def test_the_command_line_and_its_order() -> None:
    runtime = RuntimeSettings(heartbeat_ms=50, onfail="hold", energy="off", fault=1)
    settings = "vector_boot.heartbeat_ms=50 vector_boot.onfail=hold vector_boot.energy=off vector_boot.fault=1"
    assert command_line(runtime, "") == f"console=ttyS0 panic=-1 quiet {settings}"
    assert command_line(runtime, " panic=3  x ") == f"console=ttyS0 panic=-1 quiet {settings} panic=3  x"


def test_the_memory_is_computed_from_the_files(image: Path) -> None:
    need = open_image(image).need
    assert need == MemoryNeed(kernel_bytes=30 * MIB, initramfs_bytes=2 * MIB, weights_bytes=MIB)
    # Errors of the container are reported by the machine, not here.
    (image / "vector_boot.rts").write_bytes(b"nonsense" * 100)
    assert open_image(image).need.weights_bytes == 800


def test_an_image_that_is_not_whole(image: Path) -> None:
    (image / "initramfs.cpio").unlink()
    with pytest.raises(InputError, match=r"contains no image: initramfs\.cpio missing; make one with `vboot build`"):
        open_image(image)
    (image / "initramfs.cpio").touch()
    (image / "vmlinuz").write_bytes(b"no kernel")
    with pytest.raises(InputError, match="vmlinuz: not a bzImage"):
        open_image(image)


# what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "nowhere"], "nowhere is not there; give the folder of an image, or none to build it"),
        (["--image", "image/vmlinuz"], "is no disk of vector_boot: no partition table"),
        (["--image", "."], "contains no image: vmlinuz, initramfs.cpio, vector_boot.rts missing"),
        (["--image", "image", "--state", "none/s.img"], "there is no folder none for the state file; make it first"),
        (["--image", "image", "--state", "image"], "image is a folder, expected a file for the state; name a file"),
        (["--image", "image", "--state-size", "64"], "a size for a state file, but no file; name one with --state"),
        (["--image", "image", "--unchecked", "--run", "image"], "the run folder image holds other files"),
    ],
)
def test_what_cannot_be_booted(vboot: Vboot, image: Path, words: list[str], message: str) -> None:
    assert vboot("boot", "--accel", "tcg", *words) == 1
    assert message in vboot.last_error()
    assert sorted(path.name for path in image.iterdir()) == ["initramfs.cpio", "vector_boot.rts", "vmlinuz"]


@pytest.mark.parametrize("size", ["15", "65537", "much"])
def test_wrong_sizes_of_a_state_file(vboot: Vboot, image: Path, size: str) -> None:
    assert vboot("boot", "--image", str(image), "--state", "s.img", "--state-size", size) == 2
    assert not Path("s.img").exists()


def test_a_state_file_is_made_with_the_size_of_the_model(
    vboot: Vboot, image: Path, install_qemu: Callable[[str], None]
) -> None:
    install_qemu("die")
    words = ["boot", "--accel", "tcg", "--image", "image", "--unchecked", "--state", "s.img"]
    assert vboot(*words, "--run", "run") == 1
    assert "boot: state s.img, 68.0 MiB, new" in vboot.err
    assert Path("s.img").stat().st_size == 68 * MIB  # 64 MiB and four times a model of 1 MiB
    assert "serial=vb-state,write-cache=on,werror=report" in Path("run/command.txt").read_text()
    assert json.loads(Path("run/machine.json").read_text())["state"] == str(Path("s.img").absolute())
    assert vboot(*words, "--state-size", "68", "--run", "run2") == 1
    assert "boot: state s.img, 68.0 MiB\n" in vboot.err
    assert vboot(*words, "--state-size", "128", "--run", "run3") == 1
    assert "s.img has 71303168 bytes, and a size of 128 MiB was asked for" in vboot.last_error()
    assert not Path("run3").exists()


def test_appliance_toml_names_the_state(vboot: Vboot, image: Path, install_qemu: Callable[[str], None]) -> None:
    install_qemu("die")
    Path("appliance.toml").write_text('[machine]\nstate = "s.img"\nstate_size_mib = 16\n')
    assert vboot("boot", "--accel", "tcg", "--image", "image", "--unchecked") == 1
    assert Path("s.img").stat().st_size == 16 * MIB


def test_wrong_usage(vboot: Vboot) -> None:
    assert vboot("boot", "--accel", "hvf") == 2
    assert vboot("boot", "--memory", "much") == 2
    assert vboot("stop", "--timeout", "never") == 2


# which image is booted


def test_boot_without_options_boots_what_was_built(vboot: Vboot, install_qemu: Callable[[str], None]) -> None:
    install_qemu("die")
    assert vboot("build", "--model", "tiny", "--type", "Q8_0", "--energy", "off") == 0
    built = Path("build/vector_boot.rts").read_bytes()
    assert vboot("boot", "--accel", "tcg", "--run", "run", "--heartbeat-ms", "50") == 1
    assert "model: tiny, Q8_0 weights (as build was made; --model changes it)" in vboot.err
    assert "boot: model tiny (vector_boot tiny)" in vboot.err
    assert Path("build/vector_boot.rts").read_bytes() == built
    command = Path("run/command.txt").read_text()
    assert "vector_boot.heartbeat_ms=50" in command
    assert Path("run/booted.gguf").samefile("build/vectorland.gguf")
    assert "vector_boot.energy=off" in command
    # An option of [runtime] is of that boot alone.
    assert vboot("boot", "--accel", "tcg", "--run", "run2") == 1
    assert "vector_boot.heartbeat_ms=100" in Path("run2/command.txt").read_text()
    assert vboot("boot", "--accel", "tcg", "--image", "build", "--run", "run3") == 1
    assert "vector_boot.energy=off" in Path("run3/command.txt").read_text()


def test_an_image_whose_model_file_was_moved_still_boots(vboot: Vboot, install_qemu: Callable[[str], None]) -> None:
    install_qemu("die")
    write_gguf(Path("own.gguf"))
    assert vboot("build", "--model", "own.gguf") == 0
    Path("own.gguf").rename("moved.gguf")
    assert vboot("boot", "--accel", "tcg", "--run", "run") == 1
    lost = f"the image in build was built with --model {Path('own.gguf').absolute()}, which is not there"
    assert f"boot: {lost}; the image is booted as it is\nboot: model own.gguf\n" in vboot.err
    assert vboot("build") == 1
    assert lost in vboot.last_error()
    assert vboot("build", "--model", "moved.gguf") == 0


def test_options_are_not_ignored_where_the_model_file_was_moved(
    vboot: Vboot, install_qemu: Callable[[str], None]
) -> None:
    install_qemu("die")
    write_gguf(Path("own.gguf"))
    assert vboot("build", "--model", "own.gguf") == 0
    before = Path("build/manifest.json").read_bytes()
    Path("own.gguf").unlink()
    key = write_key(Path("k.pem"))
    assert vboot("boot", "--accel", "tcg", "--run", "run", "--signing-key", key) == 1
    lost = f"the image in build was built with --model {Path('own.gguf').absolute()}, which is not there"
    assert f"{lost}; give its new path" in vboot.last_error()
    Path("appliance.toml").write_text("[image]\nsecurity_version = 3\n")
    assert vboot("boot", "--accel", "tcg", "--run", "run") == 1
    assert lost in vboot.last_error()
    assert not Path("run").exists()
    assert Path("build/manifest.json").read_bytes() == before
    Path("appliance.toml").write_text("[image]\nsecurity_version = 0\n")
    assert vboot("boot", "--accel", "tcg", "--run", "run", "--energy", "off") == 1
    assert "the image is booted as it is" in vboot.err, "what is asked is what it was built with"
    assert "vector_boot.energy=off" in Path("run/command.txt").read_text()


def test_what_no_manifest_covers_does_not_reach_the_command_line_of_the_kernel(
    vboot: Vboot, install_qemu: Callable[[str], None]
) -> None:
    install_qemu("die")
    assert vboot("build", "--model", "tiny", "--onfail", "hold", "--signing-key", write_key(Path("k.pem"))) == 0
    settings = Path("build/.vboot-settings.json")
    document = json.loads(settings.read_bytes())
    document["settings"] |= {"runtime.fault": 1, "runtime.onfail": "reboot"}
    settings.write_text(json.dumps(document))
    words = ["boot", "--accel", "tcg", "--image", "build", "--key", PUBLIC_HEX]
    assert vboot(*words, "--run", "run") == 1
    command = Path("run/command.txt").read_text()
    assert "vector_boot.fault=0" in command
    assert "vector_boot.onfail=hold" in command
    assert vboot(*words, "--run", "run2", "--onfail", "reboot") == 1
    assert "vector_boot.onfail=reboot" in Path("run2/command.txt").read_text()


# machines that fail


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("die", "QEMU ended with status 3 (qemu: something broke) in phase kernel under tcg"),
        (
            "panic-exit",
            "the guest died (Kernel panic - not syncing: Attempted to kill init!) in phase kernel under tcg",
        ),
        ("no-greeting", "the machine did not answer hello within 0.5 s in phase ready under tcg"),
        ("well", "hello.version in the machine's reply: expected a string, got nothing in phase ready under tcg"),
    ],
)
def test_a_machine_that_does_not_come_up(
    vboot: Vboot, install_qemu: Callable[[str], None], image: Path, scenario: str, expected: str
) -> None:
    install_qemu(scenario)
    # Only a machine that says nothing is waited for until the end.
    seconds = "0.5" if scenario == "no-greeting" else "600"
    words = ["boot", "--image", str(image), "--unchecked", "--accel", "tcg", "--run", "run", "--timeout", seconds]
    error = vboot.json(*words, code=1)["error"]
    assert error["type"] == "BootError"
    assert error["message"] == f"{expected}; see {Path('run').absolute()}"
    assert f"in phase {error['phase']} under" in expected
    assert error["message"] in vboot.last_error()
    assert error["artefacts"] == str(Path("run").absolute())
    assert json.loads(Path("run/verdict.json").read_text())["outcome"] in ("died", "panic", "timeout", "failed")
    assert not is_running(Path("run"))


def test_too_little_memory_is_named_in_the_error(
    vboot: Vboot, install_qemu: Callable[[str], None], image: Path
) -> None:
    install_qemu("die")
    assert vboot("boot", "--image", str(image), "--unchecked", "--accel", "tcg", "--run", "run", "--memory", "32") == 1
    assert "it has 32 MiB of memory and needs 192; see" in vboot.last_error()
    assert "boot: memory 32 MiB, as requested; the image needs 192 MiB" in vboot.err
    assert " -m 32M " in Path("run/command.txt").read_text()


def test_what_is_asked_of_qemu(vboot: Vboot, install_qemu: Callable[[str], None], image: Path) -> None:
    install_qemu("die")
    Path("state.img").write_bytes(bytes(4096))
    words = [
        "--image",
        str(image),
        "--unchecked",
        "--accel",
        "tcg",
        "--run",
        "run",
        "--state",
        "state.img",
        "--append",
        "extra=1",
    ]
    assert vboot("boot", *words, "--cpus", "3", "--cpu", "Haswell-v1,-avx2", "--heartbeat-ms", "20") == 1
    command = Path("run/command.txt").read_text()
    assert f"-kernel {image}/vmlinuz -initrd {image}/initramfs.cpio" in command
    assert "'console=ttyS0 panic=-1 quiet vector_boot.heartbeat_ms=20 " in command
    assert "vector_boot.fault=0 extra=1'" in command
    assert "-cpu Haswell-v1,-avx2 -m 192M -smp 3" in command
    assert "read-only=on," in command.partition("serial=vb-rts")[0]
    assert "read-only=off," in command.partition("serial=vb-rts")[2]
    assert "serial=vb-state" in command
    assert "boot: accelerator tcg: emulation was asked for" in vboot.err
    assert "boot: memory 192 MiB: kernel 54.0 MiB" in vboot.err


def test_a_processor_model_that_qemu_does_not_list(
    vboot: Vboot, install_qemu: Callable[[str], None], image: Path
) -> None:
    install_qemu("well")
    (image / "appliance.toml").write_text('[machine]\ncpu = "Haswel"\n')
    for words in (["--cpu", "Haswel"], ["--config", str(image / "appliance.toml")]):
        assert vboot("boot", "--image", str(image), "--unchecked", "--accel", "tcg", "--run", "run", *words) == 1
        assert vboot.last_error() == (
            "vboot: error: qemu-system-x86_64 has no processor model 'Haswel'; did you mean Haswell-v1? "
            "`qemu-system-x86_64 -cpu help` lists 2 models"
        )
    assert not Path("run").exists()


def test_the_last_words_of_a_console(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    assert last_words(log) is None
    for text, words in {
        b"vector_boot: phase=start t_us=0\n": None,
        b"vector_boot: FAILED: it is cut": None,
        b"vector_boot: FAILED: no RTS image\r\nmore\n": "no RTS image",
        b"vector_boot: EMERGENCY: first\nvector_boot: FAILED: second\x1b[2J\n": "second",
        b"[ 1.0] Kernel panic - not syncing: why ]\n": "Kernel panic - not syncing: why ]",
    }.items():
        log.write_bytes(text)
        assert last_words(log) == words


# stopping


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VirtualMachine]:
    """A fake machine in the scenario that the test names."""
    program = fake_qemu.install(tmp_path, request.param)
    (tmp_path / "kernel").write_bytes(b"")
    spec = MachineSpec(kernel=tmp_path / "kernel")
    with start(spec, accel=FAST, run=tmp_path / "run", qemu=program, detach=True) as machine:
        yield machine
        machine.kill()


@pytest.mark.parametrize(
    ("started", "how", "seconds"),
    [("well", "by its power button", 60), ("hang", "by ending QEMU", 3), ("no-quit", "by killing QEMU", 0.5)],
    indirect=["started"],
)
def test_stop_reports_which_way_ended_the_machine(started: VirtualMachine, how: str, seconds: float) -> None:
    # The fake's hello is not ours, so the protocol never ends it.
    said = end_in_order(started, seconds=seconds)
    assert said.startswith(f"{how} (")
    assert not is_running(started.run)


@pytest.mark.parametrize("started", ["well"], indirect=True)
def test_stop_and_stop_again(started: VirtualMachine, vboot: Vboot) -> None:
    started.release()
    assert newest_running(started.run.parent).run == started.run
    answer = vboot.json("stop", started.run, "--timeout", "60")
    assert answer["run"] == str(started.run)
    assert answer["how"].startswith("by its power button (")
    assert vboot("stop", started.run) == 0
    assert vboot.out == f"the machine of {started.run} had already ended: QEMU ended with status 0\n"
    with pytest.raises(InputError, match="no machine runs in"):
        newest_running(started.run.parent)


def test_stop_of_something_else(vboot: Vboot, tmp_path: Path) -> None:
    assert vboot("stop", tmp_path) == 1
    assert "is not the run folder of a machine" in vboot.last_error()


def is_running(run: Path) -> bool:
    pid = json.loads((run / "machine.json").read_text())["pid"]
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
