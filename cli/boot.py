"""`vboot boot`: the image as a running machine."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.boot_disk import DiskImage, extract_model, open_disk_image
from builder.boot_image import BootImage
from builder.command_line import command_line
from builder.integrity import require_unchanged
from builder.plan import TENSORS_NAME
from builder.progress import Reporter
from builder.settings import SETTINGS, Config
from cli import hints
from cli.answer import Answer, human_bytes
from cli.boot_watch import STEP, await_hello, last_words
from cli.errors import OutputError
from cli.images import add_demands, demand_of, open_or_build
from cli.option_types import path, positive_seconds
from cli.progress import stderr_reporter
from cli.settings_flags import add_settings, read_build_config, read_config
from cli.shell.verb import Shell
from cli.stop import end_in_order
from cli.streams import warn, write_out
from image.disk import SLOTS
from qemu.accel import Accel, require_cpu_model
from qemu.accel import select as select_accel
from qemu.firmware import find_firmware
from qemu.launch import attach, start
from qemu.machine import VirtualMachine
from qemu.spec import DEFAULT_CPU, Disk, MachineSpec
from qemu.state_file import STATE_SERIAL, StateFile, examined
from vboot.client.machine import MachineClient
from vboot.errors import BootError, InputError
from vboot.text import json_text, path_text, printable

RTS_SERIAL = "vb-rts"
"""The serial number by which the guest finds the disk of its image."""
DISK_SERIAL = "vb-disk"
"""That of a disk image, on which the guest finds its partitions by their types."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--detach", action="store_true", help="return when the machine answers, and leave it running")
    parser.add_argument(
        "--image",
        type=path,
        metavar="DIR|DISK",
        help="boot this image without building (default: the output folder's, built again if sources changed)",
    )
    parser.add_argument(
        "--persist",
        action="store_true",
        help="write into the disk image; by default what a machine writes is in its run folder, and gone with that",
    )
    parser.add_argument("--run", type=path, metavar="DIR", help="run folder (default: a new one in build/run)")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="S",
        help="seconds to wait for the machine (default: 20, emulated 120)",
    )
    add_demands(parser)
    add_settings(parser, verb="boot")


def run(arguments: argparse.Namespace) -> Answer:
    """Boot, and wait for the reply to hello. Then --detach returns, --json waits, otherwise a prompt opens.

    The machine is shut down when the prompt is left, or when --json ends.
    """
    if arguments.image is not None and arguments.image.exists() and not arguments.image.is_dir():
        return _boot_disk(arguments)
    if arguments.persist:
        raise InputError("--persist is for disk images", remedy="give one with --image, for example vector_boot.img")
    config = read_config(arguments)
    state = _examined_state(config)
    _check_cpu(config)  # both before a build, which may take minutes
    image = open_or_build(arguments.image, read_build_config(arguments), demand_of(arguments))
    disks = () if state is None else (_state_disk(state, config, model_bytes=image.need.weights_bytes),)
    with booted(
        image, config, disks=disks, run_folder=arguments.run, detach=arguments.detach, timeout=arguments.timeout
    ) as (machine, client):
        if disks and not client.greeted.durable:
            warn(f"the machine makes no change that survives it: it cannot use the state in {path_text(disks[0].path)}")
        return _served(machine, client, arguments)


def _boot_disk(arguments: argparse.Namespace) -> Answer:
    """Boot a disk image through firmware."""
    _refuse_fixed_settings(arguments)
    config = read_config(arguments)
    _check_cpu(config)
    image = open_disk_image(arguments.image)
    if arguments.persist:
        examined(image.path, size_mib=None)
    with booted_disk(
        image,
        config,
        persist=arguments.persist,
        run_folder=arguments.run,
        detach=arguments.detach,
        timeout=arguments.timeout,
    ) as (machine, client):
        return _served(machine, client, arguments)


def _refuse_fixed_settings(arguments: argparse.Namespace) -> None:
    """Raises InputError for an option that cannot change a disk that is built already."""
    given = vars(arguments)
    for setting in SETTINGS:
        fixed = setting.section not in {"machine"} or setting.key in {"append", "state", "state_size_mib"}
        if fixed and given.get(setting.name, None) is not None:
            why = "its state partition is on it" if "state" in setting.key else "it is part of the disk"
            raise InputError(f"{setting.flag} does not apply to a disk image: {why}", remedy="leave it out")
    if arguments.verify or arguments.key or arguments.unchecked:
        raise InputError(
            "--verify, --key and --unchecked are for folders of images",
            remedy=f"check the disk with `vboot verify {path_text(arguments.image)}`",
        )


def _served(machine: VirtualMachine, client: MachineClient, arguments: argparse.Namespace) -> Answer:
    """What is done with a machine that answers: a prompt, or nothing more than telling of it."""
    if not (arguments.detach or arguments.json):
        return _prompt(machine, client)
    client.close()  # since a port serves one client at a time, and a machine of an old image has only one
    return _detached(machine) if arguments.detach else _held(machine)


def _check_cpu(config: Config) -> None:
    if config.machine.cpu != DEFAULT_CPU:
        require_cpu_model(config.machine.cpu)


@contextmanager
def booted(
    image: BootImage,
    config: Config,
    *,
    append: str = "",
    disks: tuple[Disk, ...] = (),
    run_folder: Path | None = None,
    detach: bool = False,
    timeout: float | None = None,
    name: str = "vboot boot",
) -> Iterator[tuple[VirtualMachine, MachineClient]]:
    """The machine of an image, and a client that it has answered hello; `append` goes to the kernel's command line.

    `name` is the client's name.

    Raises BootError when it does not come up, or comes up in emergency mode.
    """
    _check_cpu(config)
    _say(f"model {image.model}")
    accel = _accelerator(config.machine.accel, image.vmlinuz)
    memory_mib = config.machine.memory_mib or image.need.mib
    _say(
        f"memory {image.need.explain()}" if memory_mib == image.need.mib else _other_memory(memory_mib, image.need.mib)
    )
    spec = MachineSpec(
        kernel=image.vmlinuz,
        initramfs=image.initramfs,
        append=f"{command_line(config.runtime, config.machine.append)} {append}".strip(),
        disks=(Disk(image.rts, RTS_SERIAL, read_only=True), *disks),
        memory_mib=memory_mib,
        cpus=config.machine.cpus,
        cpu=config.machine.cpu,
    )
    with start(spec, accel=accel, run=run_folder, detach=detach, model=image.model) as machine:
        machine.folder.keep_model(image.rts.with_name(TENSORS_NAME))
        with _greeted(machine, spec, image, detach=detach, timeout=timeout, name=name) as client:
            yield machine, client


@contextmanager
def booted_disk(
    image: DiskImage,
    config: Config,
    *,
    persist: bool,
    run_folder: Path | None = None,
    detach: bool = False,
    timeout: float | None = None,
    name: str = "vboot boot",
) -> Iterator[tuple[VirtualMachine, MachineClient]]:
    """The machine of a disk image, which firmware boots, and a client that it has answered hello.

    With `persist` it writes into the image, else into an overlay in its run folder. Raises BootError when it does not
    come up, or comes up in emergency mode; InputError without firmware.
    """
    firmware = find_firmware()
    _say(f"model {image.model}")
    with tempfile.NamedTemporaryFile(prefix="vboot-kernel-") as kernel:
        kernel.write(image.kernel)
        kernel.flush()
        accel = _accelerator(config.machine.accel, Path(kernel.name))
    memory_mib = config.machine.memory_mib or image.need.mib
    _say(
        f"memory {image.need.explain()}" if memory_mib == image.need.mib else _other_memory(memory_mib, image.need.mib)
    )
    _say(f"disk {path_text(image.path)}, {'written' if persist else 'not written: changes end with the run folder'}")
    spec = MachineSpec(
        firmware=firmware.code,
        firmware_template=firmware.variables,
        disks=(Disk(image.path, DISK_SERIAL, read_only=False, overlay=not persist),),
        memory_mib=memory_mib,
        cpus=config.machine.cpus,
        cpu=config.machine.cpu,
        reboots=True,
    )
    with (
        start(spec, accel=accel, run=run_folder, detach=detach, model=image.model) as machine,
        _greeted(machine, spec, image, detach=detach, timeout=timeout, name=name) as client,
    ):
        slot = client.stats().slot
        if slot in SLOTS:
            with suppress(OSError, InputError):
                extract_model(image, slot, machine.folder.model)
        yield machine, client


@contextmanager
def _greeted(
    machine: VirtualMachine,
    spec: MachineSpec,
    image: BootImage | DiskImage,
    *,
    detach: bool,
    timeout: float | None,
    name: str,
) -> Iterator[MachineClient]:
    """A client of this name that the machine has answered hello. Raises BootError."""
    with _reported() as reporter:
        memory = {"memory_mib": spec.memory_mib, "need_mib": image.need.mib}
        client = await_hello(machine, reporter, timeout=timeout, client=name, reboots=spec.reboots, **memory)
    with client:
        require_unchanged(image.checked)
        _refuse_emergency(machine, client, detach=detach)
        yield client


def _prompt(machine: VirtualMachine, client: MachineClient) -> Answer:
    """A prompt; when it is left, the machine is shut down."""
    _say("leaving the prompt shuts the machine down; use --detach to keep it running")
    shell = Shell(client, as_json=False, explain=machine.check)
    try:
        shell.run()
    except (KeyboardInterrupt, SystemExit, OutputError):
        end_in_order(machine, client)
        raise
    if shell.shut_down:
        machine.wait_exit()
    how = "shut down in order" if shell.shut_down else end_in_order(machine, client)
    text = f"the machine has ended: {how}; what it left is in {path_text(machine.run)}"
    return Answer({**machine.describe(), "ended": how}, text, exit_code=shell.exit_code)


def _detached(machine: VirtualMachine) -> Answer:
    run = shlex.quote(path_text(machine.run))
    hints.next_step(f'vboot embed "a text", vboot shell {run}, or vboot stop {run}')
    return Answer(machine.describe(), f"the machine runs in {run}")


def _held(machine: VirtualMachine) -> Answer:
    """Print how to reach the machine, then wait until stdin closes, SIGINT arrives, or the machine ends."""
    machine.release()  # its control socket is the caller's too
    _print_description(machine)
    try:
        _wait_for_end(machine.pid)
    except KeyboardInterrupt:
        pass
    finally:
        _end_released(machine)
    return Answer({}, "")


def _print_description(machine: VirtualMachine) -> None:
    try:
        write_out(json_text(machine.describe()))
    except OutputError as lost:
        # The caller may know the run folder, and ends the machine by closing stdin.
        warn(f"the machine runs, but {lost}")


def _wait_for_end(pid: int) -> None:
    """Wait until the process `pid` has ended, or stdin has."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(sys.stdin.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if pidfd in ready or not os.read(sys.stdin.fileno(), 65536):
                return
    finally:
        os.close(pidfd)


def _end_released(machine: VirtualMachine) -> None:
    """End the machine in order. Raises BootError when it has ended by itself, and not in order."""
    try:
        attached = attach(machine.run)
    except BootError:
        # It is a child process that was not waited for yet.
        code = os.waitstatus_to_exitcode(os.waitpid(machine.pid, 0)[1])
        why = last_words(machine.console) or (f"QEMU ended with status {code}" if code else None)
        if why is not None:
            what = f"the machine failed: {why}"
            raise BootError(
                what, phase="ready", artefacts=machine.run, remedy=f"see {path_text(machine.run)}"
            ) from None
        return
    with attached:
        end_in_order(attached)


def _refuse_emergency(machine: VirtualMachine, client: MachineClient, *, detach: bool) -> None:
    emergency = client.greeted.emergency
    if emergency is None:
        return
    if detach:
        machine.release()
        remedy = f"it runs on, `vboot stop {shlex.quote(path_text(machine.run))}` ends it"
    else:
        end_in_order(machine, client)
        remedy = f"see {path_text(machine.run)}"
    what = f"the machine is in emergency mode: {printable(emergency)}"
    raise BootError(what, phase="ready", artefacts=machine.run, remedy=remedy)


def _accelerator(wanted: str, kernel: Path) -> Accel:
    if wanted != "tcg":
        _say("testing the accelerator")
    accel = select_accel(wanted, kernel=kernel)
    _say(f"accelerator {accel.name}: {accel.reason}")
    return accel


def _other_memory(memory_mib: int, need_mib: int) -> str:
    return f"memory {memory_mib} MiB, as requested; the image needs {need_mib} MiB"


@contextmanager
def _reported() -> Iterator[Reporter]:
    """Report the progress of one wait, and its end in any case."""
    reporter = stderr_reporter()
    started = time.monotonic()
    try:
        yield reporter
    except BaseException as error:
        reporter.fail(STEP, str(error))
        raise
    reporter.done(STEP, time.monotonic() - started)


def _say(text: str) -> None:
    sys.stderr.write(f"{STEP}: {text}\n")
    sys.stderr.flush()


def _examined_state(config: Config) -> StateFile | None:
    path, size_mib = config.machine.state, config.machine.state_size_mib
    if path is not None:
        return examined(path, size_mib=size_mib)
    if size_mib is not None:
        raise InputError("there is a size for a state file, but no file", remedy="name one with --state")
    return None


def _state_disk(state: StateFile, config: Config, *, model_bytes: int) -> Disk:
    ready = state.created(size_mib=config.machine.state_size_mib, model_bytes=model_bytes)
    made = "" if state.bytes is not None else ", new"
    _say(f"state {path_text(ready.path)}, {human_bytes(ready.bytes or 0)}{made}")
    missing = ready.missing_space()
    if missing:
        warn(f"the disk of {path_text(ready.path)} is {human_bytes(missing)} too small for it: changes may be refused")
    return Disk(ready.path, STATE_SERIAL, read_only=False)
