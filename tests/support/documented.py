"""The commands, programs and settings that the documents show, as a reader would copy them."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*.md")),
)
"""Everything in these pages that looks like code is taken."""
MENTIONING = (ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md")
"""Of these pages the commands in running text are taken: their indented blocks are drawings."""

_PROGRAMS = (
    "vboot", "make", "cargo", "rustup", "cbindgen", "socat", "source", "pydoc", "apt", "apt-get", "sudo", "cc",
    "truncate", "git", "pip", "sh", "bash", "man", "groff", "curl", "cp", "mkdir", "docker",
)  # fmt: skip
_COMMAND = re.compile(
    rf"(?:{'|'.join(map(re.escape, _PROGRAMS))}|python3?|\(printf|(?:\.?\w[\w.-]*)?(?:/[\w.-]+)+|vector_boot)(?= |$)"
)
_PYTHON = ("with ", "import ", "from ")


@dataclass(frozen=True)
class Shown:
    """One command or snippet. `page` says where it is shown; `whole`: in a block, so that it must be complete."""

    page: str
    text: str
    whole: bool
    language: str = "sh"

    @property
    def cut_short(self) -> bool:
        """Whether running text only names a verb, an operation or an option: the words that come first."""
        last = self.text.rpartition(" ")[2]
        bare = re.fullmatch(r"vboot( [a-z-]+){1,2}", self.text) or last.startswith("--") or last == "NAME"
        return not self.whole and bool(bare) and last not in ("--help", "--version")

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def shown_in(page: Path) -> Iterator[Shown]:
    """The commands of a page in their order, and its Python and TOML snippets."""
    name = str(page.relative_to(ROOT))
    text = page.read_text("utf-8")
    # A block is indented by four spaces; blank lines inside it belong to it.
    pieces = re.split(r"((?:^ {4}.*\n(?:[ \t]*\n(?= {4}))*)+)", text, flags=re.MULTILINE)
    for piece in pieces:
        if not piece.startswith("    "):
            yield from _inline(name, piece)
        elif page not in MENTIONING:
            yield from _block(name, re.sub(r"^ {4}", "", piece, flags=re.MULTILINE))


def shown_in_help(parser: Any, name: str = "vboot") -> Iterator[Shown]:
    """The examples at the end of each verb's help."""
    for line in (parser.epilog or "").replace("\\\n", " ").splitlines():
        if line.startswith("  ") and _COMMAND.match(line.strip()):
            yield Shown(f"{name} --help", _without_comment(line.strip()), whole=True)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, sub in action.choices.items():
                yield from shown_in_help(sub, f"{name} {verb}")


def _block(page: str, block: str) -> Iterator[Shown]:
    if block.startswith(_PYTHON):
        yield Shown(page, block, whole=True, language="python")
    elif re.match(r"\[\w+\]\n", block):
        yield Shown(page, block, whole=True, language="toml")
    else:
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield Shown(page, _without_comment(line.strip()), whole=True)


def _inline(page: str, text: str) -> Iterator[Shown]:
    for each in re.findall(r"`([^`]+)`", text):
        words = " ".join(each.split())
        if " " in words and _COMMAND.match(words):
            yield Shown(page, words, whole=False)


def _without_comment(line: str) -> str:
    return re.sub(r"\s+# .*$", "", line)


def words_of(text: str) -> list[str]:
    """The words of a command as a shell splits them."""
    return shlex.split(text)
