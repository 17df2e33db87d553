"""What is computed here is what the machine does, and what it would refuse is known before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.local_machine import local_machine
from tests.support.scripted_peer import HELLO, Host, Peer
from vboot.client.machine import MachineClient, connect
from vboot.client.prediction import predict, verify
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.framing import Message
from vboot.protocol.messages import Changed
from vboot.weights.arithmetic import EditError
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse

RANDOM = np.random.default_rng(5)
EDITS: dict[str, list[Edit]] = {
    "normal": [Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.3, 0.01)],
    "dense": [Dense("token_embd.weight", 64, bytes(range(64)))],
    "sparse": [Sparse("blk.0.attn_q.weight", "add", np.array([0, 9], np.uint64), np.array([0.1, -3], np.float32))],
    "low_rank": [
        LowRank(
            "blk.0.ffn_up.weight",
            0.1,
            RANDOM.normal(size=(128, 3)).astype(np.float32),
            RANDOM.normal(size=(64, 3)).astype(np.float32),
        )
    ],
    "program": [Program("evolved.3", bytes([250, 10, 0]))],
}
EDITS["all of them"] = [edit for edits in EDITS.values() for edit in edits]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[MachineClient]:
    with local_machine(tmp_path) as local, connect(local.socket) as connected:
        yield connected


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_a_mutation_does_what_was_predicted(machine: MachineClient, edits: list[Edit]) -> None:
    before = machine.digest().model
    reported: list[tuple[str, int, int]] = []
    prediction = predict(machine, edits, confidence=0.9, progress=lambda *what: reported.append(what))
    assert machine.digest().model == before
    assert reported[-1][1] == reported[-1][2] > 0
    made = machine.mutate(edits, confidence=0.9, base_generation=prediction.base_generation, digest=True)
    assert made.sha256 == prediction.sha256
    assert made.changed == Changed(len(prediction.sha256), prediction.changed_bytes)
    verify(machine, made, prediction)
    verify(machine, replace(made, sha256=None), prediction)
    machine.rollback(prediction.base_generation)
    assert machine.digest().model == before


def test_what_differs_is_named(machine: MachineClient) -> None:
    prediction = predict(machine, EDITS["dense"], confidence=0.9)
    made = machine.mutate(EDITS["dense"], confidence=0.9, digest=True)
    for otherwise in ({"token_embd.weight": "00" * 32}, {}):
        with pytest.raises(
            MachineError, match=r"'token_embd.weight'.*differ from the prediction; roll back to generation 0"
        ):
            verify(machine, made, replace(prediction, sha256=otherwise))
    with pytest.raises(MachineError, match=f"{prediction.changed_bytes} bytes changed, not 1 and 5"):
        verify(machine, made, replace(prediction, changed_bytes=5))
    machine.mutate(EDITS["normal"], confidence=0.9)
    with pytest.raises(MachineError, match="changed again before they were checked"):
        verify(machine, replace(made, sha256=None), prediction)


BLOCK = bytes(2)
REFUSED: dict[str, tuple[int, list[Edit], float, int | None]] = {
    "stale": (1007, EDITS["dense"], 0.5, 7),
    "doubtful": (1006, EDITS["dense"], 0.8, None),
    "beyond sure": (1006, EDITS["dense"], 1.5, None),
    "too many": (1013, EDITS["dense"] * 257, 0.9, None),
    "unknown": (1001, [Dense("nothing", 0, BLOCK)], 0.9, None),
    "matches nothing": (1001, [Seeded("nothing.*", "00" * 8, "normal", 1, 1)], 0.9, None),
    "matches protected ones only": (1001, [Seeded("kernel.*", "00" * 8, "normal", 1, 1)], 0.9, None),
    "protected": (1002, [Dense("hw.mmio", 0, bytes(4))], 0.9, None),
    "outside": (1003, [Dense("token_embd.weight", 1 << 20, BLOCK)], 0.9, None),
    "misaligned": (1004, [Dense("token_embd.weight", 1, BLOCK)], 0.9, None),
    "infinite": (1005, [Dense("token_embd.weight", 0, b"\x00\x7c")], 0.9, None),
    "no change": (1008, [Seeded("blk.*", "00" * 8, "normal", 0, 1)], 0.9, None),
    "wrong type": (1019, [Seeded("token_embd.weight", "00" * 8, "step", 1, 1)], 0.9, None),
}


@pytest.mark.parametrize(("code", "edits", "confidence", "base"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_predicted(
    machine: MachineClient, code: int, edits: list[Edit], confidence: float, base: int | None
) -> None:
    with pytest.raises(EditError) as predicted:
        predict(machine, edits, confidence=confidence, base_generation=base)
    with pytest.raises(RequestRefusedError) as refused:
        machine.mutate(edits, confidence=confidence, base_generation=base)
    assert predicted.value.code == refused.value.code == code


@pytest.mark.parametrize(("code", "hello"), [(1016, {"emergency": "no model"}), (1010, {"signed": True})])
def test_machines_that_take_no_mutation(code: int, hello: dict[str, object]) -> None:
    host = Host(
        hello=lambda peer, message: peer.reply(message, {**HELLO, **hello}),
        tensors=lambda peer, message: peer.reply(message, {"tensors": [], "next": None}),
    )
    with pytest.raises(EditError) as caught:
        predict(MachineClient(host.open), EDITS["dense"], confidence=0.9)
    assert caught.value.code == code


def test_weights_of_two_generations_are_not_mixed() -> None:
    info = {"type": "F32", "shape": [2], "bytes": 8, "protected": False}
    tensors = {"tensors": [{"name": name, **info} for name in ("a", "b")], "next": None}

    def changing(generations: Iterator[int]) -> MachineClient:
        def read(peer: Peer, message: Message) -> None:
            peer.reply(message, {**message.members["params"], "generation": next(generations)}, bytes(8))

        return MachineClient(Host(read=read, tensors=lambda peer, message: peer.reply(message, tensors)).open)

    edits = [Dense(name, 0, b"\1\0\0\0") for name in ("a", "b")]
    prediction = predict(changing(iter([2, 3, 2, 2])), edits, confidence=0.9)  # hello says 2
    assert (prediction.base_generation, len(prediction.sha256), prediction.changed_bytes) == (2, 2, 2)
    with pytest.raises(MachineError, match="kept changing"):
        predict(changing(itertools.count(3)), edits, confidence=0.9)
