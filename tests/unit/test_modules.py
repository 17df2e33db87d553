from __future__ import annotations

import contextlib
import gzip
import lzma
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initramfs.module_files import load_modules, module_files, read_module
from initramfs.modules import MACHINE, Module, Wanted, module_info, module_name, select
from tests.support import kernel_files
from tests.support.kernel_files import RELEASE
from vboot.errors import InputError, ToolError

# As Linux 6.1 has them.
DEPENDS = {
    "virtio_ring": [],
    "virtio": ["virtio_ring"],
    "virtio_pci_legacy_dev": [],
    "virtio_pci_modern_dev": [],
    "virtio_pci": ["virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio"],
    "virtio_blk": ["virtio", "virtio_ring"],
    "virtio_console": ["virtio", "virtio_ring"],
    "virtio_rng": ["virtio", "virtio_ring"],
    "watchdog": [],
    "softdog": ["watchdog"],
    "reed_solomon": [],
    "dm_mod": [],
    "dm_bufio": ["dm-mod"],
    "dm_verity": ["reed_solomon", "dm-mod", "dm-bufio"],
}
ALL_MODULES = {driver.option: "m" for driver in MACHINE}


def chosen(
    depends: Mapping[str, Sequence[str]],
    *,
    wanted: Sequence[Wanted] = MACHINE,
    config: Mapping[str, str] = ALL_MODULES,
    release: str = RELEASE,
) -> list[str]:
    modules = select(
        wanted,
        release=RELEASE,
        config=config,
        available=depends,
        read=lambda name: kernel_files.module(name, depends=depends[name], release=release),
    )
    return [module.name for module in modules]


def without(*names: str) -> dict[str, list[str]]:
    return {name: depends for name, depends in DEPENDS.items() if name not in names}


def test_dependencies_come_first_and_the_wanted_order_is_kept() -> None:
    assert chosen(DEPENDS) == [
        "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_pci", "virtio_blk",
        "virtio_console", "virtio_rng", "reed_solomon", "dm_mod", "dm_bufio", "dm_verity", "watchdog", "softdog",
    ]  # fmt: skip


def test_late_drivers_go_last_with_what_only_they_need() -> None:
    depends = {"shared": [], "a": ["own", "shared"], "own": [], "b": ["shared"]}
    wanted = [Wanted("a", "A", True, "", part="late"), Wanted("b", "B", True, "")]
    assert chosen(depends, wanted=wanted, config={}) == ["shared", "b", "own", "a"]


def test_nothing_is_loaded_that_is_built_in() -> None:
    assert chosen(DEPENDS, config=dict.fromkeys(ALL_MODULES, "y")) == []
    built_in = {"VIRTIO_PCI": "y", "VIRTIO_BLK": "y", "VIRTIO_CONSOLE": "y", "HW_RANDOM_VIRTIO": "y"}
    assert chosen({"watchdog": [], "softdog": ["watchdog"]}, config=built_in) == ["watchdog", "softdog"]


@pytest.mark.parametrize(
    ("config", "why"),
    [(ALL_MODULES, "CONFIG_VIRTIO_BLK=m but its module file does not exist"), ({}, "CONFIG_VIRTIO_BLK is not set")],
)
def test_a_missing_required_driver_is_named(config: dict[str, str], why: str) -> None:
    with pytest.raises(InputError, match=f"no virtio_blk driver .the disks.*{why}"):
        chosen(without("virtio_blk"), config=config)


def test_a_missing_optional_driver_is_left_out() -> None:
    assert "dm_verity" not in chosen(without("dm_verity"))


def test_a_missing_dependency_is_named_with_what_needs_it() -> None:
    with pytest.raises(InputError, match="dm_bufio is missing, and dm_verity needs it"):
        chosen(without("dm_bufio"))


def test_a_cycle_of_dependencies_is_named() -> None:
    with pytest.raises(InputError, match=r"virtio_pci -> virtio -> virtio_ring -> virtio$"):
        chosen(DEPENDS | {"virtio_pci": ["virtio"], "virtio_ring": ["virtio"]})


def test_modules_of_another_kernel_are_refused() -> None:
    with pytest.raises(InputError, match=f"virtio_pci is built for Linux '5.10.0', not '{RELEASE}'"):
        chosen(DEPENDS, release="5.10.0")


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=12))
def test_any_graph_is_loaded_in_order_once(edges: list[set[int]]) -> None:
    depends = {f"m{i}": [f"m{j}" for j in sorted(edge) if j < i] for i, edge in enumerate(edges)}
    wanted = [Wanted(name, name.upper(), True, "") for name in reversed(depends)]
    order = chosen(depends, wanted=wanted, config={})
    assert sorted(order) == sorted(depends)
    assert all(order.index(need) < order.index(name) for name, needs in depends.items() for need in needs)


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.data())
def test_damaged_modules_are_refused_by_name(garbage: bytes, data: st.DataObject) -> None:
    whole = kernel_files.module("virtio", depends=["virtio_ring"])
    at = data.draw(st.integers(0, len(whole) - 1))
    # A text may change or be cut without harm to the file's structure; anything worse is our error.
    with contextlib.suppress(InputError):
        assert set(module_info(Module("virtio", whole[:at] + garbage[:1] + whole[at + 1 :])))
    for damaged in (garbage, whole[:at]):
        with pytest.raises(InputError, match="kernel module virtio"):
            module_info(Module("virtio", damaged))


def test_names_are_the_kernels() -> None:
    assert module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"
    assert module_name("virtio_blk.ko") == "virtio_blk"


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / "kernel/drivers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_compressed_modules_are_read_as_they_were(tmp_path: Path) -> None:
    plain = kernel_files.module("virtio")
    source = put(tmp_path, "a.ko", plain)
    subprocess.run(["zstd", "--quiet", str(source)], check=True)
    put(tmp_path, "b.ko.gz", gzip.compress(plain, mtime=0))
    put(tmp_path, "c.ko.xz", lzma.compress(plain, check=lzma.CHECK_CRC32))
    paths = sorted((tmp_path / "kernel/drivers").iterdir())
    assert [path.suffix for path in paths] == [".ko", ".zst", ".gz", ".xz"]
    assert [read_module(path) for path in paths] == [plain] * 4


@pytest.mark.parametrize("name", ["x.ko.gz", "x.ko.xz"])
@pytest.mark.parametrize("data", [b"nonsense", gzip.compress(b"x", mtime=0)[:-3], lzma.compress(b"x")[:-3]])
def test_a_damaged_compressed_module_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match=rf"{name}: cannot read this kernel module"):
        read_module(put(tmp_path, name, data))


def test_zstd_missing_or_failing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "x.ko.zst", b"nonsense")
    with pytest.raises(ToolError, match=r"x\.ko\.zst: zstd cannot decompress"):
        read_module(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="install zstd"):
        read_module(path)


def test_a_folder_of_modules_is_loaded(tmp_path: Path) -> None:
    for name, depends in DEPENDS.items():
        data = kernel_files.module(name, depends=depends)
        put(tmp_path, f"{name.replace('_', '-')}.ko.xz", lzma.compress(data))
    put(tmp_path, "unrelated.ko", b"not looked at")
    modules = load_modules(tmp_path, release=RELEASE, config=ALL_MODULES)
    assert [module.name for module in modules] == chosen(DEPENDS)
    assert modules[0].data == kernel_files.module("virtio_ring")


def test_without_a_folder_everything_must_be_built_in() -> None:
    assert load_modules(None, release=RELEASE, config=dict.fromkeys(ALL_MODULES, "y")) == []
    with pytest.raises(InputError, match="lib/modules/RELEASE"):
        load_modules(None, release=RELEASE, config=ALL_MODULES)


def test_a_path_that_is_not_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        module_files(tmp_path / "absent")
