"""Two shells, a loop that embeds and an evolve run on one machine, as `make together` does for ten minutes."""

from __future__ import annotations

from pathlib import Path

from tests.support.local_machine import local_machine, tiny_model
from tests.torture.together import report, use_together


def test_programs_use_one_machine_at_the_same_time(tmp_path: Path) -> None:
    with local_machine(tmp_path) as machine:
        outcome = use_together(machine.socket, tmp_path, minutes=0.03, model=str(tiny_model()), quiet_s=0.1)
        assert outcome.is_good, report(outcome)
        assert [work.name for work in outcome.work] == ["shell 1", "shell 2", "embed loop", "evolve"]
