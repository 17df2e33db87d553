"""`vboot help`: verbs, words, tables, and the manual page."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli import VERBS
from cli.glossary import explained, rules, terms
from cli.manual import TOPICS
from tests.support.vboot import Vboot
from vboot.protocol.tables import JOURNAL_REMEDIES, MEANINGS, RELOAD_REMEDIES, Code

ROOT = Path(__file__).parents[2]
WORDS = ("confidence", "generation", "energy", "trial", "lease", "promote", "shadow", "RTS", "CTRM")


@pytest.mark.parametrize("word", [*WORDS, *(f"R{number}" for number in range(1, 25)), *map(str, MEANINGS)])
def test_every_word_that_output_and_errors_use_is_explained(vboot: Vboot, word: str) -> None:
    assert vboot("help", word) == 0
    assert len(vboot.out.splitlines()) >= 2
    assert vboot.json("help", word)["words"] == dict(explained(word))
    assert all(name in vboot.out for name, _ in explained(word))


def test_words_are_those_of_the_glossary_without_its_markup(vboot: Vboot) -> None:
    listed = vboot.json("help", "words")["words"]
    assert list(listed) == list(terms())
    assert len(rules()) == 24
    text = " ".join([*listed.values(), *rules().values()])
    assert "](" not in text
    assert listed[
        "RTS"
    ] == "the container format that holds executable and model in one file (spec/rts.md). A name: its " + (
        "magic bytes are `RTS` and 1"
    )


def test_a_word_in_any_case_or_in_part(vboot: Vboot) -> None:
    assert vboot("help", "LEASE") == 0
    assert vboot.out.startswith("lease\n")
    assert [name for name, _ in explained("generation")] == ["generation (of weights)", "generation (of a search)"]
    assert "held-out data" in dict(explained("held-out"))
    assert vboot("help", "leese") == 1
    assert vboot.last_error() == "vboot: error: there is no help on leese; did you mean lease?"
    assert vboot("help", "") == 1
    assert vboot.last_error().startswith("vboot: error: there is no help on ''; `vboot help` lists")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_its_own(vboot: Vboot, verb: str) -> None:
    assert vboot("help", verb) == 0
    asked = vboot.out
    assert vboot(verb, "--help") == 0
    assert asked.startswith(vboot.out)
    assert "`vboot help words`" in asked


def test_topics(vboot: Vboot) -> None:
    assert vboot("help") == 0
    topics = set(vboot.json("help")["topics"])
    assert topics >= {*VERBS, *TOPICS, "words", "man"}
    assert all(f"  {topic} " in vboot.out or topic in topics for topic in topics)
    for topic in TOPICS:
        assert vboot("help", topic) == 0
    assert vboot("help", "surgeon", "diff") == 0
    assert vboot.out.startswith("usage: vboot surgeon diff ")
    assert vboot("help", "surgeon", "explode") == 1
    assert "one of" in vboot.last_error()


@pytest.mark.parametrize(
    ("code", "remedies"), [(Code.JOURNAL_FAILED, JOURNAL_REMEDIES), (Code.RELOAD_FAILED, RELOAD_REMEDIES)]
)
def test_the_help_on_a_code_lists_its_reasons(vboot: Vboot, code: Code, remedies: Mapping[str, str]) -> None:
    words = vboot.json("help", str(int(code)))["words"]
    assert list(words) == [str(int(code)), *remedies]
    assert all(words[reason].endswith(f"; {remedy}") for reason, remedy in remedies.items())


def test_the_manual_page_has_every_verb_option_word_and_table(vboot: Vboot, tmp_path: Path) -> None:
    page = vboot.json("help", "man")["man"]
    shown = page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    assert all(f'.SS "vboot {verb}"' in shown for verb in VERBS)
    assert all(f".B {word}\n" in shown for word in ("lease", "shadow", "--detach"))
    assert all(f".B {word}\n" in shown for word in ("1006", "1015", *JOURNAL_REMEDIES, *RELOAD_REMEDIES))
    assert all(f".B {name}\n" in shown for _, rows in TOPICS.values() for name, _ in rows)
    assert page.isascii()
    (tmp_path / "vboot.1").write_text(page)
    for command in (["groff", "-man", "-ww", "-Tutf8", "-z"], ["mandoc", "-T", "lint", "-W", "error"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "vboot.1"], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wheel_holds_the_glossary(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("cli/glossary.md") == (ROOT / "docs/glossary.md").read_bytes()
        assert "spec/gguf.md" in archive.namelist()


def test_what_every_command_imports_is_little() -> None:
    code = "import sys, cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"importlib.metadata", "numpy", "email", "shutil", "tomllib"} & set(loaded.split())
