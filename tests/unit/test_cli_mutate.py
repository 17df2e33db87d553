"""`vboot mutate`, `rollback`, `promote` and `history` on the real executable."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.change_answers import history_answer
from tests.support.local_machine import local_machine
from tests.support.vboot import Vboot
from vboot.client.machine import connect
from vboot.client.requests import Reply
from vboot.client.session import Session
from vboot.protocol.decoding import decode
from vboot.protocol.messages import JournalRecord, Mutation
from vboot.weights.edits import Dense

SET = ("--set", "token_embd.weight[0]=0.5", "--confidence", "0.9")
NOISE = ("--seeded", "blk.*.weight", "--density", "0.5", "--scale", "0.01", "--confidence", "0.9")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    with local_machine(tmp_path) as local:
        yield local.socket


def first_weights(machine: Path, count: int = 2) -> bytes:
    with connect(machine) as connected:
        return connected.read("token_embd.weight", size=2 * count).data


def test_from_a_mutation_to_its_rollback(vboot: Vboot, machine: Path) -> None:
    assert vboot("mutate", machine, *SET, "--set", "token_embd.weight[1]=-1", "--origin", "me") == 0
    assert vboot.out.splitlines() == [
        "generation 1: 2 B in 1 tensor, not durable",
        f"next: vboot rollback {machine} --generation 0    # takes it back",
    ]
    assert first_weights(machine) == bytes.fromhex("003800bc")
    made = vboot.json("mutate", machine, "--dense", "token_embd.weight@0=0034", "--confidence", "1", "--digest")
    assert (made["generation"], list(made["sha256"]), made["replayed"]) == (2, ["token_embd.weight"], False)
    assert vboot.json("promote", machine) == {"promoted": 2, "durable": False}
    back = vboot.json("rollback", machine, "--to", "1", "--reason", "worse")
    assert back == {"generation": 3, "restored": 1, "replayed": False, "durable": False}
    assert first_weights(machine) == bytes.fromhex("003800bc")
    records = vboot.json("history", machine)["records"]
    assert [record["kind"] for record in records] == ["boot", "mutate", "mutate", "promote", "rollback"]
    assert [record["origin"] for record in records[1::3]] == ["me", "worse"]
    assert vboot.json("history", machine, "--from", "3")["records"] == records[3:]
    assert vboot("history", machine) == 0
    assert vboot.out.splitlines()[2].split()[:4] == ["1", "1", "mutate", "applied"]
    assert [record["number"] for record in records] == [0, 1, 2, 3, 4]


def test_bytes_of_a_file(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    (tmp_path / "new.bin").write_bytes(b"\0\x38\0\xbc")
    assert vboot("mutate", machine, "--dense", "token_embd.weight@0=@new.bin", "--confidence", "0.9") == 0
    assert first_weights(machine) == b"\0\x38\0\xbc"
    assert vboot("mutate", machine, "--dense", "token_embd.weight@0=@gone.bin", "--confidence", "0.9") == 1
    assert vboot.err == "vboot: error: gone.bin cannot be read: No such file or directory; check the path\n"


def test_a_generated_seed_reproduces_the_change(vboot: Vboot, machine: Path) -> None:
    first = vboot.json("mutate", machine, *NOISE, "--digest")
    assert vboot("rollback", machine, "--to", "0") == 0
    assert vboot("mutate", machine, *NOISE, "--seed", first["seed"], "--digest") == 0
    assert first["sha256"]["blk.0.attn_q.weight"] in vboot.out
    assert "seed" not in vboot.json("mutate", machine, *NOISE, "--seed", first["seed"])


def test_a_dry_run_predicts_and_changes_nothing(vboot: Vboot, machine: Path) -> None:
    planned = vboot.json("mutate", machine, *NOISE, "--seed", "00" * 8, "--dry-run")
    assert (planned["dry_run"], planned["base_generation"]) == (True, 0)
    made = vboot.json("mutate", machine, *NOISE, "--seed", "00" * 8, "--digest")
    assert (made["generation"], made["sha256"], made["changed"]["bytes"]) == (
        1,
        planned["sha256"],
        planned["changed_bytes"],
    )
    assert vboot("mutate", machine, *SET, "--dry-run") == 0
    assert vboot.out.startswith("would change generation 1: 1 B in 1 tensor; nothing was changed\n")
    error = vboot.json("mutate", machine, "--dense", "hw.mmio@0=00000000", "--confidence", "1", "--dry-run", code=1)
    assert (error["error"]["code"], error["error"]["type"]) == (1002, "EditError")
    assert [record["kind"] for record in vboot.json("history", machine)["records"]] == ["boot", "mutate"]


def test_mutate_verifies_the_machines_result(vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vboot.json("mutate", machine, *NOISE, "--verify")["verified"] is True
    assert vboot("mutate", machine, *SET, "--verify") == 0
    assert "verified: the machine's digests are those predicted" in vboot.out

    def misread(kind: type[Any], value: Any, *, name: str) -> Any:
        made = decode(kind, value, name=name)
        return Mutation(**vars(made) | {"sha256": {"w": "00"}}) if kind is Mutation else made

    monkeypatch.setattr("vboot.client.changes.decode", misread)
    assert vboot("mutate", machine, *NOISE, "--verify") == 1
    assert "differ from the prediction; roll back to generation 2 and report this bug" in vboot.err


def test_a_trial(vboot: Vboot, machine: Path) -> None:
    assert vboot("mutate", machine, *SET, "--lease", "30") == 0
    assert vboot.out.splitlines()[1:] == [
        "on trial for 30 s: then taken back, unless it is promoted",
        f"next: vboot promote {machine} --generation 1    # keeps it",
    ]
    assert vboot("mutate", machine, *SET[:1], "token_embd.weight[1]=1", *SET[2:]) == 0
    assert "part of the trial that was open: taken back with it unless it is promoted" in vboot.out
    assert (
        vboot.json("mutate", machine, *SET[:1], "token_embd.weight[0]=1", *SET[2:], "--lease", "9")["lease_ms"] == 9000
    )
    assert vboot("rollback", machine, "--to", "1") == 0
    assert vboot("promote", machine, "--generation", "1") == 0
    assert vboot.out == "generation 1 is kept: its trial has ended\n"
    assert vboot("mutate", machine, *SET, "--lease", "0") == 1
    assert "expected a lease of at least 0.001 s, got 0 s" in vboot.err


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated")])
def test_an_interrupted_change_is_reported_with_its_id(
    vboot: Vboot, machine: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, kind: str
) -> None:
    def stop(wanted: type[Any], value: Any, *, name: str) -> Any:
        if wanted is Mutation:
            os.kill(os.getpid(), number)
        return decode(wanted, value, name=name)

    monkeypatch.setattr("vboot.client.changes.decode", stop)
    error = vboot.json("mutate", machine, *NOISE, code=128 + number)["error"]
    expected = f"the change {error['id']} with seed {error['seed']} may have been made; see `vboot history {machine}`"
    assert (error["type"], error["message"]) == (kind, f"{kind.lower()}: {expected}")
    assert vboot.err == f"vboot: error: {error['message']}\n"
    assert vboot.json("history", machine)["records"][-1]["id"] == error["id"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((*SET, "--base", "7"), 1007, "generation"),
        ((*SET[:3], "0.8"), 1006, "0.8"),
        (("--set", "token_embd.weight[0]=0.25", "--confidence", "1"), 1008, "nothing"),
        (("--seeded", "none.*", "--density", "1", "--scale", "1", "--confidence", "1"), 1001, "none.*"),
    ],
)
def test_refusals(vboot: Vboot, machine: Path, words: tuple[str, ...], code: int, expected: str) -> None:
    error = vboot.json("mutate", machine, *words, code=1)["error"]
    assert (error["type"], error["code"]) == ("RequestRefusedError", code)
    assert expected in error["message"]
    assert vboot("mutate", machine, *words) == 1
    assert vboot.err == f"vboot: error: {error['message']}\n"
    assert error["message"].startswith("the machine refuses: ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give one of --recipe, --seeded, --set, --dense"),
        ((*SET, *NOISE[:2]), "give only one of --recipe, --seeded, --set, --dense"),
        (SET[:2], "give --confidence, the probability that the change is good, from 0 to 1 (the machine refuses 0.8"),
        ((*SET, "--density", "1"), "--density can only be used with --seeded"),
        (("--recipe", "r.toml", "--seed", "00"), "--seed can only be used with --seeded"),
        (NOISE[:2], "--seeded needs --density"),
        (NOISE[:4], "--seeded needs --scale"),
        (("--seeded", "a", "--form", "step"), "--seeded needs --density"),
        ((*NOISE, "--form", "step"), "--scale cannot be used with --form step"),
        ((*NOISE, "--form", "loud"), "invalid choice: 'loud'"),
        ((*SET, "--dry-run", "--verify"), "not allowed with"),
        ((*SET, "--base", "x"), "invalid int value"),
        ((*SET, "--lease", "nan"), "argument --lease: expected a finite number, got 'nan'"),
        ((*SET, "--lease", "inf"), "argument --lease: expected a finite number, got 'inf'"),
        ((*SET[:3], "nan"), "argument --confidence: expected a finite number, got 'nan'"),
        ((*NOISE, "--density", "nan"), "argument --density: expected a finite number, got 'nan'"),
        ((*NOISE, "--scale", "1e999"), "argument --scale: expected a finite number, got '1e999'"),
    ],
)
def test_wrong_usage(vboot: Vboot, words: tuple[str, ...], expected: str) -> None:
    assert vboot("mutate", "no machine is needed for that", *words) == 2
    assert vboot.err.startswith("usage: vboot mutate")
    assert expected in vboot.last_error()


def test_a_recipe(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    recipe = {
        "confidence": 0.5,
        "origin": "of the recipe",
        "lease_ms": 60000,
        "edits": [{"kind": "dense", "tensor": "token_embd.weight", "values": [0.5, -1]}],
    }
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    assert vboot("mutate", machine, "--recipe", "r.json") == 1
    assert "(code 1006)" in vboot.err
    assert vboot("mutate", machine, "--recipe", "r.json", "--confidence", "0.9", "--verify") == 0
    assert "on trial for 60 s" in vboot.out
    assert first_weights(machine) == bytes.fromhex("003800bc")
    assert vboot.json("history", machine)["records"][-1]["origin"] == "of the recipe"
    assert vboot("mutate", machine, "--recipe", "gone.toml") == 1
    assert vboot.err.startswith("vboot: error: gone.toml cannot be read")


@pytest.mark.parametrize("verb", ["mutate", "rollback", "promote", "history"])
def test_no_machine(vboot: Vboot, verb: str) -> None:
    words = {"mutate": SET, "rollback": ("--to", "0")}.get(verb, ())
    assert vboot(verb, "gone", *words) == 1
    assert "gone is not there; give the folder that boot printed, or an evolution socket" in vboot.err
    assert vboot(verb, *words) == 1
    assert "no machine runs in build/run; boot one with `vboot boot`" in vboot.err


def test_one_way_to_name_a_generation(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    """`rollback --to`, `promote --generation` and a bare number were three."""
    assert vboot("mutate", machine, *SET) == 0
    assert vboot.json("promote", machine, "--generation", "1") == {"promoted": 1, "durable": False}
    assert vboot.json("rollback", machine, "--generation", "0")["restored"] == 0
    assert vboot.json("rollback", machine, "--to", "1")["restored"] == 1
    options = {
        "rollback": "a generation is named with --generation",
        "promote": "a generation is named with --generation",
        "history": "the first record to show is named with --from",
    }
    for verb, option in options.items():
        assert vboot(verb, "1") == 2
        assert vboot.last_error() == (
            "vboot: error: argument RUN|SOCKET: expected a run folder or an evolution socket, got the number 1; "
            f"{option} 1"
        )
    assert vboot("rollback", machine) == 2
    assert "--generation" in vboot.last_error()
    assert vboot("rollback", machine, "--generation", "-1") == 2
    assert "expected a whole number of at least 0, got '-1'" in vboot.last_error()
    (tmp_path / "1").symlink_to(machine)
    assert vboot.json("rollback", "1", "--generation", "0")["restored"] == 0


def test_recipe_help_is_a_recipe(vboot: Vboot, machine: Path, tmp_path: Path) -> None:
    assert vboot("mutate", "--recipe-help") == 0
    toml = vboot.out.partition("in TOML:\n\n")[2].partition("\n\nThe same")[0]
    (tmp_path / "recipe.toml").write_text(textwrap.dedent(toml))
    assert vboot("mutate", machine, "--recipe", "recipe.toml") == 0
    minimal = vboot.json("mutate", "--recipe-help")["minimal"]
    (tmp_path / "recipe.json").write_text(json.dumps(minimal))
    assert vboot("mutate", machine, "--recipe", "recipe.json") == 0


def test_history_tells_where_a_return_went_back_to() -> None:
    """A rollback or an expiry showed only the new generation."""
    made = JournalRecord(3, "rollback", "applied", None, None, None, None, 0, 0, 5, restored=1)
    expired = JournalRecord(4, "lease_expired", "applied", None, None, None, None, 0, 0, 6, restored=2)
    old = JournalRecord(5, "rollback", "applied", None, None, None, None, 0, 0, 7)  # of an older machine
    answer = history_answer([(16000, made), (16001, expired), (16002, old)], left_out=7)
    rows = [line.split("  ") for line in answer.text.splitlines()[1:]]
    assert [row[0] for row in rows[:3]] == ["16000", "16001", "16002"]
    assert "  rollback, back to 1  " in answer.text
    assert "  lease_expired, back to 2  " in answer.text
    assert "  rollback  " in answer.text
    assert [record["restored"] for record in answer.data["records"]] == [1, 2, None]


def test_records_keep_their_numbers(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine sends them page by page, and forgets the oldest."""
    with connect(machine) as connected:
        for value in range(5):
            connected.mutate([Dense("token_embd.weight", 0, bytes([value, 0x38]))], confidence=1.0)
        expected = [(number, record.generation) for number, record in connected.numbered_history()]
        assert [number for number, _ in expected] == [0, 1, 2, 3, 4, 5]
        session_request = Session.request

        def as_after_many(self: Session, method: str, params: Any, *rest: Any) -> Reply:
            """As if records 0 and 1 were overwritten, and two fitted a line."""
            if method == "history":
                params = {"from": max(2, params["from"]), "limit": min(2, params.get("limit", 2))}
            return session_request(self, method, params, *rest)

        monkeypatch.setattr(Session, "request", as_after_many)
        assert [(n, record.generation) for n, record in connected.numbered_history()] == expected[2:]
        assert [(n, record.generation) for n, record in connected.numbered_history(4)] == expected[4:]
        assert [(n, record.generation) for n, record in connected.numbered_history(5)] == expected[5:]
