"""The command line itself: help, usage, errors, exit codes, signals."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from cli import VERBS
from tests.support.vboot import Vboot


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(vboot: Vboot, verb: str) -> None:
    assert vboot(verb, "--help") == 0
    assert vboot.out.startswith(f"usage: vboot {verb}")
    assert "--json" in vboot.out
    assert importlib.import_module(f"cli.{verb}").__doc__


def test_help_and_version(vboot: Vboot) -> None:
    assert vboot("--help") == 0
    assert all(text in vboot.out for text in VERBS.values())
    assert vboot("--version") == 0
    assert vboot.out == f"vboot {version('vector-boot')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: VERB"),
        (["biuld"], "invalid choice: 'biuld'"),
        (["--modle", "build"], "unrecognized arguments: --modle"),
        (["build", "--modle", "tiny"], "unrecognized arguments: --modle tiny"),
        (["build", "--mod", "tiny"], "unrecognized arguments: --mod tiny"),
        (["build", "--type", "Q9"], "argument --type: model.type = 'Q9' is not one of F16, F32, Q8_0"),
        (["build", "--security-version", "-1"], "argument --security-version"),
        (["build", "--cpus", "2"], "unrecognized arguments: --cpus 2"),
        (["inspect"], "required: FILE"),
        (["repack", "x", "-o", "y"], "one of the arguments --binary --tensors is required"),
    ],
)
def test_wrong_usage(vboot: Vboot, words: list[str], message: str) -> None:
    assert vboot(*words) == 2
    assert vboot.out == ""
    assert vboot.err.startswith("usage: vboot")
    assert message in vboot.last_error()
    assert vboot.json(*words, code=2)["error"]["type"] == "UsageError"


def test_options_of_every_verb_may_stand_before_it(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[model]\nsource = "tiny"\n')
    assert vboot("--json", "--config", "other.toml", "build", "--dry-run") == 0
    before = json.loads(vboot.out)
    assert "weights" not in {step["name"] for step in before["steps"]}
    assert vboot.json("build", "--dry-run", "--config", "other.toml")["steps"] == before["steps"]


def test_wrong_settings_are_one_line(vboot: Vboot, tmp_path: Path) -> None:
    (tmp_path / "appliance.toml").write_text('[model]\nsorce = "tiny"\n')
    assert vboot("build") == 1
    assert vboot.err == (
        "vboot: error: appliance.toml:2: model.sorce = 'tiny' is not a setting; did you mean model.source?\n"
    )
    error = vboot.json("build", code=1)["error"]
    assert (error["type"], error["remedy"]) == ("InputError", "did you mean model.source?")


def test_traceback_only_with_debug(vboot: Vboot) -> None:
    assert vboot("inspect", "gone.rts") == 1
    assert vboot.err == "vboot: error: gone.rts cannot be read: No such file or directory; check the path\n"
    assert vboot("inspect", "gone.rts", "--debug") == 1
    assert vboot.err.startswith("Traceback")
    assert vboot.last_error().startswith("vboot: error: gone.rts")


Failing = Callable[[BaseException], None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Makes `vboot doctor` raise."""

    def install(error: BaseException) -> None:
        def run(_: object) -> None:
            raise error

        monkeypatch.setattr("cli.doctor.run", run)

    return install


def test_failures_of_the_system_and_of_our_own(vboot: Vboot, failing: Failing) -> None:
    failing(PermissionError(13, "Permission denied", "/etc/shadow"))
    assert vboot("doctor") == 1
    assert vboot.err == "vboot: error: /etc/shadow: Permission denied\n"
    failing(KeyError("x"))
    assert vboot("doctor") == 1
    assert vboot.err == "vboot: error: internal error: KeyError: 'x'; run it again with --debug and report it\n"


def test_interrupt(vboot: Vboot, failing: Failing) -> None:
    failing(KeyboardInterrupt())
    assert vboot("doctor") == 130
    assert (vboot.out, vboot.err) == ("", "vboot: error: interrupted\n")
    assert vboot.json("doctor", code=130) == {"error": {"type": "Interrupted", "message": "interrupted"}}


def test_sigterm_is_reported(vboot: Vboot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.doctor.run", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert vboot.json("doctor", code=143) == {"error": {"type": "Terminated", "message": "terminated"}}
    assert vboot.err == "vboot: error: terminated\n"


def test_doctor(vboot: Vboot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAKELEVEL", raising=False)
    answer = vboot.json("doctor")
    assert answer["ok"] is True
    assert {"python", "cargo", "rustc", "gcc", "make", "accelerator"} <= {check["name"] for check in answer["checks"]}
    assert vboot("doctor") == 0
    assert vboot.out.endswith("everything that the build needs is installed\nnext: vboot build\n")


def test_doctor_on_a_host_that_lacks_a_compiler(vboot: Vboot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vboot.json("doctor", code=1)["ok"] is False
    assert vboot("doctor") == 1
    assert "MISSING (linking the Rust executable): run `make deps`" in vboot.out


@pytest.mark.parametrize("verb", ["history", "stop", "embed"])
def test_an_unknown_option_shows_how_the_verb_is_written(vboot: Vboot, verb: str) -> None:
    assert vboot(verb, "RUN", "--nonsense") == 2
    assert vboot.err.startswith(f"usage: vboot {verb} ")
    assert vboot.last_error().endswith("unrecognized arguments: --nonsense")


@pytest.mark.parametrize("verb", ["boot", "stop", "mutate", "embed", "shell", "history"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "1e300", "soon"])
def test_a_timeout_is_a_positive_number_of_seconds(vboot: Vboot, verb: str, seconds: str) -> None:
    assert vboot(verb, *([] if verb == "boot" else ["gone"]), f"--timeout={seconds}") == 2
    assert f"argument --timeout: expected seconds above 0 and at most 1000000, got '{seconds}'" in vboot.last_error()


@pytest.mark.parametrize("words", [["--help"], ["inspect", "vector_boot.rts"], ["inspect", "gone", "--json"]])
def test_reader_that_leaves_early_is_no_error(image: Path, words: list[str]) -> None:
    # Buffered output fails where it is flushed, which may be at exit, after all of our code.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "builder", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=image, env=environment, text=True,
    ) as child:  # fmt: skip
        assert child.stdout
        child.stdout.close()
        assert child.wait(timeout=60) == 141
        assert child.stderr
        complaints = child.stderr.read()
    assert "Broken" not in complaints
    assert complaints.count("\n") <= 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_programs_that_were_started(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "rustc").write_text(
        f"#!/bin/sh\necho $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid\nsleep infinity\n"
    )
    (tmp_path / "rustc").chmod(0o755)
    (tmp_path / "cargo").symlink_to("rustc")
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "builder", "build", "--model", "tiny", "--output", str(tmp_path / "o")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        wait_until(lambda: (tmp_path / "pid").exists() or child.poll() is not None)
        assert child.poll() is None, "the build ended before it ran a program"
        child.send_signal(number)
        assert child.wait() == code
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    while not condition():
        time.sleep(0.02)


def test_start_is_fast() -> None:
    script = "import sys; from cli import main; main(['--help']); print(sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "cli" in modules
    for heavy in ("numpy", "gguf", "rich", "cryptography", "elftools"):
        assert f"'{heavy}'" not in modules
