"""The conformance suite against one booted machine, over its evolution port."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cli import main
from qemu.machine import VirtualMachine
from tests.boot.conftest import BUILD, Image, SharedMachine
from tests.conformance import (
    checks_connections,
    checks_edits,
    checks_framing,
    checks_gate,
    checks_journal,
    checks_state,
    checks_trials,
    checks_uploads,
)
from tests.conformance.client import connected
from tests.conformance.model import write_model
from tests.conformance.registry import Check, checks
from vboot.port_files import port_sockets

PATIENCE_S = 300
WORKER_REST_S = 1.5
AWAY_S = 0.1
CHECKS = checks(
    checks_framing, checks_gate, checks_edits, checks_uploads, checks_state, checks_trials, checks_journal,
    checks_connections,
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedMachine]:
    model = write_model(tmp_path_factory.mktemp("model") / "model.gguf")
    folder = BUILD / "conformance"
    assert main(["build", "--model", str(model), "--output", str(folder)]) == 0
    image = Image(folder)
    append = "vector_boot.energy=off vector_boot.fault=1 vector_boot.heartbeat_ms=20"
    with SharedMachine(image.spec(append=append)) as machine:
        yield machine


@pytest.fixture
def machine(shared: SharedMachine) -> VirtualMachine:
    return shared.machine()


@pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])
def test_conformance(machine: VirtualMachine, check: Check) -> None:
    first, *others = port_sockets(machine.evolution)
    with connected(first, patience=PATIENCE_S, rest=WORKER_REST_S, gap=AWAY_S, others=others) as client:
        check(client)
    time.sleep(AWAY_S)
