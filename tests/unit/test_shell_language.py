"""The language of the shell: how a line is read, and what completes it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.shell.language import Command, completions, parse
from cli.shell.verbs import VERBS, verbs
from vboot.errors import InputError

NAMES = ("blk.0.ffn_up.weight", "blk.0.ffn_up.bias", "hw.mmio")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("stats", Command("stats", {})),
        ("  stats   --json ", Command("stats", {}, as_json=True)),
        ("--json stats", Command("stats", {}, as_json=True)),
        ("tensors", Command("tensors", {})),
        ("tensors blk.", Command("tensors", {"prefix": "blk."})),
        ("read a", Command("read", {"tensor": "a"})),
        ("read 'a b' 3 007", Command("read", {"tensor": "a b", "offset": 3, "count": 7})),
        ("digest", Command("digest", {})),
        ("digest a b c", Command("digest", {"name": ["a", "b", "c"]})),
        ("interrupt 7", Command("interrupt", {"vector": 7})),
        ("watch 0.5", Command("watch", {"seconds": 0.5})),
        ("watch 2", Command("watch", {"seconds": 2.0})),
        ("watch mutations", Command("watch", {"what": "mutations"})),
        ("watch heartbeats 2", Command("watch", {"what": "heartbeats", "seconds": 2.0})),
        (
            "mutate --seeded 'blk.*' --density .5 --scale -1e-3 --confidence 0.9 --json",
            Command("mutate", {"seeded": "blk.*", "density": 0.5, "scale": -0.001, "confidence": 0.9}, as_json=True),
        ),
        ("mutate --set a[0]=1 --set 'b c[2]=-1'", Command("mutate", {"set": ["a[0]=1", "b c[2]=-1"]})),
        ("mutate --recipe r.toml --lease 2.5", Command("mutate", {"recipe": "r.toml", "lease": 2.5})),
        ("rollback 3 'it was worse'", Command("rollback", {"generation": 3, "reason": "it was worse"})),
        ("promote", Command("promote", {})),
        ("renew 0.5 7", Command("renew", {"seconds": 0.5, "generation": 7})),
        ("checkpoint evening", Command("checkpoint", {"label": "evening"})),
        ("history 12", Command("history", {"from": 12})),
        ("fault orphans 9", Command("fault", {"what": "orphans", "count": 9})),
        ("shutdown --reboot", Command("shutdown", {"reboot": True})),
        ("help read", Command("help", {"topic": "read"})),
        ('raw {"method": "stats"}', Command("raw", {"request": {"method": "stats"}}, as_json=True)),
        ("", None),
        ("   ", None),
        ("# a comment", None),
    ],
)
def test_a_line_is_understood(line: str, command: Command | None) -> None:
    assert parse(line, faults=True) == command


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stat", "there is no command stat; did you mean stats?"),
        ("xyzzy", "there is no command xyzzy; `help` lists the commands"),
        ("\x1b[2J", r"there is no command \x1b[2J; `help` lists the commands"),
        ("stats now", "stats does not take now; write stats"),
        ("stats --verbose", "stats does not take --verbose; write stats"),
        ("read", "read needs TENSOR; write read TENSOR [OFFSET] [COUNT]"),
        ("read a -1", "OFFSET must be a whole number, not -1; write read TENSOR [OFFSET] [COUNT]"),
        ("read a 1_0", "OFFSET must be a whole number, not 1_0; write read TENSOR [OFFSET] [COUNT]"),
        ("read a 1 2 3", "read does not take 3; write read TENSOR [OFFSET] [COUNT]"),
        ("interrupt 9999999999999999", "VECTOR must be a whole number, not 9999999999999999; write interrupt [VECTOR]"),
        ("watch .5", "SECONDS must be a number of seconds, not .5; write watch [WHAT] [SECONDS]"),
        ("watch weights", "SECONDS must be a number of seconds, not weights; write watch [WHAT] [SECONDS]"),
        ("mutate a", "mutate does not take a; write mutate OPTIONS"),
        ("mutate --scale", "--scale needs SCALE; write mutate OPTIONS"),
        ("mutate --scale --density 1", "--scale needs SCALE; write mutate OPTIONS"),
        ("mutate --scale 1 --scale 2", "--scale may be given once; write mutate OPTIONS"),
        ("mutate --scale inf", "SCALE must be a finite number, not inf; write mutate OPTIONS"),
        ("mutate --scale 1e999", "SCALE must be a finite number, not 1e999; write mutate OPTIONS"),
        ("mutate --confidence 1_0", "C must be a finite number, not 1_0; write mutate OPTIONS"),
        ("rollback", "rollback needs GENERATION; write rollback GENERATION [REASON]"),
        ("read 'a", "the line cannot be split into words (No closing quotation); close the quotation"),
        ("--json", "--json goes with a command; `help` lists them"),
        ("raw", "this is not JSON"),
        ("raw {", "this is not JSON"),
        ("raw []", "a request is an object with a method"),
        ('raw {"method": 1}', "a request is an object with a method"),
        ('raw {"method": "a", "params": []}', "a request holds a method and params, an object, and nothing else"),
        ('raw {"method": "a", "id": 1}', "a request holds a method and params, an object, and nothing else"),
    ],
)
def test_an_invalid_line_is_refused_with_the_reason(line: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(line, faults=True)
    assert str(caught.value).startswith(message)


def test_fault_is_for_machines_that_allow_it() -> None:
    with pytest.raises(InputError, match="no command fault"):
        parse("fault segv", faults=False)
    assert "fault" not in [verb.name for verb in verbs(faults=False)]
    assert completions("fau", tensors=tuple, faults=False) == ()
    assert completions("fau", tensors=tuple, faults=True) == ("fault",)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40) | st.builds("{} {}".format, st.sampled_from([verb.name for verb in VERBS]), st.text()))
def test_any_line_is_understood_or_refused(line: str) -> None:
    try:
        command = parse(line, faults=True)
    except InputError:
        return
    assert command is None or command.verb in {verb.name for verb in VERBS}


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40) | st.builds("{} {}".format, st.sampled_from([verb.name for verb in VERBS]), st.text()))
def test_any_text_can_be_completed(text: str) -> None:
    word = text.rsplit(" ", maxsplit=1)[-1]
    assert all(found.startswith(word) for found in completions(text, tensors=lambda: NAMES, faults=True))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", tuple(verb.name for verb in VERBS)),
        ("he", ("help", "hello")),
        ("read ", NAMES),
        ("read blk", NAMES[:2]),
        ("read blk.0.ffn_up.weight ", ()),
        ("digest hw.mmio blk", NAMES[:2]),
        ("tensors h", ("hw.mmio",)),
        ("tensors hw.mmio h", ()),
        ("read --json blk", NAMES[:2]),
        ("read -", ("--json",)),
        ("shutdown --", ("--reboot", "--json")),
        ("help st", ("stats",)),
        ("em", ("embed",)),
        ("embed a ", ()),
        ("fault o", ("oom", "orphans")),
        ("interrupt ", ()),
        ("watch m", ("mutations",)),
        ("mutate --de", ("--density", "--dense")),
        ("mutate --seeded blk", NAMES[:2]),
        ("mutate --seeded blk.* --form s", ("step", "scale")),
        ("mutate --scale ", ()),
        ("mutate --scale 1 --r", ("--recipe",)),
        ("rollback ", ()),
        ("nonsense ", ()),
        ("raw {", ()),
    ],
)
def test_completion(text: str, found: Sequence[str]) -> None:
    assert completions(text, tensors=lambda: NAMES, faults=True) == tuple(found)


def test_tensor_names_are_requested_only_when_needed() -> None:
    def unreachable() -> Sequence[str]:
        raise AssertionError

    assert completions("sta", tensors=unreachable, faults=True) == ("stats",)
    assert completions("help ", tensors=unreachable, faults=True)
