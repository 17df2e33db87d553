"""Campaigns side by side: what they counted is added up, a violation ends all, and so does an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from tests.torture.cut_jobs import Place, Say, run_jobs

_PATIENCE_S = 60


@dataclass
class Counting:
    """Counts its share of ten. `bad_seed`: of the job that finds a violation; the others wait to be ended then."""

    folder: Path
    bad_seed: int = -1
    counted: Counter[str] = field(default_factory=Counter)

    def work(self, place: Place, say: Say) -> None:
        self.counted["cuts"] += place.share(10)
        say("done")
        if place.seed == self.bad_seed:
            raise ValueError("lost")
        if self.bad_seed >= 0:
            Event().wait(_PATIENCE_S)

    def close(self) -> None:
        self.counted["closed"] += 1


def test_the_counts_are_added_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_jobs(lambda folder, _seed: Counting(folder), seed=5, jobs=3) == 0
    assert "seeds 5 to 7: 3 closed, 10 cuts; 0 violations" in capfd.readouterr().out


def test_a_violation_ends_all_and_keeps_its_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_jobs(lambda folder, _seed: Counting(folder, bad_seed=6), seed=5, jobs=2) == 1
    out, err = capfd.readouterr()
    assert "seeds 5 to 6: 2 closed, 10 cuts; 1 violations" in out
    kept = next(line for line in err.splitlines() if line.startswith("seed 6, cut 5: ValueError: lost"))
    Path(kept.rpartition(" ")[2]).rmdir()


_CHILD = """
from tests.torture.cut_jobs import run_jobs
from tests.unit.test_cut_jobs import Counting
raise SystemExit(run_jobs(lambda folder, _seed: Counting(folder, bad_seed=0), seed=5, jobs=2))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_tells_what_it_has_done(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "done" in child.stderr.readline()
        assert "done" in child.stderr.readline()
        os.kill(child.pid, number)
        out, _err = child.communicate(timeout=_PATIENCE_S)
    assert child.returncode == 130
    assert "seeds 5 to 6: 2 closed, 10 cuts; 0 violations" in out
    assert "interrupted" in out
