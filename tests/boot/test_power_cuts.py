"""A few power cuts of real machines with a state device; `make torture` does many (levels D, E, F of docs/proof.md)."""

from __future__ import annotations

from pathlib import Path

from tests.boot.conftest import Image
from tests.torture.cut_faults import FaultRun
from tests.torture.cut_jobs import Place
from tests.torture.cut_writes import logged_campaign
from tests.torture.cuts import Campaign, campaign
from tests.torture.readers import RustReader


def run(cuts: Campaign) -> None:
    try:
        cuts.work(Place(0, 1, 0), lambda _what: None)
    finally:
        cuts.close()
    assert cuts.counted["cuts"] >= cuts.cuts
    assert cuts.counted["acknowledged"] > 0


def test_nothing_acknowledged_is_lost_when_qemu_is_killed(tiny: Image, tmp_path: Path) -> None:
    run(campaign(tmp_path, tiny.folder, seed=21, cuts=4))


def test_no_state_of_the_disk_between_two_flushes_is_wrong(tiny: Image, tmp_path: Path) -> None:
    with RustReader() as rust:
        cuts = logged_campaign(tmp_path, tiny.folder, rust, seed=22, cuts=2)
        run(cuts)
    assert cuts.counted["states"] > 20


def test_changes_stop_after_an_error_of_the_disk(tiny: Image, tmp_path: Path) -> None:
    faults = FaultRun(tmp_path, tiny.folder, 23)
    try:
        assert faults.fail("blank", "flush", 6, once=True)
        assert faults.fail("filled", "write", 5, once=False)
    finally:
        faults.close()
    assert faults.counted["refused"] >= 12
    assert faults.counted["errors that stop changes"] == 2
