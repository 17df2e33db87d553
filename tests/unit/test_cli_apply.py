"""`vboot apply` on the real executable: the machine gets a file's weights, to the bit, by few bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.surgeon import GGUFSurgeon
from evolution.transfer import apply as transfer
from tests.support.local_machine import local_machine, tiny_model
from tests.support.vboot import Vboot, write_gguf
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.messages import JournalRecord, Mutation
from vboot.weights.edits import Dense, Edit, Program, Seeded, Sparse

NOISE = Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.3, 0.01)
ELEMENTS = Sparse("token_embd.weight", "set", np.array([0, 7777], np.uint64), np.array([0.5, -1], np.float32))
BIAS = Dense("token_embd_norm.bias", 0, bytes.fromhex("0000803f"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    with local_machine(tmp_path) as local:
        yield local.socket


def edited(folder: Path, *edits: Edit, name: str = "file.gguf") -> Path:
    GGUFSurgeon(tiny_model()).apply(edits, output=folder / name)
    return folder / name


def mutate(machine: Path, *edits: Edit) -> None:
    with connect(machine) as connected:
        connected.mutate(edits, confidence=1.0)


def model(machine: Path) -> str:
    with connect(machine) as connected:
        return connected.digest([]).model


def history(machine: Path) -> list[JournalRecord]:
    with connect(machine) as connected:
        return list(connected.history())


def test_a_machine_gets_the_weights_of_a_file(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    file = edited(tmp_path, NOISE, ELEMENTS)
    mutate(machine, BIAS)  # something of its own, that goes
    applied = vboot.json("apply", machine, file)
    assert model(machine) == GGUFSurgeon(file).digest() == applied["model"]
    assert (applied["base_generation"], applied["generation"], applied["mutations"]) == (1, 2, 1)
    assert "token_embd_norm.bias" in applied["tensors"]
    (record,) = [each for each in history(machine) if each.generation == 2]
    assert (record.kind, record.origin, record.edits) == ("mutate", "vboot apply", applied["edits"])
    with connect(machine) as connected:
        assert connected.hello().promoted == 2
    assert vboot("apply", machine, file) == 0
    assert vboot.out == f"generation 2 has the weights of {file} already; nothing was changed\n"
    assert vboot.json("apply", machine, file)["equal"] is True
    assert len(history(machine)) == 3


def test_few_bytes_are_sent(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    file = edited(tmp_path, ELEMENTS, BIAS)
    planned = vboot.json("apply", machine, file, "--dry-run", "--model", tiny_model())
    assert planned["dry_run"] is True
    assert planned["read_bytes"] == 0  # the machine has what the base holds
    assert planned["bytes"] <= 2 * 12 + 4
    with connect(machine) as connected:
        sizes = {info.name: info.bytes for info in connected.tensors()}
    read = vboot.json("apply", machine, file, "--dry-run")["read_bytes"]
    assert read == sizes["token_embd.weight"] + sizes["token_embd_norm.bias"]
    assert vboot("apply", machine, file, "--dry-run") == 0
    assert vboot.out.startswith("would change generation 0: 2 tensors by ")
    assert [record.kind for record in history(machine)] == ["boot"]


def test_a_plain_model_too(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    GGUFSurgeon(edited(tmp_path, NOISE)).export(tmp_path / "plain.gguf")
    assert vboot("apply", machine, "plain.gguf") == 0, vboot.err
    assert model(machine) == GGUFSurgeon(tmp_path / "plain.gguf").digest()
    assert vboot("save", machine, "--model", tiny_model(), "-o", "saved.gguf") == 0
    assert (tmp_path / "saved.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_a_trial(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    file = edited(tmp_path, BIAS)
    assert vboot("apply", machine, file, "--lease", "60") == 0
    assert "on trial for 60 s: then taken back, unless it is promoted\n" in vboot.out
    with connect(machine) as connected:
        assert (connected.hello().generation, connected.hello().promoted) == (1, 0)
    assert vboot.json("apply", machine, edited(tmp_path, NOISE, name="other.gguf"))["on_trial"] is True
    assert vboot("apply", machine, file, "--lease", "0") == 1
    assert "expected a lease of at least 0.001 s" in vboot.last_error()


def test_the_machines_own_tensors_stay(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    file = edited(tmp_path, Program("evolved.0", bytes.fromhex("fa0200ff0000")), BIAS)
    assert vboot("apply", machine, file) == 0
    assert "evolved.0 differs too, but belongs to the machine and stays as it is" in vboot.out
    with connect(machine) as connected:
        assert connected.read("evolved.0").data == bytes(4096)


def conflicting(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str | None]:
    """Another client changes the weights just before each of the first `times` mutations; the ids are noted."""
    plain = MachineClient.mutate
    ids: list[str | None] = []

    def mutate_after(self: MachineClient, edits: Sequence[Edit], **options: Any) -> Mutation:
        ids.append(options["id"])
        if len(ids) <= times:
            plain(self, [Dense("token_embd_norm.bias", 4, bytes([len(ids), 0, 0, 0]))], confidence=1.0)
        return plain(self, edits, **options)

    monkeypatch.setattr(MachineClient, "mutate", mutate_after)
    return ids


def test_one_change_by_another_client_is_taken_into_account(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = edited(tmp_path, NOISE)
    ids = conflicting(monkeypatch, 1)
    assert vboot.json("apply", machine, file)["base_generation"] == 1
    assert model(machine) == GGUFSurgeon(file).digest()
    assert len(ids) == 2


def test_more_are_told(vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conflicting(monkeypatch, 2)
    assert vboot("apply", machine, edited(tmp_path, NOISE)) == 1
    assert vboot.last_error() == (
        "vboot: error: other clients changed the weights 2 times in the meantime; try again when they are done"
    )


def limited(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Have the planner believe in smaller limits, so that small files need several mutations."""
    plain = transfer._parts

    def parts(found: Any, known: Any) -> Any:
        return plain(found, dataclasses.replace(known, **limits))

    monkeypatch.setattr(transfer, "_parts", parts)


@pytest.mark.parametrize("limits", [{"edits": 3}, {"upload": 8192}, {"line": 2600}])
def test_what_does_not_fit_one_mutation_is_a_chain(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    file = edited(tmp_path, NOISE, ELEMENTS)
    limited(monkeypatch, **limits)
    applied = vboot.json("apply", machine, file)
    assert model(machine) == GGUFSurgeon(file).digest()
    assert applied["mutations"] > 1
    made = [record for record in history(machine) if record.kind == "mutate"]
    assert len(made) == applied["mutations"]
    if "edits" in limits:
        assert max(record.edits for record in made) <= 3
    with connect(machine) as connected:
        assert connected.hello().promoted == applied["generation"]


def test_a_chain_is_promoted_as_a_whole_or_on_trial(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = edited(tmp_path, NOISE)
    limited(monkeypatch, edits=3)
    promoted: list[int] = []
    plain = MachineClient.mutate

    def watch(self: MachineClient, edits: Sequence[Edit], **options: Any) -> Mutation:
        made = plain(self, edits, **options)
        promoted.append(self.hello().promoted)
        return made

    monkeypatch.setattr(MachineClient, "mutate", watch)
    applied = vboot.json("apply", machine, file, "--lease", "60")
    assert set(promoted) == {0}
    assert applied["on_trial"] is True
    assert vboot("apply", machine, edited(tmp_path, BIAS, name="other.gguf")) == 0
    assert "part of the trial that was open: taken back with it unless it is promoted\n" in vboot.out


@pytest.mark.parametrize("code", [1012, 1017])
def test_no_memory_for_the_change(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def poor(_self: MachineClient, _edits: Sequence[Edit], **_options: Any) -> Mutation:
        raise RequestRefusedError(code, "too large for the memory of the machine", None)

    monkeypatch.setattr(MachineClient, "mutate", poor)
    assert vboot("apply", machine, edited(tmp_path, NOISE)) == 1
    assert vboot.last_error().startswith("vboot: error: the machine has no memory for a change of ")
    assert vboot.last_error().endswith("boot it with more: `vboot boot --memory MIB`")


def test_a_chain_that_fails_is_taken_back(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(machine, ELEMENTS)
    before = model(machine)
    limited(monkeypatch, edits=3)
    plain = MachineClient.mutate
    made: list[int] = []

    def full(self: MachineClient, edits: Sequence[Edit], **options: Any) -> Mutation:
        if len(made) == 2:
            raise RequestRefusedError(1015, "the journal is full", None)
        made.append(1)
        return plain(self, edits, **options)

    monkeypatch.setattr(MachineClient, "mutate", full)
    assert vboot("apply", machine, edited(tmp_path, NOISE)) == 1
    assert "the journal is full" in vboot.last_error()
    assert "the machine is back at the weights of generation 1; " in vboot.last_error()
    assert model(machine) == before
    with connect(machine) as connected:
        assert connected.hello().promoted == connected.hello().generation == 4


def meddled(monkeypatch: pytest.MonkeyPatch, others: dict[int, dict[str, Any]], fails: int | None = None) -> None:
    """Another client makes a mutation (its options) before those of these numbers; `fails`: one that is refused."""
    plain = MachineClient.mutate
    number = 0

    def mutate_after(self: MachineClient, edits: Sequence[Edit], **options: Any) -> Mutation:
        nonlocal number
        number += 1
        if number == fails:
            raise RequestRefusedError(1015, "the journal is full", None)
        if number in others:
            plain(self, [Dense("token_embd_norm.bias", 4, bytes([number, 0, 0, 0]))], confidence=1.0, **others[number])
        return plain(self, edits, **options)

    monkeypatch.setattr(MachineClient, "mutate", mutate_after)


def test_a_chain_with_a_change_by_another_client_is_not_taken_back(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(machine, ELEMENTS)
    limited(monkeypatch, edits=3)
    meddled(monkeypatch, {2: {}}, fails=4)  # generation 2 is the chain's, 3 the other client's, 4 the chain's
    assert vboot("apply", machine, edited(tmp_path, NOISE)) == 1
    assert "the journal is full" in vboot.last_error()
    assert "is not taken back, as other clients changed the weights, too (see `vboot history`); " in vboot.last_error()
    assert [record.kind for record in history(machine) if record.verdict == "applied"][-3:] == ["mutate"] * 3
    with connect(machine) as connected:
        assert connected.hello().generation == 4
        assert connected.read("token_embd_norm.bias").data[4:8] == bytes([2, 0, 0, 0])


def test_the_base_of_a_chain_is_what_the_machine_had_before_it(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = edited(tmp_path, NOISE)
    limited(monkeypatch, edits=3)
    meddled(monkeypatch, {2: {}})
    assert vboot("apply", machine, file) == 0
    assert vboot.out.endswith(f"next: vboot rollback {machine} --generation 0    # takes it back\n")
    assert model(machine) == GGUFSurgeon(file).digest()
    with connect(machine) as connected:
        assert connected.hello().promoted == connected.hello().generation


def test_a_trial_that_another_client_opens_before_a_chain_is_not_promoted(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, edits=3)
    meddled(monkeypatch, {1: {"lease_ms": 600_000}})
    assert vboot("apply", machine, edited(tmp_path, NOISE)) == 0
    assert "part of the trial that was open: taken back with it unless it is promoted\n" in vboot.out
    with connect(machine) as connected:
        assert connected.hello().promoted == 0


def test_other_files_are_refused(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf")
    GGUFSurgeon(tiny_model()).requantise({"blk.0.attn_q.weight": "F32"}, output=tmp_path / "typed.gguf")
    for words, expected in (
        (("other.gguf",), "other.gguf has no tensor token_embd.weight, which the machine has"),
        (("typed.gguf",), "blk.0.attn_q.weight is F16 [64, 64] in the machine, F32 [64, 64] in typed.gguf"),
        (("gone.gguf",), "gone.gguf"),
        ((tmp_path,), "is not a regular file"),
        ((edited(tmp_path, BIAS), "--confidence", "0.8"), "code 1006"),
    ):
        assert vboot("apply", machine, *words) == 1
        assert expected in vboot.last_error()
    assert [record.verdict for record in history(machine)] == ["applied", "refused"]
    assert vboot("apply", machine, "a.gguf", "b.gguf") == 2
    assert "expected a machine and a file, got 3 words" in vboot.last_error()
    assert vboot("apply", "1", "a.gguf") == 2
    assert "a generation is named with --generation 1" in vboot.last_error()
