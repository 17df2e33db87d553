"""The state of a run between two generations, as JSON that is checked when it is read. Pure."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from evolution.ctrm.calibration import CalibrationCurve
from vboot.errors import InputError
from vboot.protocol.decoding import decode
from vboot.protocol.errors import ProtocolError

Kind: TypeAlias = Literal["weights", "kernel"]

_VERSION = 1
_HEX = re.compile(r"[0-9a-f]{64}")
_REMEDY = "restore the run folder from a backup, or start another run"


@dataclass(frozen=True)
class Move:
    """An accepted move. Its edits are in `moves/`, with this SHA-256; `model` is the digest of the weights after it.

    `generation` is that of the search; `confidence` is sent to the body.
    """

    id: str
    kind: Kind
    generation: int
    confidence: float
    sha256: str
    model: str


@dataclass(frozen=True)
class RunState:
    """The state of a run between two generations.

    base: digest of the model that it began with. stage: index of the tier. barren: generations without a move in it.
    snapshot: number of moves in the snapshot, 0 is the base itself. best: the parent's best calibration score so far.
    strategy: the state for `evolution.strategies.restore`. kernel: the current kernel as `kernel_stage.dump` writes it,
    or None. kernel_at: the generation after which one was last searched for. curve: CTRM's calibration curve.
    """

    base: str
    strategy: bytes
    generation: int = 0
    stage: int = 0
    barren: int = 0
    evaluations: int = 0
    snapshot: int = 0
    best: float | None = None
    kernel: str | None = None
    kernel_at: int = 0
    curve: CalibrationCurve = dataclasses.field(default_factory=CalibrationCurve)
    lineage: tuple[Move, ...] = ()

    @property
    def model(self) -> str:
        """Digest of the parent, the current weights."""
        return self.lineage[-1].model if self.lineage else self.base

    def models(self) -> tuple[str, ...]:
        """The digests of the base and after each move."""
        return (self.base, *(move.model for move in self.lineage))

    def after_generation(self, *, accepted: bool) -> RunState:
        """The state after one more generation, in which a move was accepted or not."""
        return replace(self, generation=self.generation + 1, barren=0 if accepted else self.barren + 1)

    def next_stage(self, *, stages: int, barren_generations: int) -> int | None:
        """The stage to go on with after `barren_generations` without an accepted move; None: stay in this one.

        Stages cycle through the tiers. A new cycle draws other noise, as each stage has its own seed.
        """
        if stages < 2 or self.barren < barren_generations:
            return None
        return self.stage + 1


@dataclass(frozen=True)
class _Row:
    id: str
    kind: str
    generation: int
    confidence: float
    sha256: str
    model: str


@dataclass(frozen=True)
class _Document:
    version: int
    base: str
    strategy: str
    generation: int
    stage: int
    barren: int
    evaluations: int
    snapshot: int
    best: float | None
    kernel: str | None
    kernel_at: int
    curve: str
    lineage: tuple[_Row, ...]


def dump(state: RunState) -> bytes:
    """The state as bytes, the same for the same state."""
    members: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    members["strategy"] = base64.b64encode(state.strategy).decode()
    members["curve"] = state.curve.state()
    members["lineage"] = [dataclasses.asdict(move) for move in state.lineage]
    return json.dumps({"version": _VERSION, **members}, allow_nan=False).encode()


def load(data: bytes) -> RunState:
    """The state that `dump` wrote. Raises InputError for anything else."""
    try:
        document = decode(_Document, json.loads(data), name="state")
        strategy = base64.b64decode(document.strategy, validate=True)
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _bad("it is not JSON") from error
    except ProtocolError as error:
        raise _bad(error.what.replace(" in the machine's reply", "")) from error
    if document.version != _VERSION:
        raise _bad(f"its version is {document.version}, not {_VERSION}")
    counts = [getattr(document, name) for name in ("generation", "stage", "barren", "evaluations", "snapshot")]
    counts.append(document.kernel_at)
    if any(not 0 <= count < 1 << 53 for count in counts) or document.snapshot > len(document.lineage):
        raise _bad("a count is out of range")
    if document.best is not None and not math.isfinite(document.best):
        raise _bad("its best score is not finite")
    lineage = tuple(_move(row) for row in document.lineage)
    if not _HEX.fullmatch(document.base):
        raise _bad("its base is not a digest")
    names = ("base", "generation", "stage", "barren", "evaluations", "snapshot", "best", "kernel", "kernel_at")
    return RunState(
        **{name: getattr(document, name) for name in names},
        strategy=strategy,
        curve=CalibrationCurve.from_state(document.curve),
        lineage=lineage,
    )


def _move(row: _Row) -> Move:
    if row.kind not in ("weights", "kernel") or not 0 <= row.confidence <= 1 or not 0 <= row.generation < 1 << 53:
        raise _bad(f"its move {row.id!r:.40} is not valid")
    if not (_HEX.fullmatch(row.sha256) and _HEX.fullmatch(row.model)):
        raise _bad(f"its move {row.id!r:.40} has an invalid digest")
    kind: Kind = "kernel" if row.kind == "kernel" else "weights"
    return Move(row.id, kind, row.generation, row.confidence, row.sha256, row.model)


def _bad(what: str) -> InputError:
    return InputError(f"the state of the run cannot be used: {what}", remedy=_REMEDY)
