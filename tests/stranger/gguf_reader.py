"""Judges a GGUF file by the rules R1 to R24 of spec/gguf.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

HEAD_LIMIT = 50_331_648
COUNT_LIMIT = 65_536
STRING_LIMIT = 67_108_864
ARRAY_LIMIT = 4_194_304
STRING, ARRAY, BOOL = 8, 9, 7
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 8: 8, 9: 12, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, of a string or array the least."""
INTEGERS = {0, 1, 2, 3, 4, 5, 10, 11}
SIGNED = {1, 3, 5, 11}
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip
_KEY = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class BrokenRuleError(Exception):
    """The first rule that the file breaks."""

    rule: str
    field: str
    offset: int


@dataclass(frozen=True)
class _Tensor:
    offset: int
    size: int
    offset_at: int


@dataclass
class _Reader:
    data: bytes
    at: int = 0
    alignment: int = 32
    keys: set[bytes] = field(default_factory=set)
    names: set[bytes] = field(default_factory=set)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int, rule: str, name: str) -> bytes:
        if count > self.left:
            raise BrokenRuleError(rule, name, self.at)
        if self.at + count > HEAD_LIMIT:
            raise BrokenRuleError("R3", name, self.at)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int, rule: str, name: str) -> int:
        return int.from_bytes(self.take(size, rule, name), "little")


def judge(data: bytes) -> None:
    """Return if the file is accepted. Raises BrokenRuleError."""
    reader = _Reader(data)
    if reader.take(4, "R1", "magic") != b"GGUF":
        raise BrokenRuleError("R1", "magic", 0)
    if reader.number(4, "R2", "version") not in (2, 3):
        raise BrokenRuleError("R2", "version", 4)
    tensors = reader.number(8, "R3", "tensor_count")
    entries = reader.number(8, "R3", "metadata_count")
    needed = 13 * entries + 24 * tensors
    for count, name, offset in ((tensors, "tensor_count", 8), (entries, "metadata_count", 16)):
        if count > 0 and (needed > reader.left or count > COUNT_LIMIT):
            raise BrokenRuleError("R3", name, offset)
    for index in range(entries):
        _entry(reader, f"metadata[{index}]")
    _layout(reader, [_tensor(reader, f"tensor[{index}]") for index in range(tensors)])


def _entry(reader: _Reader, name: str) -> None:
    start = reader.at
    size = reader.number(8, "R4", f"{name}.key")
    if not 1 <= size <= 65_535:
        raise BrokenRuleError("R4", f"{name}.key", start)
    key = reader.take(size, "R7", f"{name}.key")
    if not _KEY.fullmatch(key):
        raise BrokenRuleError("R4", f"{name}.key", start + 8)
    if key in reader.keys:
        raise BrokenRuleError("R5", f"{name}.key", start)
    reader.keys.add(key)
    at = reader.at
    kind, value = _value(reader, name)
    if key == b"general.alignment":
        if kind != 4 or value is None or value < 8 or value & value - 1:
            raise BrokenRuleError("R12", f"{name}.value", at)
        reader.alignment = value
    if key == b"split.count" and (kind not in INTEGERS or value not in (0, 1)):
        raise BrokenRuleError("R24", f"{name}.value", at)


def _value(reader: _Reader, name: str) -> tuple[int, int | None]:
    """Type and, of an integer, value."""
    at = reader.at
    kind = reader.number(4, "R6", f"{name}.type")
    if kind not in SIZES:
        raise BrokenRuleError("R6", f"{name}.type", at)
    if kind == STRING:
        _string(reader, f"{name}.value")
        return kind, None
    if kind == ARRAY:
        _array(reader, name)
        return kind, None
    at = reader.at
    raw = reader.take(SIZES[kind], "R3", f"{name}.value")
    if kind == BOOL and raw[0] > 1:
        raise BrokenRuleError("R9", f"{name}.value", at)
    return kind, int.from_bytes(raw, "little", signed=kind in SIGNED)


def _string(reader: _Reader, name: str) -> None:
    at = reader.at
    size = reader.number(8, "R7", name)
    if STRING_LIMIT < size <= reader.left:
        raise BrokenRuleError("R7", name, at)
    try:
        reader.take(size, "R7", name).decode("utf-8")
    except UnicodeDecodeError:
        raise BrokenRuleError("R8", name, at + 8) from None


def _array(reader: _Reader, name: str) -> None:
    at = reader.at
    kind = reader.number(4, "R10", f"{name}.element_type")
    if kind not in SIZES or kind == ARRAY:
        raise BrokenRuleError("R10", f"{name}.element_type", at)
    at = reader.at
    count = reader.number(8, "R11", f"{name}.count")
    if count * SIZES[kind] > reader.left or count > ARRAY_LIMIT:
        raise BrokenRuleError("R11", f"{name}.count", at)
    if kind == STRING:
        for element in range(count):
            _string(reader, f"{name}.value[{element}]")
        return
    at = reader.at
    raw = reader.take(count * SIZES[kind], "R11", f"{name}.value" if kind == BOOL else f"{name}.count")
    if kind == BOOL:
        for element, byte in enumerate(raw):
            if byte > 1:
                raise BrokenRuleError("R9", f"{name}.value[{element}]", at + element)


def _tensor(reader: _Reader, name: str) -> _Tensor:
    start = reader.at
    size = reader.number(8, "R13", f"{name}.name")
    if not 1 <= size <= 63:
        raise BrokenRuleError("R13", f"{name}.name", start)
    own = reader.take(size, "R13", f"{name}.name")
    try:
        own.decode("utf-8")
    except UnicodeDecodeError:
        raise BrokenRuleError("R13", f"{name}.name", start + 8) from None
    if b"\0" in own:
        raise BrokenRuleError("R13", f"{name}.name", start + 8)
    at = reader.at
    count = reader.number(4, "R15", f"{name}.dimensions")
    if not 1 <= count <= 4:
        raise BrokenRuleError("R15", f"{name}.dimensions", at)
    first, elements, row = reader.at, 1, 0
    for dimension in range(count):
        at = reader.at
        length = reader.number(8, "R16", f"{name}.dimensions")
        if not 0 < length < 1 << 63:
            raise BrokenRuleError("R16", f"{name}.dimensions", at)
        elements *= length
        row = length if dimension == 0 else row
    at = reader.at
    kind = reader.number(4, "R17", f"{name}.type")
    if kind not in BLOCKS:
        raise BrokenRuleError("R17", f"{name}.type", at)
    block, block_bytes = BLOCKS[kind]
    if row % block:
        raise BrokenRuleError("R18", f"{name}.dimensions", first)
    if elements >= 1 << 63:
        raise BrokenRuleError("R19", f"{name}.dimensions", first)
    total = elements // block * block_bytes
    if total > len(reader.data):
        raise BrokenRuleError("R19", f"{name}.size", first)
    at = reader.at
    offset = reader.number(8, "R3", f"{name}.offset")
    if own in reader.names:
        raise BrokenRuleError("R14", f"{name}.name", start)
    reader.names.add(own)
    return _Tensor(offset, total, at)


def _layout(reader: _Reader, tensors: list[_Tensor]) -> None:
    start, end = _padded(reader.at, reader.alignment), 0
    for index, tensor in enumerate(tensors):
        for rule, broken in (
            ("R20", tensor.offset % reader.alignment),
            ("R21", start + tensor.offset + tensor.size > len(reader.data)),
            ("R22", tensor.offset != end),
        ):
            if broken:
                raise BrokenRuleError(rule, f"tensor[{index}].offset", tensor.offset_at)
        end += _padded(tensor.size, reader.alignment)
    if len(reader.data) > start + end:
        raise BrokenRuleError("R23", "data", start + end)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
