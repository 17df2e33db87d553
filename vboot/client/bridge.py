"""The bridge: the machine's runtime in a child process of this program, without a virtual machine.

    with RustNeuralBridge() as bridge:
        bridge.initialize(Path("model.gguf"))
        weights = bridge.tensor("token_embd.weight")     # a view of the current bytes, no copy
        machine = bridge.client()                        # the same client as for a booted machine

The child process may crash without harm to this program: the weights and the journal are in shared memory, which
outlives it. The call during which it crashes raises BridgeCrashedError; the next call starts another child, which
continues at the same generation with the same bytes.
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
from vboot.client.bridge_process import BridgeProcess, SharedMemory, find_library
from vboot.client.connected import TIMEOUT_S
from vboot.client.forks import OwnerLock
from vboot.client.machine import MachineClient
from vboot.client.signer import Signer
from vboot.errors import InputError
from vboot.protocol.errors import BridgeTimeoutError, MachineError
from vboot.weights.storage_types import element_dtype

Fault: TypeAlias = Literal["segv-before", "segv-after", "hang"]

LOAD_SECONDS = 60.0
"""Seconds that loading a model may take, unless the caller says otherwise."""
_STATS = struct.Struct("<II9Q")
_WORDS_FIRST = "hw.mmio"


@dataclass(frozen=True)
class NeuralStats:
    """Counters of the runtime, as in the C interface. `changed_bytes`: how many bytes differ from the model file."""

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
class TensorPlace:
    """The position of a tensor in the model: ggml type, shape (fastest dimension first), offset and size in bytes."""

    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    protected: bool


class RustNeuralBridge:
    """The machine's runtime in a child process. Threads may share a bridge: their calls run one after the other.

    `library`: the C library (None: see `find_library`). `timeout`: seconds that a call may take; then the child is
    killed. `faults` allows `inject_fault`, for tests. Without `energy`, mutations cost none, as on a machine booted
    with `vector_boot.energy=off`.

    A process forked from the one that made the bridge must make its own: there every method raises ForkedProcessError,
    except `close` and views of tensors made before.
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
        self._lock = OwnerLock("this bridge")
        self._model: Path | None = None
        self._memory: SharedMemory | None = None
        self._process: BridgeProcess | None = None
        self._layout: dict[str, TensorPlace] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._number = 0

    def initialize(self, model: str | Path | None = None, *, timeout: float = LOAD_SECONDS) -> None:
        """Load a GGUF file or an RTS image (a bootable image of executable and model); None: the built-in tiny model.

        It replaces the model loaded before, with its changes. `timeout`: in seconds. Raises InputError if the library
        is missing or the model is refused (then the earlier model stays loaded), MachineTimeoutError,
        BridgeCrashedError.
        """
        self._lock.require()
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
            self._layout = {row.pop("name"): TensorPlace(**{**row, "shape": tuple(row["shape"])}) for row in rows}
            self._maps = {fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ) for fd in (memory.weights, memory.words)}

    def execute_pixels(self, pixels: ArrayLike | bytes) -> bool:
        """Run a pixel program: bytes, three a pixel, or an array of integers 0 to 255 of that size. Returns True.

        Raises InputError for other values, MachineError if the runtime refuses the program; then nothing has changed.
        """
        data = pixels if isinstance(pixels, bytes) else _pixel_bytes(pixels)
        if len(data) % 3:
            raise InputError(
                f"expected whole pixels of 3 bytes, got {len(data)} bytes", remedy="give three bytes a pixel"
            )
        self._call(Kind.EXECUTE_PIXELS, data)
        return True

    def get_result(self) -> bytes:
        """The output of the last `execute_pixels`. Raises MachineError if none has run since the child started."""
        return self._call(Kind.GET_RESULT)

    def get_stats(self) -> NeuralStats:
        """Counters of the runtime."""
        _size, _version, *counts = _STATS.unpack(self._call(Kind.GET_STATS))
        return NeuralStats(*counts)

    def tensors(self) -> dict[str, TensorPlace]:
        """All tensors by name, in the order of the model."""
        self._require_model()
        return dict(self._layout)

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view of the current bytes of a tensor.

        F64, F32, F16 and I64 to I8: an array of that dtype, slowest dimension first. Other types: their bytes, uint8 in
        one dimension. The view shows later mutations, also while they are applied, and stays valid after `close`.
        Raises InputError for an unknown name.
        """
        memory = self._require_model()
        place = self._layout.get(name)
        if place is None:
            raise InputError(f"there is no tensor {name!r}", remedy="list the tensors with `tensors`")
        words_at = self._layout[_WORDS_FIRST].offset
        in_words = place.offset >= words_at
        source = self._maps[memory.words if in_words else memory.weights]
        offset = place.offset - words_at if in_words else place.offset
        dtype = element_dtype(place.type)
        raw: NDArray[Any] = np.frombuffer(source, np.uint8, place.bytes, offset)
        return raw if dtype is None else raw.view(dtype).reshape(place.shape[::-1])

    def link(self, deadline: float | None = None) -> BridgeLink:
        """A connection for `vboot.client.machine.MachineClient`. Raises BridgeCrashedError, MachineTimeoutError."""
        self._lock.require()
        with self._lock:
            deadline = self._deadline() if deadline is None else deadline
            return BridgeLink(self._running(deadline), self._lock, self._next_number, deadline)

    def client(self, *, timeout: float = TIMEOUT_S, signer: Signer | None = None) -> MachineClient:
        """A client of the runtime, as of a booted machine. `timeout`: seconds that a request may take. `signer`: see
        `vboot.client.machine.connect`.
        """
        return MachineClient(self.link, timeout=timeout, signer=signer)

    def inject_fault(self, fault: Fault) -> None:
        """Make the child crash before or after it does the next call, or hang in it; only with `faults`, for tests."""
        self._call(Kind.FAULT, fault.encode())

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if there is none, or in a forked process."""
        if not self._lock.is_current():
            return None
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def close(self) -> None:
        """End the child and release the model. Views of tensors stay valid. It may be called twice.

        In a forked process it leaves the child alone, which belongs to the other process.
        """
        if not self._lock.is_current():
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
                what = f"the runtime's process did not finish {kind.name.lower()} in time and was killed"
                raise BridgeTimeoutError(what, remedy="try again, or allow more time: the next call starts another")
        if packet.kind is not Kind.DONE:
            raise MachineError(f"the runtime refuses: {packet.data.decode()}")
        return packet.data

    def _running(self, deadline: float) -> BridgeProcess:
        """The child; if it has ended, another one with the same memory."""
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
        self._lock.require()
        if self._memory is None:
            raise InputError("no model is loaded", remedy="call initialize first")
        return self._memory

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout


def _pixel_bytes(pixels: ArrayLike) -> bytes:
    values = np.asarray(pixels)
    if values.dtype.kind not in "iu" or (values.size and not (values.min() >= 0 and values.max() <= 255)):
        raise InputError("expected pixels of integers from 0 to 255", remedy="give three bytes a pixel")
    return values.astype(np.uint8).tobytes()
