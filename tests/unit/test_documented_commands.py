"""Every command that the documents and the helps show is run, or has its reason here why not.

A command is made small first (`CHANGED`): the tiny model instead of MiniLM, one generation instead of thirty minutes,
the tests' own machine instead of the newest that runs. One that is not run (`EXCUSED`) is still checked: make has its
target, `vboot` accepts its words. Running text may cut a command short ("`vboot evolve --file`"): its words must exist.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cli
from tests.support.disks import make_disk
from tests.support.documented import MENTIONING, PAGES, ROOT, Shown, shown_in, shown_in_help, words_of
from tests.support.local_machine import local_machine, tiny_model
from tests.support.state_histories import three_generations
from tests.support.vboot import Vboot

EXCUSED = {
    r"make (image|disk|boot|demo)( (MODEL|TYPE)=\S+)*": "builds in the checkout: test_makefile.py, tests/boot run it",
    r"make (test|check|torture|together|bench|fuzz|aarch64-tools|man|deps|(dist)?clean)( [A-Z]+=\d+)?": "long",
    r"make -C examples/c && .*": "test_examples.py compiles and runs it",
    r"(python3|\.venv/bin/python) examples/\S+ .*": "test_examples.py runs it",
    r"vboot (boot|demo)( .*)?": "needs QEMU: tests/boot runs it",
    r"(vboot|python -m builder) build( --check-reproducible)?": "tests/e2e and test_cli_build.py run it",
    r"vboot build --format .*": "test_disk_steps.py and tests/boot run it",
    r"vboot evolve --boot .*": "needs QEMU: tests/boot/test_evolve.py runs it",
    r"vboot evolve --report .*": "needs a run that has ended: test_cli_evolve.py runs it",
    r"vboot surgeon verify evolved\.gguf .*": "needs a run's file and recipe: test_surgeon.py runs it",
    r"vboot evolve (RUN )?--minutes 30": "its task is made of Debian's package lists: test_cli_evolve.py runs it",
    r"vboot reload .*": "takes a probation of 10 s: test_cli_reload.py runs it",
    r"vboot flash .*": "writes to a disk of the host: test_flash.py runs it on loop devices",
    r"vboot update .*": "needs a disk with two slots: tests/boot/test_update.py runs it",
    r"vboot stop( RUN)?": "ends a machine: test_cli_runs.py and tests/boot run it",
    r"(sudo )?apt-get .*": "changes the host",
    r"(install -m|virsh|qm) .*": "needs libvirt or Proxmox VE: docs/disk.md says that they were not tried",
    r"kill -9 \d+": "ends a machine: tests/boot/test_power_cuts.py does it",
    r"cargo .*": "compiles the crate again",
    r"cbindgen .*": "test_ffi.py runs it where it is installed",
    r"(\.venv/bin/)?python -m (pytest|tests\.(bench|studies|torture))\b.*": "runs other tests, or takes hours",
    r"\.venv/bin/python spec/generate\.py": "writes into the checkout: test_generated_tables.py runs it",
    r"python -m builder": "test_cli.py runs it",
    r"vector_boot/fuzz/run\.sh .*": "needs nightly Rust; `make test` runs it",
}
"""Commands that are not run: a pattern of the whole command, and why not."""

CHANGED = (
    (r"\bVERB\b", "embed"),
    (r"\bbuild/run/NAME\b|\bRUN\b|/tmp/(socket|vb\.sock)", "SOCKET"),
    (r"\bFILE\b", "model.gguf"),
    (r"\bWORD\b|\bTOPIC\b", "lease"),
    (r"\bCODE\b", "1006"),
    (r"~/\S+", "fish-script"),
    (r"\bDIR/mutation", "keys/mutation"),
    (r"vboot build (?=--mutation-key)", "vboot build --model tiny --output keyed "),
    (r"--minutes \d+|--generations \d+", "--generations 1"),
    (r"(vboot evolve(?!.*--data)(?= .*--(file|in-process)).*)", r"\1 --data pairs.jsonl"),
    (r"(vboot evolve(?!.*--generations)(?= .*--(file|in-process|data)).*)", r"\1 --generations 1"),
    (r"vboot save(?!.*--model)", "vboot save --model build/vectorland.gguf"),
    (r"vboot (save|journal replay)(?!.*--force)", r"vboot \1 --force"),
    (r"vboot evolve (?=SOCKET)", "vboot evolve --takeover "),
)
"""What makes a command small, in this order."""

ON_A_MACHINE = {"embed", "mutate", "promote", "rollback", "history", "shell", "tensors", "save", "apply"}
"""Verbs that take the newest machine that runs; here they get the socket of the tests' own."""

RECIPE = """\
confidence = 0.9

[[edits]]
kind = "sparse"
op = "add"
tensor = "blk.0.ffn_up.bias"
indices = [1]
values = [0.25]
"""
PAIRS = "".join(f'{{"query": "what is {n}", "document": "the number {n} is a number"}}\n' for n in range(40))


@pytest.fixture(scope="module")
def scratch(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader would have it: an image in build/, models, texts, and the executable in its place."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(image, folder / "build")
    make_disk(image, folder / "build/vector_boot.img")
    for name in ("model", "a", "mine"):
        shutil.copy(tiny_model(), folder / f"{name}.gguf")
    for name in ("b", "yours"):
        changed = ["--set", "blk.0.ffn_up.bias[0]=0.5", "-o", str(folder / f"{name}.gguf")]
        assert cli.main(["surgeon", "apply", str(folder / "a.gguf"), *changed]) == 0
    (folder / "state.img").write_bytes(three_generations(folder / "build/vectorland.gguf"))
    assert cli.main(["keygen", str(folder / "keys")]) == 0
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "pairs.jsonl").write_text(PAIRS)
    (folder / "texts.txt").write_text("A cat sleeps.\nA kitten naps.\n")
    (folder / "vector_boot").symlink_to(ROOT / "vector_boot")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def socket(scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with local_machine(tmp_path_factory.mktemp("machine"), model=scratch / "build/vectorland.gguf") as machine:
        yield machine.socket


class Reader:
    """Types commands as they are shown. `run` returns what went wrong, or an empty string."""

    def __init__(self, vboot: Vboot, socket: Path) -> None:
        self._vboot = vboot
        self._socket = str(socket)

    def run(self, shown: Shown) -> str:
        if shown.language == "python":
            return _python(shown.text)
        if shown.language == "toml":
            Path("shown.toml").write_text(shown.text)
            return self._result(["--config", "shown.toml", "build", "--model", "tiny", "--dry-run"])
        for pattern in EXCUSED:
            if re.fullmatch(pattern, shown.text):
                return _accepted(shown)
        if shown.cut_short:
            return _words_exist(words_of(shown.text)) if shown.text.startswith("vboot ") else ""
        text = shown.text
        for pattern, replacement in CHANGED:
            text = re.sub(pattern, replacement, text)
        text = self._on_machine(text.replace("SOCKET", self._socket))
        if re.fullmatch(r"(\.venv/bin/)?vboot [^<>|&;()]*", text):
            return self._result(words_of(text)[1:])
        return self._program(text)

    def _result(self, words: list[str]) -> str:
        try:
            return "" if self._vboot(*words) == 0 else f"{' '.join(words)}: {self._vboot.last_error()}"
        except SystemExit as end:
            return str(end.code or "")

    def _on_machine(self, text: str) -> str:
        verb = re.match(r"vboot (\w+)", text)
        if verb and verb[1] in ON_A_MACHINE and self._socket not in text and "--help" not in text:
            return f"{verb[0]} {self._socket}{text[verb.end() :]}"
        return text

    def _program(self, text: str) -> str:
        """Run anything else by bash, with the project's programs on its path."""
        if "socat" in text and not shutil.which("socat"):
            return ""
        if " --listen" in text or text == "vector_boot --listen":
            return _listens(text)
        if text.startswith("vector_boot check") and "model.gguf" not in text:
            text += " model.gguf"
        folders = (Path(sys.executable).parent, ROOT / "vector_boot/target/release")
        path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", text], env=os.environ | {"PATH": path, "HOME": str(Path.cwd())}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return "" if done.returncode == 0 else f"{text}: exit code {done.returncode}: {done.stderr}"


def _python(text: str) -> str:
    """Run a snippet as it is shown, with what it imports itself."""
    exec(compile(ast.parse(text), "shown", "exec"), {})
    return ""


def _listens(text: str) -> str:
    """The machine behind a Unix socket, until it is there."""
    if "/" not in text:
        return ""  # the option, not a command
    folder = Path.cwd() / "listening"
    folder.mkdir(exist_ok=True)
    with local_machine(folder, model=Path("build/vectorland.gguf")) as machine:
        return "" if machine.socket.is_socket() else text


def _accepted(shown: Shown) -> str:
    """Check a command that is not run: make has the target, `vboot` accepts the words."""
    if shown.text.startswith("make "):
        words = [word for word in words_of(shown.text.partition(" && ")[0])[1:] if "=" not in word]
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return "" if words[0] == "-C" or set(words) <= set(targets) else f"make has no target {words}"
    if shown.text.startswith("vboot "):
        words = words_of(shown.text)[1:]
        return (
            ""
            if _complete(shown.text)
            else _words_exist(words_of(shown.text)) or (f"vboot refuses {words}" if shown.whole else "")
        )
    return ""


def _complete(text: str) -> bool:
    """Whether `vboot` accepts a command, with the names of things for the things."""
    words = words_of(re.split(r" [<>|] ", text)[0])[1:]
    with contextlib.suppress(cli.UsageError, SystemExit):
        cli.full_parser().parse_args(words)
        return True
    return "--help" in words or "--version" in words


def _words_exist(words: list[str]) -> str:
    """Whether verb, operation and options exist, whatever is missing behind them."""
    parser: Any = cli.full_parser()
    for word in words[1:]:
        subs = [action for action in parser._actions if isinstance(action.choices, dict)]
        if word.startswith("--"):
            if word not in parser._option_string_actions:
                return f"there is no option {word} of {parser.prog}"
        elif subs and word in subs[0].choices:
            parser = subs[0].choices[word]
        elif subs and word != "NAME":
            return f"{parser.prog} has no {word}"
    return ""


def _failures(shown: list[Shown], run: Callable[[Shown], str]) -> str:
    failures = []
    for each in dict.fromkeys(shown):
        with contextlib.suppress(pytest.skip.Exception):
            if problem := run(each):
                failures.append(f"{each}\n    {problem}")
    return "\n".join(failures)


@pytest.fixture
def reader(vboot: Vboot, scratch: Path, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(scratch)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return Reader(vboot, socket)


@pytest.mark.parametrize("page", [*PAGES, *MENTIONING], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_works(page: Path, reader: Reader) -> None:
    assert _failures(list(shown_in(page)), reader.run) == ""


def test_what_the_helps_show_works(reader: Reader) -> None:
    assert _failures(list(shown_in_help(cli.full_parser())), reader.run) == ""


def test_every_excuse_is_needed() -> None:
    """Also alone: it looks at the documents, not at what other tests ran."""
    everything = [each for page in (*PAGES, *MENTIONING) for each in shown_in(page)]
    everything += shown_in_help(cli.full_parser())
    unused = [pattern for pattern in EXCUSED if not any(re.fullmatch(pattern, each.text) for each in everything)]
    assert unused == []


def test_an_undocumented_failure_would_be_seen(reader: Reader) -> None:
    """The test of the test: a wrong verb, a wrong option, a missing target and a failing command are found."""
    for text in ("vboot frobnicate", "vboot history --frob", "make nothing", "vboot inspect absent.gguf", "false"):
        assert reader.run(Shown("page", text, whole=True)) != "", text
    assert reader.run(Shown("page", "vboot surgeon explode", whole=False)) != ""
