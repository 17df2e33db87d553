"""State, log and pacing of a run: the pure parts of the evolution daemon."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.ctrm.calibration import CalibrationCurve
from evolution.daemon import events as e
from evolution.daemon import identity, run_state
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.follower import change_id
from evolution.daemon.log import EventFile, read_events, text_of
from evolution.daemon.metabolism import Pace
from evolution.daemon.run_folder import EvolutionRunFolder
from evolution.daemon.run_state import Move, RunState
from evolution.fitness.contract import SearchData
from evolution.fitness.retrieval import RetrievalFitness
from tests.support.evolution_run import PLAN, fitness
from vboot.errors import InputError
from vboot.protocol.messages import Lateness, MemoryState, MutationCounts, Stats, SupervisorState, WorkerState
from vboot.weights.edits import LowRank, Program, Seeded, pack

_DIGEST = "ab" * 32
_STATE = RunState(
    base=_DIGEST,
    strategy=b"\x00strategy",
    generation=7,
    evaluations=99,
    snapshot=1,
    best=-1.5,
    kernel="{}",
    curve=CalibrationCurve().record(0.9, True),
    lineage=(
        Move("3.move", "weights", 3, 0.93, _DIGEST, "cd" * 32),
        Move("6.kernel", "kernel", 6, 1.0, _DIGEST, _DIGEST),
    ),
)
_SEEDED = Seeded("*.bias", "00c0ffee00c0ffee", "normal", 0.5, 0.01)


def test_a_state_comes_back() -> None:
    assert run_state.load(run_state.dump(_STATE)) == _STATE
    assert _STATE.models() == (_DIGEST, "cd" * 32, _DIGEST)
    assert _STATE.model == _DIGEST
    assert RunState(_DIGEST, b"").model == _DIGEST


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=300) | st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=4)))
def test_damaged_states_raise_only_input_errors(change: bytes | tuple[int, bytes]) -> None:
    data = run_state.dump(_STATE)
    if isinstance(change, bytes):
        data = change
    else:
        at = change[0] % len(data)
        data = data[:at] + change[1] + data[at + len(change[1]) :]
    _load_or_refuse(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(sorted(json.loads(run_state.dump(_STATE)))), _JSON)
def test_wrong_members_of_a_state_raise_only_input_errors(member: str, value: Any) -> None:
    document = json.loads(run_state.dump(_STATE)) | {member: value}
    _load_or_refuse(json.dumps(document).encode())


def _load_or_refuse(data: bytes) -> None:
    with suppress(InputError):
        state = run_state.load(data)
        assert run_state.load(run_state.dump(state)) == state


def test_edits_come_back_from_the_folder(tmp_path: Path) -> None:
    folder = EvolutionRunFolder(tmp_path / "run")
    rng = np.random.default_rng(1)
    factors = [rng.normal(size=(rows, 2)).astype(np.float32) for rows in (5, 3)]
    edits = (_SEEDED, LowRank("w", 0.5, *factors), Program("evolved.0", b"abc"))
    move = Move("0.move", "weights", 0, 0.9, folder.save_edits(1, edits), _DIGEST)
    assert pack(folder.edits(1, move)) == pack(edits)
    with pytest.raises(InputError, match="cannot be read"):
        folder.edits(2, move)
    folder.close()


def _example(kind: type[Any]) -> e.DaemonEvent:
    values: dict[str, Any] = {"str": "x", "int": 3, "float": 0.25, "bool": True}
    fields = {field.name: str(field.type).split(" ", maxsplit=1)[0] for field in dataclasses.fields(kind)}
    event: e.DaemonEvent = kind(**{name: values[of] for name, of in fields.items()})
    return event


@pytest.mark.parametrize("kind", get_args(e.DaemonEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_a_line_and_comes_back_from_the_log(tmp_path: Path, kind: type[Any]) -> None:
    event = _example(kind)
    assert text_of(event)
    assert "\n" not in text_of(event)
    log = EventFile(tmp_path / "events.jsonl")
    log(event)
    log.close()
    ((_, found),) = read_events(tmp_path / "events.jsonl")
    assert found == event


def test_the_line_of_a_metabolism_event() -> None:
    assert text_of(e.Metabolism(1, 42, 3, 900, 0, 5)).endswith(
        "energy for changes 900 of 1000, and has run 42 pixel instructions"
    )


@settings(derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=40) | _JSON.map(lambda value: json.dumps(value).encode()), max_size=6))
def test_lines_that_are_not_events_are_skipped(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    whole = b'{"time": 1.0, "event": "Returned", "after_s": 2}\n'
    path.write_bytes(b"\n".join(lines) + b"\n" + whole + b'{"time": 1.0, "event": "Ret')
    assert [event for _, event in read_events(path)][-1] == e.Returned(2)


def test_a_log_that_cannot_be_written_or_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        EventFile(tmp_path / "no" / "events.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        next(read_events(tmp_path / "events.jsonl"))


def test_generations_without_progress_lead_to_the_next_stage() -> None:
    state = RunState(_DIGEST, b"")
    for _ in range(3):
        state = state.after_generation(accepted=False)
    assert (state.generation, state.barren) == (3, 3)
    assert state.next_stage(stages=2, barren_generations=3) == 1
    assert state.next_stage(stages=2, barren_generations=4) is None
    assert state.next_stage(stages=1, barren_generations=3) is None
    assert state.after_generation(accepted=True).barren == 0


def _stats(late_us: int) -> Stats:
    return Stats(
        uptime_us=0,
        heartbeats=1,
        heartbeat_period_ms=100,
        heartbeat_late_us=Lateness(0, late_us, late_us, late_us),
        generation=0,
        pixels_processed=0,
        interrupts=0,
        mutations=MutationCounts(0, 0, 0),
        energy=1000,
        worker=WorkerState(1, 0, 0),
        supervisor=SupervisorState(1, 0),
        memory=MemoryState(1, 1),
        phases={},
        cpu_features=(),
        slot=None,
        state="beating",
    )


def test_the_pace_slows_while_heartbeats_come_later_and_later() -> None:
    pace, pauses = Pace(), []
    for late in (1000, 15_000, 30_000, 60_000, 60_000, 60_000, 60_000):
        pace = pace.after(_stats(late))
        pauses.append(pace.pause_s)
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.1, 0.05, 0.0]
    assert Pace().after(_stats(100)).after(_stats(900)).pause_s == 0, "a tenth of the period needs no pause"


def test_the_fingerprint_tells_fitnesses_apart() -> None:
    data = fitness().search
    same = {identity.fingerprint(RetrievalFitness(data, seed=1, batch_size=6)) for _ in range(2)}
    others = [
        RetrievalFitness(data, seed=2, batch_size=6),
        RetrievalFitness(data, seed=1, batch_size=5),
        RetrievalFitness(data, seed=1, batch_size=6, temperature=0.1),
        RetrievalFitness(data, seed=1, batch_size=6, document_chars=10),
        RetrievalFitness(SearchData(data.train, data.calibration, data.watch[:-1]), seed=1, batch_size=6),
    ]
    assert len(same | {identity.fingerprint(other) for other in others}) == 1 + len(others)


def test_ids_of_changes_are_of_the_protocol_and_differ() -> None:
    ids = {change_id(run, number, base) for run in "ab" for number in (1, 2) for base in (1, 2)}
    assert len(ids) == 8
    assert all(len(ident) == 32 and int(ident, 16) >= 0 for ident in ids)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "dead"},
        {"lease_ms": 10},
        {"watched_pairs": 1},
        {"period_s": 0.0},
        {"snapshot_every": 0},
        {"fallback_after": 0},
        {"kernel_every": -1},
        {"generations": -1},
        {"max_evaluations": -1},
        {"max_seconds": -1.0},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the daemon's settings are not valid"):
        DaemonConfig(**wrong)


def test_a_plan_needs_a_tier_and_repeats() -> None:
    with pytest.raises(InputError, match="no tier"):
        StrategyPlan("random_search", ())
    assert PLAN.tier(3) is PLAN.tiers[0]
