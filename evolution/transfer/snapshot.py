"""The weights of a running machine, all of one generation, while other clients may change them.

Digests tell which tensors differ from a file that is here, and only these are read. If the generation changes meanwhile
the digests are asked for again, and what was read and is still current is kept.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from evolution.transfer.live import Progress, live_digests
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import MachineError
from vboot.protocol.messages import TensorInfo
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

    def fetch(self, machine: MachineClient, info: TensorInfo, generation: int, done: Callable[[int], None]) -> bool:
        """Read a tensor of this generation from the machine; False if the weights have changed."""
        if info.name not in self._places:
            self._places[info.name], self._sizes[info.name] = self._end, info.bytes
            self._end += info.bytes
        self.sha256.pop(info.name, None)
        digest = hashlib.sha256()
        for piece in machine.pieces(info.name, size=info.bytes):
            self.received += len(piece.data)
            if piece.generation != generation:
                return False
            self._file.seek(self._places[info.name] + piece.offset)
            self._file.write(piece.data)
            digest.update(piece.data)
            done(len(piece.data))
        self.sha256[info.name] = digest.hexdigest()
        return True

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

    def take(self) -> Snapshot:
        """The weights of the current generation; only what is not here yet is fetched.

        Raises MachineError if the weights change all the time, InputError if the folder has no room.
        """
        try:
            return self._settle()
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

    def _settle(self) -> Snapshot:
        spool = self._spool
        for _ in range(_ROUNDS):
            self._progress("compare digests", 0, 0)
            found = live_digests(self._machine, [*self._tensors, *self._also])
            if found is None:
                continue
            differing = [name for name in self._tensors if not self._is_here(name, found.sha256[name])]
            wanted = [self._tensors[name] for name in differing if spool.sha256.get(name) != found.sha256[name]]
            if _fetch_all(self._machine, wanted, spool, found.generation, self._progress):
                wrong = [name for name in differing if spool.sha256[name] != found.sha256[name]]
                if wrong:
                    raise MachineError(f"{wrong[0]!r} arrived with another digest", remedy="report this bug")
                return Snapshot(found.generation, found.sha256, frozenset(differing), spool.received, spool.read)
        raise MachineError(
            f"the weights changed {_ROUNDS} times while they were read", remedy="try again while nobody changes them"
        )


def _fetch_all(
    machine: MachineClient, wanted: list[TensorInfo], spool: _Spool, generation: int, progress: Progress
) -> bool:
    total = sum(info.bytes for info in wanted)
    read = 0

    def done(count: int) -> None:
        nonlocal read
        read += count
        progress("read the weights", read, total)

    return all(spool.fetch(machine, info, generation, done) for info in wanted)
