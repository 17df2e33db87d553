"""A model inside the executable: the machine needs no disk at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from builder.executable import CRATE, find_toolchain
from builder.kernel import debian_kernel
from image.compose import compose
from image.minilm import user_cache
from initramfs.build import build_initramfs
from initramfs.module_files import load_modules
from qemu.launch import start
from qemu.spec import MachineSpec
from tests.boot.test_machine import result
from tests.support.evolution_port.expect import machine_port


def test_it_boots_from_the_executable_alone(tmp_path: Path) -> None:
    model = compose("tiny", tmp_path / "tiny.gguf")
    # The development profile, whose dependencies `make test` has compiled already.
    command = [
        str(find_toolchain().cargo), "rustc", "--quiet", "--locked", "--manifest-path", str(CRATE / "Cargo.toml"),
        "--features", "standalone", "--bin", "vector_boot", "--config", "profile.dev.strip=true",
        "--", "-C", "target-feature=+crt-static",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=600, env={**os.environ, "VECTOR_BOOT_MODEL": str(model.path)})
    kernel = debian_kernel(user_cache() / "kernels", progress=lambda *_: None)
    modules = load_modules(kernel.modules, release=kernel.release, config=kernel.config)
    init = (CRATE / "target" / "debug" / "vector_boot").read_bytes()
    archive = tmp_path / "initramfs.cpio"
    archive.write_bytes(build_initramfs(init=init, modules=modules, release=kernel.release))
    spec = MachineSpec(kernel=kernel.vmlinuz, initramfs=archive, append="console=ttyS0 panic=-1 quiet", memory_mib=512)
    with start(spec) as machine, machine_port(machine) as port:
        port.greet()
        names = [row["name"] for row in result(port, "tensors", prefix="blk.0.attn_q")["tensors"]]
        assert names == ["blk.0.attn_q.weight", "blk.0.attn_q.bias"]
        port.shutdown()
        machine.wait_exit()
