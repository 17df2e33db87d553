"""What the surgeon tells of its operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorChange:
    """A tensor before and after: its types, its size in bytes and blocks after, how many of them changed, its SHA-256.

    All of a tensor that is stored in another type counts as changed.
    """

    name: str
    type_before: str
    type: str
    bytes: int
    changed_bytes: int
    blocks: int
    changed_blocks: int
    sha256: str


@dataclass(frozen=True)
class SurgeryReport:
    """What an operation did to `base`; `output` is None for a dry run, and then it is what it would do.

    `bytes` is the size of the new file; `model_before` and `model` are digests as a machine gives them (hex). `kept`:
    tensors in which merged files differ and that stay the first's. `distances`: from the first, by file; None
    where it cannot be known.
    """

    base: str
    output: str | None
    bytes: int
    changed_bytes: int
    model_before: str
    model: str
    tensors: tuple[TensorChange, ...]
    kept: tuple[str, ...]
    distances: Mapping[str, float | None]


@dataclass(frozen=True)
class ExportReport:
    """A plain model that was written to `output`, from the file `base`.

    `bytes` is the size of the new file, `tensors` their number in it, `changed_bytes` how many of their bytes
    differ from `base`. `model_before` and `model` are digests as a machine gives them (hex). `removed_tensors` and
    `removed_keys` are the machine's; `lost_kernels` are the slots among them that held an evolved kernel.
    """

    base: str
    output: str
    bytes: int
    changed_bytes: int
    model_before: str
    model: str
    tensors: int
    removed_tensors: tuple[str, ...]
    removed_keys: tuple[str, ...]
    lost_kernels: tuple[str, ...]


@dataclass(frozen=True)
class TensorDifference:
    """A tensor in two files. What does not apply is None, as all of the other's is for a tensor that it lacks.

    Bytes and blocks are counted where type and shape are the same. Norms are of the differences of values: `l2` the
    Euclidean one, `max` the greatest; `relative` is l2 by the Euclidean norm of the first's values.
    """

    name: str
    types: tuple[str | None, str | None]
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    bytes: int | None
    changed_bytes: int | None
    blocks: int | None
    changed_blocks: int | None
    l2: float | None
    max: float | None
    relative: float | None
    protected: bool


@dataclass(frozen=True)
class FileDifference:
    """How two files differ: tensors (the least alike first), keys of metadata, digests of the models (hex).

    `same` counts the tensors in which they do not.
    """

    first: str
    other: str
    models: tuple[str, str]
    tensors: tuple[TensorDifference, ...]
    same: int
    metadata: tuple[str, ...]
