"""The weights of a running machine, all of one generation, while other clients may change them.

Digests tell which tensors differ from a file that is here, and only these are read. If the generation changes meanwhile
the digests are asked for again, and what was read and is still current is kept.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from evolution.transfer.live import Progress, live_digests
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import MachineError
from vboot.protocol.messages import TensorBytes, TensorInfo
from vboot.text import path_text

_ROUNDS = 8


@dataclass(frozen=True)
class Snapshot:
    """Weights of one generation: the SHA-256 (hex) of each tensor, and the `fetched` ones, whose bytes `read` returns.

    `read_bytes`: how many bytes of tensors were transferred, repetitions included.
    """

    generation: int
    sha256: Mapping[str, str]
    fetched: frozenset[str]
    read_bytes: int
    read: Callable[[str], bytes]


class _Spool:
    """Tensors in a temporary file without a name, so that a large model needs little memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.sha256: dict[str, str] = {}
        self.received = 0
        self._file = file
        self._places: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._end = 0

    def fetch(self, info: TensorInfo, pieces: Iterator[TensorBytes], generation: int) -> Iterator[int]:
        """Take the pieces of a tensor, and tell the size of each; it ends early at one of another generation."""
        if info.name not in self._places:
            self._places[info.name], self._sizes[info.name] = self._end, info.bytes
            self._end += info.bytes
        self.sha256.pop(info.name, None)
        digest = hashlib.sha256()
        for piece in pieces:
            self.received += len(piece.data)
            if piece.generation != generation:
                return
            self._file.seek(self._places[info.name] + piece.offset)
            self._file.write(piece.data)
            digest.update(piece.data)
            yield len(piece.data)
        self.sha256[info.name] = digest.hexdigest()

    def read(self, name: str) -> bytes:
        self._file.seek(self._places[name])
        return self._file.read(self._sizes[name])


class LiveWeights:
    """The weights of some tensors of a machine, taken as often as wanted; a context manager.

    `is_here`: whether the bytes of a tensor with this SHA-256 (hex) are here already. `also`: tensors of which only the
    digest is wanted. What is fetched lies in a temporary file in `folder`.
    """

    def __init__(
        self,
        machine: MachineClient,
        tensors: Mapping[str, TensorInfo],
        is_here: Callable[[str, str], bool],
        *,
        also: Sequence[str] = (),
        folder: Path,
        progress: Progress,
    ) -> None:
        """Raises InputError if the folder takes no file."""
        self._machine = machine
        self._tensors = tensors
        self._is_here = is_here
        self._also = also
        self._folder = folder
        self._progress = progress
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- closed by __exit__
        except OSError as error:
            what = f"{path_text(folder)} takes no file: {error.strerror}"
            raise InputError(what, remedy="choose a folder that exists and is writable") from error
        self._spool = _Spool(self._file)

    def take(self, generation: int | None = None) -> Snapshot:
        """The weights of a generation (None: the current one); only what is not here yet is fetched.

        Raises MachineError if the weights change all the time, InputError if the folder has no room,
        RequestRefusedError if that generation is not kept (1014), or the machine has no memory to show it (1017).
        """
        try:
            return self._settle(generation)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            what = f"{path_text(self._folder)} has no room for the weights: {error.strerror}"
            raise InputError(what, remedy="free some space or choose another folder") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _settle(self, generation: int | None) -> Snapshot:
        spool = self._spool
        for _ in range(_ROUNDS):
            self._progress("compare digests", 0, 0)
            found = live_digests(self._machine, [*self._tensors, *self._also], generation)
            if found is None:
                continue
            differing = [name for name in self._tensors if not self._is_here(name, found.sha256[name])]
            wanted = [self._tensors[name] for name in differing if spool.sha256.get(name) != found.sha256[name]]
            if self._fetch(wanted, found.generation, of=generation):
                wrong = [name for name in differing if spool.sha256[name] != found.sha256[name]]
                if wrong:
                    raise MachineError(f"{wrong[0]!r} arrived with another digest", remedy="report this bug")
                return Snapshot(found.generation, found.sha256, frozenset(differing), spool.received, spool.read)
        raise MachineError(
            f"the weights changed {_ROUNDS} times while they were read", remedy="try again while nobody changes them"
        )

    def _fetch(self, wanted: Sequence[TensorInfo], generation: int, *, of: int | None) -> bool:
        """Read tensors of this generation; False if the weights have changed. `of`: what to ask the machine for."""
        total = sum(info.bytes for info in wanted)
        read = 0
        for info in wanted:
            pieces = self._machine.pieces(info.name, size=info.bytes, generation=of)
            for count in self._spool.fetch(info, pieces, generation):
                read += count
                self._progress("read the weights", read, total)
            if info.name not in self._spool.sha256:
                return False
        return True
