"""The weights of a running machine, all of one generation, while other clients may change them.

Digests tell which tensors differ from a file that is here, and only these are read. If the generation changes meanwhile
the digests are asked for again, and what was read and is still current is kept.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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


@contextmanager
def snapshot(
    machine: MachineClient,
    tensors: Mapping[str, TensorInfo],
    known: Callable[[str], str],
    *,
    also: Sequence[str] = (),
    folder: Path,
    progress: Progress,
) -> Iterator[Snapshot]:
    """The weights of these tensors, of one generation, as long as the block lasts.

    `known`: the SHA-256 (hex) of a tensor that is here already. `also`: tensors of which only the digest is wanted.
    What is fetched lies in a temporary file in `folder`. Raises MachineError if the weights change all the time,
    InputError if the folder has no room or is not writable.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- closed below
    except OSError as error:
        what = f"{path_text(folder)} takes no file: {error.strerror}"
        raise InputError(what, remedy="choose a folder that exists and is writable") from error
    with file:
        try:
            taken = _settle(machine, tensors, known, also=also, spool=_Spool(file), progress=progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            what = f"{path_text(folder)} has no room for the weights: {error.strerror}"
            raise InputError(what, remedy="free some space or choose another folder") from error
        yield taken


def _settle(
    machine: MachineClient,
    tensors: Mapping[str, TensorInfo],
    known: Callable[[str], str],
    *,
    also: Sequence[str],
    spool: _Spool,
    progress: Progress,
) -> Snapshot:
    for _ in range(_ROUNDS):
        progress("compare digests", 0, 0)
        found = live_digests(machine, [*tensors, *also])
        if found is None:
            continue
        differing = [name for name in tensors if found.sha256[name] != known(name)]
        wanted = [tensors[name] for name in differing if spool.sha256.get(name) != found.sha256[name]]
        if _fetch_all(machine, wanted, spool, found.generation, progress):
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
