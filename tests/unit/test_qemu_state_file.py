"""The file of a state disk: how it is made, and why a file cannot be one."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu.state_file import MIB, StateFile, default_mib, examined, loss
from vboot.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: Path, size_mib: int | None = None) -> str:
    with pytest.raises(InputError) as error:
        examined(path, size_mib=size_mib)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_default_size_is_64_mib_and_four_models() -> None:
    assert default_mib(0) == 64
    assert default_mib(1) == 65
    assert default_mib(MIB // 4) == 65
    assert default_mib(MIB // 4 + 1) == 66
    assert default_mib(90 * MIB) == 424
    assert default_mib(1 << 50) == 65536


def test_a_new_file_is_sparse_zero_and_of_this_user(folder: Path) -> None:
    made = examined(Path("s.img"), size_mib=16).created(size_mib=16, model_bytes=1 << 40)
    assert made == StateFile(Path("s.img"), 16 * MIB)
    status = Path("s.img").stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (16 * MIB, 0, 0o600)
    assert Path("s.img").read_bytes() == bytes(16 * MIB)


def test_a_file_that_is_there_keeps_contents_and_size(folder: Path) -> None:
    Path("s.img").write_bytes(b"x" * 5000)
    assert examined(Path("s.img"), size_mib=None).created(size_mib=None, model_bytes=0).bytes == 5000
    assert Path("s.img").read_bytes() == b"x" * 5000
    assert refusal(Path("s.img"), 16) == (
        "s.img has 5000 bytes, and a size of 16 MiB was asked for; "
        "leave the size out, since a state file keeps it, or name a new file"
    )


def test_what_cannot_be_a_state_file(folder: Path) -> None:
    Path("folder").mkdir()
    assert refusal(Path("folder")) == "folder is a folder, expected a file for the state; name a file"
    os.mkfifo("fifo")
    assert refusal(Path("fifo")) == "fifo is a device or a special file, expected a file for the state; name a file"
    assert "/dev/null is a device" in refusal(Path("/dev/null"))
    assert refusal(Path("none/s.img")) == "there is no folder none for the state file; make it first"
    Path("link").symlink_to("nowhere")
    assert refusal(Path("link")) == "link is a link to a file that is not there; name a file"
    Path("file").touch()
    assert "not a directory" in refusal(Path("file/s.img"))


def test_a_read_only_file(folder: Path) -> None:
    Path("s.img").touch(mode=0o444)
    why = "s.img cannot be the state of a machine: it is read-only; name a file that you may write"
    assert refusal(Path("s.img")) == why


def test_a_size_that_the_file_system_does_not_take_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(InputError, match=r"no space left on device; free some space, or name a file on another disk"):
        examined(Path("s.img"), size_mib=16).created(size_mib=16, model_bytes=0)
    assert not Path("s.img").exists()


def test_a_file_that_appears_meanwhile_is_not_overwritten(folder: Path) -> None:
    place = examined(Path("s.img"), size_mib=16)
    Path("s.img").write_bytes(b"other")
    with pytest.raises(InputError, match="was made by another program just now"):
        place.created(size_mib=16, model_bytes=0)
    assert Path("s.img").read_bytes() == b"other"


def test_the_space_that_a_sparse_file_may_still_take(folder: Path) -> None:
    examined(Path("s.img"), size_mib=16).created(size_mib=16, model_bytes=0)
    assert StateFile(Path("s.img"), 16 * MIB).missing_space() == 0
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    os.truncate("s.img", free + (1 << 40))
    assert StateFile(Path("s.img"), None).missing_space() > 1 << 39


@pytest.fixture
def image(folder: Path) -> Iterator[int]:
    Path("s.img").write_bytes(bytes(4096))
    descriptor = os.open("s.img", os.O_RDWR)
    yield descriptor
    os.close(descriptor)
    # Nothing of ours stays locked, so it can be used when the other has gone.
    assert examined(Path("s.img"), size_mib=None).bytes == 4096


def test_a_file_that_qemu_has_locked(image: int) -> None:
    """QEMU holds a read lock on byte 101 for a disk that it writes to."""
    fcntl.fcntl(image, fcntl.F_OFD_SETLK, struct.pack("@hhqqi0q", fcntl.F_RDLCK, 0, 101, 1, 0))
    assert refusal(Path("s.img")) == (
        "s.img is used by another machine that runs; stop that machine (`vboot ps` lists them), or name another file"
    )


def test_a_file_that_a_listening_machine_has_locked(image: int) -> None:
    fcntl.flock(image, fcntl.LOCK_EX)
    assert "is used by another machine that runs" in refusal(Path("s.img"))


def test_a_file_that_is_no_longer_the_machines_is_noticed(folder: Path) -> None:
    path, other = folder / "state.img", folder / "other.img"
    path.write_bytes(b"state")
    with path.open("rb"):
        assert loss(path, os.getpid()) is None
        path.rename(other)
        assert "deleted or renamed" in str(loss(path, os.getpid()))
        path.write_bytes(b"another")
        assert "another file took its place" in str(loss(path, os.getpid()))
        assert loss(other, os.getpid()) is None
    assert loss(path, 1 << 30) is None, "a process that is not there"
