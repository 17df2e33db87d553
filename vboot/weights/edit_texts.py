"""Edits as they are typed: `TENSOR[INDEX]=VALUE` and `TENSOR@OFFSET=HEX`. Pure.

A value is a number, an index counts elements from 0, an offset counts bytes from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from vboot.errors import InputError
from vboot.protocol.errors import printable
from vboot.weights.edits import Dense, Sparse

_ELEMENT = re.compile(r"(?P<tensor>.+)\[(?P<index>[0-9]{1,15})\]=(?P<value>[-+.eE0-9]+)", re.DOTALL)
_BYTES = re.compile(r"(?P<tensor>[^@]+)@(?P<offset>[0-9]{1,15})=(?P<data>.+)", re.DOTALL)


def parse_elements(texts: Sequence[str]) -> tuple[Sparse, ...]:
    """One edit for each tensor, in the order they are first named, of texts such as `blk.0.ffn_up.bias[7]=0.5`.

    Raises InputError for a text that is none, a value that f32 cannot hold, and an element that is set twice.
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
    """The edit of a text such as `blk.0.ffn_up.bias@0=0038`, or `...@0=@FILE`, which `read` gives the bytes of.

    Raises InputError for a text that is none, and what `read` raises.
    """
    match = _BYTES.fullmatch(text)
    if match is None:
        raise InputError(f"{printable(text)} does not say what to write", remedy="write TENSOR@OFFSET=HEX or =@FILE")
    data = match["data"]
    if data.startswith("@"):
        return Dense(match["tensor"], int(match["offset"]), read(data[1:]))
    try:
        return Dense(match["tensor"], int(match["offset"]), bytes.fromhex(data))
    except ValueError as error:
        what = f"{printable(data[:40])} is not hex digits, two for each byte"
        raise InputError(what, remedy="write TENSOR@OFFSET=HEX, or =@FILE for a file's bytes") from error


def _parse_element(text: str) -> tuple[str, int, np.float32]:
    match = _ELEMENT.fullmatch(text)
    try:
        number = float(match["value"]) if match else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise InputError(f"{printable(text)} does not set an element", remedy="write TENSOR[INDEX]=VALUE")
    with np.errstate(over="ignore"):
        value = np.float32(number)
    if not np.isfinite(value):
        raise InputError(f"{printable(match['value'])} is beyond what f32 holds", remedy="set a smaller value")
    return match["tensor"], int(match["index"]), value
