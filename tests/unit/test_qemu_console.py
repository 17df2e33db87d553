from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu import console
from qemu.console_file import ConsoleFile, ConsoleState

PROPERTY = settings(derandomize=True, deadline=None, max_examples=100)
BOOT = (
    b"\x1b[2J\x1b[01;01HBdsDxe: starting Boot0001\r\n[    0.000000] Linux version 6.1.0 (x)\r\n"
    b"vector_boot: phase=start t_us=0\r\nNeural Runtime initialized\r\nvector_boot: phase=mounts t_us=812\r\n"
    b"vector_boot: phase=tensors t_us=90210\nGGUF tensors loaded\nEntering Heartbeat Loop\n"
    b"vector_boot: phase=heartbeat t_us=100000\n"
)


def test_phases_come_in_order_with_their_times() -> None:
    assert list(console.phases(BOOT).items()) == [
        ("start", 0),
        ("mounts", 812),
        ("tensors", 90210),
        ("heartbeat", 100000),
    ]


def test_a_number_cut_by_the_end_of_the_console_is_no_phase() -> None:
    assert console.phases(b"vector_boot: phase=start t_us=12") == {}
    assert console.phases(b"vector_boot: phase=start t_us=12\r") == {"start": 12}


def test_a_second_start_of_the_runtime_does_not_change_the_phases() -> None:
    assert console.phases(b"vector_boot: phase=start t_us=1\nvector_boot: phase=start t_us=2\n") == {"start": 1}


def test_a_phase_is_found_behind_a_kernel_line_it_shares() -> None:
    assert console.phases(b"[    1.5] virtio: vector_boot: phase=start t_us=3[    1.6] usb\n") == {"start": 3}


def test_milestones_are_those_that_were_said() -> None:
    assert console.milestones(BOOT) == console.MILESTONES
    assert console.milestones(b"GGUF tensors loaded\n") == ("GGUF tensors loaded",)


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        (b"", "firmware"),
        (b"BdsDxe: loading Boot0001\r\n", "firmware"),
        (b"[    0.000000] Command line: quiet\r\n", "kernel"),
        (b"EFI stub: Loaded initrd\r\n", "kernel"),
        (b"[    0.000000] x\nvector_boot: phase=start t_us=0\n", "init"),
        (b"vector_boot: phase=start t_us=0\nvector_boot: phase=mounts t_us=1\n", "payload"),
        (BOOT, "ready"),
    ],
)
def test_boot_phase_is_how_far_the_machine_got(text: bytes, phase: str) -> None:
    assert console.boot_phase(text) == phase


def test_the_reasons_of_panic_and_emergency_are_found() -> None:
    text = b"[    2.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    2.1] CPU: 0\r\n"
    assert console.panic(text) == "Kernel panic - not syncing: VFS: Unable to mount root fs"
    assert console.panic(BOOT) is None
    assert console.emergency(b"x\nvector_boot: emergency: tensors do not fit\r\n") == (
        "vector_boot: emergency: tensors do not fit"
    )
    assert console.emergency(BOOT) is None


def test_tail_is_the_last_lines_and_safe_to_print() -> None:
    text = (
        b"".join(b"line %d\r\n" % number for number in range(100)) + b"\x1b]0;owned\x07\x1b[31mred\x00\x9b\xff\r\n\r\n"
    )
    rows = console.tail(text, lines=3).split("\n")
    assert rows == ["line 98", "line 99", "red\ufffd\ufffd"]


def test_a_text_that_arrives_in_pieces_is_found_once_whole(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    file = ConsoleFile(log)
    pattern = re.compile(rb"Heartbeat (Loop)\n")
    assert file.search(pattern, until=0) is None
    text = b"x" * 5000 + b"\nEntering Heartbeat Loop\nand more"
    for end in (10, 5012, 5020, len(text) - 9):
        log.write_bytes(text[:end])
        assert file.search(pattern, until=0) is None
    log.write_bytes(text)
    match = file.search(pattern, until=0)
    assert match is not None
    assert (match.text, match.groups) == ("Heartbeat Loop\n", ("Loop",))
    assert text[: match.end].endswith(b"Loop\n")
    assert ConsoleFile(log, match.end).search(pattern, until=0) is None


def test_state_follows_the_console_and_catches_up_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    state = ConsoleState(log)
    state.update()
    assert (state.boot_phase, state.panic, state.size(), state.tail()) == ("firmware", None, 0, "")
    log.write_bytes(BOOT)
    state.update()
    assert (state.boot_phase, state.phases()["mounts"]) == ("ready", 812)
    log.write_bytes(BOOT + b"noise\n" * 700_000 + b"Kernel panic - not syncing: late\n")
    state.update()
    assert (state.boot_phase, state.panic) == ("ready", None)
    state.finish()
    assert state.panic == "Kernel panic - not syncing: late"
    assert state.tail(lines=2) == "noise\nKernel panic - not syncing: late"


@PROPERTY
@given(st.binary(max_size=400))
def test_any_bytes_at_all_are_read(data: bytes) -> None:
    assert console.boot_phase(data) in console.BOOT_PHASES
    assert all(value >= 0 for value in console.phases(data).values())
    console.panic(data)
    console.emergency(data)
    assert not any(ord(char) < 32 and char not in "\n\t" for char in console.tail(data))


@PROPERTY
@given(
    st.lists(st.tuples(st.sampled_from(["start", "mounts", "runtime"]), st.integers(0, 10**12)), max_size=5),
    st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")), min_size=6, max_size=6),
)
def test_phases_are_found_whatever_stands_between_their_lines(lines: list[tuple[str, int]], noise: list[bytes]) -> None:
    text = b"\n".join(
        junk + b"\nvector_boot: phase=%s t_us=%d\n" % (name.encode(), time)
        for junk, (name, time) in zip(noise, lines, strict=False)
    )
    expected: dict[str, int] = {}
    for name, time in lines:
        expected.setdefault(name, time)
    assert console.phases(text) == expected


def test_a_search_ends_at_its_limit_although_more_was_printed(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"x\n" * (3 << 20) + b"the end\n")
    pattern = re.compile(b"the end")
    assert ConsoleFile(log).search(pattern, until=float("inf"), limit=1 << 20) is None
    assert ConsoleFile(log).search(pattern, until=float("inf")) is not None
