"""The shell: its answers to scripts on a real machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli import main
from cli.shell.commands import execute
from cli.shell.explain import help_answer
from cli.shell.language import parse
from cli.shell.verbs import VERBS, Verb
from tests.support.local_machine import LocalMachine, local_machine
from vboot.client.machine import connect


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    with local_machine(tmp_path_factory.mktemp("machine"), "--fault", "--heartbeat-ms", "20") as machine:
        yield machine


class Scripted:
    """Runs `vboot shell` with a script as stdin, and keeps what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capture = capture
        self.code = 0
        self.err = ""

    def __call__(self, target: Path, *lines: str, options: Sequence[str] = ()) -> list[str]:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        self._capture.readouterr()
        self.code = main(["shell", str(target), *options])
        out, self.err = self._capture.readouterr()
        return out.splitlines()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Scripted:
    return Scripted(monkeypatch, capsys)


def test_every_verb_of_the_table_is_carried_out(tmp_path: Path) -> None:
    examples = {
        "mutate": "mutate --set token_embd.weight[3]=0.5 --confidence 0.9 --lease 60",
        "embed": "embed 'the machine' model",
        "similarity": "similarity 'the machine' model",
        "renew": "renew 60",
        "rollback": "rollback 0 'not needed'",
        "read": "read hw.mmio",
        "fault": "fault orphans 1",
        "raw": 'raw {"method": "stats"}',
        "run": "run NEURAL_EXEC",
        "disassemble": "disassemble kernel.0",
        "help": "help",
    }
    elsewhere = {"quit", "exit", "watch", "shutdown"}
    with local_machine(tmp_path, "--fault") as local, connect(local.socket) as machine:
        for verb in VERBS:
            if verb.name not in elsewhere:
                command = parse(examples.get(verb.name, verb.name), faults=True)
                assert command is not None
                answer = execute(command, machine, faults=True)
                assert answer.text
                json.dumps(answer.data, allow_nan=False)


def test_a_script_is_answered_line_by_line(shell: Scripted, local: LocalMachine) -> None:
    script = ["# who", "", "hello", "interrupt 7", "read hw.mmio 0 2", "tensors kernel.7", "quit", "stats"]
    out = shell(local.socket, *script)
    assert (shell.code, shell.err) == (0, "")
    assert out[0] == "version     0.1.0, protocol 1"
    assert out[2] == "generation  0, the model as built"
    assert out[6].startswith("vector 7 taken after ")
    assert out[7:9] == ["hw.mmio, I32 1024, generation 0", "0:  1447186260          1"]
    assert out[9:] == [
        "tensor    type  shape  bytes",
        "kernel.7  I8    4096   4096   protected",
        "1 tensor, 4.0 KiB",
    ]


def test_values_are_shown_by_type(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "read token_embd.weight 0 3", "read kernel.0 4090", "read token_embd.weight --json")
    assert out[0].startswith("token_embd.weight, F16 64 x ")
    assert out[1].split() == ["0:", "0.25", "2.0", "-0.25"]
    assert out[3].split() == ["4090:", "0", "0", "0", "0", "0", "0"]
    data = json.loads(out[4])
    assert (data["type"], data["offset"], data["count"], len(data["values"])) == ("F16", 0, 16, 16)
    assert data["values"][:3] == [0.25, 2.0, -0.25]


def test_texts_are_embedded_and_compared(shell: Scripted, local: LocalMachine) -> None:
    lines = ["embed 'the machine' 'a machine' zebra", "similarity 'the machine' 'a machine'", "similarity zebra"]
    out = shell(local.socket, *lines, "similarity zebra zebra --json", "embed zebra")
    assert out[0].split() == ["tokens", "first", "of", "64", "numbers,", "generation", "0", "text"]
    assert [line.split()[0] for line in out[1:4]] == ["1", "2", "3"]
    assert out[1].endswith("  the machine")
    matrix = [[float(cell) for cell in line.split()[1:]] for line in out[7:10]]
    assert [row[number] for number, row in enumerate(matrix)] == [1.0] * 3
    assert matrix[0][1] == matrix[1][0] > matrix[0][2]
    alike = float(out[10].split()[0])
    assert out[10] == f"{alike:.4f} (generation 0)"
    assert abs(alike - matrix[0][1]) < 0.001
    assert json.loads(out[11])["similarity"] == pytest.approx(1)
    assert len(out) == 14  # one text is compared with none
    assert "similarity needs OTHER" in shell.err


def test_json_for_scripts(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "hello", "nonsense", "read nothing", "stats", "interrupt 300", options=["--json"])
    lines = [json.loads(line) for line in out]
    assert lines[0]["limits"]["blob"] == 1 << 20
    assert [line["error"]["type"] for line in (lines[1], lines[2], lines[4])] == [
        "InputError",
        "InputError",
        "RequestRefusedError",
    ]
    assert lines[3]["state"] == "beating"
    assert lines[4]["error"]["code"] == -32602
    assert shell.code == 1


def test_json_after_a_command_makes_its_error_json(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "read nothing --json", "stats now --json", "interrupt 300 --json", "stats now")
    errors = [json.loads(line)["error"] for line in out]
    assert [error["type"] for error in errors] == ["InputError", "InputError", "RequestRefusedError"]
    assert (errors[1]["what"], errors[1]["remedy"]) == ("stats does not take now", "write stats")
    assert errors[2]["code"] == -32602
    assert shell.err.count("error: ") == 4


def test_a_script_goes_on_after_an_error_and_fails_in_the_end(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "stats now", "interrupt")
    assert shell.err == "error: stats does not take now; write stats\n"
    assert len(out) == 1
    assert shell.code == 1


def test_raw_requests(shell: Scripted, local: LocalMachine) -> None:
    read = 'raw {"method": "read", "params": {"tensor": "hw.mmio", "bytes": 4}}'
    out = shell(local.socket, read, 'raw {"method": "x"}')
    assert json.loads(out[0])["blob"] == "544f4256"
    assert "code -32601" in shell.err


def test_a_mutation_its_history_and_its_end(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path) as local:
        out = shell(
            local.socket,
            "mutate --set token_embd.weight[1]=0.5 --set token_embd.weight[0]=-3 --confidence 0.9 --origin me",
            "read token_embd.weight 0 2",
            "mutate --seeded blk.*.weight --density 0.5 --scale 0.01 --confidence 0.95 --seed 00c0ffee00c0ffee --json",
            "mutate --dense token_embd.weight@0=0034 --confidence 0.9 --lease 60",
            "renew 120",
            "promote",
            "rollback 0 worse",
            "checkpoint 'all as before'",
            "read token_embd.weight 0 2",
            "history",
            "history 4 --json",
        )
    assert (shell.code, shell.err) == (0, "")
    assert out[0] == "generation 1: 2 B in 1 tensor, not durable"
    assert out[2].split() == ["0:", "-3.0", "0.5"]
    assert json.loads(out[3])["generation"] == 2
    assert out[5:11] == [
        "on trial for 60 s: then taken back, unless it is promoted",
        "the trial of generation 3 lasts for 120 s from now on",
        "generation 3 is kept: its trial has ended",
        "generation 4: the weights are those of generation 0 again",
        "generation 4 is stored as a full copy, not durable",
        "token_embd.weight, F16 64 x 409, generation 4",
    ]
    assert out[11].split() == ["0:", "0.25", "2.0"]
    table = [line.split()[2].rstrip(",") for line in out[13:-1]]
    assert table == ["boot", "mutate", "mutate", "mutate", "promote", "rollback", "checkpoint"]
    records = json.loads(out[-1])["records"]
    assert [record["kind"] for record in records] == ["promote", "rollback", "checkpoint"]


def test_a_mutation_from_a_recipe(shell: Scripted, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    edit = '[[edits]]\nkind="sparse"\ntensor="token_embd.weight"\nop="add"\nindices=[0]\nvalues=[0.5]\n'
    recipe.write_text(f"confidence=0.9\n{edit}")
    doubtful = tmp_path / "doubtful.toml"
    doubtful.write_text(edit)
    with local_machine(tmp_path) as local:
        out = shell(
            local.socket,
            f"mutate --recipe {recipe}",
            "read token_embd.weight 0 1",
            f"mutate --recipe {doubtful}",
            f"mutate --recipe {doubtful} --confidence 0.8",
            "mutate --set token_embd.weight[0]=1",
            "mutate",
        )
    assert out[0].startswith("generation 1: ")
    assert out[2].split() == ["0:", "0.75"]
    errors = shell.err.splitlines()
    assert "doubtful.toml has none: give --confidence" in errors[0]
    assert "(code 1006)" in errors[1]
    assert "the machine refuses 0.8 and below" in errors[2]
    assert errors[3] == "error: give one of --recipe, --seeded, --set, --dense"
    assert len(errors) == 4


def test_watching_mutations(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path) as local:
        out = shell(
            local.socket,
            "mutate --set token_embd.weight[0]=1 --confidence 0.9 --lease 0.2",
            "watch mutations 0.6",
            "watch heartbeats 0.2",
            "read token_embd.weight 0 1",
        )
    assert "generation 2: lease_expired " in out
    assert [line for line in out if line.startswith("beat ")]
    assert out[-1].split() == ["0:", "0.25"]


def test_watching_for_a_while(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "watch 0.2", "watch 0.1 --json", "interrupt")
    beats = [line for line in out if line.startswith("beat ")]
    assert 3 <= len(beats) <= 12
    assert set(json.loads(out[len(beats)])) == {"beats", "late_us"}
    assert out[-1].startswith("vector 255")


def test_help(shell: Scripted, local: LocalMachine) -> None:
    out = shell(local.socket, "help")
    assert [line.split()[0] for line in out[: len(VERBS)]] == [verb.name for verb in VERBS]
    assert shell(local.socket, "help mutate")[0] == "mutate OPTIONS"
    assert shell(local.socket, "help nothing") == []
    assert "there is no command or term nothing" in shell.err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_explains_every_word_and_option_and_gives_a_line_that_works(verb: Verb) -> None:
    text = help_answer(verb.name, faults=True).text
    for explanation in [*(each.help for each in verb.arguments), *(each.help for each in verb.options)]:
        assert explanation
        assert explanation in text
    parsed = parse(verb.example, faults=True)
    assert parsed is not None
    assert parsed.verb == verb.name
    assert f"example: {verb.example}" in text


@pytest.mark.parametrize(("word", "meaning"), [("lease", "on trial"), ("1006", "confidence"), ("r2", "version")])
def test_help_explains_terms_codes_and_rules(word: str, meaning: str) -> None:
    assert meaning in help_answer(word, faults=False).text


def test_a_generation_may_be_given_as_an_option(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path) as local:
        mutate = "mutate --set token_embd.weight[0]=1 --confidence 0.9 --json"
        out = shell(local.socket, mutate, "rollback --generation 0 again --json", "rollback --to 1 --json", "rollback")
    assert [json.loads(line)["generation"] for line in out] == [1, 2, 3]
    assert "rollback needs GENERATION" in shell.err


def test_fault_is_hidden_where_it_is_refused(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path) as strict:
        out = shell(strict.socket, "help", "fault segv")
        assert not [line for line in out if line.startswith("fault")]
        assert "there is no command fault" in shell.err


def test_the_shell_continues_after_a_crash_of_the_worker(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path, "--fault") as local:
        out = shell(local.socket, "fault segv", "stats --json", "fault abort", "stats --json")
        assert [json.loads(out[line])["worker"]["restarts"] for line in (1, 3)] == [1, 2]
        assert shell.code == 0


def test_shutdown_ends_the_script(shell: Scripted, tmp_path: Path) -> None:
    with local_machine(tmp_path) as local:
        assert shell(local.socket, "shutdown", "stats") == ["the machine powers off"]
        assert (shell.code, shell.err) == (0, "")
        assert local.process.wait(120)
        assert shell(local.socket, "stats") == []
        assert (shell.code, shell.err.count("\n")) == (1, 1)
        assert "is not there" in shell.err


def test_targets_that_are_not_machines(shell: Scripted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    messages = {"file": "neither a run folder nor a socket", ".": "not the run folder", "x": "not there"}
    for target, words in messages.items():
        shell(tmp_path / target, "stats")
        assert shell.code == 1
        assert words in shell.err


def test_no_machine_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build/run/old").mkdir(parents=True)
    assert main(["shell"]) == 1
    assert "no machine runs in build/run; boot one with `vboot boot`" in capsys.readouterr().err


def test_the_end_of_the_machine_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with local_machine(tmp_path) as local:
        command = [sys.executable, "-m", "builder", "shell", str(local.socket)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"interrupt\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"vector 255")
            local.process.kill()
            # Nothing more is typed: the end is noticed while waiting.
            assert process.wait(120) == 1
            assert process.stderr is not None
            assert process.stderr.read() == b"vboot: error: the machine has ended; see its console for why\n"
        finally:
            process.kill()
            process.communicate()


def test_a_script_ends_with_its_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with local_machine(tmp_path) as local:

        class KillingScript:
            lines = iter(["interrupt\n", "stats\n", "stats\n", "stats\n", ""])

            def isatty(self) -> bool:
                return False

            def readline(self) -> str:
                line = next(self.lines)
                if line == "stats\n":
                    local.process.kill()
                return line

        monkeypatch.setattr(sys, "stdin", KillingScript())
        assert main(["shell", str(local.socket)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("vector 255 taken")
    assert err == "vboot: error: the machine has ended; see its console for why\n"
