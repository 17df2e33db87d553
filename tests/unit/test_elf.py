from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.elf_check import check_executable, check_library

PROGRAM = "int main(void) { return 0; }\n"
LIBRARY = """
static int hidden_away(void) { return 1; }
__attribute__((visibility("hidden"))) int inside(void) { return hidden_away(); }
int neural_init(void) { return inside(); }
int neural_free(void) { return 2; }
int some_data = 3;
"""

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    folder = tmp_path_factory.mktemp("elf")

    def compile_c(*flags: str, source: str = PROGRAM) -> Path:
        name = "-".join(flags).replace("/", "_") or "plain"
        (folder / "source.c").write_text(source)
        subprocess.run(["gcc", *flags, "-o", folder / name, folder / "source.c"], check=True, timeout=60)
        return folder / name

    return compile_c


@pytest.fixture(scope="module")
def fit(compiled: Compile) -> bytes:
    """An executable without findings."""
    return compiled("-static-pie", "-s").read_bytes()


def rules(path: Path) -> list[str]:
    with path.open("rb") as file:
        return sorted(finding.rule for finding in check_executable(file))


def test_static_pie_is_fit(compiled: Compile) -> None:
    assert rules(compiled("-static-pie", "-s")) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-static-pie"], ["stripped"]),
        (["-static-pie", "-s", "-z", "execstack"], ["stack"]),
        (["-static-pie", "-s", "-z", "norelro"], ["relro"]),
        (["-static", "-no-pie", "-s"], ["pie"]),
        (["-pie", "-s"], ["interpreter", "needed"]),
        (["-no-pie", "-s"], ["interpreter", "needed", "pie"]),
        (["-shared", "-fPIC", "-s"], ["pie"]),
    ],
)
def test_each_way_to_be_unfit(compiled: Compile, flags: list[str], expected: list[str]) -> None:
    assert rules(compiled(*flags)) == expected


def test_findings_are_sentences(compiled: Compile) -> None:
    with compiled("-no-pie").open("rb") as file:
        findings = check_executable(file)
    assert all(finding.text.startswith("It") and finding.text.endswith(".") for finding in findings)
    assert any("libc.so.6" in finding.text for finding in findings)


def test_object_file_has_no_stack_header(compiled: Compile) -> None:
    assert "stack" in rules(compiled("-c"))


def test_writable_code(fit: bytes) -> None:
    data = bytearray(fit)
    (headers,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for header in range(headers, headers + 56 * count, 56):
        kind, flags = struct.unpack_from("<II", data, header)
        if (kind, flags) == (1, 5):  # PT_LOAD, readable and executable
            struct.pack_into("<I", data, header + 4, 7)
    assert [finding.rule for finding in check_executable(io.BytesIO(data))] == ["writable-executable"]


def test_other_machine(fit: bytes) -> None:
    data = bytearray(fit)
    struct.pack_into("<H", data, 18, 183)  # e_machine: AArch64
    (finding,) = check_executable(io.BytesIO(data))
    assert (finding.rule, "EM_AARCH64" in finding.text) == ("machine", True)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" * 100])
def test_other_files(data: bytes) -> None:
    assert [finding.rule for finding in check_executable(io.BytesIO(data))] == ["format"]


def test_library_exports_exactly_what_it_should(compiled: Compile) -> None:
    path = compiled("-shared", "-fPIC", source=LIBRARY)

    def findings(*functions: str) -> list[tuple[str, str]]:
        with path.open("rb") as file:
            return [(finding.rule, finding.text) for finding in check_library(file, functions=functions)]

    assert findings("neural_init", "neural_free") == []
    assert findings("neural_init") == [("extra", "It also exports neural_free.")]
    assert findings("neural_init", "neural_free", "neural_load", "inside") == [
        ("missing", "It does not export inside, neural_load.")
    ]


def test_library_that_is_a_program(compiled: Compile) -> None:
    with compiled("-no-pie", "-s").open("rb") as file:
        assert [finding.rule for finding in check_library(file, functions=["f"])] == ["library", "missing"]


@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_any_damage_is_a_finding_or_nothing(fit: bytes, data: st.DataObject) -> None:
    # Headers stand at the start, section headers at the end.
    edges = st.integers(0, 1023) | st.integers(len(fit) - 1024, len(fit) - 1)
    position = data.draw(edges | st.integers(0, len(fit) - 1))
    elf = bytearray(fit)
    elf[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.just(len(elf)) | st.integers(0, len(elf)))
    for finding in check_executable(io.BytesIO(elf[:cut])):
        assert finding.rule
        assert "\n" not in finding.text
