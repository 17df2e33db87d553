"""Converts JSON from the machine to frozen dataclasses and checks the type of every member."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from vboot.protocol.errors import ProtocolError
from vboot.text import printable

T = TypeVar("T")
_Decoder: TypeAlias = Callable[[object, str], Any]


def decode(kind: type[T], value: object, *, name: str) -> T:
    """The dataclass `kind` from a JSON object that has a member for each of its fields; errors call the object `name`.

    Fields may be bool, int, float, str, None, a union with None, tuples, mappings from str, and such dataclasses.
    Members without a field are ignored: a newer machine may send more. Raises ProtocolError.
    """
    hint: Any = kind
    decoded: T = _decoder(hint)(value, name)
    return decoded


@cache
def _decoder(kind: Any) -> _Decoder:
    """What decodes a type; found out once, because every reply is decoded."""
    origin = get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind)
    if origin is types.UnionType:
        inner = _decoder(_without_none(kind))
        return lambda value, name: None if value is None else inner(value, name)
    if origin is tuple:
        item = _decoder(get_args(kind)[0])
        return lambda value, name: tuple(
            item(each, f"{name}[{n}]") for n, each in enumerate(_expect(list, value, name))
        )
    if origin is Mapping:
        item = _decoder(get_args(kind)[1])
        return lambda value, name: {
            key: item(each, f"{name}.{key}") for key, each in _expect(dict, value, name).items()
        }
    if kind is float:
        return lambda value, name: float(value) if type(value) is int else _expect(float, value, name)
    return lambda value, name: _expect(kind, value, name)


def _dataclass_decoder(kind: type[Any]) -> _Decoder:
    fields = [(field, hint, _decoder(hint), required) for field, (hint, required) in _fields(kind).items()]

    def decode_members(value: object, name: str) -> Any:
        members = _expect(dict, value, name)
        arguments = {}
        for field, hint, decoder, required in fields:
            if required or field in members:
                member = members.get(field)
                # Most members are of a plain type, and right.
                arguments[field] = member if type(member) is hint else decoder(member, f"{name}.{field}")
        return kind(**arguments)

    return decode_members


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


def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """By field: its type, and whether it has no default."""
    hints = get_type_hints(kind)
    return {field.name: (hints[field.name], field.default is dataclasses.MISSING) for field in dataclasses.fields(kind)}
