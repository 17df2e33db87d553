"""Converts JSON from the machine to frozen dataclasses and checks the type of every member."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from vboot.protocol.errors import ProtocolError
from vboot.text import printable

T = TypeVar("T")


def decode(kind: type[T], value: object, *, name: str) -> T:
    """The dataclass `kind` from a JSON object that has a member for each of its fields; errors call the object `name`.

    Fields may be bool, int, float, str, None, a union with None, tuples, mappings from str, and such dataclasses.
    Members without a field are ignored: a newer machine may send more. Raises ProtocolError.
    """
    decoded: T = _decode(kind, value, name)
    return decoded


def _decode(kind: Any, value: object, name: str) -> Any:
    origin = get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        members = _expect(dict, value, name)
        return kind(
            **{
                field: _decode(hint, members.get(field), f"{name}.{field}")
                for field, (hint, required) in _fields(kind).items()
                if required or field in members
            }
        )
    if origin is types.UnionType:
        return None if value is None else _decode(_without_none(kind), value, name)
    if origin is tuple:
        item = get_args(kind)[0]
        return tuple(_decode(item, each, f"{name}[{n}]") for n, each in enumerate(_expect(list, value, name)))
    if origin is Mapping:
        item = get_args(kind)[1]
        return {key: _decode(item, each, f"{name}.{key}") for key, each in _expect(dict, value, name).items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, name)


def _expect(kind: type[Any], value: object, name: str) -> Any:
    # Not isinstance: bool is an int in Python, never in JSON.
    if type(value) is not kind:
        expected = {
            dict: "an object",
            list: "an array",
            str: "a string",
            bool: "a boolean",
            int: "an integer",
            float: "a number",
        }
        found = "nothing" if value is None else f"{value!r:.40}"
        raise ProtocolError(
            f"{printable(name)} in the machine's reply: expected {expected.get(kind, kind)}, got {found}"
        )
    return value


def _without_none(union: Any) -> Any:
    (kind,) = (kind for kind in get_args(union) if kind is not types.NoneType)
    return kind


@cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """By field: its type, and whether it has no default."""
    hints = get_type_hints(kind)
    return {field.name: (hints[field.name], field.default is dataclasses.MISSING) for field in dataclasses.fields(kind)}
