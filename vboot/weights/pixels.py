"""Pixel programs as text: the assembler and the disassembler.

Each line is one instruction or one piece of data; `;` starts a comment, and empty lines are ignored.

    text "Hello"       data: the UTF-8 of a JSON string
    bytes 01 02 ff     data: bytes in hexadecimal
    f32 0.5 -1         data: little-endian f32
    TENSOR             an instruction without an immediate
    INPUT f32          one with a named immediate: INPUT bytes f32; ACT relu gelu silu tanh sigmoid;
                       NORM layer rms l2 softmax; REDUCE sum mean max argmax
    CALL evolved.3     one with a slot: kernel.0 to kernel.7, evolved.0 to evolved.7
    NEURAL_EXEC 7      one with a neural interrupt, 0 to 255; 255 if left out
    LIT fa 01 02       a LIT and its data pixel, as written
    pixel 250 77 0     any pixel, as written

Consecutive data lines form one run of bytes, packed three to a pixel. The run is padded with zero bytes to
whole pixels, and to whole pixels of whole floats (12 bytes) if its last line is `f32`: so the buffer's length is always
a multiple of 3, and a vector of floats has a multiple of 3 elements, the last ones 0 where the line gives fewer.
TENSOR and NEURAL_EXEC ignore zero bytes at the end of the buffer, INPUT pushes them like any others. The assembler puts
a LIT in front of every data pixel whose first byte is 250; `LIT` as a line is needed only for one that is not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import numpy as np

from vboot.errors import InputError
from vboot.weights.pixel_table import INSTRUCTION, OPCODES, Opcode

PIXEL_BYTES = 3
LIT = 0x00
_NAMES = {opcode.name: opcode for opcode in OPCODES}
_CODES = {opcode.code: opcode for opcode in OPCODES}
_FLOATS_PIXELS_BYTES = 12
_BYTES_PER_LINE = 24
_FLOATS_PER_LINE = 6
_EVOLVED = 128
_QUOTED = re.compile(r'\s*("(?:[^"\\]|\\.)*")')
_SLOT = re.compile(r"(kernel|evolved)\.([0-7])")


def assemble(source: str) -> bytes:
    """The program for a text, three bytes a pixel. Raises InputError that names the line."""
    out, run, floats = bytearray(), bytearray(), False
    for number, line in enumerate(source.split("\n"), 1):
        try:
            keyword, _, rest = line.strip().partition(" ")
            if not keyword or keyword.startswith(";"):
                continue
            data = _data(keyword, rest)
            if data is not None:
                run += data
                floats = keyword == "f32"
                continue
            out += _pack(run, floats) + _instruction(keyword, _uncommented(rest))
            run.clear()
        except (ValueError, OverflowError) as error:
            raise InputError(f"line {number} of the pixel program: {error}") from error
    return bytes(out + _pack(run, floats))


def disassemble(program: bytes) -> str:
    """The text of a program, three bytes a pixel, that assembles to the same pixels.

    Invalid programs are shown too, with comments that say what is wrong: malformed pixels as `pixel` lines, and bytes
    after the last whole pixel only in a comment.
    """
    whole = len(program) - len(program) % PIXEL_BYTES
    pixels = [program[at : at + PIXEL_BYTES] for at in range(0, whole, PIXEL_BYTES)]
    lines = list(_lines(pixels))
    if whole < len(program):
        lines.append(f"; malformed: {program[whole:].hex(' ')} is not a whole pixel")
    return "".join(f"{line}\n" for line in lines)


def _lines(pixels: list[bytes]) -> Iterator[str]:
    run, at = bytearray(), 0
    while at < len(pixels):
        pixel = pixels[at]
        following = pixels[at + 1] if at + 1 < len(pixels) else b""
        at += 1
        if pixel[0] != INSTRUCTION:
            run += pixel
        elif pixel[1:] == bytes([LIT, 0]) and following:
            at += 1
            if following[0] == INSTRUCTION:
                run += following
            else:
                # The assembler would not write this LIT.
                yield from _data_lines(bytes(run))
                yield f"LIT {following.hex(' ')}"
                run.clear()
        else:
            line = _instruction_line(pixel)
            yield from _data_lines(bytes(run), floats=line == "INPUT f32")
            yield line
            run.clear()
    yield from _data_lines(bytes(run))


def _data(keyword: str, rest: str) -> bytes | None:
    """The bytes of a data line; None for any other line. Raises ValueError, OverflowError."""
    if keyword == "text":
        quoted = _QUOTED.match(rest)
        if quoted is None or _uncommented(rest[quoted.end() :]):
            raise ValueError('text takes one quoted string, as in text "Hello"')
        text: str = json.loads(quoted[1])
        return text.encode()
    if keyword == "bytes":
        return bytes.fromhex(_uncommented(rest))
    if keyword == "f32":
        words = _uncommented(rest).split()
        with np.errstate(over="ignore"):
            floats = np.array([float(word) for word in words], dtype="<f4")
        if not np.isfinite(floats).all():
            raise ValueError("a number is not a finite f32")
        return floats.tobytes()
    return None


def _instruction(keyword: str, operand: str) -> bytes:
    """The pixels of a line that is not data. Raises ValueError."""
    if keyword == "pixel":
        pixel = bytes(int(word) for word in operand.split())
        if len(pixel) != PIXEL_BYTES:
            raise ValueError("pixel takes three numbers")
        return pixel
    if keyword == "LIT":
        pixel = bytes.fromhex(operand)
        if len(pixel) != PIXEL_BYTES:
            raise ValueError("LIT takes the three bytes of its data pixel")
        return bytes([INSTRUCTION, LIT, 0]) + pixel
    opcode = _NAMES.get(keyword)
    if opcode is None:
        raise ValueError(f"there is no instruction {keyword!r}")
    return bytes([INSTRUCTION, opcode.code, _immediate(opcode, operand)])


def _immediate(opcode: Opcode, operand: str) -> int:
    if opcode.operand == "slot":
        slot = _SLOT.fullmatch(operand)
        if slot is None:
            raise ValueError(f"{opcode.name} takes a slot, kernel.0 to kernel.7 or evolved.0 to evolved.7")
        return int(slot[2]) + (_EVOLVED if slot[1] == "evolved" else 0)
    if opcode.operand == "vector":
        vector = int(operand or "255")
        if not 0 <= vector <= 255:
            raise ValueError(f"{opcode.name} takes a neural interrupt, 0 to 255")
        return vector
    if opcode.immediates:
        if operand not in opcode.immediates:
            raise ValueError(f"{opcode.name} takes one of {' '.join(opcode.immediates)}")
        return opcode.immediates.index(operand)
    if operand:
        raise ValueError(f"{opcode.name} takes no operand")
    return 0


def _pack(run: bytes | bytearray, floats: bool) -> bytes:
    """Data pixels for a run of bytes."""
    unit = _FLOATS_PIXELS_BYTES if floats else PIXEL_BYTES
    padded = bytes(run) + bytes(-len(run) % unit)
    pixels = (padded[at : at + PIXEL_BYTES] for at in range(0, len(padded), PIXEL_BYTES))
    literal = bytes([INSTRUCTION, LIT, 0])
    return b"".join(literal + pixel if pixel[0] == INSTRUCTION else pixel for pixel in pixels)


def _uncommented(text: str) -> str:
    return text.partition(";")[0].strip()


def _instruction_line(pixel: bytes) -> str:
    _, code, immediate = pixel
    raw = f"pixel {' '.join(map(str, pixel))} ; malformed:"
    opcode = _CODES.get(code)
    if opcode is None:
        return f"{raw} there is no opcode {code}"
    if opcode.operand == "vector":
        return f"{opcode.name} {immediate}"
    if opcode.operand == "slot":
        kind, number = ("evolved", immediate - _EVOLVED) if immediate >= _EVOLVED else ("kernel", immediate)
        return f"{opcode.name} {kind}.{number}" if number < 8 else f"{raw} there is no slot {immediate}"
    if immediate >= max(1, len(opcode.immediates)):
        return f"{raw} {opcode.name} has no immediate {immediate}"
    if opcode.code == LIT:
        return f"{raw} no pixel follows LIT"
    return f"{opcode.name} {opcode.immediates[immediate]}" if opcode.immediates else opcode.name


def _data_lines(run: bytes, *, floats: bool = False) -> Iterator[str]:
    """Lines for whole pixels of data: the first of f32, text and bytes that gives the same bytes."""
    if not run:
        return
    if floats and len(run) % _FLOATS_PIXELS_BYTES == 0:
        values = np.frombuffer(run, dtype="<f4")
        # Very large and very small numbers are probably other data, which is easier to read as bytes.
        if all(math.isfinite(x) and (x == 0 or 1e-12 < abs(x) < 1e12) for x in values.tolist()):
            for at in range(0, len(values), _FLOATS_PER_LINE):
                yield "f32 " + " ".join(str(x) for x in values[at : at + _FLOATS_PER_LINE])
            return
    text = _readable(run)
    if text is not None:
        yield f"text {json.dumps(text, ensure_ascii=False)}"
        return
    for at in range(0, len(run), _BYTES_PER_LINE):
        yield f"bytes {run[at : at + _BYTES_PER_LINE].hex(' ')}"


def _readable(run: bytes) -> str | None:
    """The text of a run without its padding; None if it is not printable text."""
    bare = run.rstrip(b"\0")
    try:
        text = bare.decode()
    except UnicodeDecodeError:
        return None
    padded = len(bare) + -len(bare) % PIXEL_BYTES
    return text if text.isprintable() and text and padded == len(run) else None
