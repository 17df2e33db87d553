from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from qemu.run_folder import create_run_folder, open_run_folder
from qemu.verdict import describe_input
from vboot.errors import InputError


def test_a_new_folder_is_named_after_time_and_process_and_never_shared(tmp_path: Path) -> None:
    first = create_run_folder(base=tmp_path / "run")
    second = create_run_folder(base=tmp_path / "run")
    assert first.path != second.path
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{os.getpid()}(-\d+)?", first.path.name)


def test_an_earlier_run_is_cleared_and_anything_else_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = create_run_folder(run)
    folder.command.write_text("qemu")
    folder.console.write_text("an old console")
    (run / "note.txt").write_text("mine")
    again = create_run_folder(run)
    assert not again.console.exists()
    assert (run / "note.txt").read_text() == "mine"
    with pytest.raises(InputError, match="holds other files"):
        create_run_folder(run)


def test_a_folder_that_cannot_be_made_is_the_users_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        create_run_folder(tmp_path / "file" / "run")


def test_sockets_move_where_a_unix_socket_path_fits(tmp_path: Path) -> None:
    run = tmp_path / ("x" * 100)
    folder = create_run_folder(run)
    assert len(os.fsencode(folder.endpoints.evolution)) <= 107
    assert folder.sockets.is_dir()
    folder.write_json(folder.machine, {})
    assert open_run_folder(run).sockets == folder.sockets
    folder.remove_sockets()
    assert not folder.sockets.exists()
    assert sorted(path.name for path in run.iterdir()) == ["machine.json"]


@pytest.mark.parametrize("name", ["victim", "vboot-victim"])
def test_a_link_that_was_turned_elsewhere_does_not_remove_what_is_there(tmp_path: Path, name: str) -> None:
    folder = create_run_folder(tmp_path / ("x" * 100))
    victim = tmp_path / name
    victim.mkdir(mode=0o755)
    for file in ("note.txt", "evolution.sock"):
        (victim / file).write_text("mine")
    link = folder.path / "sockets"
    link.unlink()
    link.symlink_to(victim)
    folder.write_json(folder.machine, {})
    open_run_folder(folder.path).remove_sockets()
    assert sorted(path.name for path in victim.iterdir()) == ["evolution.sock", "note.txt"]
    assert not link.is_symlink()
    folder.sockets.rmdir()


def test_files_of_others_beside_the_sockets_stay(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / ("x" * 100))
    for path in (folder.endpoints.qmp, folder.sockets / "note.txt"):
        path.touch()
    folder.remove_sockets()
    assert [path.name for path in folder.sockets.iterdir()] == ["note.txt"]
    (folder.sockets / "note.txt").unlink()
    folder.sockets.rmdir()


def test_sockets_stay_in_a_folder_that_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = create_run_folder(Path("r"))
    assert folder.sockets == folder.path == tmp_path / "r"


def test_no_short_folder_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("y" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(InputError, match="TMPDIR"):
        create_run_folder(tmp_path / ("x" * 100))
    assert list(long.iterdir()) == []


def test_opening_what_is_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the run folder"):
        open_run_folder(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "run")
    folder.write_json(folder.verdict, {"a": 1})
    with pytest.raises(TypeError):
        folder.write_json(folder.verdict, {"b": 1, ("no", "name"): 2})
    assert json.loads(folder.verdict.read_bytes()) == {"a": 1}


def test_inputs_are_listed_with_size_and_hash(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"abc")
    with large.open("wb") as file:
        file.truncate((32 << 20) + 1)
    assert describe_input(small)["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_input(large) == {"path": str(large), "bytes": (32 << 20) + 1}
    assert "unreadable" in describe_input(tmp_path / "none")
