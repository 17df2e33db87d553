"""How much memory a machine needs, computed from sizes. Pure functions.

Linux does not stop for lack of memory: the root file system is a tmpfs that may fill half of the memory, and when an
archive does not fit, the kernel prints one line and continues to boot with truncated or missing files.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20

# What Linux uses beyond its image once it runs (slabs, tables, free-page watermarks): 12 MiB measured with Debian's
# 6.1 cloud kernel, as the machine's memory less init_size less MemAvailable; and the buffers of sixteen ports, 7.6 MiB.
KERNEL_RUNTIME_BYTES = 24 * MIB
# The two processes, before-images of recent mutations, activations of a forward pass.
WORKSPACE_BYTES = 96 * MIB
# Firmware, and short peaks.
MARGIN_BYTES = 32 * MIB
# A struct page of 64 bytes describes each 4096 bytes: 63 of 64 parts remain usable.
MEMORY_MAP_SHARE = (64, 63)
STEP_MIB = 16


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that a machine needs, by purpose, in bytes.

    Attributes:
        kernel_bytes: what unpacking and starting the kernel takes (`init_size` of the bzImage).
        initramfs_bytes: the uncompressed archive, with the model where it is embedded.
        weights_bytes: the tensors section. It counts once, on a disk or embedded: a page that was never mutated is
            page cache, a mutated one a private copy, whose original on the disk may leave the cache. An embedded
            original cannot leave, but is part of `initramfs_bytes` already.
        workspace_bytes: for the two processes.
    """

    kernel_bytes: int
    initramfs_bytes: int
    weights_bytes: int
    workspace_bytes: int = WORKSPACE_BYTES

    @property
    def unpacking_bytes(self) -> int:
        """At boot: the kernel, the archive, and twice its contents, since its tmpfs may take only half of the rest."""
        return self.kernel_bytes + 3 * self.initramfs_bytes

    @property
    def running_bytes(self) -> int:
        """After boot: the kernel, the unpacked archive, every page of the weights once, and the workspace."""
        kernel = self.kernel_bytes + KERNEL_RUNTIME_BYTES
        return kernel + self.initramfs_bytes + self.weights_bytes + self.workspace_bytes

    @property
    def mib(self) -> int:
        """The memory to give the machine, in MiB, a multiple of 16."""
        parts, usable = MEMORY_MAP_SHARE
        need = -(-max(self.unpacking_bytes, self.running_bytes) * parts // usable) + MARGIN_BYTES
        return -(-need // (STEP_MIB * MIB)) * STEP_MIB

    def explain(self) -> str:
        """One line that explains the number."""
        if self.unpacking_bytes > self.running_bytes:
            parts = (
                f"kernel {_mib(self.kernel_bytes)}, 3 x initial RAM disk {_mib(self.initramfs_bytes)} while it unpacks"
            )
        else:
            kernel, archive = _mib(self.kernel_bytes + KERNEL_RUNTIME_BYTES), _mib(self.initramfs_bytes)
            weights, workspace = _mib(self.weights_bytes), _mib(self.workspace_bytes)
            parts = f"kernel {kernel}, initial RAM disk {archive}, weights {weights}, working memory {workspace}"
        return f"{self.mib} MiB: {parts}, the rest in reserve"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
