"""How the surgeon opens and replaces files: judged before and after, whole or not at all, and without much memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.executable import executable_path
from evolution.surgeon import GGUFSurgeon
from evolution.surgeon.runtime_check import runtime_check
from image.rts_file import write_rts
from tests.support.gguf_models import extents, normal, read, write_model
from tests.support.rts_vectors import GGUF
from vboot.errors import InputError, ToolError, VbootError
from vboot.weights.edits import Seeded

EDITS = [Seeded("*", "00c0ffee00c0ffee", "normal", 0.5, 0.1)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf", {"a": normal(5, 32), "b": normal(7)})


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_in_place(file: Path) -> None:
    expected = GGUFSurgeon(file).apply(EDITS)
    file.chmod(0o640)
    surgeon = GGUFSurgeon(file)
    report = surgeon.apply(EDITS, in_place=True)
    assert (report.output, report.model) == (str(file), expected.model)
    assert GGUFSurgeon(file).digest() == report.model
    assert file.stat().st_mode & 0o777 == 0o640
    assert entries(file.parent) == ["model.gguf"]
    with pytest.raises(InputError, match="was changed by another process in the meantime; open it again"):
        surgeon.apply(EDITS, in_place=True)
    assert GGUFSurgeon(file).digest() == report.model
    file.unlink()
    with pytest.raises(InputError, match="was changed by another process in the meantime"):
        surgeon.apply(EDITS, in_place=True)


def test_through_a_link(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    before = GGUFSurgeon(file).digest()
    GGUFSurgeon(link).apply(EDITS, in_place=True)
    assert link.is_symlink()
    assert GGUFSurgeon(file).digest() != before


def test_sources_are_not_overwritten_by_name(file: Path, tmp_path: Path) -> None:
    surgeon = GGUFSurgeon(file)
    surgeon.apply(EDITS, output=tmp_path / "other")
    (tmp_path / "link").hardlink_to(file)
    operations: list[Callable[[], object]] = [
        lambda: surgeon.apply(EDITS, output=file),
        lambda: surgeon.apply(EDITS, output=tmp_path / "link"),
        lambda: surgeon.merge([tmp_path / "other"], output=tmp_path / "other"),
        lambda: surgeon.crossover(tmp_path / "other", seed="00" * 8, output=file),
    ]
    for operate in operations:
        with pytest.raises(InputError, match="is both input and output"):
            operate()
    with pytest.raises(InputError, match="give one of them"):
        surgeon.apply(EDITS, output=tmp_path / "new", in_place=True)
    with pytest.raises(InputError, match=r"cannot write .*gone/out"):
        surgeon.apply(EDITS, output=tmp_path / "gone" / "out")


# A child that the kernel kills, or refuses, at the write which would pass a size.
_LIMITED = """
import os, resource, signal, sys
from pathlib import Path
from vboot.weights.edits import Seeded
from evolution.surgeon import GGUFSurgeon
from vboot.errors import InputError
path, kill = Path(sys.argv[1]), sys.argv[2] == "kill"
surgeon = GGUFSurgeon(path)
edits = [Seeded("*", "00c0ffee00c0ffee", "normal", 0.5, 0.1)]
for limit in map(int, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kill else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            surgeon.apply(edits, in_place=True)
        except InputError as error:
            os._exit(7 if "cannot write" in str(error) else 8)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(limit, status, path.read_bytes().hex())
"""


@pytest.mark.parametrize(("how", "ending"), [("kill", -25), ("refuse", 7)])
def test_a_write_that_fails_anywhere_leaves_the_old_file(file: Path, how: str, ending: int) -> None:
    old, size = file.read_bytes(), file.stat().st_size
    limits = [*range(0, size, 197), size - 1]
    command = [sys.executable, "-c", _LIMITED, str(file), how, *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for line, limit in zip(done.stdout.splitlines(), limits, strict=True):
        assert line.split() == [str(limit), str(ending), old.hex()]
    if how == "refuse":
        assert entries(file.parent) == [file.name]
    done = subprocess.run([*command[:5], str(size)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[1] == "0"
    assert file.read_bytes() != old


def test_what_the_parser_refuses_afterwards_does_not_appear(file: Path) -> None:
    def strict(path: Path) -> Mapping[str, Any]:
        if path != file:
            raise InputError(f"{path}: R22: refused")
        return runtime_check(path)

    old = file.read_bytes()
    with pytest.raises(VbootError, match=r"the new file for .*model\.gguf is refused: .*R22.*report this bug"):
        GGUFSurgeon(file, check=strict).apply(EDITS, in_place=True)
    assert (file.read_bytes(), entries(file.parent)) == (old, [file.name])


def test_a_write_that_did_not_reach_the_file_is_detected(file: Path, tmp_path: Path) -> None:
    def forgetful(path: Path) -> Mapping[str, Any]:
        if path != file:
            data = bytearray(path.read_bytes())
            data[extents(file)["b"].start] ^= 1
            path.write_bytes(data)
        return runtime_check(path)

    with pytest.raises(VbootError, match="does not have the computed digest; check the disk"):
        GGUFSurgeon(file, check=forgetful).apply(EDITS, output=tmp_path / "out")
    assert entries(file.parent) == [file.name]


# Hostile files


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "cannot be read: No such file or directory; check the path"),
        (Path.mkdir, "is not a regular file; name a GGUF file"),
        (os.mkfifo, "is not a regular file; name a GGUF file"),
        (Path.touch, r": R\d+: .*; get a sound copy of the file"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(100)), r": R2: .*; get a sound copy of the file"),
        (lambda path: path.write_bytes(GGUF[:30]), r": R\d+: .*; get a sound copy of the file"),
        (lambda path: path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 2**60)), r": R3: .*; get a sound"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, file: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path / "bad")
    surgeon = GGUFSurgeon(file)
    operations: list[Callable[[Path], object]] = [
        GGUFSurgeon,
        surgeon.diff,
        lambda path: surgeon.merge([path]),
        lambda path: surgeon.verify(path, EDITS),
    ]
    for operate in operations:
        with pytest.raises(InputError, match=f"bad ?{why}") as caught:
            operate(tmp_path / "bad")
        assert "\n" not in str(caught.value)


def test_a_name_that_the_system_refuses_is_refused(file: Path) -> None:
    for name in ("x" * 300, f"{file}/below"):
        with pytest.raises(InputError, match=r"cannot be read: (File name too long|Not a directory); check the path"):
            GGUFSurgeon(Path(name))


def test_an_rts_file_is_not_a_gguf_file(file: Path, tmp_path: Path) -> None:
    write_rts(tmp_path / "model.rts", binary=executable_path(), tensors=file)
    with pytest.raises(InputError, match=r"is an RTS file; extract its model with `vboot extract --tensors`"):
        GGUFSurgeon(tmp_path / "model.rts")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_valid(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    sound = write_model(folder / "sound", {"a": normal(2, 32), "b": normal(3)}).read_bytes()
    damaged = bytearray(sound)
    for at in data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=3)):
        damaged[at % len(sound)] = data.draw(st.integers(0, 255))
    (folder / "damaged").write_bytes(damaged[: data.draw(st.integers(0, len(sound)) | st.just(len(sound)))])
    try:
        surgeon = GGUFSurgeon(folder / "damaged")
    except InputError:
        return
    try:
        surgeon.requantise({"*": "F16"}, output=folder / "out")
    except InputError:
        return
    assert GGUFSurgeon(folder / "out").digest() != surgeon.digest()
    read(folder / "out")


# The executable, and memory


def test_the_executable_can_be_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTOR_BOOT_EXECUTABLE", str(executable_path()))
    GGUFSurgeon(file)
    monkeypatch.setenv("VECTOR_BOOT_EXECUTABLE", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"there is no executable of the runtime at .*gone; correct VECTOR_BOOT_EXEC"):
        GGUFSurgeon(file)
    monkeypatch.setenv("VECTOR_BOOT_EXECUTABLE", "/bin/false")
    with pytest.raises(ToolError, match="ended with exit status 1 and no report"):
        GGUFSurgeon(file)


def test_a_small_edit_of_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    large, small = ("F16", (1 << 14, 1 << 11), bytes(1 << 26)), normal(64, 64)
    path = write_model(tmp_path / "large", {"large": large, "small": small})
    measured = []

    def anonymous() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    start = anonymous()
    surgeon = GGUFSurgeon(path, progress=lambda *_: measured.append(anonymous()))
    surgeon.apply([Seeded("small", "00" * 8, "normal", 1, 0.1)], output=tmp_path / "out")
    assert len(measured) > 16  # looked at while it was copied
    assert max(measured) - start < 1 << 23
