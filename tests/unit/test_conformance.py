"""The conformance suite against the executable that listens at a socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance import (
    checks_connections,
    checks_edits,
    checks_framing,
    checks_gate,
    checks_journal,
    checks_listening,
    checks_signed,
    checks_state,
    checks_trials,
    checks_uploads,
)
from tests.conformance.client import connected
from tests.conformance.model import write_model
from tests.conformance.registry import Check, checks
from tests.support.local_machine import LocalMachine, local_machine

PATIENCE_S = 120
SHARED = checks(checks_framing, checks_gate, checks_edits, checks_connections)
WITH_CRASHES = checks(checks_state, checks_trials, checks_uploads, checks_journal)
AT_A_SOCKET = checks(checks_listening)
SIGNED = checks(checks_signed)
QUICK = ("--fault", "--heartbeat-ms", "20")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf")


class Shared:
    """One machine for many checks, replaced by a fresh one behind a check that failed: one fault, one failure."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._running = ExitStack()
        self._machine: LocalMachine | None = None

    def machine(self) -> LocalMachine:
        if self._machine is None:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            self._machine = self._running.enter_context(
                local_machine(folder, "--energy", "off", *QUICK, model=self._model)
            )
        return self._machine

    def end(self) -> None:
        self._machine = None
        self._running.close()


@pytest.fixture(scope="module")
def shared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    held = Shared(model, tmp_path_factory.mktemp("machines"))
    yield held
    held.end()


@pytest.mark.parametrize("check", [check for _, check in SHARED], ids=[name for name, _ in SHARED])
def test_conformance(shared: Shared, check: Check) -> None:
    try:
        path = shared.machine().socket
        with connected(path, patience=PATIENCE_S, others=[path] * 15) as client:
            check(client)
    except BaseException:
        shared.end()
        raise


@pytest.mark.parametrize("check", [check for _, check in WITH_CRASHES], ids=[name for name, _ in WITH_CRASHES])
def test_conformance_alone(model: Path, tmp_path: Path, check: Check) -> None:
    with (
        local_machine(tmp_path, "--energy", "off", *QUICK, model=model) as machine,
        connected(machine.socket, patience=PATIENCE_S) as client,
    ):
        check(client)


@pytest.mark.parametrize("check", [check for _, check in AT_A_SOCKET], ids=[name for name, _ in AT_A_SOCKET])
def test_conformance_at_a_socket(model: Path, tmp_path: Path, check: Check) -> None:
    with (
        local_machine(tmp_path, *QUICK, model=model) as machine,
        connected(machine.socket, patience=PATIENCE_S) as client,
    ):
        check(client)


@pytest.mark.parametrize("check", [check for _, check in SIGNED], ids=[name for name, _ in SIGNED])
def test_conformance_with_a_mutation_key(tmp_path: Path, check: Check) -> None:
    model = write_model(tmp_path / "model.gguf", mutation_key=checks_signed.KEY.public_key().public_bytes_raw())
    with (
        local_machine(tmp_path, "--energy", "off", *QUICK, model=model) as machine,
        connected(machine.socket, patience=PATIENCE_S) as client,
    ):
        check(client)
