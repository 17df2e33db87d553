from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from builder.kernel import Kernel, debian_kernel, installed_kernel, kernel_from_path
from builder.kernel_config import REQUIREMENTS
from tests.support import kernel_files
from tests.support.apt_repository import AptRepository
from tests.support.kernel_files import RELEASE
from vboot.errors import InputError, ToolError

CONFIG = "".join(f"CONFIG_{requirement.option}=y\n" for requirement in REQUIREMENTS)
VMLINUX = b"\x7fELF" + bytes(99) + b"IKCFG_ST" + gzip.compress(CONFIG.encode(), mtime=0) + b"IKCFG_ED" + bytes(99)


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_kernel_with_its_configuration_beside_it(tmp_path: Path) -> None:
    image = kernel_files.bzimage()
    put(tmp_path / f"config-{RELEASE}", CONFIG)
    kernel = kernel_from_path(put(tmp_path / "bzImage", image), modules=tmp_path)
    assert kernel == Kernel(
        vmlinuz=tmp_path / "bzImage",
        sha256=hashlib.sha256(image).hexdigest(),
        release=RELEASE,
        config={requirement.option: "y" for requirement in REQUIREMENTS},
        modules=tmp_path,
        package="file: bzImage",
        init_size=1 << 20,
        efi_stub=True,
    )


def test_a_given_configuration_comes_before_one_beside_and_one_inside(tmp_path: Path) -> None:
    path = put(tmp_path / "bzImage", kernel_files.bzimage(VMLINUX))
    assert "MARK" not in kernel_from_path(path).config
    put(tmp_path / f"config-{RELEASE}", CONFIG + "CONFIG_MARK=1\n")
    assert kernel_from_path(path).config["MARK"] == "1"
    given_one = put(tmp_path / "given", CONFIG + "CONFIG_MARK=2\n")
    assert kernel_from_path(path, config=given_one).config["MARK"] == "2"


@pytest.mark.parametrize(
    ("payload", "why"),
    [(gzip.compress(b"x", mtime=0), f"no config-{RELEASE} beside it, none inside"), (b"\x02\x21\x4c\x18", "lz4")],
)
def test_an_unknown_configuration_names_the_option_to_give(tmp_path: Path, payload: bytes, why: str) -> None:
    path = put(tmp_path / "bzImage", kernel_files.bzimage(payload))
    with pytest.raises(InputError, match=f"bzImage: its configuration is unknown .*{why}.*--kernel-config"):
        kernel_from_path(path)


def test_what_the_configuration_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "bzImage", kernel_files.bzimage())
    config = put(
        tmp_path / "my.config", CONFIG.replace("CONFIG_SECCOMP_FILTER=y", "# CONFIG_SECCOMP_FILTER is not set")
    )
    with pytest.raises(InputError, match=r"my\.config: this kernel cannot run.*CONFIG_SECCOMP_FILTER is n"):
        kernel_from_path(path, config=config)
    put(config, "nonsense")
    with pytest.raises(InputError, match=r"my\.config: kernel configuration, line 1"):
        kernel_from_path(path, config=config)


def test_files_that_are_not_there_or_no_kernel_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: cannot be read"):
        kernel_from_path(tmp_path / "absent")
    with pytest.raises(InputError, match="text: not a bzImage"):
        kernel_from_path(put(tmp_path / "text", "hello"))
    path = put(tmp_path / "bzImage", kernel_files.bzimage())
    with pytest.raises(InputError, match="absent: cannot be read"):
        kernel_from_path(path, config=tmp_path / "absent")


# --- installed kernels


def install(root: Path, release: str) -> None:
    put(root / f"boot/vmlinuz-{release}", kernel_files.bzimage(release=release))
    put(root / f"boot/config-{release}", CONFIG)


def test_the_newest_installed_kernel_of_the_flavour_is_taken(tmp_path: Path) -> None:
    for release in ("6.1.0-9-test", "6.1.0-10-test", "6.1.0-11-other"):
        install(tmp_path, release)
    put(tmp_path / "lib/modules/6.1.0-10-test/modules.builtin", "")
    kernel = installed_kernel(tmp_path, flavour="test")
    assert kernel is not None
    assert (kernel.release, kernel.modules) == ("6.1.0-10-test", tmp_path / "lib/modules/6.1.0-10-test")
    assert installed_kernel(tmp_path, flavour="none") is None


# --- Debian's package, through the real apt and dpkg-deb


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AptRepository:
    repository = AptRepository(tmp_path / "apt")
    for name, value in repository.environment.items():
        monkeypatch.setenv(name, value)
    publish(repository, 9)
    repository.update()
    return repository


def publish(repository: AptRepository, number: int, **changes: bytes) -> Path:
    release = f"6.1.0-{number}-test"
    files = {
        f"boot/vmlinuz-{release}": kernel_files.bzimage(release=release),
        f"boot/config-{release}": CONFIG.encode(),
        f"lib/modules/{release}/kernel/virtio.ko": kernel_files.module("virtio", release=release),
    }
    deb = repository.publish(f"linux-image-{release}", f"6.1.{number}-1", files=files)
    repository.publish("linux-image-test", f"6.1.{number}-1", depends=f"linux-image-{release} (= 6.1.{number}-1)")
    return deb


def fetched(cache: Path, *, refresh: bool = False) -> tuple[Kernel, list[str]]:
    phases: list[str] = []
    kernel = debian_kernel(
        cache, flavour="test", refresh=refresh, progress=lambda phase, _done, _total: phases.append(phase)
    )
    return kernel, phases


def downloads(phases: list[str]) -> list[str]:
    return [phase for phase in phases if phase.startswith("downloading")]


def test_debians_kernel_is_resolved_downloaded_and_unpacked(tmp_path: Path, repository: AptRepository) -> None:
    kernel, phases = fetched(tmp_path / "cache")
    assert kernel.package == "linux-image-6.1.0-9-test 6.1.9-1"
    assert kernel.vmlinuz.read_bytes() == kernel_files.bzimage(release="6.1.0-9-test")
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/virtio.ko").is_file()
    assert downloads(phases) == ["downloading linux-image-6.1.0-9-test 6.1.9-1"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["debian-test"]


def test_the_cache_is_used_until_asked_for_newer(tmp_path: Path, repository: AptRepository) -> None:
    first, _ = fetched(tmp_path)
    publish(repository, 10)
    repository.update()
    second, phases = fetched(tmp_path)
    assert second == first
    assert downloads(phases) == []
    newer, phases = fetched(tmp_path, refresh=True)
    assert newer.release == "6.1.0-10-test"
    assert len(downloads(phases)) == 1
    assert not first.vmlinuz.exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "record"])
def test_a_damaged_cache_is_fetched_again(tmp_path: Path, repository: AptRepository, damage: str) -> None:
    kernel, _ = fetched(tmp_path)
    assert kernel.modules is not None
    module = kernel.modules / "kernel/virtio.ko"
    match damage:
        case "changed":
            put(module, kernel_files.module("virtia"))
        case "cut":
            put(kernel.vmlinuz, b"")
        case "gone":
            module.unlink()
        case "record":
            put(tmp_path / "debian-test/package.json", "{}")
    again, phases = fetched(tmp_path)
    assert again == kernel
    assert len(downloads(phases)) == 1
    assert module.read_bytes() == kernel_files.module("virtio", release="6.1.0-9-test")


def test_missing_package_lists_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AptRepository(tmp_path / "apt").environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ToolError, match="apt knows no package linux-image-test; run `make deps`"):
        fetched(tmp_path / "cache")


def test_a_failed_download_gives_apts_reason_and_leaves_nothing(tmp_path: Path, repository: AptRepository) -> None:
    deb = publish(repository, 10)
    repository.update()
    deb.unlink()
    with pytest.raises(ToolError, match=r"downloading linux-image-6.1.0-10-test.* failed.*E: Failed to fetch"):
        fetched(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_installed_kernel_serves_when_the_download_fails(tmp_path: Path, repository: AptRepository) -> None:
    publish(repository, 10).unlink()
    repository.update()
    install(tmp_path / "root", "6.1.0-8-test")
    phases: list[str] = []
    kernel = debian_kernel(
        tmp_path / "cache",
        flavour="test",
        installed=tmp_path / "root",
        progress=lambda phase, _done, _total: phases.append(phase),
    )
    assert kernel.package == f"installed: {tmp_path}/root/boot/vmlinuz-6.1.0-8-test"
    assert phases[-1].endswith("vmlinuz-6.1.0-8-test instead")


def test_a_failed_refresh_keeps_the_cached_kernel(tmp_path: Path, repository: AptRepository) -> None:
    kernel, _ = fetched(tmp_path / "cache")
    publish(repository, 10).unlink()
    repository.update()
    with pytest.raises(ToolError):
        fetched(tmp_path / "cache", refresh=True)
    assert fetched(tmp_path / "cache")[0] == kernel


def test_without_apt_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"apt-cache cannot be run.*give a kernel of your own"):
        fetched(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, repository: AptRepository) -> None:
    put(tmp_path / "cache", "a file")
    with pytest.raises(InputError, match=r"debian-test: linux-image-.* cannot be stored there"):
        fetched(tmp_path / "cache")
