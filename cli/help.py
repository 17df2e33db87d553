"""`vboot help`: the help of a verb, the words of the project, the manual page."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

from cli import VERBS, full_parser, verb_parser
from cli.answer import Answer, columns, text_width
from cli.glossary import codes, explained, listed, terms
from cli.manual import TOPICS, manual_page
from vboot.errors import InputError
from vboot.text import printable

_OTHERS = {
    "words": "every word that this project uses in a sense of its own",
    "man": "the manual page vboot(1), for `man -l -`",
    **{name: about for name, (about, _rows) in TOPICS.items()},
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    topic: Any = parser.add_argument(
        "topic", nargs="*", metavar="TOPIC",
        help="a verb (and its operation), a word, the code of an error (1006), a rule of GGUF files (R12), or "
        f"{', '.join(_OTHERS)}",
    )  # fmt: skip
    topic.completes = (*VERBS, *_OTHERS)


def run(arguments: argparse.Namespace) -> Answer:
    """Explain the topic; without one, list the topics."""
    words: Sequence[str] = arguments.topic
    if not words:
        return _topics()
    first, text = words[0], " ".join(words)
    if first in VERBS:
        return _verb(words)
    if text == "words":
        return _entries(tuple(terms().items()))
    if text == "man":
        return _manual()
    if text in TOPICS:
        rows = TOPICS[text][1]
        return Answer({text: dict(rows)}, columns(rows), report_only=True)
    entries = explained(text)
    if not entries:
        nearest = difflib.get_close_matches(text, [*VERBS, *_OTHERS, *terms()], n=1)
        hint = (
            f"did you mean {nearest[0]}?" if nearest else "`vboot help` lists the topics, `vboot help words` the words"
        )
        shown = printable(text) if text.strip() else f"'{printable(text)}'"
        raise InputError(f"there is no help on {shown}", remedy=hint)
    return _entries(entries)


def _manual() -> Answer:
    from importlib.metadata import version

    errors = [entry for code in codes() for entry in explained(code)]
    page = manual_page(full_parser(), version=version("vector-boot"), errors=errors, words=terms().items())
    return Answer({"man": page}, page, report_only=True)


def _topics() -> Answer:
    rows = [*VERBS.items(), *_OTHERS.items()]
    text = (
        f"vboot help VERB\n{columns([(f'  {name}', about) for name, about in VERBS.items()])}\n"
        f"vboot help TOPIC\n{columns([(f'  {name}', about) for name, about in _OTHERS.items()])}\n"
        "vboot help WORD    a word, the code of an error (1006), or a rule of GGUF files (R12)"
    )
    return Answer({"topics": dict(rows)}, text, report_only=True)


def _verb(words: Sequence[str]) -> Answer:
    parser: Any = verb_parser(words[0])
    for word in words[1:]:
        operations = next((action.choices for action in parser._actions if isinstance(action.choices, dict)), {})
        if word not in operations:
            known = f"one of {', '.join(operations)}" if operations else "nothing further"
            raise InputError(f"expected {known} after {parser.prog}, got {printable(word)}", remedy="leave it out")
        parser = operations[word]
    text = parser.format_help().rstrip("\n")
    entries = tuple(entry for entry in explained(" ".join(words)) if entry[0] == words[0])  # as for `promote`
    more = f"\n\n{listed(entries, width=text_width() or 100)}" if entries else ""
    return Answer({"help": text, "words": dict(entries)}, text + more, report_only=True)


def _entries(entries: Sequence[tuple[str, str]]) -> Answer:
    return Answer({"words": dict(entries)}, listed(entries, width=text_width() or 100), report_only=True)
