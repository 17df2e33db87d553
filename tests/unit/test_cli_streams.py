"""Standard streams that are closed, full, without a reader, or in a poor encoding: work goes on without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_machine import local_machine
from tests.support.vboot import write_gguf
from vboot.client.machine import connect

ROOT = Path(__file__).parents[2]
MUTATE = ("mutate", "SOCKET", "--seeded", "token_embd.weight", "--density", "1", "--scale", "1", "--confidence", "1")
FULL = "No space left on device"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python then holds every byte of an argument beyond ASCII as a surrogate, and can print none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    write_gguf(path / "model.gguf")
    write_gguf(path / "modèle.gguf")
    return path


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with local_machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine.socket


class Ended:
    """How a command ended, with what came through its standard streams; `code` is that of vboot, not of its reader."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.out = done.stdout.decode("utf-8")
        *self.errors, code = done.stderr.decode("utf-8").splitlines()
        self.code = int(code)
        assert "Traceback" not in done.stderr.decode()
        assert "Exception ignored" not in done.stderr.decode()
        assert "internal error" not in done.stderr.decode()


def run(
    folder: Path, words: tuple[str, ...], how: str, environment: dict[str, str] | None = None, *, stdin: bytes = b""
) -> Ended:
    """Run `vboot WORDS` in bash, with its redirections `how`."""
    script = f'"$@" {how}; echo "${{PIPESTATUS[0]}}" >&2'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "builder", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return Ended(subprocess.run(command, input=stdin, capture_output=True, cwd=folder, env=env, check=False))


def placed(words: tuple[str, ...], socket: Path) -> tuple[str, ...]:
    return tuple(str(socket) if word == "SOCKET" else word for word in words)


def generation(socket: Path) -> int:
    with connect(socket) as machine:
        return machine.hello().generation


@pytest.mark.parametrize("how", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "words", [("inspect", "model.gguf"), MUTATE, ("shell", "SOCKET"), ("history", "SOCKET", "--json"), ("--version",)]
)
def test_a_closed_stream_is_no_error(folder: Path, socket: Path, words: tuple[str, ...], how: str) -> None:
    before = generation(socket)
    ended = run(folder, placed(words, socket), how, stdin=b"hello\n")
    assert (ended.code, ended.errors) == (0, [])
    assert generation(socket) == before + (words is MUTATE)


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "2> >(exit)"])
def test_the_exit_code_stays_when_stderr_fails(folder: Path, how: str) -> None:
    ended = run(folder, ("inspect", "gone.gguf", "--json"), how)
    assert (ended.code, ended.errors) == (1, [])
    assert json.loads(ended.out)["error"]["type"] == "InputError"


@pytest.mark.parametrize("words", [("inspect", "model.gguf"), ("history", "SOCKET", "--json"), ("--help",)])
def test_output_that_cannot_be_written_is_an_error_of_read_only_verbs(
    folder: Path, socket: Path, words: tuple[str, ...]
) -> None:
    words = placed(words, socket)
    ended = run(folder, words, ">/dev/full")
    assert ended.errors == [f"vboot: error: the answer cannot be written to stdout: {FULL}"]
    assert ended.code == 1
    assert run(folder, words, "| true").code == 141


def test_work_that_was_done_is_not_reported_as_failed(folder: Path, socket: Path) -> None:
    before = generation(socket)
    for how in (">/dev/full", "--json >/dev/full"):
        ended = run(folder, placed(MUTATE, socket), how)
        warning = f"the command has done its work, but the answer cannot be written to stdout: {FULL}"
        assert ended.errors == [f"vboot: warning: {warning}"]
        assert ended.code == 0
    ended = run(folder, placed(MUTATE, socket), "| true")
    assert (ended.code, ended.errors) == (0, [])
    assert generation(socket) == before + 3


def test_a_shell_whose_reader_has_left_ends(folder: Path, socket: Path) -> None:
    script = b"hello\n" * 20
    assert run(folder, ("shell", str(socket)), "| head -n 1", stdin=script).code == 141
    ended = run(folder, ("shell", str(socket)), ">/dev/full", stdin=script)
    assert ended.errors == [f"vboot: error: the answer cannot be written to stdout: {FULL}"]
    assert ended.code == 1


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "2> >(exit)"])
def test_progress_that_cannot_be_shown_does_not_end_the_work(folder: Path, how: str) -> None:
    lines = [{"query": f"q {number} {number % 7}", "document": f"d {number} {number % 7}"} for number in range(160)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        "evolve",
        "--in-process",
        "--model",
        str(ROOT / "build/test/tiny/vectorland.gguf"),
        "--no-report",
        "--json",
    ]
    words += ["--data", "pairs.jsonl", "--tier", "output", "--batch", "4", "--generations", "1", "--option", "pairs=2"]
    ended = run(folder, (*words, "--folder", f"run{abs(hash(how))}"), how)
    assert ended.code == 0
    assert json.loads(ended.out)["generations"] == 1


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE])
def test_characters_outside_the_encoding_are_escaped(folder: Path, socket: Path, environment: dict[str, str]) -> None:
    words: Any = ("embed", str(socket), "naïve €")
    escaped = run(folder, words, "", environment)
    plain = run(folder, words, "")
    assert (escaped.code, plain.code) == (0, 0)
    assert r"na\xefve \u20ac" in escaped.out
    assert "naïve €" in plain.out
    # Before the text stand the numbers, which are of the text itself and not of its escapes.
    assert escaped.out.splitlines()[1].split()[:6] == plain.out.splitlines()[1].split()[:6]
    assert json.loads(run(folder, (*words, "--json"), "", environment).out)["texts"][0]["text"] == "naïve €"
    script = "embed 'naïve €' --json\n".encode()
    answer = json.loads(run(folder, ("shell", str(socket)), "", environment, stdin=script).out)
    assert answer["texts"][0]["text"] == "naïve €"
    shown = json.loads(run(folder, ("inspect", "modèle.gguf", "--json"), "", environment).out)
    assert shown["file"] == "modèle.gguf"
    gone = run(folder, ("inspect", "gône.gguf"), "", environment)
    assert gone.code == 1
    assert gone.errors[0].startswith("vboot: error: g")


def test_a_line_that_is_not_utf_8_is_refused_and_the_next_served(folder: Path, socket: Path) -> None:
    ended = run(folder, ("shell", str(socket)), "", stdin=b"embed caf\xe9\nhello --json\n")
    assert ended.errors == ["error: the line is not UTF-8; give commands in UTF-8"]
    assert json.loads(ended.out)["protocol"] == 1
    assert ended.code == 1


def test_a_long_argument_of_embed_is_a_text(folder: Path, socket: Path) -> None:
    text = "word " * 2000
    assert json.loads(run(folder, ("embed", str(socket), text, "--json"), "").out)["texts"][0]["text"] == text
    # No machine is named, so the newest that runs is looked for.
    assert "no machine runs in build/run" in run(folder, ("embed", text), "").errors[-1]


_INTERRUPTED_IMPORT = """
import importlib.abc, os, signal, sys
class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hook())
from builder.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["cli", "cli.answer", "vboot.text", "cli.inspect"])
def test_ctrl_c_while_modules_are_imported(folder: Path, module: str) -> None:
    code = _INTERRUPTED_IMPORT.replace("MODULE", repr(module))
    script = '"$@"; echo $? >&2'
    words = ["bash", "-c", script, "bash", sys.executable, "-c", code, "inspect", "model.gguf"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = Ended(subprocess.run(words, capture_output=True, cwd=folder, env=env, check=False))
    assert (ended.code, ended.out) == (130, "")
