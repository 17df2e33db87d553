"""The weights as pages: an address space, contents as the pages that differ from the file, and fingerprints."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vboot.errors import InputError
from vboot.gguf import LAYOUT_KEY, read_layout, scalar, type_name
from vboot.protocol.tables import MACHINE_TENSORS
from vboot.text import path_text
from vboot.weights.arithmetic import TensorData

PAGE = 4096
Contents = Mapping[int, bytes]
"""The pages that differ from those of the file, by number. The last page of the file may be shorter than others."""
_NEVER_CHANGED = ("hw.mmio", "cortex_journal")
_P = np.uint64(0x9E3779B97F4A7C15)
_LANES = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0)
_STEP_BYTES = 32
_MASK = (1 << 64) - 1


class Model:
    """The file that a machine was made from, and the address space of its weights.

    `places`: address and size of each tensor that may be in a change. `size` is the length of the file.
    """

    def __init__(self, path: Path, *, offset: int = 0, size: int | None = None) -> None:
        """Open a GGUF file, or the part of a file that is one. Raises InputError."""
        try:
            with path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{path_text(path)} cannot be read ({error})", remedy="name a GGUF file") from error
        self.path = path
        self.data = memoryview(mapping)[offset : None if size is None else offset + size]
        self.size = len(self.data)
        self.layout = read_layout(self.data, name=path_text(path))
        self._infos = {info.name: (type_name(info.type), info.dims) for info in self.layout.tensors}
        self.places = {info.name: (info.offset, info.size) for info in self.layout.tensors}
        self._add_machine_tensors()
        self.pages = -(-max(address + size for address, size in self.places.values()) // PAGE)
        self._zero = bytes(PAGE)

    def sha256(self) -> bytes:
        """SHA-256 of the whole file: the field `file` of a superblock."""
        return hashlib.sha256(self.data).digest()

    def page(self, number: int) -> bytes:
        """A page as it is in the file; the machine's tensors behind it are empty slots."""
        start = number * PAGE
        return bytes(self.data[start : start + PAGE]) if start < self.size else self._zero

    def page_bytes(self, number: int) -> int:
        """The length of a page: the last one of the file ends with the file."""
        start = number * PAGE
        return min(PAGE, self.size - start) if start < self.size else PAGE

    def read(self, contents: Contents, address: int, size: int) -> bytes | memoryview:
        """The bytes at an address, with the pages of `contents` in place of the file's."""
        numbers = range(address // PAGE, -(-(address + size) // PAGE))
        if address + size <= self.size and not any(number in contents for number in numbers):
            return self.data[address : address + size]
        joined = b"".join(contents.get(number) or self.page(number) for number in numbers)
        return joined[address - numbers.start * PAGE :][:size]

    def tensor(self, contents: Contents, name: str) -> TensorData:
        """A tensor with these contents. Raises KeyError."""
        kind, dims = self._infos[name]
        # A view supports every operation on bytes that is used here, and takes no memory.
        return TensorData(name, kind, dims, cast("bytes", self.read(contents, *self.places[name])))

    def written(self, contents: Contents, changed: Mapping[str, bytes]) -> dict[int, bytes]:
        """The pages that differ after these tensors have got new bytes, by number."""
        pages: dict[int, bytearray] = {}
        for name, data in changed.items():
            address, size = self.places[name]
            for number in range(address // PAGE, -(-(address + size) // PAGE)):
                page = pages.get(number)
                if page is None:
                    page = pages[number] = bytearray(contents.get(number) or self.page(number))
                start = number * PAGE
                low, high = max(start, address), min(start + PAGE, address + size)
                page[low - start : high - start] = data[low - address : high - address]
        return {number: bytes(page) for number, page in pages.items()}

    def _add_machine_tensors(self) -> None:
        """Those that the file lacks have a page each behind it; two are nowhere, since no change holds them."""
        composed = scalar(self.layout.metadata, LAYOUT_KEY) == 1
        address = -(-self.size // PAGE) * PAGE
        for tensor in MACHINE_TENSORS:
            if tensor.name in _NEVER_CHANGED or (composed and tensor.name in self.places):
                continue
            self._infos[tensor.name] = (tensor.type, (tensor.elements,))
            self.places[tensor.name] = (address, PAGE)
            address += PAGE


class Tensors(Mapping[str, TensorData]):
    """The tensors with some contents, each made when it is asked for."""

    def __init__(self, model: Model, contents: Contents) -> None:
        self._model = model
        self._contents = contents

    def __getitem__(self, name: str) -> TensorData:
        return self._model.tensor(self._contents, name)

    def __contains__(self, name: object) -> bool:
        return name in self._model.places

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.places)

    def __len__(self) -> int:
        return len(self._model.places)


def fingerprint_difference(model: Model, before: Contents, after: Mapping[int, bytes]) -> int:
    """What the fingerprint of `before` grows by when the pages of `after` take the place of its own."""
    numbers = [number for number in after if after[number] != (before.get(number) or model.page(number))]
    new = _hashes(numbers, [after[number] for number in numbers])
    old = _hashes(numbers, [before.get(number) or model.page(number) for number in numbers])
    return (new - old) & _MASK


def fingerprint(model: Model, contents: Contents) -> int:
    """The fingerprint of contents: 0 for those of the file."""
    return fingerprint_difference(model, {}, contents)


def _hashes(numbers: list[int], pages: list[bytes]) -> int:
    """The sum of the hashes of these pages, modulo 2^64."""
    total = 0
    whole = [place for place, page in enumerate(pages) if len(page) == PAGE]
    for start in range(0, len(whole), 256):
        some = whole[start : start + 256]
        total += _sum(np.array([numbers[place] for place in some], np.uint64), b"".join(pages[place] for place in some))
    for number, page in zip(numbers, pages, strict=True):
        if len(page) != PAGE:
            total += _sum(np.array([number], np.uint64), page + bytes(-len(page) % _STEP_BYTES))
    return total & _MASK


def _sum(numbers: NDArray[np.uint64], data: bytes) -> int:
    words = np.frombuffer(data, "<u8").reshape(len(numbers), -1, 4)
    lanes = np.empty((len(numbers), 4), np.uint64)
    lanes[:, 0] = numbers + np.uint64(1)
    lanes[:, 1:] = np.array(_LANES, np.uint64)
    for step in range(words.shape[1]):
        lanes ^= words[:, step]
        lanes *= _P
        lanes = (lanes << np.uint64(29)) | (lanes >> np.uint64(35))
    found = np.zeros(len(numbers), np.uint64)
    for lane in range(4):
        found = (found ^ lanes[:, lane]) * _P
        found ^= found >> np.uint64(32)
    return int(np.add.reduce(found))
