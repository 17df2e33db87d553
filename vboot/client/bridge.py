"""The runtime beside this program: a machine without a machine, in a process that may crash without harm.

    with RustNeuralBridge() as bridge:
        bridge.initialize(Path("model.gguf"))
        weights = bridge.tensor("token_embd.weight")     # the live bytes, no copy
        machine = bridge.client()                        # the same client as that of a booted machine

The weights lie in memory that outlives the process. When it dies, the call under way fails with BridgeCrashedError,
and the next one starts another process, which goes on at the same generation with the same bytes.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vboot.client.bridge_link import BridgeLink
from vboot.client.bridge_packets import Kind, Packet
from vboot.client.bridge_process import BridgeProcess, OwnerLock, SharedMemory, find_library
from vboot.client.machine import TIMEOUT_S, MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import BridgeTimeoutError, MachineError
from vboot.weights.storage_types import element_dtype

Fault: TypeAlias = Literal["segv-before", "segv-after", "hang"]

LOAD_SECONDS = 60.0
_STATS = struct.Struct("<II9Q")
_WORDS_FIRST = "hw.mmio"


@dataclass(frozen=True)
class NeuralStats:
    """Counts of the runtime, as the C interface has them; `changed_bytes` of tensors differ from the model's file."""

    pixels_processed: int
    programs: int
    interrupts: int
    generation: int
    mutations_accepted: int
    mutations_refused: int
    tensor_bytes: int
    changed_bytes: int
    uptime_us: int


@dataclass(frozen=True)
class Place:
    """A tensor of the layout: `shape` has the fastest dimension first, `offset` and `bytes` are bytes."""

    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    protected: bool


class RustNeuralBridge:
    """A machine of this program's own. Calls from several threads wait for each other.

    It belongs to the process that made it. In a process forked from that one, as `multiprocessing` may start, every
    method but `close` raises InputError, and the machine is not touched.

    `timeout` is what a call may take, in seconds; a process that is not back by then is killed. `faults` allows
    `suffer`, for tests. Without `energy` changes cost none, as on a machine booted with `vector_boot.energy=off`.
    """

    def __init__(
        self,
        *,
        library: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        faults: bool = False,
        energy: bool = True,
    ) -> None:
        self.timeout = timeout
        self._energy = energy
        self._library = None if library is None else Path(library)
        self._faults = faults
        self._lock = OwnerLock()
        self._model: Path | None = None
        self._memory: SharedMemory | None = None
        self._process: BridgeProcess | None = None
        self._layout: dict[str, Place] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._number = 0

    def initialize(self, model: str | Path | None = None, *, timeout: float = LOAD_SECONDS) -> None:
        """Load a GGUF file or an RTS image; None is the built-in tiny model. What was loaded before is given up for it.

        Raises InputError (the earlier model stays loaded then) when the library is missing or the model is refused,
        MachineTimeoutError, BridgeCrashedError.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            library = self._library or find_library()
            path = None if model is None else Path(model)
            memory = SharedMemory()
            try:
                process = BridgeProcess(
                    library, path, memory, faults=self._faults, energy=self._energy, deadline=deadline
                )
            except BaseException:
                memory.close()
                raise
            self.close()
            self._library, self._model, self._memory, self._process = library, path, memory, process
            rows = json.loads(self._call(Kind.DATA_LAYOUT, deadline=deadline))
            self._layout = {row.pop("name"): Place(**{**row, "shape": tuple(row["shape"])}) for row in rows}
            self._maps = {fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ) for fd in (memory.weights, memory.words)}

    def execute_pixels(self, pixels: ArrayLike | bytes) -> bool:
        """Run pixels, three bytes each: bytes, or an array of integers 0 to 255. True once they have run.

        Raises InputError for what is no pixels, MachineError (nothing has changed then) when the runtime refuses them.
        """
        data = pixels if isinstance(pixels, bytes) else _pixel_bytes(pixels)
        if len(data) % 3:
            raise InputError(f"{len(data)} bytes are no whole pixels", remedy="give three bytes a pixel")
        self._call(Kind.EXECUTE_PIXELS, data)
        return True

    def get_result(self) -> bytes:
        """What the last program of `execute_pixels` made. Raises MachineError when none has run in this process."""
        return self._call(Kind.GET_RESULT)

    def get_stats(self) -> NeuralStats:
        """The counts."""
        _size, _version, *counts = _STATS.unpack(self._call(Kind.GET_STATS))
        return NeuralStats(*counts)

    def tensors(self) -> dict[str, Place]:
        """All tensors by name, in the model's order."""
        self._require_model()
        return dict(self._layout)

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view of a tensor's live bytes, the slowest dimension first.

        F64, F32, F16, I64 to I8: of that dtype; other types: their bytes as uint8, one dimension. It shows every later
        mutation, half done ones included, and stays valid after `close`. Raises InputError for an unknown name.
        """
        memory = self._require_model()
        place = self._layout.get(name)
        if place is None:
            raise InputError(f"there is no tensor {name!r}", remedy="see `tensors` for those there are")
        words_at = self._layout[_WORDS_FIRST].offset
        in_words = place.offset >= words_at
        source = self._maps[memory.words if in_words else memory.weights]
        offset = place.offset - words_at if in_words else place.offset
        dtype = element_dtype(place.type)
        raw: NDArray[Any] = np.frombuffer(source, np.uint8, place.bytes, offset)
        return raw if dtype is None else raw.view(dtype).reshape(place.shape[::-1])

    def link(self, deadline: float | None = None) -> BridgeLink:
        """A connection for `vboot.client.machine.MachineClient`. Raises BridgeCrashedError, MachineTimeoutError."""
        with self._lock:
            deadline = self._deadline() if deadline is None else deadline
            return BridgeLink(self._running(deadline), self._lock, self._next_number, deadline)

    def client(self, *, timeout: float = TIMEOUT_S) -> MachineClient:
        """The client of a machine, over this bridge."""
        return MachineClient(self.link, timeout=timeout)

    def suffer(self, fault: Fault) -> None:
        """Have the process crash before or after the next call is done, or hang in it; only with `faults`."""
        self._call(Kind.FAULT, fault.encode())

    @property
    def pid(self) -> int | None:
        """The process that holds the runtime now, if one runs."""
        if self._process is None or not self._lock.is_owned:
            return None
        return self._process.pid if self._process.is_alive() else None

    def close(self) -> None:
        """End the process and give up the model. Views of tensors stay. Closing twice is fine.

        In a forked process it does nothing: the runtime belongs to the process that made the bridge.
        """
        if not self._lock.is_owned:
            return
        with self._lock:
            if self._process is not None:
                self._process.end()
            if self._memory is not None:
                self._memory.close()
            self._process = self._memory = None
            self._layout, self._maps = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, kind: Kind, data: bytes = b"", *, deadline: float | None = None) -> bytes:
        with self._lock:
            deadline = self._deadline() if deadline is None else deadline
            process = self._running(deadline)
            number = self._next_number()
            process.send(Packet(kind, number, data), deadline)
            packet = process.answer(number, deadline)
            if packet is None:
                process.kill()
                what = f"the runtime's process did not come back from {kind.name.lower()} in time and was killed"
                raise BridgeTimeoutError(what, remedy="try again, or allow more time: the next call starts another")
        if packet.kind is not Kind.DONE:
            raise MachineError(f"the runtime refuses: {packet.data.decode()}")
        return packet.data

    def _running(self, deadline: float) -> BridgeProcess:
        """The process; another one over the same memory when it has died."""
        memory = self._require_model()
        if self._process is None or not self._process.is_alive():
            if self._process is not None:
                self._process.kill()
            assert self._library is not None, "set with the model"
            self._process = BridgeProcess(
                self._library, self._model, memory, faults=self._faults, energy=self._energy, deadline=deadline
            )
        return self._process

    def _require_model(self) -> SharedMemory:
        self._lock.require_owner()
        if self._memory is None:
            raise InputError("the bridge has no model", remedy="call initialize first")
        return self._memory

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout


def _pixel_bytes(pixels: ArrayLike) -> bytes:
    values = np.asarray(pixels)
    if values.dtype.kind not in "iu" or (values.size and not (values.min() >= 0 and values.max() <= 255)):
        raise InputError("the pixels are not all numbers from 0 to 255", remedy="give three bytes a pixel")
    return values.astype(np.uint8).tobytes()
