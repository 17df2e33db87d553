"""The C interface: correct and wrong use from C, valgrind, threads and forks; its header; its built-in model."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from builder.executable import CRATE
from image.compose import compose
from image.gguf_writer import chunks, plan
from image.tiny import tiny

HEADER = CRATE / "include" / "vector_boot.h"
EXPORTS = CRATE / "src" / "ffi" / "exports.rs"
SUPPORT = Path(__file__).parent.parent / "support"
# The C type of every Rust type, stated independently of cbindgen.
C_TYPES = {
    "i32": "int32_t",
    "u8": "uint8_t",
    "usize": "size_t",
    "*mut c_void": "void *",
    "*const c_void": "const void *",
    "*const c_char": "const char *",
    "*mut u8": "uint8_t *",
    "*const u8": "const uint8_t *",
    "*mut usize": "size_t *",
    "*const Pixel": "const Pixel *",
    "*mut NeuralStats": "NeuralStats *",
    "u32": "uint32_t",
    "u64": "uint64_t",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A good model, and a truncated one."""
    good = compose("tiny", tmp_path_factory.mktemp("models") / "tiny.gguf").path
    bad = good.with_name("cut.gguf")
    bad.write_bytes(good.read_bytes()[:10_000])
    return str(good), str(bad)


def compiled(name: str, library: Path, folder: Path) -> str:
    program = folder / name
    flags = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{HEADER.parent}"]
    linked = [f"-L{library.parent}", "-lvector_boot", f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["gcc", *flags, "-o", str(program), str(SUPPORT / f"{name}.c"), *linked], check=True, timeout=60)
    return str(program)


def run(*command: str, timeout: float = 60) -> None:
    done = subprocess.run(command, check=False, timeout=timeout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:]


def test_correct_and_wrong_use_of_every_function(library: Path, models: tuple[str, str], tmp_path: Path) -> None:
    run(compiled("c_interface", library, tmp_path), *models)


@pytest.mark.parametrize("program", ["c_interface", "c_threads"])
def test_valgrind_finds_no_leak_and_no_invalid_access(
    library: Path, models: tuple[str, str], tmp_path: Path, program: str
) -> None:
    command = [compiled(program, library, tmp_path), *(models if program == "c_interface" else ["3"])]
    valgrind = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"]
    done = subprocess.run([*valgrind, *command], check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    # Rust's standard library keeps one handle of the main thread until the end, by a pointer into its middle.
    possibly = re.search(r"possibly lost: \S+ bytes in (\S+) blocks", done.stderr)
    assert possibly is None or int(possibly[1]) <= 1, done.stderr[-4000:]


def test_threads_do_not_disturb_each_other(library: Path, tmp_path: Path) -> None:
    run(compiled("c_threads", library, tmp_path), "60")


def test_forked_processes_are_refused_and_their_parent_goes_on(library: Path, tmp_path: Path) -> None:
    run(compiled("c_fork", library, tmp_path), timeout=300)


FORK = """
import ctypes, os, sys
code = ctypes.CDLL(sys.argv[1])
code.neural_last_error.restype = ctypes.c_char_p
early = os.fork()  # before the first call a child may use the library by itself
assert code.neural_init() == 1
if not early:
    os._exit(0)
assert os.waitpid(early, 0)[1] == 0
assert code.neural_interrupt(3) == 1
child = os.fork()
if not child:
    refused = code.neural_interrupt(3) == 0 and code.neural_init() == 0
    code.neural_cleanup()
    os._exit(0 if refused and b"was forked from process" in code.neural_last_error() else 1)
assert os.waitpid(child, 0)[1] == 0
stats = (ctypes.c_uint64 * 10)(80)  # u32 size, u32 version, then nine counts: interrupts is the third
assert code.neural_get_stats(stats) == 1 and stats[3] == 1, list(stats)
"""


def test_a_forked_python_is_refused_and_its_parent_goes_on(library: Path) -> None:
    run(sys.executable, "-c", FORK, str(library))


def test_it_compiles_as_cpp(tmp_path: Path) -> None:
    source = tmp_path / "use.cpp"
    source.write_text('#include "vector_boot.h"\nint main() { return sizeof(NeuralStats) == 80 ? 0 : 1; }\n')
    subprocess.run(
        ["g++", "-Wall", "-Werror", f"-I{HEADER.parent}", "-o", str(tmp_path / "use"), str(source)],
        check=True,
        timeout=60,
    )
    run(str(tmp_path / "use"))


def c_type(rust: str) -> str:
    return C_TYPES[rust.strip()]


def declared_in_rust() -> dict[str, str]:
    """Functions and structs of exports.rs, as C would declare them."""
    source = re.sub(r"//.*", "", EXPORTS.read_text())
    found = {}
    pattern = r'#\[no_mangle\]\s*pub (?:unsafe )?extern "C" fn (\w+)\(([^)]*)\)(?: -> ([^{]+))?'
    for name, parameters, result in re.findall(pattern, source):
        pairs = [pair.split(":") for pair in parameters.split(",") if pair.strip()]
        arguments = [f"{c_type(kind)} {name.strip()}".replace("* ", "*") for name, kind in pairs]
        declared = f"{c_type(result) if result else 'void'} {name}({', '.join(arguments) or 'void'})"
        found[name] = declared.replace("* ", "*")
    for name, body in re.findall(r"#\[repr\(C\)\][^{]*pub struct (\w+) \{([^}]*)\}", source):
        found[name] = " ".join(f"{c_type(kind)} {field};" for field, kind in re.findall(r"pub (\w+): (\w+)", body))
    return found


def declared_in_header() -> dict[str, str]:
    source = re.sub(r"//.*|/\*.*?\*/|^#.*", "", HEADER.read_text(), flags=re.M)
    functions = {name: f"{text})" for text, name in re.findall(r"^(\w[^;{}]*?(neural_\w+)\([^)]*)\);", source, re.M)}
    structs = {name: " ".join(body.split()) for body, name in re.findall(r"typedef struct \{([^}]*)\} (\w+);", source)}
    return {name: " ".join(text.split()) for name, text in (functions | structs).items()}


def test_the_header_declares_what_rust_exports() -> None:
    rust = declared_in_rust()
    assert len(rust) == 13 + 2
    assert declared_in_header() == rust


def test_the_header_is_what_cbindgen_makes(tmp_path: Path) -> None:
    cbindgen = shutil.which("cbindgen") or shutil.which(CRATE.parent / "build" / "tools" / "bin" / "cbindgen")
    if cbindgen is None:
        pytest.skip("cbindgen is not installed: cargo install cbindgen --root build/tools")
    made = tmp_path / "vector_boot.h"
    run(cbindgen, "--quiet", "--config", str(CRATE / "cbindgen.toml"), "--output", str(made), str(EXPORTS))
    assert made.read_text() == HEADER.read_text()


def test_the_built_in_model_is_the_tiny_model_to_the_byte(library: Path) -> None:
    code = ctypes.CDLL(str(library))
    code.neural_tensor.restype = code.neural_data_layout.restype = ctypes.c_void_p
    length = ctypes.c_size_t()
    assert code.neural_init() == 1
    layout = code.neural_data_layout(ctypes.byref(length))
    rows = json.loads(ctypes.string_at(layout, length.value))
    code.neural_free(ctypes.c_void_p(layout))
    first = rows[0]
    start = code.neural_tensor(first["name"].encode(), ctypes.byref(length)) - first["offset"]
    expected = b"".join(bytes(chunk) for chunk in chunks(plan(tiny(stored_as="F16"))))
    assert ctypes.string_at(start, len(expected)) == expected
    code.neural_cleanup()


def test_addresses_in_the_layout_do_not_overlap(library: Path) -> None:
    code = ctypes.CDLL(str(library))
    code.neural_data_layout.restype = ctypes.c_void_p
    length = ctypes.c_size_t()
    assert code.neural_init() == 1
    layout = code.neural_data_layout(ctypes.byref(length))
    rows = sorted(json.loads(ctypes.string_at(layout, length.value)), key=lambda row: row["offset"])
    code.neural_free(ctypes.c_void_p(layout))
    code.neural_cleanup()
    assert all(row.keys() == {"name", "type", "shape", "offset", "bytes", "protected"} for row in rows)
    assert all(row["offset"] + row["bytes"] <= after["offset"] for row, after in pairwise(rows))
    assert {row["name"] for row in rows if row["protected"]} == {
        "hw.mmio",
        "cortex_journal",
        *(f"kernel.{slot}" for slot in range(8)),
    }
