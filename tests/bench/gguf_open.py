"""Opening and validating a GGUF file: our reader, ggml's reader in C, and the `gguf` package."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from builder.executable import CRATE, find_toolchain
from tests.bench.gguf_files import synthetic, write_sparse
from tests.bench.report import quantity
from tests.bench.results import BenchFinding, Case, Result, Setting, at_least
from tests.bench.rust import run_cargo
from tests.bench.sampling import alternate
from tests.bench.statistics import growth_exponent
from tests.bench.timed_child import TimedChild
from vboot.errors import InputError, ToolError

OURS, C_READER, PYTHON_READER = "vector_boot", "ggml (C)", "gguf (Python)"
TENSORS = (100, 1_000, 10_000)
VOCABULARIES = (0, 30_000)
_EXAMPLE = "open_gguf"
_PEER = "pywhispercpp"
_HOW = (
    "One process for each reader opens the file, reads and checks its head, counts the tensors and releases"
    " everything; the time is taken inside the process, and the file is in the page cache. The C reader is"
    " `gguf_init_from_file` with `no_alloc` and no context for tensors, called through ctypes; the `gguf` package is"
    " its `GGUFReader`. Ours is `vector_boot/examples/open_gguf.rs`. All three must count the same tensors. Ours also"
    " checks the rules R1 to R24; called in this way the C reader does not check that the tensors end within the file."
    " The files have 30 entries; with a vocabulary, two of them hold 30,000 elements."
)


def run(setting: Setting) -> Result:
    """Measure all three on each file. Raises ToolError, InputError when the C reader is not installed."""
    library = _c_library()
    setting.say("building the example open_gguf")
    arguments = ["build", "--release", "--locked", "--features", "standalone", "--example", _EXAMPLE]
    run_cargo([*arguments, "--target-dir", str(CRATE / "target")], crate=CRATE)
    python = [sys.executable, "-m"]
    commands = {
        OURS: [str(CRATE / "target" / "release" / "examples" / _EXAMPLE)],
        C_READER: [*python, "tests.bench.gguf_c_reader", str(library)],
        PYTHON_READER: [*python, "tests.bench.gguf_py_reader"],
    }
    cases: dict[tuple[int, int], Case] = {}
    with contextlib.ExitStack() as stack:
        readers = {name: stack.enter_context(TimedChild(command)) for name, command in commands.items()}
        for tokens in VOCABULARIES:
            for tensors in TENSORS:
                setting.say(f"opening {tensors} tensors, {tokens} tokens")
                cases[tokens, tensors] = _measure(setting, readers, tensors=tensors, tokens=tokens)
    versions = {name: metadata.version(name) for name in ("gguf", _PEER)}
    versions |= {"ggml": library.name.partition(".so.")[2], "rustc": find_toolchain().version.split()[1]}
    return Result("Open and validate a GGUF file", _HOW, tuple(cases.values()), tuple(_findings(cases)), versions)


def _measure(setting: Setting, readers: Mapping[str, TimedChild], *, tensors: int, tokens: int) -> Case:
    path = setting.folder / f"open-{tensors}-{tokens}.gguf"
    write_sparse(path, synthetic(tensors, rows=16, columns=32, tokens=tokens))
    rounds = setting.choose(full=21, quick=3)
    contenders = {name: partial(_open, name, reader, path, tensors) for name, reader in readers.items()}
    samples = alternate(contenders, rounds=rounds, warm_up=2)
    path.unlink()
    vocabulary = f", {tokens:,} tokens" if tokens else ""
    return Case(f"{tensors:,} tensors{vocabulary}", "s", samples)


def _open(name: str, reader: TimedChild, path: Path, expected: int) -> float:
    seconds, tensors = reader.ask(path)
    if tensors != expected:
        raise ToolError(f"{name} found {tensors} tensors in a file with {expected}", command=[name])
    return seconds


def _findings(cases: Mapping[tuple[int, int], Case]) -> list[BenchFinding]:
    findings = []
    for case in cases.values():
        for peer, goal in ((PYTHON_READER, 100.0), (C_READER, 1.0)):
            what = f"{case.name}: times faster than {peer}"
            findings.append(at_least(what, case.ratio(peer), goal, shown=lambda value: f"{value:.3g}"))
    for tokens in VOCABULARIES:
        for small, large in pairwise(TENSORS):
            few, many = cases[tokens, small], cases[tokens, large]
            growth = ", ".join(f"{name} {_growth(few, many, name, small=small, large=large)}" for name in few.samples)
            vocabulary = f" with {tokens:,} tokens" if tokens else ""
            findings.append(BenchFinding(f"growth from {small:,} to {large:,} tensors{vocabulary}", growth))
    return findings


def _growth(few: Case, many: Case, name: str, *, small: int, large: int) -> str:
    """How the time grows as a power of the number of tensors."""
    before, after = few.summary(name).median, many.summary(name).median
    return f"n^{growth_exponent((small, before), (large, after)):.2f} (to {quantity(after, 's')})"


def _c_library() -> Path:
    """libggml-base.so in the peer's wheel."""
    try:
        files = metadata.files(_PEER) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        # The wheel holds it twice; beside its own dependencies it can be loaded alone.
        if file.parent.name == f"{_PEER}.libs" and file.name.startswith("libggml-base-"):
            return Path(str(file.locate()))
    raise InputError(f"{_PEER}, which brings the C reader, is not installed", remedy="run `make bench`")
