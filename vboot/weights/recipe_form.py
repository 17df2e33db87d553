"""The form of recipes: which members there are, what they may hold, which are required. Pure.

The parser (`vboot.weights.recipe`) checks files against these tables, and `recipe_help` prints them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vboot.weights.edits import SEED, SEEDED_FORMS, SPARSE_OPS, is_number


@dataclass(frozen=True)
class Member:
    """A member: whether a value is valid, what is expected (for errors), and what it means (for help)."""

    accepts: Callable[[Any], bool]
    wanted: str
    meaning: str


@dataclass(frozen=True)
class Form:
    """The members of a recipe or of a kind of edit, in the order of help.

    `one_of`: exactly one of these must be there. `notes`: what the table alone does not say. `example`: an edit of this
    kind.
    """

    does: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional + self.one_of


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_array(value: Any) -> bool:
    return _is_list(value) or _is_text(value)


MEMBERS: Mapping[str, Member] = {
    "edits": Member(_is_list, "a list of edits", "applied in this order: all of them, or none"),
    "confidence": Member(
        is_number, "a number", "how sure you are, from 0 to 1; a machine accepts more than 0.8 (or give --confidence)"
    ),
    "origin": Member(_is_text, "a string", "who makes the change, for the history"),
    "lease_ms": Member(
        lambda value: _is_count(value) and value > 0,
        "a number of milliseconds",
        "makes it a trial, which the machine takes back after this time unless it is promoted",
    ),
    "kind": Member(_is_text, "a kind of edit", "what the edit does: one of the kinds below"),
    "tensor": Member(_is_text, "the name of a tensor", "`vboot tensors` lists them"),
    "offset": Member(_is_count, "a number of bytes", "where the new bytes begin: the start of a block (0 if absent)"),
    "hex": Member(_is_text, "a string of hex digits, two for each byte", "the bytes as they are stored"),
    "base64": Member(_is_text, "a string of base64, padded with =", "the bytes as they are stored"),
    "file": Member(_is_text, "the name of a file", "numbers if it ends in .npy, else the bytes as they are stored"),
    "value": Member(is_number, "a number", "the same number `count` times"),
    "count": Member(_is_count, "a number of elements", "only with `value` (1 if absent)"),
    "values": Member(_is_array, "a list of numbers or a .npy file", "converted to the type of the tensor"),
    "op": Member(lambda value: value in SPARSE_OPS, "set or add", "set the elements, or add to them"),
    "indices": Member(_is_array, "a list of element numbers or a .npy file", "counted from 0, increasing, each once"),
    "a": Member(_is_array, "a list of rows or a .npy file", "one row for each row of the tensor"),
    "b": Member(_is_array, "a list of rows or a .npy file", "one row for each column of the tensor"),
    "tensors": Member(_is_text, "a name or pattern of tensors", "such as blk.*.weight"),
    "seed": Member(
        lambda value: _is_text(value) and SEED.fullmatch(value) is not None,
        "16 lower-case hex digits",
        "the same seed makes the same noise",
    ),
    "form": Member(
        lambda value: value in SEEDED_FORMS,
        "normal, step or scale",
        "normal: add the noise; step: move codes of quantised types by one; scale: multiply scales of their blocks",
    ),
    "density": Member(
        lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1", "the share of elements to change"
    ),
    "scale": Member(is_number, "a number", "the factor of what is added"),
}
"""Every member by name. One name means the same in all forms."""

RECIPE = Form("a recipe", required=("edits",), optional=("confidence", "origin", "lease_ms"))
"""The recipe itself."""

KINDS: Mapping[str, Form] = {
    "dense": Form(
        "new bytes or numbers for a range of a tensor",
        required=("kind", "tensor"),
        optional=("offset", "count"),
        one_of=("values", "value", "hex", "base64", "file"),
        notes=("Numbers can be given for tensors of type F32 F16 BF16 Q8_0 F64 I8 I16 I32 I64.",),
        example={"kind": "dense", "tensor": "blk.0.attn_q.bias", "offset": 0, "values": [0.5, -0.25]},
    ),
    "sparse": Form(
        "single elements are set, or added to",
        required=("kind", "tensor", "op", "indices", "values"),
        notes=("There are as many values as indices.",),
        example={
            "kind": "sparse",
            "tensor": "token_embd.weight",
            "op": "add",
            "indices": [7, 1000],
            "values": [0.125, -0.125],
        },
    ),
    "low_rank": Form(
        "a product of small matrices is added: w[j][i] += scale * sum over k of a[j][k] * b[i][k]",
        required=("kind", "tensor", "scale", "a", "b"),
        notes=("Rows of a and of b have the same length, 1 to 64.",),
        example={"kind": "low_rank", "tensor": "blk.0.attn_q.weight", "scale": 0.01, "a": "a.npy", "b": "b.npy"},
    ),
    "seeded": Form(
        "noise that the machine generates from a seed",
        required=("kind", "tensors", "seed", "form", "density"),
        optional=("scale",),
        notes=("scale is required unless form is step.",),
        example={
            "kind": "seeded",
            "tensors": "blk.*.weight",
            "seed": "00c0ffee00c0ffee",
            "form": "normal",
            "density": 0.01,
            "scale": 0.001,
        },
    ),
    "program": Form(
        "a pixel program (spec/pixels.md) for one of the slots evolved.0 to evolved.7",
        required=("kind", "tensor"),
        one_of=("hex", "base64", "file"),
        notes=("The file of a program holds its bytes, three a pixel, whatever its name.",),
        example={"kind": "program", "tensor": "evolved.0", "hex": "fa0200ff0000"},
    ),
}
"""By kind of edit: its form."""

MINIMAL: Mapping[str, Any] = {"confidence": 0.9, "edits": [KINDS["seeded"].example]}
"""A whole recipe, with no member that could be left out. It fits every model that has tensors blk.*.weight."""


def minimal_toml() -> str:
    """The minimal recipe as a TOML file."""
    return f"confidence = {MINIMAL['confidence']}\n\n{_toml_edit(KINDS['seeded'].example)}\n"


def minimal_json() -> str:
    """The minimal recipe as a JSON file."""
    return json.dumps(MINIMAL, indent=2) + "\n"


def recipe_help() -> str:
    """What a recipe is: a whole one in TOML and in JSON, and every member of every kind of edit."""
    parts = [
        "A recipe is a file that lists the edits of one mutation, in TOML (its name ends in .toml) or in JSON.\n"
        "Names of files in it are relative to its folder. A whole recipe, in TOML:",
        _indented(minimal_toml()),
        "The same in JSON:",
        _indented(minimal_json()),
        f"Members of the recipe:\n{_rows(RECIPE)}",
    ]
    for kind, form in KINDS.items():
        parts.append(f'kind = "{kind}": {form.does}\n{_rows(form)}\n\n{_indented(_toml_edit(form.example))}')
    return "\n\n".join(part.rstrip("\n") for part in parts)


def forms_data() -> dict[str, Any]:
    """The same as an object for --json."""
    return {
        "minimal": MINIMAL,
        "recipe": _form_data(RECIPE),
        "kinds": {kind: _form_data(form) | {"example": form.example} for kind, form in KINDS.items()},
    }


def _form_data(form: Form) -> dict[str, Any]:
    told = {name: f"{MEMBERS[name].wanted}: {MEMBERS[name].meaning}" for name in form.members}
    return {
        "required": form.required,
        "optional": form.optional,
        "one_of": form.one_of,
        "members": told,
        "notes": form.notes,
    }


def _rows(form: Form) -> str:
    # The title of a kind tells its `kind`.
    rows = [(name, "required") for name in form.required if name != "kind"] + [
        (name, "optional") for name in form.optional
    ]
    rows += [(name, "one of these") for name in form.one_of]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [
        f"  {name:{widths[0]}}  {need:{widths[1]}}  {MEMBERS[name].wanted}: {MEMBERS[name].meaning}"
        for name, need in rows
    ]
    return "\n".join([*lines, *(f"  {note}" for note in form.notes)])


def _toml_edit(edit: Mapping[str, Any]) -> str:
    # Strings, numbers and lists of numbers are written alike in JSON and TOML.
    return "\n".join(["[[edits]]", *(f"{name} = {json.dumps(value)}" for name, value in edit.items())])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.rstrip("\n").split("\n"))
