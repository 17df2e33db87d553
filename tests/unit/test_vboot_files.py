"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vboot.errors import InputError
from vboot.files import atomic_write, named_errors


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for content in (b"first", b"second, longer", b""):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert leftovers(tmp_path) == ["out"]


def test_seeking_back_is_possible(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_write(path) as file:
        file.write(bytes(4) + b"body")
        file.seek(0)
        file.write(b"head")
    assert path.read_bytes() == b"headbody"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), SystemExit(3)])
def test_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the new con")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["out"]


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_mode_honours_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "out") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~umask


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real/file")
    with atomic_write(link) as file:
        file.write(b"x")
    assert link.is_symlink()
    assert (tmp_path / "real/file").read_bytes() == b"x"


def test_refuses_a_folder_a_missing_parent_and_a_device(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "out", Path("/dev/null")):
        with pytest.raises(InputError, match=str(path)), atomic_write(path):
            pytest.fail("the block must not run")
    assert leftovers(tmp_path) == []
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_refuses_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError), atomic_write(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_a_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_size_limit_is_an_input_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A real EFBIG, through the same path as a full disk (a limit on this process would hit pytest's own files)."""
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom vboot.files import atomic_write\n"
        "from vboot.errors import InputError\nresource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    with atomic_write(Path(sys.argv[1])) as file:\n        file.write(bytes(1 << 20))\n"
        "except InputError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert "free some space" in done.stdout
    assert leftovers(tmp_path) == []


def test_full_disk_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="free some space"), atomic_write(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "full")
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_named() -> None:
    with pytest.raises(OSError, match=r"No space left on device: 'the/file'"), named_errors(Path("the/file")):
        Path("/dev/full").write_bytes(bytes(10))
    with pytest.raises(FileNotFoundError, match="gone"), named_errors(Path("the/file")):
        Path("gone").read_bytes()
