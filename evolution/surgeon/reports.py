"""The surgeon's reports on its operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorChange:
    """A changed tensor: its types, its new size in bytes and blocks, how many of them changed, its SHA-256.

    All bytes of a tensor that gets another type count as changed.
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
    """The changes of an operation to `base`; `output` is None for a dry run.

    `bytes` is the size of the new file; `model_before` and `model` are digests as a machine gives them (hex). `kept`:
    tensors in which merged files differ and of which the first file's are kept. `distances`: from the first file,
    by file; None if it cannot be computed.
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
    """A tensor that differs between two files. Members that do not apply are None, also for a file without it.

    Bytes and blocks are counted where type and shape are the same. Norms are of the differences of values: `l2` the
    Euclidean norm, `max` the greatest magnitude; `relative` is l2 divided by the norm of the first file's values.
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
    """How two files differ: tensors (greatest difference first), keys of metadata, digests of the models (hex).

    `same` is the number of equal tensors.
    """

    first: str
    other: str
    models: tuple[str, str]
    tensors: tuple[TensorDifference, ...]
    same: int
    metadata: tuple[str, ...]
