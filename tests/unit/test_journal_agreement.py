"""The two readers of state devices agree, on damaged devices too; `python -m tests.torture.readers` runs more."""

from __future__ import annotations

from pathlib import Path

from tests.torture.readers import RustReader, compare, devices, run


def test_both_readers_agree_on_damaged_devices(tmp_path: Path) -> None:
    counted = run(5, 60, tmp_path)
    assert counted.total() == 60
    assert min(counted[""], counted["damaged"], counted["foreign"]) > 0


def test_both_readers_agree_on_sound_devices(tmp_path: Path) -> None:
    with RustReader() as rust:
        assert {compare(rust, tmp_path / "device.img", sound) for sound in devices(6, 10)} == {""}
        assert compare(rust, tmp_path / "device.img", bytes(16 << 20)) == "read_only"
