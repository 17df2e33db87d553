"""Structures of fixed size, unpacked by the tables of the specification."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from vboot.journal.tables import Field

_CODES = {"u8": "B", "u32": "I", "u64": "Q", "f64": "d"}


class Structure:
    """The fields of a structure, which follow one another without gaps."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._names = [field.name for field in fields]
        self._struct = struct.Struct("<" + "".join(_CODES.get(field.type, f"{field.bytes}s") for field in fields))
        self.bytes = self._struct.size

    def unpack(self, data: bytes, at: int = 0) -> dict[str, Any]:
        """The values by name; the bytes from `at` on must be there."""
        return dict(zip(self._names, self._struct.unpack_from(data, at), strict=True))
