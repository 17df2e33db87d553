"""Recipes: mutations in JSON or TOML files, written by people. It reads only the recipe and the files that it names.

`vboot mutate --recipe-help` (`recipe_help`) describes them.
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
from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse
from vboot.weights.recipe_form import KINDS, MEMBERS, RECIPE, Form
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
    _Members(path, "the recipe", top).check(RECIPE)
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


@dataclass(frozen=True)
class _Members:
    """The members of one table of the recipe, and its place in the file."""

    path: Path
    place: str
    values: Mapping[str, Any]

    def refuse(self, what: str, remedy: str | None) -> InputError:
        return InputError(f"{self.path}: {self.place}: {what}", remedy=remedy)

    def check(self, form: Form, *, also: tuple[str, ...] = ()) -> None:
        """Raise InputError unless the table has this form, with valid values; `also` are required too.

        `one_of` tells which one of several members is given.
        """
        for name, value in self.values.items():
            if name not in form.members:
                raise self.refuse(f"{name!r:.40} is unknown here", f"use {', '.join(form.members)}")
            if not MEMBERS[name].accepts(value):
                raise self.refuse(f"{name} is {_shown(value)}", f"make it {MEMBERS[name].wanted}")
        for name in form.required + also:
            if name not in self.values:
                raise self.refuse(f"{name} is missing", f"give {MEMBERS[name].wanted}")

    def one_of(self, names: tuple[str, ...]) -> str:
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
            raise self.refuse(what, f"make it {MEMBERS[name].wanted}")
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
    if not isinstance(kind, str) or kind not in KINDS:
        *others, last = KINDS
        raise members.refuse(f"kind is {_shown(kind)}", f"make it {', '.join(others)} or {last}")
    form = KINDS[kind]
    steps = members.values.get("form") == "step"
    members.check(form, also=("scale",) if kind == "seeded" and not steps else ())
    match kind:
        case "dense":
            return _dense(members, members.one_of(form.one_of), lookup)
        case "sparse":
            return _sparse(members)
        case "low_rank":
            return _low_rank(members)
        case "seeded":
            return _seeded(members)
        case _:
            return Program(members.values["tensor"], _bytes(members, members.one_of(form.one_of)))


def _dense(members: _Members, source: str, lookup: Callable[[str], TensorInfo]) -> Dense:
    values = members.values
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
        raise members.refuse(f"{source} is {_shown(text)}", f"make it {MEMBERS[source].wanted}") from error


def _sparse(members: _Members) -> Sparse:
    indices = members.array("indices", np.dtype(np.uint64), 1)
    values = members.array("values", np.dtype(np.float32), 1)
    if len(indices) != len(values):
        raise members.refuse(f"there are {len(indices)} indices and {len(values)} values", "give as many of both")
    if not (indices[1:] > indices[:-1]).all():
        raise members.refuse("indices do not increase", "sort them, each once")
    return Sparse(members.values["tensor"], members.values["op"], indices, values)


def _low_rank(members: _Members) -> LowRank:
    a = members.array("a", np.dtype(np.float32), 2)
    b = members.array("b", np.dtype(np.float32), 2)
    if a.shape[1] != b.shape[1] or not 1 <= a.shape[1] <= RANK_LIMIT:
        raise members.refuse(
            f"rows of a have {a.shape[1]} numbers, rows of b {b.shape[1]}", f"give both the same, 1 to {RANK_LIMIT}"
        )
    return LowRank(members.values["tensor"], members.values["scale"], a, b)


def _seeded(members: _Members) -> Seeded:
    scale = members.values.get("scale", 1)
    if members.values["form"] == "step" and scale != 1:
        raise members.refuse(f"scale is {scale}", "leave it out: steps are of one code")
    fields = ("tensors", "seed", "form", "density")
    return Seeded(**{field: members.values[field] for field in fields}, scale=scale)
