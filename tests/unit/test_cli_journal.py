"""`vboot journal`: what it prints of a state device, what it refuses, and the file that it writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.state_devices import SIZE, StateWriter
from tests.support.state_histories import History, drawn
from tests.support.vboot import Vboot
from tests.torture.expectation import model_digest
from vboot.gguf import read_layout
from vboot.journal.pages import Model
from vboot.journal.tables import AREA_START, BLOCK


@pytest.fixture
def vboot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vboot:
    monkeypatch.chdir(tmp_path)
    return Vboot(capsys)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    history = drawn(tmp_path_factory.mktemp("history"), 7, 6)
    history.promote()
    return history


@pytest.fixture
def state(vboot: Vboot, history: History) -> Path:
    Path("s.img").write_bytes(history.writer.data)
    Path("model.gguf").write_bytes(history.model.data)
    return Path("s.img")


def digest(history: History, generation: int) -> str:
    return model_digest({name: hashlib.sha256(each.data).digest() for name, each in history.states[generation].items()})


def test_show(vboot: Vboot, state: Path, history: History) -> None:
    assert vboot("journal", "show", "s.img", "--json") == 0
    shown = json.loads(vboot.out)
    assert (shown["state"], shown["generation"], shown["promoted"]) == ("sound", history.generation, history.generation)
    assert shown["free_bytes"] == SIZE - AREA_START - history.writer.offset
    assert [boot["boot"] for boot in shown["boots"]] == [1]
    last = shown["entries"][-1]
    assert (last["kind"], last["id"], last["origin"]) == ("promote", f"{history.requests:032x}", "test")
    assert last["offset"] == AREA_START + history.writer.offset - BLOCK + 160
    assert vboot("journal", "show", "s.img") == 0
    assert f"generation {history.generation}, promoted {history.generation}\n" in vboot.out
    assert vboot.out.splitlines()[-1].split()[2:4] == ["promote", str(history.generation)]


def test_verify(vboot: Vboot, state: Path, history: History) -> None:
    assert vboot("journal", "verify", "s.img") == 0
    assert "s.img: sound: " in vboot.out
    assert "the weights were not computed (--model, --image)" in vboot.out
    assert vboot("journal", "verify", "s.img", "--model", "model.gguf", "--json") == 0
    assert json.loads(vboot.out)["model"] == digest(history, history.generation)


def test_a_damaged_middle_is_named_in_one_line(vboot: Vboot, state: Path, history: History) -> None:
    data = bytearray(history.writer.data)
    data[AREA_START + 200] ^= 1
    state.write_bytes(data)
    assert vboot("journal", "verify", "s.img") == 1
    assert vboot.last_error().startswith(
        f"vboot: error: s.img: offset {AREA_START}: frame 0: it is not right, and frame"
    )
    assert vboot.last_error().endswith("; restore a copy of the device, or boot the machine with a new one")
    assert vboot("journal", "show", "s.img") == 0
    assert f"fault: offset {AREA_START}: frame 0" in vboot.out
    assert vboot("journal", "replay", "s.img", "--model", "model.gguf", "-o", "out.gguf") == 1
    assert not Path("out.gguf").exists()


def test_a_log_that_does_not_replay_is_named_in_one_line(vboot: Vboot, state: Path, history: History) -> None:
    from vboot.journal.entries import Kind

    writer = StateWriter(file=hashlib.sha256(history.model.data).digest())
    writer.frame(writer.entry(Kind.PROMOTE, generation=3))
    state.write_bytes(writer.data)
    assert vboot("journal", "verify", "s.img") == 0
    assert vboot("journal", "verify", "s.img", "--model", "model.gguf") == 1
    expected = f"vboot: error: s.img: offset {AREA_START + 160}: entry 0 (promote): its generation is 3, expected 0"
    remedy = "restore a copy of the device, or boot the machine with a new one"
    assert vboot.last_error() == f"{expected}; {remedy}"


def test_replay_writes_the_newest_promoted_generation_or_another(vboot: Vboot, state: Path, history: History) -> None:
    assert vboot("journal", "replay", "s.img", "--model", "model.gguf", "-o", "out.gguf", "--json") == 0
    answer = json.loads(vboot.out)
    assert (answer["generation"], answer["model"]) == (history.generation, digest(history, history.generation))
    check_file(Path("out.gguf"), history, history.generation)
    assert vboot("journal", "replay", "s.img", "--model", "model.gguf", "-o", "out.gguf") == 1
    assert "out.gguf is there; name another file, or replace it with --force" in vboot.last_error()
    words = ["--model", "model.gguf", "-o", "out.gguf", "--force", "--generation"]
    assert vboot("journal", "replay", "s.img", *words, "0") == 0
    assert Path("out.gguf").read_bytes() == Path("model.gguf").read_bytes()
    assert vboot("journal", "replay", "s.img", *words, "999") == 1
    assert "generation 999 cannot be computed from what the device holds" in vboot.last_error()


def test_replay_never_replaces_what_it_reads(vboot: Vboot, state: Path, history: History) -> None:
    Path("link.img").symlink_to("s.img")
    before = state.read_bytes(), Path("model.gguf").read_bytes()
    for name, what in {"s.img": "state device", "link.img": "state device", "model.gguf": "model"}.items():
        assert vboot("journal", "replay", "s.img", "--model", "model.gguf", "-o", name, "--force") == 1
        assert vboot.last_error().startswith(f"vboot: error: {name} is the {what}")
    assert (state.read_bytes(), Path("model.gguf").read_bytes()) == before


def check_file(path: Path, history: History, generation: int) -> None:
    data = path.read_bytes()
    for tensor in read_layout(memoryview(data), name="out").tensors:
        expected = history.states[generation][tensor.name].data
        assert data[tensor.offset : tensor.offset + tensor.size] == expected
    changed = {name for name, each in history.states[generation].items() if each.data != history.states[0][name].data}
    assert changed, "the history changes nothing"


def test_a_copy_that_was_cut_short(vboot: Vboot, state: Path, history: History) -> None:
    state.write_bytes(history.writer.data[: AREA_START + history.writer.offset])
    assert vboot("journal", "verify", "s.img") == 1
    assert "superblock" in vboot.last_error()
    assert vboot("journal", "replay", "s.img", "--model", "model.gguf", "-o", "out.gguf") == 0
    assert "was cut short" in vboot.err
    check_file(Path("out.gguf"), history, history.generation)


def test_another_model_is_refused(vboot: Vboot, state: Path, history: History) -> None:
    data = bytearray(history.model.data)
    data[-1] ^= 1
    Path("other.gguf").write_bytes(data)
    assert vboot("journal", "replay", "s.img", "--model", "other.gguf", "-o", "out.gguf") == 1
    both = (history.model.sha256().hex(), Model(Path("other.gguf")).sha256().hex())
    assert all(each in vboot.last_error() for each in both)


def test_what_is_no_state_device(vboot: Vboot) -> None:
    Path("other").write_bytes(b"x" * SIZE)
    for verb in ("show", "verify"):
        assert vboot("journal", verb, "other") == 1
        assert "other: offset 0: superblocks: neither is one of a state device" in vboot.last_error()
        assert vboot.last_error().endswith("; name the file of a state device")
    assert vboot("journal", "show", "none") == 1
    assert "none cannot be read: no such file or directory" in vboot.last_error()
    Path("blank").write_bytes(bytes(SIZE))
    assert vboot("journal", "show", "blank") == 0
    assert vboot.out == "blank: 16.0 MiB, blank: a machine will format it\n"
    assert vboot("journal", "verify", "blank") == 0


def test_an_image_is_found_by_its_folder(vboot: Vboot, state: Path, history: History) -> None:
    assert vboot("journal", "replay", "s.img", "-o", "out.gguf") == 1
    assert "build contains no vectorland.gguf; name the machine's image with --image" in vboot.last_error()
    Path("build").mkdir()
    Path("build/vectorland.gguf").write_bytes(history.model.data)
    assert vboot("journal", "replay", "s.img", "-o", "out.gguf") == 0
