from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu.accel import debug_exit_rom, parse_verdict, probe, select
from tests.support import fake_qemu
from tests.unit.test_qemu_process import gone
from vboot.errors import BootError, InputError, ToolError

OPENS = Path(os.devnull)
RAN = "kvm-exit-85"
"""0x2A << 1 | 1, what isa-debug-exit makes of the probe's byte."""


def test_kvm_is_taken_when_a_guest_ran(tmp_path: Path) -> None:
    accel = probe(fake_qemu.install(tmp_path, RAN), cache=tmp_path / "c", device=OPENS)
    assert (accel.name, accel.scale) == ("kvm", 1.0)


def test_a_guest_that_never_ends_means_emulation(tmp_path: Path) -> None:
    accel = probe(fake_qemu.install(tmp_path, "mute"), cache=tmp_path / "c", device=OPENS, seconds=0.1)
    assert accel.name == "tcg"
    assert "did not run within 0.1 s" in accel.detail
    assert accel.scale > 1
    assert gone(int((tmp_path / "pid").read_text()), seconds=0.1)


@pytest.mark.parametrize("status", [0, 1, 87])
def test_any_other_exit_status_proves_nothing(tmp_path: Path, status: int) -> None:
    accel = probe(fake_qemu.install(tmp_path, f"kvm-exit-{status}"), cache=tmp_path / "c", device=OPENS)
    assert accel.name == "tcg"
    assert accel.reason == "KVM does not run a guest on this host; `vboot doctor` says why"
    assert "no KVM for you" in accel.detail


def test_the_verdict_is_remembered(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "accel.json"
    assert probe(fake_qemu.install(tmp_path, RAN), cache=cache, device=OPENS).name == "kvm"
    qemu = fake_qemu.install(tmp_path, "kvm-exit-1")
    assert probe(qemu, cache=cache, device=OPENS).name == "kvm"
    record = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({**record, "key": "another boot or version"}))
    assert probe(qemu, cache=cache, device=OPENS).name == "tcg"


@pytest.mark.parametrize(
    ("scenario", "name", "detail"),
    [
        ("kvm-kernel-0", "kvm", ""),
        ("kvm-kernel-hangs", "tcg", "a test ROM ran under KVM, but the kernel did not come up within 0.3 s"),
        ("kvm-kernel-1", "tcg", "the kernel did not run under KVM (qemu: no kernel for you)"),
    ],
)
def test_a_kernel_must_run_too(tmp_path: Path, scenario: str, name: str, detail: str) -> None:
    cache, kernel = tmp_path / "c", tmp_path / "k"
    qemu = fake_qemu.install(tmp_path, scenario)
    assert probe(qemu, cache=cache, device=OPENS).name == "kvm"
    for tried in (kernel, kernel, None):
        accel = probe(qemu, kernel=tried, cache=cache, device=OPENS, kernel_seconds=0.3 if tried else 1)
        assert (accel.name, accel.detail) == (name, detail)
        qemu = fake_qemu.install(tmp_path, "refuse")  # the verdict is remembered


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert probe(fake_qemu.install(tmp_path, RAN), cache=tmp_path / "file" / "c", device=OPENS).name == "kvm"


def test_a_device_that_does_not_open_is_reported_and_not_cached(tmp_path: Path) -> None:
    cache = tmp_path / "c"
    accel = probe("qemu-that-is-not-there", cache=cache, device=tmp_path / "none")
    assert (accel.name, cache.exists()) == ("tcg", False)
    assert "has no" in accel.reason
    assert "cannot be opened" in probe("qemu-that-is-not-there", cache=cache, device=tmp_path).reason


def test_no_qemu_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="install QEMU"):
        probe("qemu-that-is-not-there", cache=tmp_path / "c", device=OPENS)


def test_select_uses_the_accelerator_given(tmp_path: Path) -> None:
    assert select("tcg", qemu="qemu-that-is-not-there").name == "tcg"
    with pytest.raises(InputError, match="hvf"):
        select("hvf")


def test_select_insists_on_kvm_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu.accel._KVM", tmp_path / "none")
    assert select("auto", cache=tmp_path / "c").name == "tcg"
    with pytest.raises(BootError, match=r"has no .*; use auto or tcg"):
        select("kvm", cache=tmp_path / "c")


def test_the_rom_starts_sixteen_bytes_below_its_end() -> None:
    rom = debug_exit_rom(0x2A)
    assert len(rom) == 0x10000
    assert rom[-16:-12] == bytes([0xB0, 0x2A, 0xE6, 0xF4])


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.binary(max_size=60) | st.builds(lambda value: json.dumps({"key": "k", "kvm_fault": value}).encode(), st.text())
)
def test_any_cache_file_is_read(data: bytes) -> None:
    assert parse_verdict(data, key="another") is None
    verdict = parse_verdict(data, key="k")
    assert verdict is None or json.loads(data)["kvm_fault"] == verdict.fault
