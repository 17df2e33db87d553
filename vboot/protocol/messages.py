"""What a machine answers and reports, as the protocol names it: every field is the member of that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vboot.protocol.decoding import decode

EVENT_KINDS = ("heartbeat", "mutation", "alert")
"""What a client can subscribe to."""

FAULTS = ("segv", "abort", "hang", "oom", "orphans")
"""What a machine that allows it can be made to suffer."""


@dataclass(frozen=True)
class MachineLimits:
    """The most the machine takes: bytes of a line, a blob, an upload; edits of a mutation."""

    line: int
    blob: int
    upload: int
    edits: int


@dataclass(frozen=True)
class Hello:
    """Who answers. `build` is the executable's SHA-256 (12 hex); `emergency` says why the model is not served, if so.

    `promoted` is the last generation that is kept across a restart; `durable`: a state device holds the journal.
    `signed`: changes must be signed for the machine `appliance`.
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
    """How late heartbeats were, in microseconds: percentiles and the worst."""

    p50: int
    p99: int
    p999: int
    max: int


@dataclass(frozen=True)
class MutationCounts:
    """Mutations since the start."""

    accepted: int
    refused: int
    rolled_back: int


@dataclass(frozen=True)
class WorkerState:
    """The unprivileged process that serves requests; `anon_bytes` is its memory that no file backs."""

    pid: int
    restarts: int
    anon_bytes: int


@dataclass(frozen=True)
class SupervisorState:
    """The process that beats: PID 1 of a booted machine."""

    pid: int
    anon_bytes: int


@dataclass(frozen=True)
class MemoryState:
    """The machine's memory."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Stats:
    """How the machine is. Times in microseconds since the supervisor started; `phases` says when each was reached."""

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


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: ggml type, shape (ne0, the fastest, first) and size in bytes. No mutation touches a protected one."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    protected: bool


@dataclass(frozen=True)
class TensorPage:
    """As many tensors as fit a line; `next` is the cursor of the rest, if there are more."""

    tensors: tuple[TensorInfo, ...]
    next: str | None


@dataclass(frozen=True)
class Piece:
    """What the answer to one `read` says of the bytes that come with it."""

    tensor: str
    offset: int
    bytes: int
    generation: int


@dataclass(frozen=True)
class TensorBytes:
    """Bytes of a tensor in its storage type, from `offset` on, all of the same generation."""

    tensor: str
    offset: int
    data: bytes
    generation: int


@dataclass(frozen=True)
class Digest:
    """SHA-256 (hex) of tensors by name, and of the whole model: all unprotected tensors with their names."""

    generation: int
    model: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Interrupt:
    """A neural interrupt was taken, `latency_us` microseconds after the request had arrived."""

    acknowledged: bool
    vector: int
    latency_us: int


@dataclass(frozen=True)
class EmbeddedTexts:
    """What the answer to one `embed` says of the vectors that come with it: how many, how long, of how many tokens."""

    count: int
    dim: int
    tokens: tuple[int, ...]
    generation: int


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of n texts, float32 [n, dim], and how many tokens each text was, by the weights of `generation`."""

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]
    generation: int


@dataclass(frozen=True)
class RunPixels:
    """What the answer to `execute_pixels` says: 1, and how many instructions were executed."""

    result: int
    steps: int


@dataclass(frozen=True)
class PixelRun:
    """A pixel program was executed to its end; `output` is what its OUT and NEURAL_EXEC gave out, little-endian f32."""

    result: int
    steps: int
    output: bytes


@dataclass(frozen=True)
class Changed:
    """How much a mutation changed: the number of tensors, and of bytes in them that differ from before."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class Mutation:
    """An accepted mutation. `durable`: it survives a power cut; `replayed`: it had been accepted before, by this id.

    `sha256` (hex, by name) of at most 256 changed tensors, where it was asked for.
    """

    id: str
    generation: int
    changed: Changed
    durable: bool
    replayed: bool
    sha256: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Rollback:
    """The weights are those of the generation `restored` again, as the new generation `generation`."""

    generation: int
    restored: int
    replayed: bool


@dataclass(frozen=True)
class Promotion:
    """The generation that is kept across a restart from now on."""

    promoted: int


@dataclass(frozen=True)
class Checkpoint:
    """The weights were written down whole as of `generation`; `durable`: on a state device."""

    generation: int
    durable: bool


@dataclass(frozen=True)
class JournalRecord:
    """An entry of the journal. `kind` and `verdict` are words; `code` is the protocol's, where it was refused.

    `generation` is the one after it, `uptime_us` when it happened (microseconds since the start). What a kind does not
    have (a mutation alone has a confidence) is None.
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


@dataclass(frozen=True)
class RecordPage:
    """As many records as were asked for and fit a line; `next` is where the rest starts, if there is more."""

    records: tuple[JournalRecord, ...]
    next: int | None


@dataclass(frozen=True)
class Received:
    """How many bytes of an upload the machine has."""

    received: int


@dataclass(frozen=True)
class HeartbeatEvent:
    """The machine beat: the how-manieth time, and how late."""

    beats: int
    late_us: int


@dataclass(frozen=True)
class MutationEvent:
    """The weights changed: `change` is the word for how (mutate, rollback, ...), `id` the request's, if it had one."""

    generation: int
    change: str
    id: str | None


@dataclass(frozen=True)
class AlertEvent:
    """Something a person should know."""

    what: str
    text: str


Event: TypeAlias = HeartbeatEvent | MutationEvent | AlertEvent

_EVENTS: Mapping[str, type[Event]] = {"heartbeat": HeartbeatEvent, "mutation": MutationEvent, "alert": AlertEvent}


def parse_event(params: object) -> Event | None:
    """The event in the `params` of a notification; None for a kind we do not know. Raises ProtocolError."""
    kind = params.get("kind") if isinstance(params, dict) else None
    event = _EVENTS.get(kind) if isinstance(kind, str) else None
    return decode(event, params, name=f"event {kind}") if event else None
