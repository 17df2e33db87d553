"""The pixel machine's tables, its text form, and what is generated from them."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.machine_tensors import machine_tensors
from image.pixels import SLOT_BYTES, SLOT_PIXELS, instruction_table, kernel_programs, program_slot
from vboot.errors import InputError
from vboot.weights.pixel_table import OPCODES
from vboot.weights.pixels import assemble, disassemble


def test_the_table_is_the_documented_one() -> None:
    assert {opcode.name: (opcode.code, opcode.immediates or opcode.operand) for opcode in instruction_table()} == {
        "LIT": (0x00, ""),
        "TENSOR": (0x01, ""),
        "INPUT": (0x02, ("bytes", "f32")),
        "MATMUL": (0x03, ""),
        "ADD": (0x04, ""),
        "MUL": (0x05, ""),
        "ACT": (0x06, ("relu", "gelu", "silu", "tanh", "sigmoid")),
        "NORM": (0x07, ("layer", "rms", "l2", "softmax")),
        "REDUCE": (0x08, ("sum", "mean", "max", "argmax")),
        "CALL": (0x09, "slot"),
        "DUP": (0x0A, ""),
        "DROP": (0x0B, ""),
        "SWAP": (0x0C, ""),
        "OUT": (0x0D, ""),
        "NEURAL_EXEC": (0xFF, "vector"),
    }


def test_a_composed_file_carries_the_built_in_programs() -> None:
    slots = {tensor.name: tensor.source for tensor in machine_tensors()}
    for index, pixels in enumerate(kernel_programs()):
        slot = slots[f"kernel.{index}"]
        assert isinstance(slot, bytes)
        assert len(slot) == SLOT_BYTES
        assert struct.unpack_from("<I", slot) == (len(pixels) // 3,)
        assert slot[4:] == pixels + bytes(SLOT_BYTES - 4 - len(pixels))
    assert [bool(pixels) for pixels in kernel_programs()] == [True] * 7 + [False]
    assert not any(slots["evolved.0"])  # type: ignore[arg-type]


def test_a_slot_holds_as_many_pixels_as_the_contract_says() -> None:
    assert SLOT_PIXELS == 1364
    assert len(program_slot(bytes(3 * SLOT_PIXELS))) == SLOT_BYTES


def test_assembles_every_form() -> None:
    program = assemble("""
        ; a comment
        text "a;b"            ; one more
        TENSOR
        bytes 01 fA
        INPUT bytes
        f32 0.5 -1
        INPUT f32
        ACT gelu
        NORM softmax
        REDUCE argmax
        CALL kernel.7
        CALL evolved.3
        NEURAL_EXEC
        NEURAL_EXEC 7
        LIT 01 02 03
        pixel 250 77 9
        OUT
    """)
    expected = [
        b"a;b", (250, 1, 0), (1, 250, 0), (250, 2, 0), (0, 0, 0), (63, 0, 0), (128, 191, 0), (0, 0, 0), (250, 2, 1),
        (250, 6, 1), (250, 7, 3), (250, 8, 3), (250, 9, 7), (250, 9, 131), (250, 255, 255), (250, 255, 7),
        (250, 0, 0), (1, 2, 3), (250, 77, 9), (250, 13, 0),
    ]  # fmt: skip
    assert program == b"".join(map(bytes, expected))


def test_data_lines_are_one_run_with_literals_where_they_are_needed() -> None:
    assert assemble('text "ab"\nbytes fa fa 01 02') == bytes([97, 98, 250, 250, 0, 0, 250, 1, 2])
    assert assemble('text "ä"') == "ä".encode() + b"\0"
    assert assemble("bytes 01\nTENSOR\nbytes 02") == bytes([1, 0, 0, 250, 1, 0, 2, 0, 0])
    assert assemble("f32 1") == struct.pack("<3f", 1, 0, 0)


@pytest.mark.parametrize(
    "line",
    [
        "JUMP", "TENSOR 1", "ACT", "ACT swish", "INPUT 1", "CALL 3", "CALL kernel.8", "NEURAL_EXEC 256", "text hello",
        "text 5", 'text "a" b', 'text "\\ud800"', "bytes 1", "bytes xx", "f32 nan", "f32 1e39", "f32 x", "pixel 1 2",
        "text [[[", 'text "a', "pixel 1 2 256", "LIT", "LIT 01", "tensor",
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_know(line: str) -> None:
    with pytest.raises(InputError, match=r"^line 2 of the pixel program: "):
        assemble(f"; first\n{line}")


def test_disassembles_for_people() -> None:
    source = 'text "token_embd.weight"\nTENSOR\nf32 0.5 -1.0 0.0\nINPUT f32\nMATMUL\nbytes fa 00 01\nCALL evolved.0\n'
    assert disassemble(assemble(source)) == source
    assert disassemble(assemble("LIT 01 02 03")) == "LIT 01 02 03\n"


def test_disassembles_what_is_no_program() -> None:
    text = disassemble(bytes([250, 77, 1, 250, 6, 9, 250, 1, 1, 250, 9, 50, 250, 0, 0, 7, 7]))
    lines = ["pixel 250 77 1", "pixel 250 6 9", "pixel 250 1 1", "pixel 250 9 50", "pixel 250 0 0", ""]
    assert [line.partition(";")[0].strip() for line in text.splitlines()] == lines
    assert len(re.findall("; malformed: ", text)) == len(lines)


pixel = st.one_of(
    st.tuples(st.just(250), st.sampled_from([opcode.code for opcode in OPCODES]), st.integers(0, 10)),
    st.tuples(st.sampled_from([0, 1, 65, 97, 195, 250]), st.integers(0, 255), st.integers(0, 255)),
    st.tuples(*[st.sampled_from(b"ab c\0")] * 3),
    st.just((250, 2, 1)),
    st.just((0, 0, 63)),
)


@given(st.lists(pixel, max_size=60))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_what_is_disassembled_assembles_to_the_same_pixels(pixels: list[tuple[int, ...]]) -> None:
    program = b"".join(map(bytes, pixels))
    assert assemble(disassemble(program)) == program


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
@settings(derandomize=True, deadline=None)
def test_floats_survive_the_text(values: list[float]) -> None:
    program = assemble("f32 " + " ".join(map(str, values)) + "\nINPUT f32")
    assert assemble(disassemble(program)) == program


words = st.sampled_from(
    [opcode.name for opcode in OPCODES] + ["text", "bytes", "f32", "pixel", '"', "fa 00", "0", ";", "\n"]
)


@given(st.lists(st.one_of(words, st.text(max_size=5)), max_size=20).map(" ".join))
@settings(derandomize=True, deadline=None)
def test_any_text_is_assembled_or_refused_in_one_line(source: str) -> None:
    refused = ""
    try:
        program = assemble(source)
    except InputError as error:
        program, refused = b"", str(error)
    assert len(program) % 3 == 0
    assert "\n" not in refused
