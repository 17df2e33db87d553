"""The power-cut tests themselves: that the oracle finds what a machine may not be, and that logs of writes are read."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.support.local_machine import tiny_model
from tests.torture.cut_bodies import Listening, failing_call
from tests.torture.cut_draws import draw_change
from tests.torture.cut_jobs import Place
from tests.torture.cut_oracle import Oracle, Point
from tests.torture.cuts import Campaign, weights
from tests.torture.expectation import DeviationError
from tests.torture.write_log import SECTOR, read_log
from vboot.journal.pages import Model
from vboot.protocol.tables import Code

LOST = {"error": {"code": Code.JOURNAL_FAILED, "message": "full"}}


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(weights(Model(tiny_model())))


def grow(oracle: Oracle, random: Random, count: int) -> list[Point]:
    """Send changes; the state after each, as it is if all are done, the present one first."""
    points = [oracle.head]
    for _ in range(count):
        change = draw_change(random, oracle.head)
        oracle.sent(change)
        after = change.applied(points[-1])
        assert after is not None
        points.append(after)
    return points


def boots_to(oracle: Oracle, point: Point) -> int:
    after = point.rebooted()
    return len(oracle.settle(after.generation, after.promoted, after.digest))


@pytest.mark.parametrize("seed", range(8))
def test_any_first_part_of_what_was_not_acknowledged_may_be_there(oracle: Oracle, seed: int) -> None:
    random = Random(seed)
    points = grow(oracle, random, 12)
    for _ in range(5):
        change = oracle.pending[0]
        after = change.applied(oracle.point)
        assert after is not None
        oracle.acknowledged({"result": {"generation": after.generation, "durable": not after.on_trial}})
    done = random.randint(5, 12)
    assert boots_to(oracle, points[done]) <= done - 5
    after = points[done].rebooted()
    assert (oracle.point.generation, oracle.point.digest) == (after.generation, after.digest)


def test_an_acknowledged_change_that_is_not_there_is_a_violation(oracle: Oracle) -> None:
    points = grow(oracle, Random(1), 3)
    for point in points[1:]:
        oracle.acknowledged({"result": {"generation": point.generation, "durable": not point.on_trial}})
    assert points[3].generation > points[0].generation
    with pytest.raises(DeviationError, match="after the cut it is at generation 0"):
        boots_to(oracle, points[0])


def test_a_change_that_was_half_done_is_a_violation(oracle: Oracle) -> None:
    after = grow(oracle, Random(2), 1)[1]
    with pytest.raises(DeviationError, match="and may be at 0"):
        oracle.settle(after.generation, after.promoted, "0" * 64)


def test_a_change_out_of_order_is_a_violation(oracle: Oracle) -> None:
    """The second of two changes alone."""
    start = oracle.point
    points = grow(oracle, Random(0), 2)
    second = oracle.pending[1]
    assert [change.method for change in oracle.pending] == ["mutate", "mutate"]
    moved = replace(second, params={**second.params, "base_generation": 0})
    alone = moved.applied(start)
    assert alone is not None
    assert alone.digest not in {point.digest for point in points}
    with pytest.raises(DeviationError):
        boots_to(oracle, alone)


def test_a_trial_ends_with_the_power(oracle: Oracle) -> None:
    random = Random(4)
    while not oracle.head.on_trial:
        grow(oracle, random, 1)
    while oracle.pending:
        after = oracle.pending[0].applied(oracle.point)
        assert after is not None
        oracle.acknowledged({"result": {"generation": after.generation, "durable": not after.on_trial}})
    on_trial = oracle.point
    with pytest.raises(DeviationError):
        oracle.settle(on_trial.generation, on_trial.promoted, on_trial.digest)
    after = on_trial.rebooted()
    assert (after.generation, after.on_trial) == (on_trial.generation + 1, False)
    assert boots_to(oracle, on_trial) == 0


def test_replies_that_cannot_be_right(oracle: Oracle) -> None:
    after = grow(oracle, Random(5), 1)[1]
    for reply, why in (
        ({"result": {"generation": 7}}, "made generation 7, expected 1"),
        ({"result": {"generation": after.generation, "durable": False}}, "as not durable"),
        ({"error": {"code": Code.STALE_GENERATION}}, "should be accepted"),
    ):
        again = Oracle(weights(Model(tiny_model())))
        grow(again, Random(5), 1)
        with pytest.raises(DeviationError, match=why):
            again.acknowledged(reply)
    oracle.acknowledged(LOST)
    assert oracle.point.generation == 0


def log_of(*entries: tuple[int, int, bytes]) -> bytes:
    """A log with these entries: sector, flags, data."""
    data = struct.pack("<QQQI", 0x6A736677736872, 1, 0, SECTOR).ljust(SECTOR, b"\0")
    for sector, flags, written in entries:
        data += struct.pack("<QQQQ", sector, len(written) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + written
    return data


def test_a_log_of_writes_is_read_beyond_what_its_head_says(tmp_path: Path) -> None:
    one, two = b"1" * SECTOR, b"2" * 2 * SECTOR
    whole = log_of((3, 0, one), (8, 1, b""), (4, 0, two), (0, 4, b""), (9, 0, one))
    (tmp_path / "log").write_bytes(whole + whole[-100:])
    epochs = read_log(tmp_path / "log").epochs
    assert [[(write.offset, write.data) for write in epoch] for epoch in epochs] == [
        [(3 * SECTOR, one)],
        [(4 * SECTOR, two), (9 * SECTOR, one)],
    ]
    disk = bytearray(16 * SECTOR)
    seen = [(epoch, bytes(disk)) for epoch in read_log(tmp_path / "log").images(disk, Random(1), subsets=5)]
    assert [epoch for epoch, _ in seen] == [0, 0] + [0] * 5 + [1, 1, 1] + [1] * 5
    assert seen[0][1] == bytes(16 * SECTOR)
    assert all(contents[3 * SECTOR : 4 * SECTOR] == one for epoch, contents in seen if epoch == 1)
    assert len({contents for epoch, contents in seen if epoch == 1}) > 3
    (tmp_path / "log").write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match="begins with"):
        read_log(tmp_path / "log")


def test_the_options_that_make_a_call_fail() -> None:
    assert failing_call("flush", 3, once=True) == {
        "set-state": [
            {"event": "flush_to_disk", "state": 1, "new_state": 2},
            {"event": "flush_to_disk", "state": 2, "new_state": 3},
        ],
        "inject-error": [{"event": "flush_to_disk", "iotype": "flush", "state": 3, "errno": 5, "once": True}],
    }


def test_a_listening_machine_is_killed_again_and_again(tmp_path: Path) -> None:
    model, state = tiny_model(), tmp_path / "state.img"
    body = Listening(tmp_path, model, state)
    campaign = Campaign(body, body, Model(model), state, Random(11), 12)
    try:
        campaign.work(Place(0, 1, 11), lambda _what: None)
    finally:
        campaign.close()
    assert campaign.counted["cuts"] >= 12
    assert campaign.counted["acknowledged"] > 0
    assert campaign.counted["replayed in Python"] > 0


def test_a_log_whose_head_is_not_written_yet_has_writes_that_were_not_flushed(tmp_path: Path) -> None:
    one = b"1" * SECTOR
    (tmp_path / "log").write_bytes(bytes(SECTOR) + log_of((3, 0, one))[SECTOR:])
    assert [[(write.offset, write.data) for write in epoch] for epoch in read_log(tmp_path / "log").epochs] == [
        [(3 * SECTOR, one)]
    ]
    (tmp_path / "log").write_bytes(bytes(10))
    assert read_log(tmp_path / "log").epochs == ((),)
