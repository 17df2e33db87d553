"""A run of the evolution daemon: its decisions and files, which no interruption changes."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing.context
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from evolution.ctrm.contract import CtrmLimits
from evolution.daemon import events as e
from evolution.daemon.body import BridgeBody, FileBody, SocketBody
from evolution.daemon.config import Admission, StrategyPlan
from evolution.daemon.log import read_events
from evolution.strategies.tiers import Tier
from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.machine_tensors import MACHINE_TENSORS
from tests.support import llama_cpp
from tests.support.evolution_run import (
    PLAN,
    Events,
    body_digest,
    daemon,
    evolve,
    fitness,
    fresh_body,
    run_alone,
    small_model,
)
from tests.support.local_machine import local_machine
from vboot.errors import InputError

_GENERATIONS = 6


class _Death(BaseException):
    """Simulates a crash of the daemon."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[e.Stopped, Events]:
    """A run to which nothing happens, and its events."""
    seen = Events()
    stopped = evolve(tmp_path_factory.mktemp("undisturbed"), generations=_GENERATIONS, listener=seen)
    assert stopped.accepted >= 3, "the tests need moves"
    return stopped, seen


def test_a_run_improves_the_body_and_leaves_the_model(tmp_path: Path, undisturbed: tuple[e.Stopped, Events]) -> None:
    body, seen = fresh_body(), Events()
    evolver = daemon(tmp_path, body, generations=_GENERATIONS, listener=seen)
    stopped = evolver.run()
    assert stopped == undisturbed[0]
    assert body_digest(body) == stopped.model == GGUFSurgeon(evolver.result).digest()
    ended = seen.of(e.GenerationEnded)
    assert [event.generation for event in ended] == list(range(_GENERATIONS))
    assert ended[-1].fitness > ended[0].fitness or ended[0].accepted
    assert [event.fitness for event in ended] == sorted(event.fitness for event in ended)
    assert stopped.evaluations == len(seen.of(e.Evaluated)) == 4 * _GENERATIONS


def test_events_are_reported_in_order_and_logged(tmp_path: Path) -> None:
    seen = Events()
    evolve(tmp_path, generations=2, listener=seen, period_s=60.0)
    kinds = [type(event).__name__ for event in seen]
    assert kinds[:4] == ["Started", "Connected", "Recovered", "Metabolism"]
    accepted = kinds[kinds.index("Applied") - 1 :][:6]
    assert accepted == ["Judged", "Applied", "Acknowledged", "Promoted", "Acknowledged", "GenerationEnded"]
    assert kinds[-1] == "Stopped"
    assert [event for _, event in read_events(tmp_path / "events.jsonl")] == list(seen)


@pytest.mark.parametrize("mode", ["live", "trial"])
def test_a_stopped_run_resumes_with_the_same_result(
    tmp_path: Path, mode: str, undisturbed: tuple[e.Stopped, Events]
) -> None:
    body = fresh_body()
    seen = Events(lambda event: first.stop() if isinstance(event, e.Evaluated) and event.evaluations == 10 else None)
    first = daemon(tmp_path, body, generations=_GENERATIONS, listener=seen, mode=mode)
    paused = first.run()
    assert (paused.why, paused.generation) == ("stopped", 2)
    assert len(seen.of(e.Evaluated)) == 10
    assert body_digest(body) == paused.model
    again = Events()
    assert evolve(tmp_path, body, generations=_GENERATIONS, listener=again, mode=mode) == undisturbed[0]
    started, recovered = again.of(e.Started)[0], again.of(e.Recovered)[0]
    assert (started.resumed, started.generation, started.accepted) == (True, 2, paused.accepted)
    assert (recovered.what, recovered.how) == ("body", "nothing")
    assert body_digest(body) == undisturbed[0].model


@pytest.mark.parametrize("at", ["Judged", "Applied", "Promoted", "GenerationEnded", "Acknowledged"])
def test_a_run_resumed_after_a_crash_at_an_event_ends_the_same(
    tmp_path: Path, at: str, undisturbed: tuple[e.Stopped, Events]
) -> None:
    """The body keeps its state, such as an open trial."""
    body = fresh_body()

    def die(event: e.DaemonEvent) -> None:
        if type(event).__name__ == at:
            raise _Death

    with pytest.raises(_Death):
        evolve(tmp_path, body, generations=_GENERATIONS, listener=die)
    assert evolve(tmp_path, body, generations=_GENERATIONS) == undisturbed[0]
    assert body_digest(body) == undisturbed[0].model


def test_a_run_that_is_killed_at_random_ends_the_same(tmp_path: Path) -> None:
    rng = random.Random(20)
    generations = 12
    folder = tmp_path / "killed"
    small_model()  # made once, not in every child
    killed = 0
    for _ in range(6):
        # A fork: importing everything anew would take longer than the run.
        place = rng.randrange(2, 30), rng.uniform(0.0001, 0.02)
        process = multiprocessing.get_context("fork").Process(
            target=_run_until_killed, args=(folder, generations, *place)
        )
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGPROF)
        killed += process.exitcode != 0
    assert killed >= 3, "the run was interrupted too few times"
    assert evolve(folder, generations=generations) == evolve(tmp_path / "straight", generations=generations)


def _run_until_killed(folder: Path, generations: int, events: int, cpu_s: float) -> None:
    """A run that the kernel ends when it has used `cpu_s` seconds of processor time after so many events.

    Processor time does not depend on the load of the host, and SIGPROF can end the process at any instruction.
    """
    left = events

    def count(_event: e.DaemonEvent) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, cpu_s)

    run_alone(folder, generations, listener=count)


def test_repeated_crashes_of_the_body_do_not_change_the_result(
    tmp_path: Path, undisturbed: tuple[e.Stopped, Events]
) -> None:
    body = fresh_body()

    def kill(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Applied | e.Judged | e.Promoted) and body.pid is not None:
            os.kill(body.pid, signal.SIGKILL)

    seen = Events(kill)
    assert evolve(tmp_path, body, generations=_GENERATIONS, listener=seen) == undisturbed[0]
    assert len([event for event in seen.of(e.Recovered) if event.what == "body"]) >= 3
    assert body_digest(body) == undisturbed[0].model


def test_repeated_crashes_of_the_shadow_do_not_change_the_result(
    tmp_path: Path, undisturbed: tuple[e.Stopped, Events]
) -> None:
    own = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    body = fresh_body()
    count = 0

    def kill(event: e.DaemonEvent) -> None:
        nonlocal count
        if isinstance(event, e.Evaluated | e.Judged):
            count += 1
            for pid in _children() - own - {body.pid} if count % 3 == 0 else ():
                os.kill(pid, signal.SIGSEGV)

    seen = Events(kill)
    assert evolve(tmp_path, body, generations=_GENERATIONS, listener=seen) == undisturbed[0]
    recovered = [event for event in seen.of(e.Recovered) if event.what == "shadow"]
    assert len(recovered) >= 3
    assert {event.how for event in recovered} <= {"nothing", "rollback"}


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_machine_behind_a_socket_loses_its_worker_and_ends_the_same(
    tmp_path: Path, undisturbed: tuple[e.Stopped, Events]
) -> None:
    with local_machine(tmp_path, "--fault", model=small_model()) as machine:
        body = SocketBody(machine.socket)
        workers: list[int] = []

        def kill(event: e.DaemonEvent) -> None:
            if isinstance(event, e.Metabolism) and (stats := evolver.get_stats()) is not None:
                workers.append(stats.worker.pid)
            if isinstance(event, e.Applied) and workers:
                os.kill(workers[-1], signal.SIGSEGV)

        evolver = daemon(tmp_path / "run", body, generations=_GENERATIONS, listener=kill)
        assert evolver.run() == undisturbed[0]
        with body.open(5.0) as client:
            assert client.digest([]).model == undisturbed[0].model
            assert client.stats().worker.restarts >= 2


def test_a_file_is_a_body_too(tmp_path: Path, undisturbed: tuple[e.Stopped, Events]) -> None:
    output = tmp_path / "evolved.gguf"
    seen = Events()
    body = FileBody(small_model(), output)
    stopped = daemon(tmp_path / "run", body, generations=_GENERATIONS, mode="file", listener=seen).run()
    assert stopped == undisturbed[0]
    assert GGUFSurgeon(output).digest() == stopped.model
    assert len(seen.of(e.Applied)) == stopped.accepted
    assert not MACHINE_TENSORS & GGUFSurgeon(output).tensors().keys(), "it is a plain model"
    parameters, width = llama_cpp.load(output)
    assert (parameters, width) == (sum(math.prod(t.shape) for t in GGUFSurgeon(output).tensors().values()), 48)
    output.unlink()
    evolve(tmp_path / "run", body, generations=_GENERATIONS, mode="file")
    assert GGUFSurgeon(output).digest() == stopped.model, "it is made again"


def test_a_run_on_a_file_can_go_on_and_be_compared_with_its_model(
    tmp_path: Path, undisturbed: tuple[e.Stopped, Events]
) -> None:
    output = tmp_path / "evolved.gguf"
    body = FileBody(small_model(), output)
    for generations in (2, _GENERATIONS):
        stopped = evolve(tmp_path / "run", body, generations=generations, mode="file")
        assert GGUFSurgeon(output).digest() == stopped.model
    assert stopped == undisturbed[0]
    found = GGUFSurgeon(small_model()).diff(output)
    assert found.models == (GGUFSurgeon(small_model()).digest(), stopped.model)
    changed = {each.name for each in found.tensors if None not in each.types}
    assert changed
    assert all(name.endswith(("_norm.weight", ".bias")) for name in changed), "what the tier moves"
    assert {each.name for each in found.tensors} - changed == MACHINE_TENSORS


def test_a_run_goes_the_same_way_from_a_plain_model(tmp_path: Path, undisturbed: tuple[e.Stopped, Events]) -> None:
    model, output = tmp_path / "plain.gguf", tmp_path / "evolved.gguf"
    GGUFSurgeon(small_model()).export(model)
    stopped = daemon(
        tmp_path / "run", FileBody(model, output), model=model, generations=_GENERATIONS, mode="file"
    ).run()
    assert stopped == undisturbed[0]
    assert GGUFSurgeon(output).digest() == stopped.model


def test_snapshots_bound_the_moves_that_are_replayed(tmp_path: Path, undisturbed: tuple[e.Stopped, Events]) -> None:
    for generations in (2, 4, _GENERATIONS):
        stopped = evolve(tmp_path, generations=generations, snapshot_every=1)
    assert stopped == undisturbed[0]
    (snapshot,) = tmp_path.glob("model-*.gguf")
    assert GGUFSurgeon(snapshot).digest() == stopped.model
    snapshot.write_bytes(b"GGUF torn")
    assert evolve(tmp_path, generations=_GENERATIONS) == undisturbed[0], "the way from the model is left"


def test_a_tier_without_progress_is_left(tmp_path: Path) -> None:
    tiers = tuple(Tier(name, "normal", ("*.bias",), sigma=1e-12) for name in ("first", "second"))
    plan = StrategyPlan("random_search", tiers, options={"proposals": 2})
    settings: dict[str, Any] = {"plan": plan, "barren_generations": 2, "admission": Admission(least_gain=1.0)}
    seen, again = Events(), Events()
    straight = evolve(tmp_path / "a", generations=5, listener=seen, **settings)
    assert [event.text[-6:] for event in seen.of(e.Steered) if event.what == "tier"] == ["second", " first"]
    evolve(tmp_path / "b", generations=3, **settings)
    assert evolve(tmp_path / "b", generations=5, listener=again, **settings) == straight
    assert again.of(e.Started)[0].tier == "second"


def test_a_kernel_is_found_injected_and_checked(tmp_path: Path) -> None:
    # CTRM minds that a kernel found for a handful of texts brings them nearer to each other; here that does not matter.
    loose = CtrmLimits(**{field.name: 10**9 for field in dataclasses.fields(CtrmLimits)})
    admission = Admission(limits=loose)
    settings: dict[str, Any] = {"kernel_every": 2, "kernel_generations": 5, "kernel_gain": 0.0, "admission": admission}
    body, seen = fresh_body(), Events()
    stopped = evolve(tmp_path / "a", body, generations=3, listener=seen, **settings)
    injected = seen.of(e.KernelInjected)
    assert injected
    assert injected[0].after > injected[0].before
    assert body_digest(body) == stopped.model
    evolve(tmp_path / "b", generations=2, **settings)
    assert evolve(tmp_path / "b", generations=3, **settings) == stopped
    output, to_file = tmp_path / "evolved.gguf", Events()
    onto_file = FileBody(small_model(), output)
    assert evolve(tmp_path / "c", onto_file, generations=3, mode="file", listener=to_file, **settings) == stopped
    (warning,) = to_file.of(e.Alarm)
    assert warning.text == f"{output} is a plain model, so it does not hold the evolved kernels of the run"
    assert not MACHINE_TENSORS & GGUFSurgeon(output).tensors().keys()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"plan": StrategyPlan("random_search", PLAN.tiers, 6, PLAN.options)}, "seed 5, not 6"),
        ({"fitness": fitness(2)}, "began with other pairs .* or begin a new run with --folder DIR"),
        ({"admission": Admission(least_gain=0.5)}, "the admission"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    evolve(tmp_path, generations=1)
    with pytest.raises(InputError, match=named):
        evolve(tmp_path, generations=2, **settings)


def test_a_first_start_that_failed_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    wrong = dataclasses.replace(PLAN, options={"proposals": -1})
    with pytest.raises(InputError, match="proposals"):
        evolve(tmp_path, plan=wrong, generations=1)
    assert evolve(tmp_path, generations=1).generation == 1


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    def second(event: e.DaemonEvent) -> None:
        if isinstance(event, e.Started):
            with pytest.raises(InputError, match="another daemon works"):
                evolve(tmp_path, BridgeBody(small_model()), generations=1)

    assert evolve(tmp_path, generations=1, listener=second).generation == 1


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": 1', b"[]", b"\xff\xfe"])
def test_an_incomplete_state_is_refused(tmp_path: Path, data: bytes) -> None:
    evolve(tmp_path, generations=1)
    (tmp_path / "state.json").write_bytes(data)
    with pytest.raises(InputError, match="the state of the run cannot be used"):
        evolve(tmp_path, generations=2)


def test_an_incomplete_last_line_of_the_log_is_removed(tmp_path: Path) -> None:
    evolve(tmp_path, generations=1)
    log = tmp_path / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"time": 1, "event": "Appl')
    evolve(tmp_path, generations=2)
    assert log.read_bytes().startswith(whole + b'{"time"')
    assert all(json.loads(line) for line in log.read_bytes().splitlines())


def test_a_move_whose_edits_were_changed_is_noticed(tmp_path: Path) -> None:
    stopped = evolve(tmp_path, generations=_GENERATIONS)
    assert stopped.accepted
    for path in tmp_path.glob("model-*.gguf"):
        path.unlink()
    move = tmp_path / "moves" / "000001.move"
    move.write_bytes(move.read_bytes().replace(b"0.05", b"0.06"))
    with pytest.raises(InputError, match="has been changed"):
        evolve(tmp_path, generations=_GENERATIONS + 1)


def test_a_mode_must_fit_its_body(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file"):
        daemon(tmp_path, BridgeBody(small_model()), mode="file")
