"""The edits of a mutation, and their encoding: JSON members, and one blob with all their bytes; and edits as text.

    members, blob = pack([Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=0.01, scale=1e-3)])

Numbers in the blob are little-endian; an edit names its part of the blob as `"blob": [offset, length]`. Edits with
arrays are equal only if they are the same object; compare the results of `pack` to compare their contents.

As text, an edit is `TENSOR[INDEX]=VALUE` or `TENSOR@OFFSET=HEX`: an index counts elements from 0, an offset bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vboot.errors import InputError
from vboot.protocol.tables import RANK_LIMIT
from vboot.text import printable

SparseOp: TypeAlias = Literal["set", "add"]
SeededForm: TypeAlias = Literal["normal", "step", "scale"]

SPARSE_OPS: tuple[SparseOp, ...] = get_args(SparseOp)
SEEDED_FORMS: tuple[SeededForm, ...] = get_args(SeededForm)

SEED = re.compile(r"[0-9a-f]{16}")

_ELEMENT = re.compile(r"(?P<tensor>.+)\[(?P<index>[0-9]{1,15})\]=(?P<value>[-+.eE0-9]+)", re.DOTALL)
_BYTES = re.compile(r"(?P<tensor>[^@]+)@(?P<offset>[0-9]{1,15})=(?P<data>.+)", re.DOTALL)


@dataclass(frozen=True)
class Dense:
    """New bytes for a range of a tensor: whole blocks in its storage type, from byte `offset` (start of a block)."""

    tensor: str
    offset: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Sparse:
    """Sets single elements or adds to them: `indices` u64 (n,) strictly increasing, `values` f32 (n,)."""

    tensor: str
    op: SparseOp
    indices: NDArray[np.uint64]
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LowRank:
    """w[j, i] += scale * sum over k of a[j, k] * b[i, k]: `a` f32 (ne1, r), `b` f32 (ne0, r), r in 1..64."""

    tensor: str
    scale: float
    a: NDArray[np.float32]
    b: NDArray[np.float32]


@dataclass(frozen=True)
class Seeded:
    """Noise from `seed` (16 hex digits) on the share `density` of the elements of all tensors that `tensors` matches.

    `tensors`: a name or a glob. `form` "normal" adds `scale` * z; "step" changes quantised codes by one (then `scale`
    is 1); "scale" multiplies the scale of quantised blocks by 1 + `scale` * z. z has mean 0 and variance 1/2.
    """

    tensors: str
    seed: str
    form: SeededForm
    density: float
    scale: float


@dataclass(frozen=True)
class Program:
    """A pixel program (3 bytes a pixel, at most 1364) that replaces the contents of a slot, `evolved.0` to `.7`."""

    tensor: str
    pixels: bytes


Edit: TypeAlias = Dense | Sparse | LowRank | Seeded | Program


def pack(edits: Sequence[Edit]) -> tuple[list[dict[str, Any]], bytes]:
    """The JSON members of each edit, and the blob with their parts in this order; it is empty if no edit has bytes."""
    members: list[dict[str, Any]] = []
    parts: list[bytes] = []
    size = 0
    for edit in edits:
        described, part = _describe(edit)
        if part is not None:
            described["blob"] = [size, len(part)]
            parts.append(part)
            size += len(part)
        members.append(described)
    return members, b"".join(parts)  # the part itself, not a copy, if there is only one


def unpack(
    members: Sequence[Mapping[str, Any]], blob: bytes, *, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Edit, ...]:
    """The edits from the results of `pack`.

    `shapes` (by tensor, fastest dimension first) is needed only for low_rank edits, which do not say where A ends and B
    begins. Raises InputError for members or parts that are not valid.
    """
    edits = []
    spans = []
    for number, described in enumerate(members):
        try:
            start, end = _span(described, len(blob))
            edits.append(_parse(described, blob[start:end], shapes or {}))
            spans.append((start, end))
        except ValueError as error:
            raise InputError(f"edit {number} is not valid: {error}") from error
    spans = sorted(span for span in spans if span[0] < span[1])
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        raise InputError("parts of two edits overlap in the blob")
    return tuple(edits)


def parse_elements(texts: Sequence[str]) -> tuple[Sparse, ...]:
    """The edits from texts such as `blk.0.ffn_up.bias[7]=0.5`: one for each tensor, in the order of their first use.

    Raises InputError for a text of another form, a value too large for f32, and an element that is set twice.
    """
    by_tensor: dict[str, dict[int, np.float32]] = {}
    for text in texts:
        tensor, index, value = _parse_element(text)
        elements = by_tensor.setdefault(tensor, {})
        if index in elements:
            raise InputError(f"{printable(tensor)}[{index}] is set twice", remedy="set it once")
        elements[index] = value
    return tuple(
        Sparse(
            tensor,
            "set",
            np.array(sorted(elements), np.uint64),
            np.array([elements[index] for index in sorted(elements)], np.float32),
        )
        for tensor, elements in by_tensor.items()
    )


def parse_bytes(text: str, *, read: Callable[[str], bytes]) -> Dense:
    """The edit from a text such as `blk.0.ffn_up.bias@0=0038`, or `...@0=@FILE`; `read` returns the bytes of a file.

    Raises InputError for a text of another form, and what `read` raises.
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        raise InputError(
            f"expected TENSOR@OFFSET=HEX, got {printable(text)}", remedy="write TENSOR@OFFSET=HEX or =@FILE"
        )
    data = match["data"]
    if data.startswith("@"):
        return Dense(match["tensor"], int(match["offset"]), read(data[1:]))
    try:
        return Dense(match["tensor"], int(match["offset"]), bytes.fromhex(data))
    except ValueError as error:
        what = f"expected two hex digits for each byte, got {printable(data[:40])}"
        raise InputError(what, remedy="write TENSOR@OFFSET=HEX, or =@FILE for a file's bytes") from error


def is_number(value: Any) -> bool:
    """Whether a value from JSON or TOML is a number within the range of f64; integers there may have any size."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def _parse_element(text: str) -> tuple[str, int, np.float32]:
    match = _ELEMENT.fullmatch(text)
    try:
        number = float(match["value"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise InputError(f"expected TENSOR[INDEX]=VALUE, got {printable(text)}", remedy="write TENSOR[INDEX]=VALUE")
    with np.errstate(over="ignore"):
        value = np.float32(number)
    if not np.isfinite(value):
        raise InputError(f"{printable(match['value'])} is too large for f32", remedy="set a smaller value")
    return match["tensor"], int(match["index"]), value


def _describe(edit: Edit) -> tuple[dict[str, Any], bytes | None]:
    """The JSON members without `blob`, and the part of the blob (None: this kind has none)."""
    match edit:
        case Dense():
            return {"kind": "dense", "tensor": edit.tensor, "offset": edit.offset}, edit.data
        case Sparse():
            part = edit.indices.astype("<u8").tobytes() + edit.values.astype("<f4").tobytes()
            return {"kind": "sparse", "tensor": edit.tensor, "op": edit.op}, part
        case LowRank():
            rank = edit.a.shape[1]
            part = edit.a.astype("<f4").tobytes() + edit.b.astype("<f4").tobytes()
            return {"kind": "low_rank", "tensor": edit.tensor, "rank": rank, "scale": edit.scale}, part
        case Seeded():
            fields = ("tensors", "seed", "form", "density", "scale")
            return {"kind": "seeded"} | {field: getattr(edit, field) for field in fields}, None
        case Program():
            return {"kind": "program", "tensor": edit.tensor}, edit.pixels


def _span(described: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Start and end of the part of an edit in a blob of `size` bytes; both 0 if it has none."""
    if "blob" not in described:
        return 0, 0
    part = described["blob"]
    if not isinstance(part, list) or len(part) != 2 or any(type(number) is not int or number < 0 for number in part):
        raise ValueError(f"its part is {part!r:.40}, not [offset, length]")
    offset, length = part
    if offset + length > size:
        raise ValueError(f"its part [{offset}, {length}] leaves the blob of {size} bytes")
    return offset, offset + length


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "kind": _is_text,
    "tensor": _is_text,
    "tensors": _is_text,
    "offset": lambda value: type(value) is int and value >= 0,
    "op": SPARSE_OPS.__contains__,
    "rank": lambda value: type(value) is int and 1 <= value <= RANK_LIMIT,
    "scale": is_number,
    "seed": lambda value: isinstance(value, str) and SEED.fullmatch(value) is not None,
    "form": SEEDED_FORMS.__contains__,
    "density": lambda value: is_number(value) and 0 <= value <= 1,
    "blob": lambda _: True,  # checked by `_span`
}

_MEMBERS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    kind: {name: _CHECKS[name] for name in ("kind", *names.split())}
    for kind, names in {
        "dense": "tensor offset blob",
        "sparse": "tensor op blob",
        "low_rank": "tensor rank scale blob",
        "seeded": "tensors seed form density scale",
        "program": "tensor blob",
    }.items()
}


def _parse(described: Mapping[str, Any], part: bytes, shapes: Mapping[str, Sequence[int]]) -> Edit:
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in _MEMBERS:
        raise ValueError(f"its kind is {kind!r:.40}, not one of {', '.join(_MEMBERS)}")
    expected = _MEMBERS[kind]
    if missing := [name for name in expected if name not in described]:
        raise ValueError(f"it lacks {missing[0]!r}")
    for name, value in described.items():
        if name not in expected:
            raise ValueError(f"{name!r:.40} is not a member of {kind!r}")
        if not expected[name](value):
            raise ValueError(f"its {name!r} cannot be {value!r:.40}")
    own = {name: value for name, value in described.items() if name not in ("kind", "blob", "rank")}
    match kind:
        case "dense":
            return Dense(**own, data=part)
        case "sparse":
            return Sparse(**own, **_sparse_arrays(part))
        case "low_rank":
            return LowRank(**own, **_factors(part, described["rank"], shapes.get(own["tensor"])))
        case "seeded":
            return Seeded(**own)
        case _:
            return Program(**own, pixels=part)


def _sparse_arrays(part: bytes) -> dict[str, Any]:
    count, rest = divmod(len(part), 12)
    if rest:
        raise ValueError(f"its part of {len(part)} bytes is not n u64 and n f32")
    return {"indices": np.frombuffer(part, "<u8", count), "values": np.frombuffer(part, "<f4", count, 8 * count)}


def _factors(part: bytes, rank: int, shape: Sequence[int] | None) -> dict[str, Any]:
    if shape is None:
        raise ValueError("the shape of its tensor is not known")
    if len(shape) != 2 or len(part) != 4 * rank * sum(shape):
        raise ValueError(f"its part of {len(part)} bytes is not factors of rank {rank} for the shape {list(shape)}")
    both = np.frombuffer(part, "<f4").reshape(sum(shape), rank)
    return {"a": both[: shape[1]], "b": both[shape[1] :]}
