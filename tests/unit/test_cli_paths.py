"""Every verb with every file name that a file system allows, and later verbs with what earlier ones printed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemu.accel import Accel
from qemu.launch import attach, start
from qemu.spec import Disk, MachineSpec
from tests.support import fake_qemu
from tests.support.file_names import ODD_NAMES, ODDEST_NAME
from tests.support.local_machine import LocalMachine, local_machine, tiny_model
from tests.support.vboot import Vboot, write_gguf
from vboot.errors import BootError
from vboot.text import parse_path

FAST = Accel("kvm", "a fake needs no emulation")

odd_name = pytest.mark.parametrize("name", [*ODD_NAMES.values(), ODDEST_NAME], ids=[*ODD_NAMES, "everything"])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    with local_machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture(autouse=True)
def _own_register(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of an earlier test with the same name is not found."""
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("register")))


@pytest.fixture
def odd(tmp_path: Path, name: str) -> Path:
    """A folder of that name."""
    folder = tmp_path / name
    folder.mkdir()
    return folder


def same_file(described: Any, path: Path) -> bool:
    """Whether what an answer holds is UTF-8, and a path option would take it as this path."""
    described.encode()
    return parse_path(described).absolute() == path.absolute()


@odd_name
def test_a_run_folder(vboot: Vboot, odd: Path, name: str) -> None:
    (odd / "kernel").write_bytes(b"")
    (odd / "disk").write_bytes(bytes(4096))
    program = fake_qemu.install(odd, "well")
    run = odd / name
    spec = MachineSpec(kernel=odd / "kernel", disks=(Disk(odd / "disk", "vb-rts", read_only=True),))
    with start(spec, accel=FAST, run=run, qemu=program, detach=True) as machine:
        described = json.loads(json.dumps(machine.describe()))
        assert same_file(described["run"], run)
        assert same_file(described["console"], run / "console.log")
        assert parse_path(described["evolution"]).is_socket()
        assert parse_path(described["qmp"]).is_socket()
        machine.release()
    json.loads((run / "machine.json").read_text("utf-8"))
    with attach(run) as again:
        assert again.pid == described["pid"]
        assert again.describe() == described
    # What was printed is what the next verb is given.
    answer = vboot.json("stop", described["run"], "--timeout", "60")
    assert same_file(answer["run"], run)
    assert answer["how"].startswith("by its power button (")
    with pytest.raises(BootError):
        attach(run)
    assert vboot("stop", run) == 0
    assert vboot.out.removesuffix("\n").isprintable()
    assert vboot.json("history", run, code=1)["error"]["type"] == "EndedMachineError"


@odd_name
def test_a_run_folder_named_as_it_is_seen_from_inside(
    vboot: Vboot, odd: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    vboot.json("boot", "--image", name, "--run", name, "--accel", "tcg", code=1)
    assert "is not there" in vboot.last_error()
    assert vboot.last_error().isprintable()
    assert vboot("stop", name) == 1
    assert vboot.last_error().endswith("is not the run folder of a machine; give the folder that boot printed")


@odd_name
def test_an_evolution_socket(
    vboot: Vboot, odd: Path, name: str, local: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = odd / name
    socket.hardlink_to(local.socket)
    recipe = odd / "recipe.json"
    edit = {"kind": "sparse", "tensor": "token_embd.weight", "op": "set", "indices": [0], "values": [0.5]}
    recipe.write_text(json.dumps({"edits": [edit]}))
    (odd / "new").write_bytes(b"\0\x38")
    embedded = vboot.json("embed", socket, "a text", "--npy", odd / "e.npy")
    assert same_file(embedded["npy"], odd / "e.npy")
    made = vboot.json("mutate", socket, "--dense", f"token_embd.weight@0=@{odd / 'new'}", "--confidence", "0.9")
    assert vboot.json("rollback", socket, "--to", "0")["generation"] == made["generation"] + 1
    assert vboot.json("mutate", socket, "--recipe", recipe, "--confidence", "0.9", "--dry-run")["changed_bytes"] <= 2
    assert vboot.json("history", socket)["records"]
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert vboot("shell", socket) == 0


@odd_name
def test_files(vboot: Vboot, odd: Path, name: str, image: Path) -> None:
    model = write_gguf(odd / "plain.gguf")
    rts = odd / name
    rts.write_bytes((image / "vector_boot.rts").read_bytes())
    shown = vboot.json("inspect", rts)
    assert same_file(shown["file"], rts)
    assert vboot.json("verify", shown["file"])["kind"] == "rts"
    halves = vboot.json("extract", rts, "--tensors", odd / "t.gguf", "--binary", odd / "b.elf")
    assert same_file(halves["tensors"]["path"], odd / "t.gguf")
    packed = vboot.json("repack", rts, "--tensors", halves["tensors"]["path"], "-o", odd / "new.rts")
    assert vboot.json("inspect", packed["file"])["kind"] == "rts"
    edit = ("--set", "weights[0]=7")
    edited = vboot.json("surgeon", "apply", model, *edit, "-o", odd / "edited.gguf")
    assert vboot.json("surgeon", "verify", edited["output"], "--against", model, *edit)["model"] == edited["model"]
    assert vboot("inspect", rts) == vboot("verify", rts) == 0
    assert all(line.isprintable() for line in vboot.out.splitlines())
    assert vboot("inspect", odd / "gone") == 1
    assert vboot.last_error().isprintable()


def test_composing_and_building(vboot: Vboot, tmp_path: Path) -> None:
    source = tmp_path / ODDEST_NAME
    source.write_bytes(tiny_model().read_bytes())
    output = tmp_path / f"o{ODDEST_NAME}"
    made = vboot.json("compose", "--model", source, "-o", output)
    assert any(same_file(file, output) for file in made["files"])
    output.unlink()
    built = vboot.json("build", "--model", source, "--output", output)
    assert all(parse_path(file).is_file() for file in built["files"])
    assert vboot("verify", output / "vector_boot.rts") == 0
    assert vboot.json("build", "--model", source, "--output", built["output"], "--dry-run")["steps"][0]["ran"] is False


def test_evolving(vboot: Vboot, tmp_path: Path) -> None:
    folder = tmp_path / ODDEST_NAME
    folder.mkdir()
    model = folder / "model.gguf"
    model.write_bytes(tiny_model().read_bytes())
    lines = [{"query": f"q {number} {number % 7}", "document": f"d {number} {number % 7}"} for number in range(160)]
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--model", model, "--data", data, "--tier", "output", "--batch", "4", "--generations", "1")
    described = vboot.json(
        "evolve", "--file", folder / "out.gguf", "--folder", folder / "run", *words, "--option", "pairs=2"
    )
    assert same_file(described["folder"], folder / "run")
    again = vboot.json("evolve", "--report", described["folder"], "--no-report")
    assert again["generations"] == 1
