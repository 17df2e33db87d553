"""PID 1 in Python, the peer of `tests.bench.boot`: brings a model up as our executable does, and says so.

It runs in a guest that holds nothing but the interpreter and what this file imports.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time

READY = r"python_init: GGUF tensors loaded: (\d+), modules_us=(\d+)\s"
"""The line on the console: the number of tensors, and the microseconds that mounts and modules took."""

_FINIT_MODULE = 313  # the system call's number on x86-64
_MOUNTS = ((b"devtmpfs", b"/dev"), (b"proc", b"/proc"), (b"sysfs", b"/sys"))
_MODULE_LIST = "/lib/modules/modules.load"
_SERIAL = b"vb-rts"
_DISK_SECONDS = 5.0
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def main() -> None:
    """Mount, load modules, find and map the disk, read the model's head, print the line, and stay."""
    started = time.monotonic_ns()
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, target in _MOUNTS:
        if libc.mount(kind, target, kind, 0, b""):
            raise OSError(ctypes.get_errno(), f"cannot mount {target.decode()}")
    _load_modules(libc)
    modules_us = (time.monotonic_ns() - started) // 1000
    with open(_find_disk(), "rb", buffering=0) as disk:  # noqa: PTH123  pathlib would cost the guest time
        header = disk.read(512)
        magic, _version, _offset, _size, start, size = struct.unpack_from(">4sIQQQQ", header)
        if magic != b"RTS\x01":
            raise ValueError("the disk holds no RTS image")
        model = mmap.mmap(disk.fileno(), size, access=mmap.ACCESS_COPY, offset=start)
    print(f"python_init: GGUF tensors loaded: {len(read_head(model))}, modules_us={modules_us}", flush=True)
    while True:
        time.sleep(3600)


def read_head(model: mmap.mmap) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Shape, type and offset of every tensor by name, from the head of a GGUF; the entries are passed over."""
    magic, _version, tensors, entries = struct.unpack_from("<4sIQQ", model)
    if magic != b"GGUF":
        raise ValueError("the tensor section holds no GGUF")
    at = 24
    for _ in range(entries):
        at = _after_value(model, _after_string(model, at))
    infos = {}
    for _ in range(tensors):
        end = _after_string(model, at)
        name = model[at + 8 : end].decode()
        (dimensions,) = _U32.unpack_from(model, end)
        *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", model, end + 4)
        infos[name] = (tuple(shape), kind, offset)
        at = end + 4 + 8 * dimensions + 12
    return infos


def _after_string(model: mmap.mmap, at: int) -> int:
    (length,) = _U64.unpack_from(model, at)
    return at + 8 + int(length)


def _after_value(model: mmap.mmap, at: int) -> int:
    (kind,) = _U32.unpack_from(model, at)
    if kind == _STRING:
        return _after_string(model, at + 4)
    if kind != _ARRAY:
        return at + 4 + _SCALAR_BYTES[kind]
    element, count = struct.unpack_from("<IQ", model, at + 4)
    at += 16
    if element != _STRING:
        return at + _SCALAR_BYTES[element] * int(count)
    for _ in range(count):
        at = _after_string(model, at)
    return at


def _load_modules(libc: ctypes.CDLL) -> None:
    with open(_MODULE_LIST, "rb") as paths:  # noqa: PTH123
        for line in paths:
            path = line.strip()
            if not path or path.startswith(b"#"):
                continue
            descriptor = os.open(path, os.O_RDONLY)
            if libc.syscall(_FINIT_MODULE, descriptor, b"", 0):
                raise OSError(ctypes.get_errno(), f"cannot load {path.decode()}")
            os.close(descriptor)


def _find_disk() -> str:
    """The node of the disk that holds the model, which may take a moment to appear."""
    until = time.monotonic() + _DISK_SECONDS
    while time.monotonic() < until:
        for name in os.listdir("/sys/block"):  # noqa: PTH208
            path = f"/sys/block/{name}/serial"
            if os.path.exists(path):  # noqa: PTH110
                with open(path, "rb") as serial:  # noqa: PTH123
                    if serial.read().strip() == _SERIAL:
                        return f"/dev/{name}"
        time.sleep(0.01)
    raise ValueError("no disk has the serial number vb-rts")
