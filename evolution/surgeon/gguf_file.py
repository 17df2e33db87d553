"""A GGUF file open for reading. It is memory-mapped, so only pages that are read take memory."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from evolution.surgeon.machine_tensors import model_sha256
from evolution.surgeon.runtime_check import FileCheck
from vboot.errors import InputError
from vboot.gguf import read_layout, scalar, type_name
from vboot.weights.arithmetic import TensorData

_IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns")


class GGUFFile:
    """A file that the runtime's parser accepts. The mapping stays valid if another file is renamed over the path.

    `data` is the whole file, `layout` the positions of its parts, `tensors` the tensors by name in the file's order,
    `status` the result of fstat when it was opened.
    """

    def __init__(self, path: Path, check: FileCheck) -> None:
        """Check the file, then open it. Raises InputError, ToolError."""
        try:
            is_special = path.exists() and not path.is_file()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
        if is_special:
            raise InputError(f"{path} is not a regular file", remedy="name a GGUF file")
        if check(path).get("kind") == "rts":
            raise InputError(f"{path} is an RTS file", remedy="extract its model with `vboot extract --tensors`")
        try:
            with path.open("rb") as file:
                self.status = os.fstat(file.fileno())
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error})", remedy="do not change it while it is read") from error
        self.path = path
        self.data = memoryview(mapping)
        self.layout = read_layout(self.data, name=str(path))
        self.tensors: Mapping[str, TensorData] = {
            info.name: TensorData(
                info.name,
                type_name(info.type),
                info.dims,
                # A view supports every operation on bytes that is used here, and takes no memory.
                cast("bytes", self.data[info.offset : info.offset + info.size]),
            )
            for info in self.layout.tensors
        }
        self._digests: dict[str, str] = {}

    @property
    def architecture(self) -> str:
        """The architecture that the file states; empty if it states none."""
        stated = scalar(self.layout.metadata, "general.architecture")
        return stated if isinstance(stated, str) else ""

    def is_replaced(self) -> bool:
        """Whether the path now leads to another file, or the file was written to."""
        try:
            now = self.path.stat()
        except OSError:
            return True
        return any(getattr(now, field) != getattr(self.status, field) for field in _IDENTITY)

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a tensor's bytes, computed once."""
        if name not in self._digests:
            self._digests[name] = hashlib.sha256(self.tensors[name].data).hexdigest()
        return self._digests[name]

    def model_sha256(self, changed: Mapping[str, str] | None = None) -> str:
        """The model's digest (hex), with the SHA-256 of some tensors replaced by `changed`."""
        known = changed or {}
        return model_sha256({name: known.get(name) or self.sha256(name) for name in self.tensors})
