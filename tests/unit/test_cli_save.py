"""`vboot save` on the real executable: the file equals what the surgeon makes of the same edits, to the byte."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.machine_tensors import SLOTS
from tests.support.local_machine import local_machine, tiny_model
from tests.support.vboot import Vboot, write_gguf
from vboot.client.machine import MachineClient, connect
from vboot.files import atomic_write
from vboot.protocol.messages import JournalRecord, TensorBytes
from vboot.weights.edits import Dense, Edit, Program, Seeded, Sparse

NOISE = Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.3, 0.01)
ELEMENTS = Sparse("token_embd.weight", "set", np.array([0, 77], np.uint64), np.array([0.5, -1], np.float32))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    with local_machine(tmp_path) as local:
        yield local.socket


def mutate(machine: Path, *edits: Edit) -> None:
    with connect(machine) as connected:
        connected.mutate(edits, confidence=1.0)


def exported(folder: Path, *edits: Edit) -> bytes:
    """The plain model of the tiny model with these edits, as `vboot surgeon` makes it."""
    edited, plain = folder / "edited.gguf", folder / "expected.gguf"
    GGUFSurgeon(tiny_model()).apply(edits, output=edited)
    GGUFSurgeon(edited).export(plain)
    return plain.read_bytes()


def test_the_live_weights_as_a_plain_model(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    mutate(machine, NOISE, ELEMENTS)
    assert vboot("save", machine, "--model", tiny_model(), "-o", "out.gguf") == 0, vboot.err
    assert vboot.out.startswith("out.gguf: the weights of generation 1 as a plain model, ")
    assert (tmp_path / "out.gguf").read_bytes() == exported(tmp_path, NOISE, ELEMENTS)
    saved = vboot.json("save", machine, "--model", tiny_model(), "-o", "again.gguf")
    with connect(machine) as connected:
        assert saved["file"]["model"] == connected.digest([]).model
        sizes = {info.name: info.bytes for info in connected.tensors()}
    changed = [name for name in sizes if name.startswith("blk.") and name.endswith(".weight")] + ["token_embd.weight"]
    assert (saved["generation"], saved["fetched"]) == (1, len(changed))
    assert saved["read_bytes"] == sum(sizes[name] for name in changed)  # and nothing else
    assert saved["file"]["output"] == "again.gguf"
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(("tmp", ".vboot"))) == []


def test_a_plain_base_gives_the_same_file(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    GGUFSurgeon(tiny_model()).export(tmp_path / "plain.gguf")
    mutate(machine, NOISE)
    assert vboot("save", machine, "--model", "plain.gguf", "-o", "out.gguf") == 0, vboot.err
    assert (tmp_path / "out.gguf").read_bytes() == exported(tmp_path, NOISE)


def while_reading(monkeypatch: pytest.MonkeyPatch, change: Callable[[MachineClient, int], None]) -> list[str]:
    """Have `change` called after each piece that is read, with their number; the tensors that are read are noted."""
    read: list[str] = []
    plain = MachineClient.pieces

    def pieces(self: MachineClient, tensor: str, **where: Any) -> Iterator[TensorBytes]:
        for piece in plain(self, tensor, **where):
            read.append(tensor)
            yield piece
            change(self, len(read))

    monkeypatch.setattr(MachineClient, "pieces", pieces)
    return read


def test_a_change_meanwhile_is_in_the_file_wholly(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(machine, NOISE)

    def change(client: MachineClient, pieces: int) -> None:
        if pieces == 5:
            client.mutate([ELEMENTS], confidence=1.0)

    read = while_reading(monkeypatch, change)
    assert vboot.json("save", machine, "--model", tiny_model(), "-o", "out.gguf")["generation"] == 2
    assert (tmp_path / "out.gguf").read_bytes() == exported(tmp_path, NOISE, ELEMENTS)
    assert len(read) == len(set(read)) + 1  # only what was read when the change came is read again


def test_weights_that_never_rest_are_no_snapshot(
    vboot: Vboot, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(machine, NOISE)

    def change(client: MachineClient, pieces: int) -> None:
        client.mutate([Dense("token_embd_norm.bias", 0, bytes([pieces, 0, 0, 0]))], confidence=1.0)

    while_reading(monkeypatch, change)
    assert vboot("save", machine, "--model", tiny_model(), "-o", "out.gguf") == 1
    assert "the weights changed 8 times while they were read; try again while nobody changes them" in vboot.err
    assert not (tmp_path / "out.gguf").exists()


def test_an_older_generation(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    """It is read without a change to the machine; the wanted one is neither the first nor the last."""
    mutate(machine, NOISE)
    mutate(machine, ELEMENTS)
    mutate(machine, Dense("token_embd_norm.bias", 0, bytes(4 * 64)), Seeded("blk.*", "0" * 16, "normal", 0.5, 0.1))
    before = [record.generation for record in history(machine)]
    words = ("save", machine, "--model", tiny_model(), "--generation")
    assert vboot.json(*words, "2", "-o", "second.gguf")["generation"] == 2
    assert (tmp_path / "second.gguf").read_bytes() == exported(tmp_path, NOISE, ELEMENTS)
    saved = vboot.json(*words, "0", "-o", "first.gguf")
    assert (saved["generation"], saved["fetched"], saved["read_bytes"]) == (0, 0, 0)
    assert (tmp_path / "first.gguf").read_bytes() == plain(tmp_path)
    assert vboot(*words, "4", "-o", "none.gguf") == 1
    assert "there is no generation 4 yet: the newest is 3 (code 1014)" in vboot.last_error()
    assert not (tmp_path / "none.gguf").exists()
    assert [record.generation for record in history(machine)] == before


def test_several_clients_read_older_generations_at_once(machine: Path) -> None:
    """Each asks for another one, so that the machine rebuilds them in turn, and changes go on."""
    for value in range(4):
        mutate(machine, Dense("token_embd_norm.bias", 0, bytes([value + 1] * 256)))

    def reader(generation: int) -> None:
        with connect(machine) as connected:
            for _ in range(25):
                (piece,) = connected.pieces("token_embd_norm.bias", size=256, generation=generation)
                assert piece.data == bytes([generation] * 256)
                assert connected.digest([], generation=generation).generation == generation
                connected.embed(["a text"])

    def writer() -> None:
        for value in range(25):
            mutate(machine, Dense("token_embd_norm.weight", 0, bytes([value, 0, 0, 0])))

    with ThreadPoolExecutor(4) as pool:
        for done in [*(pool.submit(reader, generation) for generation in (1, 2, 3)), pool.submit(writer)]:
            done.result()


def history(machine: Path) -> list[JournalRecord]:
    with connect(machine) as connected:
        return list(connected.history())


def test_a_base_that_the_machine_was_not_started_with(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    """Its tensors are alike, but its keys may be another model's."""
    GGUFSurgeon(tiny_model()).apply([ELEMENTS], output=tmp_path / "other.gguf")
    mutate(machine, NOISE)
    assert vboot("save", machine, "--model", "other.gguf", "-o", "out.gguf") == 1
    assert vboot.last_error() == (
        "vboot: error: other.gguf is not the model that the machine was started with: token_embd.weight differs; "
        "name that model with --model"
    )


def test_an_evolved_program_is_lost_with_a_warning(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    mutate(machine, Program(min(SLOTS), bytes.fromhex("fa0200ff0000")), NOISE)
    assert vboot("save", machine, "--model", tiny_model(), "-o", "out.gguf") == 0, vboot.err
    assert "warning: the evolved programs in evolved.0 are not in a plain model" in vboot.out
    assert (tmp_path / "out.gguf").read_bytes() == exported(tmp_path, NOISE)


def test_files_stay_as_they_are(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_text("precious")
    words = ("save", machine, "--model", tiny_model(), "-o")
    assert vboot(*words, "mine.gguf") == 1
    assert vboot.last_error() == "vboot: error: mine.gguf is there; name another file, or replace it with --force"
    assert (tmp_path / "mine.gguf").read_text() == "precious"
    assert vboot(*words, "mine.gguf", "--force") == 0
    assert (tmp_path / "mine.gguf").read_bytes() == plain(tmp_path)
    assert vboot(*words, "missing/out.gguf") == 1
    assert "missing takes no file: No such file or directory" in vboot.last_error()
    assert vboot("save", machine, "--model", "mine.gguf", "-o", "mine.gguf", "--force") == 1
    assert "mine.gguf is both input and output" in vboot.last_error()


def plain(folder: Path) -> bytes:
    GGUFSurgeon(tiny_model()).export(folder / "plain.gguf")
    return (folder / "plain.gguf").read_bytes()


def test_a_base_of_another_model_is_refused(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf")
    assert vboot("save", machine, "--model", "other.gguf", "-o", "out.gguf") == 1
    assert "other.gguf has no tensor token_embd.weight, which the machine has" in vboot.last_error()
    assert vboot("save", machine, "-o", "out.gguf") == 1
    assert "is not known here; name its file with --model" in vboot.last_error()


def test_the_base_of_a_run_is_beside_its_image(tmp_path: Path) -> None:
    from cli.base_model import booted_model

    image = tmp_path / "image"
    image.mkdir()
    record = {"inputs": [{"path": str(image / "vmlinuz")}, {"path": str(image / "vector_boot.rts")}]}
    (tmp_path / "machine.json").write_text(json.dumps(record))
    assert booted_model(tmp_path) is None
    (image / "vectorland.gguf").touch()
    assert booted_model(tmp_path) == image / "vectorland.gguf"
    (tmp_path / "machine.json").write_text("{}")
    assert booted_model(tmp_path) is None


def test_a_machine_keeps_the_model_that_it_was_booted_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.base_model import booted_model
    from cli.tensor_names import likely_model
    from qemu.run_folder import create_run_folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    image, folder = tmp_path / "image", create_run_folder(tmp_path / "build" / "run" / "one")
    image.mkdir()
    write_gguf(image / "vectorland.gguf")
    inputs = [{"path": str(image / "vector_boot.rts")}]
    folder.keep_model(image / "nothing")
    assert not folder.model.exists()
    folder.keep_model(image / "vectorland.gguf")
    booted = folder.model.read_bytes()
    folder.command.touch()
    folder.write_json(folder.machine, {"inputs": inputs, "pid": os.getpid(), "run": str(folder.path)})
    assert booted_model(folder.path) == image / "vectorland.gguf"
    with atomic_write(image / "vectorland.gguf") as file:  # as `vboot build` does with another model
        file.write(b"GGUF of another model")
    assert booted_model(folder.path) == folder.model
    assert likely_model() == Path("build/run/one/booted.gguf")
    assert folder.model.read_bytes() == booted
    (image / "vectorland.gguf").unlink()
    assert booted_model(folder.path) == folder.model
    again = create_run_folder(folder.path)
    assert list(again.path.iterdir()) == []
