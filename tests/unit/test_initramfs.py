from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from initramfs import newc
from initramfs.build import SENTINEL, build_initramfs, modules_load
from initramfs.memory import MIB, STEP_MIB, MemoryNeed
from initramfs.modules import Module
from vboot.errors import InputError

INIT = b"\x7fELF" + bytes(range(256)) * 20
MODULES = [Module("virtio_ring", b"ring"), Module("virtio", b"virtio"), Module("virtio_blk", b"blk")]


def built() -> dict[str, newc.Record]:
    return {record.name: record for record in newc.read(build_initramfs(init=INIT, modules=MODULES, release="6.1-x"))}


def test_init_is_executable_and_whole() -> None:
    assert built()["init"] == newc.file("init", INIT, mode=0o755)


def test_the_nodes_and_folders_pid_1_starts_with_are_there() -> None:
    tree = built()
    nodes = {name: record.rdev for name, record in tree.items() if stat.S_ISCHR(record.mode)}
    assert nodes == {"dev/console": (5, 1), "dev/null": (1, 3), "dev/kmsg": (1, 11)}
    assert {"dev", "proc", "sys", "run", "tmp"} <= {n for n, record in tree.items() if stat.S_ISDIR(record.mode)}


def test_modules_are_listed_in_load_order_and_present() -> None:
    tree = built()
    text = tree["lib/modules/modules.load"].data.decode()
    paths = [line for line in text.splitlines() if not line.startswith("#")]
    assert paths == ["/lib/modules/virtio_ring.ko", "/lib/modules/virtio.ko", "/lib/modules/virtio_blk.ko"]
    assert [tree[path[1:]].data for path in paths] == [b"ring", b"virtio", b"blk"]
    assert "6.1-x" in text
    assert text.endswith("\n")


def test_a_kernel_without_modules_has_an_empty_list() -> None:
    assert re.fullmatch(r"(#[^\n]*\n)+", modules_load([]))


def test_what_the_first_beat_does_not_need_stands_behind_the_mark() -> None:
    lines = modules_load([Module("virtio_blk", b"blk"), Module("button", b"button", part="late")]).splitlines()
    mark = lines.index("# late")
    assert lines.index("/lib/modules/virtio_blk.ko") < mark < lines.index("/lib/modules/button.ko")


def test_the_sentinel_is_last_and_proves_what_is_before_it() -> None:
    data = build_initramfs(init=INIT, modules=MODULES, extra=[newc.file("model.gguf", b"tiny")])
    records = newc.read(data)
    assert [record.name for record in records[-2:]] == ["model.gguf", SENTINEL]
    start = data.rindex(newc.MAGIC, 0, data.rindex(SENTINEL.encode() + b"\0"))
    assert records[-1].data.decode() == hashlib.sha256(data[:start]).hexdigest() + "\n"


def test_an_init_that_cannot_run_is_refused() -> None:
    for init in (b"", b"#!/bin/sh\n"):
        with pytest.raises(InputError, match="/init of the initramfs is not an ELF executable"):
            build_initramfs(init=init, modules=[])


def test_an_extra_entry_cannot_replace_ours() -> None:
    for name in ("init", SENTINEL):
        with pytest.raises(InputError, match=f"'{name}'"):
            build_initramfs(init=INIT, modules=[], extra=[newc.file(name, b"")])


def test_same_bytes_whatever_the_surroundings(tmp_path: Path) -> None:
    script = (
        "import hashlib, os, sys; os.umask(int(sys.argv[1], 8)); import tests.unit.test_initramfs as t;"
        "d = t.build_initramfs(init=t.INIT, modules=t.MODULES, release='r');"
        "print(hashlib.sha256(d).hexdigest())"
    )
    surroundings = [
        ("000", tmp_path, {"TZ": "Asia/Kolkata", "LC_ALL": "C", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "99"}),
        ("077", Path("/"), {"TZ": "America/Caracas", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "2", "USER": "x"}),
    ]
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, umask], cwd=folder, capture_output=True, text=True, check=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        ).stdout
        for umask, folder, environment in surroundings
    }  # fmt: skip
    here = hashlib.sha256(build_initramfs(init=INIT, modules=MODULES, release="r")).hexdigest()
    assert digests == {f"{here}\n"}


def need(*, kernel: int = 50, initramfs: int = 2, weights: int = 0, workspace: int = 0) -> MemoryNeed:
    return MemoryNeed(
        kernel_bytes=kernel * MIB,
        initramfs_bytes=initramfs * MIB,
        weights_bytes=weights * MIB,
        workspace_bytes=workspace * MIB,
    )


def test_unpacking_needs_the_archive_three_times() -> None:
    # (50 + 3 * 100) MiB * 64/63 + 32 MiB margin = 387.6 MiB
    assert need(initramfs=100).mib == 400
    assert "3 x initial RAM disk 100.0 MiB" in need(initramfs=100).explain()


def test_running_needs_kernel_archive_weights_and_workspace() -> None:
    # (50 + 16 + 2 + 500 + 64) MiB * 64/63 + 32 MiB margin = 674.0 MiB
    large = need(weights=500, workspace=64)
    assert large.mib == 688
    assert large.explain().startswith(
        "688 MiB: kernel 74.0 MiB, initial RAM disk 2.0 MiB, weights 500.0 MiB, working memory 64.0"
    )


@pytest.mark.parametrize("part", ["kernel", "initramfs", "weights", "workspace"])
def test_more_of_anything_never_needs_less(part: str) -> None:
    needs = [need(**{part: size}).mib for size in range(0, 4096, 97)]
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]
    assert all(size % STEP_MIB == 0 for size in needs)
