"""Writing a newc archive: ours against GNU cpio, from the same tree of files."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from initramfs import newc
from tests.bench.host import first_line
from tests.bench.results import BenchFinding, Case, Result, Setting
from tests.bench.sampling import alternate
from vboot.errors import ToolError
from vboot.files import atomic_write

OURS, CPIO = "initramfs.newc", "cpio"
_SECONDS = 120.0
_HOW = (
    "From a tree of files in the page cache to an archive on disk, flushed: ours reads the files, orders and checks the"
    " entries, and writes a file whole or not at all; the peer is `find | cpio -o -H newc` and `sync`. cpio must list"
    " the same names in both archives."
)


def run(setting: Setting) -> Result:
    """Measure an appliance's tree and a large one. Raises ToolError."""
    rounds = setting.choose(full=11, quick=3)
    trees = {"12 files, 3 MB, as an appliance has": (12, 250_000), "2,000 files, 64 MB": (2000, 32_000)}
    cases, findings = [], []
    for name, (files, size) in trees.items():
        setting.say(name)
        tree = setting.folder / f"tree-{files}"
        _make_tree(tree, files=files, size=size)
        ours, theirs = setting.folder / "ours.cpio", setting.folder / "theirs.cpio"
        contenders = {
            OURS: partial(_timed, partial(_write_ours, tree, ours)),
            CPIO: partial(_timed, partial(_write_theirs, tree, theirs)),
        }
        cases.append(Case(name, "s", alternate(contenders, rounds=rounds, warm_up=1)))
        _refuse_other_names(ours, theirs)
        sizes = f"ours {ours.stat().st_size:,} bytes, cpio's {theirs.stat().st_size:,}"
        findings.append(BenchFinding(f"size of the archive of {name}", sizes))
    version = first_line(["cpio", "--version"]).rpartition(" ")[2]
    return Result("Write an initramfs", _HOW, tuple(cases), tuple(findings), {"cpio": version})


def _make_tree(tree: Path, *, files: int, size: int) -> None:
    random = np.random.default_rng(1)
    for number in range(files):
        path = tree / f"folder{number // 100}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.bytes(size))


def _write_ours(tree: Path, output: Path) -> None:
    records = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        records.append(newc.directory(name) if path.is_dir() else newc.file(name, path.read_bytes()))
    with atomic_write(output) as file:
        file.write(newc.archive(records))


def _write_theirs(tree: Path, output: Path) -> None:
    # Without the root itself, which ours has no entry for either.
    script = 'find . -mindepth 1 -print0 | cpio --quiet -0 -o -H newc >"$1" && sync "$1"'
    command = ["sh", "-c", script, "sh", str(output)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode or done.stderr:
        what = "cpio could not write an archive"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=done.stderr)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _refuse_other_names(ours: Path, theirs: Path) -> None:
    """The comparison is void if the two archives hold different files."""
    if _names(ours) != _names(theirs):
        raise ToolError("cpio lists other names in our archive than in its own", command=["cpio", "-t"])


def _names(archive: Path) -> list[str]:
    with archive.open("rb") as file:
        done = subprocess.run(
            ["cpio", "--quiet", "-t"], stdin=file, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    return sorted(done.stdout.splitlines())
