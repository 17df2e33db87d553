"""Clients and bridges in forked processes: refused there, and not disturbed in the process that made them."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.local_machine import LocalMachine, local_machine
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient, connect
from vboot.weights.edits import Seeded

NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=0.5, scale=1e-2)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def bridge(library: Path) -> Iterator[RustNeuralBridge]:
    with RustNeuralBridge(library=library) as bridge:
        bridge.initialize()
        yield bridge


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    with local_machine(tmp_path_factory.mktemp("machine")) as local:
        yield local


def refusals(calls: dict[str, Callable[[], object]], *, close: Callable[[], None]) -> dict[str, str]:
    """What each call raises in a forked process, which then closes and collects everything."""
    here, there = FORK.Pipe()

    def forked() -> None:
        raised = {}
        for name, call in calls.items():
            try:
                call()
                raised[name] = "nothing"
            except Exception as error:
                raised[name] = f"{type(error).__name__}: {error}"
        close()
        gc.collect()
        there.send(raised)

    process = FORK.Process(target=forked)
    process.start()
    raised: dict[str, str] = here.recv()
    process.join()
    assert process.exitcode == 0
    return raised


def calls_of(machine: MachineClient) -> dict[str, Callable[[], object]]:
    return {
        "stats": machine.stats,
        "mutate": lambda: machine.mutate([NOISE], confidence=0.9),
        "embed": lambda: machine.embed(["a text"]),
        "cancel": lambda: machine.cancel("1"),
        "events": lambda: list(machine.events(timeout=0)),
        "is_alive": machine.is_alive,
        "shutdown": machine.shutdown,
    }


def test_a_forked_process_cannot_use_the_bridge_and_does_not_disturb_it(bridge: RustNeuralBridge) -> None:
    with bridge.client() as machine:
        machine.mutate([NOISE], confidence=0.9)
        pid, digest = bridge.pid, machine.digest().model
        calls = calls_of(machine) | {
            "initialize": bridge.initialize,
            "execute_pixels": lambda: bridge.execute_pixels(b""),
            "get_stats": bridge.get_stats,
            "tensors": bridge.tensors,
            "client": bridge.client,
        }

        def close() -> None:
            assert bridge.pid is None
            machine.close()
            bridge.close()

        for name, raised in refusals(calls, close=close).items():
            assert raised.startswith("ForkedProcessError: this "), name
            assert "make a new one in the forked process" in raised
        assert machine.stats().generation == 1
        assert machine.mutate([NOISE], confidence=0.9).generation == 2
        machine.rollback(1)
        assert (bridge.pid, machine.digest().model) == (pid, digest)
        assert machine.stats().worker.restarts == 0


def test_a_forked_process_can_make_its_own(bridge: RustNeuralBridge, library: Path) -> None:
    here, there = FORK.Pipe()

    def forked() -> None:
        with RustNeuralBridge(library=library) as own:
            own.initialize()
            with own.client() as machine:
                there.send(machine.mutate([NOISE], confidence=0.9).generation)

    process = FORK.Process(target=forked)
    process.start()
    assert here.recv() == 1
    process.join()
    assert (process.exitcode, bridge.get_stats().generation) == (0, 0)


def test_a_forked_process_cannot_use_a_connection_and_does_not_close_it(local: LocalMachine) -> None:
    with connect(local.socket) as machine:
        before = machine.stats().worker
        for name, raised in refusals(calls_of(machine), close=machine.close).items():
            assert raised.startswith("ForkedProcessError: this client belongs to process"), name
        assert machine.stats().worker.restarts == before.restarts
        assert machine.is_alive()


def test_the_end_of_the_first_process_is_noticed_while_a_forked_one_lives(local: LocalMachine, library: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import connect
bridge = RustNeuralBridge(library=Path({str(library)!r}))
bridge.initialize()
machine = connect(Path({str(local.socket)!r}))
pid = bridge.pid
if os.fork() == 0:
    sys.stdin.read()
    sys.exit()
print(pid, flush=True)
os._exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout is not None
        runtime = Path(f"/proc/{int(first.stdout.readline())}/stat")
        # The forked process waits for the end of its input, which comes when this block ends.
        until = time.monotonic() + 60
        while runtime.exists() and runtime.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < until, "the runtime outlives the process that started it"
            time.sleep(0.01)


def test_the_normal_exit_of_a_forked_process_changes_nothing(library: Path) -> None:
    program = f"""
import os
from pathlib import Path
from vboot.client.bridge import RustNeuralBridge
bridge = RustNeuralBridge(library=Path({str(library)!r}))
bridge.initialize()
pid = bridge.pid
machine = bridge.client()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert machine.stats().worker.restarts == 0
    assert bridge.pid == pid
    print("well")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")
