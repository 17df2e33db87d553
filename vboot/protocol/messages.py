"""Replies and events of a machine as frozen dataclasses. Every field is the JSON member of that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vboot.protocol.decoding import decode


@dataclass(frozen=True)
class MachineLimits:
    """Limits of the machine: bytes of a line, a blob and an upload, and edits in one mutation."""

    line: int
    blob: int
    upload: int
    edits: int


@dataclass(frozen=True)
class Hello:
    """Version and state of the machine. `build`: the first 12 hex digits of the SHA-256 of its executable.

    `emergency`: why the machine does not use its model, None if it does. `promoted`: the newest generation that
    survives a restart. `durable`: a state device holds the journal. `signed`: changes must be signed for the machine
    `appliance`.
    """

    version: str
    protocol: int
    build: str
    generation: int
    promoted: int
    signed: bool
    emergency: str | None
    durable: bool
    limits: MachineLimits
    appliance: str | None = None


@dataclass(frozen=True)
class Lateness:
    """Lateness of heartbeats in microseconds: percentiles and the maximum."""

    p50: int
    p99: int
    p999: int
    max: int


@dataclass(frozen=True)
class MutationCounts:
    """Numbers of mutations since the start of the machine."""

    accepted: int
    refused: int
    rolled_back: int


@dataclass(frozen=True)
class WorkerState:
    """The unprivileged process that answers requests. `anon_bytes`: its anonymous memory, in bytes."""

    pid: int
    restarts: int
    anon_bytes: int


@dataclass(frozen=True)
class SupervisorState:
    """The process that sends heartbeats and supervises the worker: PID 1 of a booted machine."""

    pid: int
    anon_bytes: int


@dataclass(frozen=True)
class MemoryState:
    """Memory of the machine, in bytes."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class BootState:
    """What the boot loader's entries say of the slot that runs.

    `tries_left` is None once it was found good (`blessed`). `fell_back` says why another slot than the default one
    runs, `problem` why this one could not be found good so far; None if there is nothing to say.
    """

    tries_left: int | None
    blessed: bool
    fell_back: str | None
    problem: str | None


@dataclass(frozen=True)
class Stats:
    """Counters and measurements. Times are microseconds since the supervisor started, also those of `phases`."""

    uptime_us: int
    heartbeats: int
    heartbeat_period_ms: int
    heartbeat_late_us: Lateness
    generation: int
    pixels_processed: int
    interrupts: int
    mutations: MutationCounts
    energy: int
    worker: WorkerState
    supervisor: SupervisorState
    memory: MemoryState
    phases: Mapping[str, int]
    cpu_features: tuple[str, ...]
    slot: str | None
    state: str
    boot: BootState | None = None


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: ggml type, shape (fastest dimension first) and size in bytes. No mutation changes a protected one."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    protected: bool


@dataclass(frozen=True)
class TensorPage:
    """As many tensors as fit a line; `next` is the cursor of the remaining ones, None after the last page."""

    tensors: tuple[TensorInfo, ...]
    next: str | None


@dataclass(frozen=True)
class Piece:
    """The reply to one `read`, without its blob."""

    tensor: str
    offset: int
    bytes: int
    generation: int


@dataclass(frozen=True)
class TensorBytes:
    """Bytes of a tensor in its storage type, from byte `offset` on, all of the same generation."""

    tensor: str
    offset: int
    data: bytes
    generation: int


@dataclass(frozen=True)
class Digest:
    """SHA-256 (hex digits) of tensors by name; `model` covers all unprotected tensors and their names."""

    generation: int
    model: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Interrupt:
    """The runtime handled a neural interrupt `latency_us` microseconds after the request arrived."""

    acknowledged: bool
    vector: int
    latency_us: int


@dataclass(frozen=True)
class EmbeddedTexts:
    """The reply to one `embed`, without its blob: `count` vectors of `dim` numbers, and for each text what was read.

    `truncated` is None in replies of machines that do not report it.
    """

    count: int
    dim: int
    tokens: tuple[int, ...]
    generation: int
    truncated: tuple[bool, ...] | None = None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of n texts by the weights of `generation`.

    `vectors`: float32 [n, dim]. `tokens` (n): how many tokens of each text the model has read. `truncated` (n): whether
    the text has more than those, so that its end has no influence on its vector. A machine of an older version does not
    report this; then only texts that the client itself had to cut are marked.
    """

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]
    generation: int
    truncated: tuple[bool, ...]


@dataclass(frozen=True)
class ExecutedPixels:
    """The reply to `execute_pixels`, without its blob: 1, and the number of executed instructions."""

    result: int
    steps: int


@dataclass(frozen=True)
class PixelRun:
    """The result of a pixel program: `steps` executed instructions, and the `output` of OUT and NEURAL_EXEC, f32."""

    result: int
    steps: int
    output: bytes


@dataclass(frozen=True)
class Changed:
    """How much a mutation changed: the number of tensors, and the number of bytes that differ from before."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class Mutation:
    """An accepted mutation. `durable`: it survives a power cut; one on trial does not. `replayed`: it had been accepted
    before under this id.

    `sha256`: hex digits by name, of at most 256 changed tensors, if the request asked for it.
    """

    id: str
    generation: int
    changed: Changed
    durable: bool
    replayed: bool
    sha256: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Rollback:
    """The new generation `generation` has the weights of the generation `restored`; `durable` as above."""

    generation: int
    restored: int
    replayed: bool
    durable: bool = False


@dataclass(frozen=True)
class Reloaded:
    """A worker process of another executable. `build`: first 12 hex digits of its SHA-256; `gap_us`: microseconds
    during which nobody served."""

    build: str
    gap_us: int


@dataclass(frozen=True)
class Updated:
    """The slot that was updated, "A" or "B"."""

    slot: str


@dataclass(frozen=True)
class UpdateWritten:
    """How many bytes of the slot's partition are written."""

    written: int


@dataclass(frozen=True)
class Promotion:
    """The newest promoted generation. `durable`: it survives a power cut."""

    promoted: int
    durable: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """The journal holds the complete weights of `generation`. `durable`: on a state device."""

    generation: int
    durable: bool


@dataclass(frozen=True)
class JournalRecord:
    """A record of the journal. `kind` and `verdict`: see RECORD_KINDS and VERDICTS in `vboot.protocol.tables`.

    `code`: the error code of a refused request. `generation`: the current generation afterwards. `uptime_us`: its time,
    in microseconds since the start of the machine. `restored`: the generation whose contents came back, of a `rollback`
    or `lease_expired`; older machines do not send it. Members that a kind does not have are None.
    """

    generation: int
    kind: str
    verdict: str
    code: int | None
    id: str | None
    origin: str | None
    confidence: float | None
    edits: int
    changed_bytes: int
    uptime_us: int
    restored: int | None = None


@dataclass(frozen=True)
class RecordPage:
    """As many records as were asked for and fit a line; `next` is the number of the following one, None at the end."""

    records: tuple[JournalRecord, ...]
    next: int | None


@dataclass(frozen=True)
class Received:
    """How many bytes of an upload the machine has received."""

    received: int


@dataclass(frozen=True)
class HeartbeatEvent:
    """A heartbeat: how many there have been so far, and how late this one was in microseconds."""

    beats: int
    late_us: int


@dataclass(frozen=True)
class MutationEvent:
    """The weights changed. `change`: the kind of change (mutate, rollback, ...); `id`: that of the request, if any."""

    generation: int
    change: str
    id: str | None


@dataclass(frozen=True)
class AlertEvent:
    """Something a person should know: `what` is its kind, `text` a sentence."""

    what: str
    text: str


Event: TypeAlias = HeartbeatEvent | MutationEvent | AlertEvent

_EVENTS: Mapping[str, type[Event]] = {"heartbeat": HeartbeatEvent, "mutation": MutationEvent, "alert": AlertEvent}


def parse_event(params: object) -> Event | None:
    """The event in the `params` of a notification; None for an unknown kind. Raises ProtocolError."""
    kind = params.get("kind") if isinstance(params, dict) else None
    event = _EVENTS.get(kind) if isinstance(kind, str) else None
    return decode(event, params, name=f"event {kind}") if event else None
