"""`help` of the prompt: the list of commands, one command in full, or a word of the glossary."""

from __future__ import annotations

import difflib

from cli.answer import Answer, columns, filled, text_width
from cli.glossary import explained, listed, terms
from cli.shell.verbs import Verb, verbs
from vboot.errors import InputError
from vboot.text import printable

_HINTS = (
    "`help COMMAND` explains a command and its options, `help words` the terms, `help 1006` the code of an error",
    "--json after any command prints its answer as JSON; Tab completes, Ctrl-C cancels, Ctrl-D leaves",
)
WORDS = "words"
"""The topic that lists the whole glossary."""


def help_answer(topic: str | None, *, faults: bool) -> Answer:
    """Explain a topic (None: list the commands). Raises InputError if there is none of that name."""
    known = verbs(faults=faults)
    if topic is None:
        text = columns([(verb.short_usage, verb.help) for verb in known], width=text_width())
        return _commands_answer(known, "\n".join([text, *map(filled, _HINTS)]))
    for verb in known:
        if verb.name == topic:
            return _commands_answer((verb,), verb_text(verb))
    entries = tuple(terms().items()) if topic == WORDS else explained(topic)
    if not entries:
        nearest = difflib.get_close_matches(topic, [*(verb.name for verb in known), *terms()], n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "`help` lists the commands, `help words` the terms"
        raise InputError(f"there is no command or term {printable(topic)}", remedy=hint)
    return Answer({"words": dict(entries)}, listed(entries, width=text_width() or 100))


def verb_text(verb: Verb) -> str:
    """A command in full: how it is written, what it does, its words and options, an example."""
    parts = [verb.short_usage if verb.options else verb.usage, filled(verb.help, indent="  ")]
    rows = [(f"  {argument.name.upper()}", argument.help) for argument in verb.arguments]
    rows += [(f"  {option.words}", _option_help(option.help, many=option.many)) for option in verb.options]
    if rows:
        parts.append(columns(rows, width=text_width()))
    parts.append(f"  example: {verb.example}")
    return "\n".join(parts)


def _option_help(text: str, *, many: bool) -> str:
    return f"{text}; may be given again" if many else text


def _commands_answer(known: tuple[Verb, ...], text: str) -> Answer:
    commands = [{"usage": verb.usage, "help": verb.help, "example": verb.example} for verb in known]
    return Answer({"commands": commands}, text)
