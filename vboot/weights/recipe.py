"""Recipes: mutations in JSON or TOML files, written by people. It reads only the recipe and the files that it names.

    confidence = 0.9               # how sure you are; the machine accepts more than 0.8, up to 1
    origin = "spelling fix"        # optional: who makes the change, for the journal
    lease_ms = 60000               # optional: a trial, rolled back after this time unless it is promoted

    [[edits]]                      # new bytes or numbers
    kind = "dense"
    tensor = "blk.0.attn_q.bias"
    offset = 0                     # optional: in bytes, the start of a block
    values = [0.5, -0.25]          # or value = 0.0 and count = 384, or hex = "3800b400", or base64 = "OAC0AA==",
                                   # or file = "bias.npy" (numbers), or file = "bias.bin" (bytes as stored)
    [[edits]]                      # single elements, counted from 0, set or added to
    kind = "sparse"
    tensor = "token_embd.weight"
    op = "add"                     # or "set"
    indices = [7, 1000]
    values = [0.125, -0.125]

    [[edits]]                      # w[j][i] += scale * sum over k of a[j][k] * b[i][k]
    kind = "low_rank"
    tensor = "blk.0.attn_q.weight"
    scale = 0.01
    a = "a.npy"                    # one row for each row of the tensor; a file, or lists of numbers
    b = "b.npy"                    # one row for each column of the tensor

    [[edits]]                      # noise
    kind = "seeded"
    tensors = "blk.*.weight"       # a name, or a pattern
    seed = "00c0ffee00c0ffee"
    form = "normal"                # add it; "step": move codes by one; "scale": multiply block scales
    density = 0.01                 # share of the elements
    scale = 0.001                  # not for "step"

    [[edits]]                      # pixels for a slot
    kind = "program"
    tensor = "evolved.0"
    hex = "fa0200ff0000"           # or file = "program.bin"

File names are relative to the recipe. Numbers are converted to the type of the tensor, which may be F32 F16 BF16 Q8_0
F64 I8 I16 I32 I64.
"""

from __future__ import annotations

import base64
import io
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vboot.errors import InputError
from vboot.protocol.messages import TensorInfo
from vboot.protocol.tables import RANK_LIMIT
from vboot.weights.edits import SEED, SEEDED_FORMS, SPARSE_OPS, Dense, Edit, LowRank, Program, Seeded, Sparse, is_number
from vboot.weights.storage_types import FLOAT_STORAGE, block_of, element_dtype, encode


@dataclass(frozen=True)
class Recipe:
    """The contents of a recipe; None for members that it does not have. `lease_ms`: in milliseconds."""

    edits: tuple[Edit, ...]
    confidence: float | None
    origin: str | None
    lease_ms: int | None


def load(path: Path, lookup: Callable[[str], TensorInfo]) -> Recipe:
    """Read a recipe from a .json or .toml file. `lookup` returns the description of a tensor by its name.

    Raises InputError that names the file, the edit and the member.
    """
    top = _read_document(path)
    if not isinstance(top, dict):
        raise InputError(f"{path}: the recipe is {_shown(top)}", remedy="make it an object with edits")
    _Members(path, "the recipe", top).check(required=("edits",), optional=("confidence", "origin", "lease_ms"))
    edits = []
    for number, edit in enumerate(top["edits"]):
        place = f"edits[{number}]"
        if not isinstance(edit, dict):
            raise InputError(f"{path}: {place} is {_shown(edit)}", remedy="make it a table with a kind")
        edits.append(_edit(_Members(path, place, edit), lookup))
    return Recipe(tuple(edits), top.get("confidence"), top.get("origin"), top.get("lease_ms"))


def _read_document(path: Path) -> Any:
    """The JSON or TOML value of a file, depending on its extension. Raises InputError, also for a repeated member."""
    is_toml = path.suffix == ".toml"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise InputError(f"{path}: {twice!r:.40} appears twice in one object", remedy="give it once")
        return members

    try:
        text = path.read_text("utf-8")
        return tomllib.loads(text) if is_toml else json.loads(text, object_pairs_hook=unique)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", remedy="name a recipe") from error
    except (ValueError, RecursionError) as error:
        remedy = "correct it" if is_toml or path.suffix == ".json" else "end the name of a TOML file in .toml"
        raise InputError(f"{path} is not {'TOML' if is_toml else 'JSON'} ({error})", remedy=remedy) from error


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python writes no number of more than some thousand digits
        return "a number of too many digits"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "edits": (_is_list, "a list of edits"),
    "confidence": (is_number, "a number"),
    "origin": (_is_text, "a string"),
    "lease_ms": (lambda value: _is_count(value) and value > 0, "a number of milliseconds"),
    "kind": (_is_text, "a kind of edit"),
    "tensor": (_is_text, "the name of a tensor"),
    "offset": (_is_count, "a number of bytes"),
    "hex": (_is_text, "a string of hex digits, two for each byte"),
    "base64": (_is_text, "a string of base64, padded with ="),
    "file": (_is_text, "the name of a file"),
    "value": (is_number, "a number"),
    "count": (_is_count, "a number of elements"),
    "values": (lambda value: _is_list(value) or _is_text(value), "a list of numbers or a .npy file"),
    "op": (lambda value: value in SPARSE_OPS, "set or add"),
    "indices": (lambda value: _is_list(value) or _is_text(value), "a list of element numbers or a .npy file"),
    "a": (lambda value: _is_list(value) or _is_text(value), "a list of rows or a .npy file"),
    "b": (lambda value: _is_list(value) or _is_text(value), "a list of rows or a .npy file"),
    "tensors": (_is_text, "a name or pattern of tensors"),
    "seed": (lambda value: _is_text(value) and SEED.fullmatch(value) is not None, "16 lower-case hex digits"),
    "form": (lambda value: value in SEEDED_FORMS, "normal, step or scale"),
    "density": (lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "scale": (is_number, "a number"),
}
"""By member: whether a value is valid, and what is expected, for errors."""


@dataclass(frozen=True)
class _Members:
    """The members of one table of the recipe, and its place in the file."""

    path: Path
    place: str
    values: Mapping[str, Any]

    def refuse(self, what: str, remedy: str | None) -> InputError:
        return InputError(f"{self.path}: {self.place}: {what}", remedy=remedy)

    def check(self, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        """Raise InputError unless the table has these members and no others, with valid values."""
        for name, value in self.values.items():
            if name not in required + optional:
                raise self.refuse(f"{name!r:.40} is unknown here", f"use {', '.join(required + optional)}")
            is_right, wanted = _FIELDS[name]
            if not is_right(value):
                raise self.refuse(f"{name} is {_shown(value)}", f"make it {wanted}")
        for name in required:
            if name not in self.values:
                raise self.refuse(f"{name} is missing", f"give {_FIELDS[name][1]}")

    def one_of(self, *names: str) -> str:
        """The one of these members that the table has. Raises InputError unless it has exactly one."""
        given = [name for name in names if name in self.values]
        if len(given) != 1:
            raise self.refuse(f"{' and '.join(given) or 'nothing'} is given", f"give one of {', '.join(names)}")
        return given[0]

    def read(self, file: str) -> bytes:
        """The bytes of a file beside the recipe."""
        try:
            return (self.path.parent / file).read_bytes()
        except (OSError, ValueError) as error:
            raise self.refuse(f"{file!r} cannot be read ({error})", "name a file beside the recipe") from error

    def array(self, name: str, dtype: np.dtype[Any], dimensions: int) -> NDArray[Any]:
        """Numbers from a list or a .npy file as an array of `dtype`. Raises InputError."""
        value = self.values[name]
        source = self.load_npy(value) if isinstance(value, str) else value
        numbers = self.convert(name, source, dtype)
        if numbers.ndim != dimensions:
            what = f"{name} is {numbers.ndim}-dimensional, not {dimensions}-dimensional"
            raise self.refuse(what, f"make it {_FIELDS[name][1]}")
        return numbers

    def convert(self, name: str, source: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Numbers as an array of `dtype`. Raises InputError if it cannot hold them."""
        wrong = f"{name} cannot be converted to {dtype.name}"
        try:
            numbers = np.asarray(source)
        except ValueError as error:
            raise self.refuse(f"{wrong}: its rows differ in length", "make them equally long") from error
        try:
            return _converted(numbers, dtype)
        except (TypeError, OverflowError) as error:
            raise self.refuse(f"{wrong}: {error}", "give numbers that fit") from error

    def target(self, lookup: Callable[[str], TensorInfo]) -> TensorInfo:
        """The description of the tensor. Raises InputError."""
        try:
            return lookup(self.values["tensor"])
        except InputError as error:
            raise self.refuse(f"tensor: {error.what}", error.remedy) from error

    def load_npy(self, file: str) -> NDArray[Any]:
        """The array in a .npy file beside the recipe."""
        try:
            loaded = np.load(io.BytesIO(self.read(file)), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self.refuse(f"{file!r} is not a .npy file of numbers", "write it with numpy.save") from error
        if not isinstance(loaded, np.ndarray):
            raise self.refuse(f"{file!r} holds several arrays", "write it with numpy.save")
        return loaded


def _converted(numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Raises TypeError for values that are not numbers, OverflowError for numbers that `dtype` cannot hold."""
    if numbers.dtype.kind not in ("iu" if dtype.kind in "iu" and numbers.size else "iuf"):
        if numbers.dtype.kind == "O" and all(type(number) in (int, float) for number in numbers.flat):
            raise OverflowError("an integer is too large")
        raise TypeError("not all are whole numbers" if numbers.dtype.kind == "f" else "not all are numbers")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if numbers.size and not (limits.min <= int(numbers.min()) and int(numbers.max()) <= limits.max):
            raise OverflowError(f"they must be {limits.min} to {limits.max}")
        return numbers.astype(dtype)
    with np.errstate(over="ignore"):
        converted = numbers.astype(dtype)
    if not np.isfinite(converted).all():
        raise OverflowError("not all are finite")
    return converted


def _edit(members: _Members, lookup: Callable[[str], TensorInfo]) -> Edit:
    kind = members.values.get("kind")
    match kind:
        case "dense":
            return _dense(members, lookup)
        case "sparse":
            return _sparse(members)
        case "low_rank":
            return _low_rank(members)
        case "seeded":
            return _seeded(members)
        case "program":
            members.check(required=("kind", "tensor"), optional=("hex", "base64", "file"))
            return Program(members.values["tensor"], _bytes(members, members.one_of("hex", "base64", "file")))
    raise members.refuse(f"kind is {_shown(kind)}", "make it dense, sparse, low_rank, seeded or program")


def _dense(members: _Members, lookup: Callable[[str], TensorInfo]) -> Dense:
    sources = ("values", "value", "hex", "base64", "file")
    members.check(required=("kind", "tensor"), optional=("offset", "count", *sources))
    values = members.values
    source = members.one_of(*sources)
    if "count" in values and source != "value":
        raise members.refuse("count is given without value", "give it with value only")
    tensor = values["tensor"]
    if source == "value":
        info = members.target(lookup)
        if (count := values.get("count", 1)) > prod(info.shape):
            raise members.refuse(f"count is {count}", f"make it at most {prod(info.shape)}, the elements of {tensor!r}")
        data = _stored(members, source, np.full(count, values["value"]), info)
    elif isinstance(file := values[source], str) and file.endswith(".npy"):
        data = _stored(members, source, members.load_npy(file), members.target(lookup))
    elif source == "values":
        data = _stored(members, source, members.values["values"], members.target(lookup))
    else:
        data = _bytes(members, source)
    return Dense(tensor, values.get("offset", 0), data)


def _stored(members: _Members, name: str, source: Any, info: TensorInfo) -> bytes:
    """Numbers as bytes in the type of the tensor."""
    if info.type in FLOAT_STORAGE:
        numbers = members.convert(name, source, np.dtype(np.float32)).reshape(-1)
        if len(numbers) % (block := block_of(info.type).elements):
            raise members.refuse(f"{name} are {len(numbers)} numbers", f"give whole blocks of {block} for {info.type}")
        return encode(info.type, numbers).tobytes()
    if (dtype := element_dtype(info.type)) is None:
        raise members.refuse(f"{name} cannot become {info.type}", "give the bytes as hex, base64 or a file")
    return members.convert(name, source, dtype).tobytes()


def _bytes(members: _Members, source: str) -> bytes:
    text: str = members.values[source]
    if source == "file":
        return members.read(text)
    try:
        return bytes.fromhex(text) if source == "hex" else base64.b64decode(text, validate=True)
    except ValueError as error:
        raise members.refuse(f"{source} is {_shown(text)}", f"make it {_FIELDS[source][1]}") from error


def _sparse(members: _Members) -> Sparse:
    members.check(required=("kind", "tensor", "op", "indices", "values"))
    indices = members.array("indices", np.dtype(np.uint64), 1)
    values = members.array("values", np.dtype(np.float32), 1)
    if len(indices) != len(values):
        raise members.refuse(f"there are {len(indices)} indices and {len(values)} values", "give as many of both")
    if not (indices[1:] > indices[:-1]).all():
        raise members.refuse("indices do not increase", "sort them, each once")
    return Sparse(members.values["tensor"], members.values["op"], indices, values)


def _low_rank(members: _Members) -> LowRank:
    members.check(required=("kind", "tensor", "scale", "a", "b"))
    a = members.array("a", np.dtype(np.float32), 2)
    b = members.array("b", np.dtype(np.float32), 2)
    if a.shape[1] != b.shape[1] or not 1 <= a.shape[1] <= RANK_LIMIT:
        raise members.refuse(
            f"rows of a have {a.shape[1]} numbers, rows of b {b.shape[1]}", f"give both the same, 1 to {RANK_LIMIT}"
        )
    return LowRank(members.values["tensor"], members.values["scale"], a, b)


def _seeded(members: _Members) -> Seeded:
    steps = members.values.get("form") == "step"
    required = ("kind", "tensors", "seed", "form", "density", *(() if steps else ("scale",)))
    members.check(required=required, optional=("scale",) if steps else ())
    scale = members.values.get("scale", 1)
    if steps and scale != 1:
        raise members.refuse(f"scale is {scale}", "leave it out: steps are of one code")
    fields = ("tensors", "seed", "form", "density")
    return Seeded(**{field: members.values[field] for field in fields}, scale=scale)
