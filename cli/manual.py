"""The manual page vboot(1), made from what --help, the glossary and the tables here say. Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

EXIT_CODES = (
    ("0", "success; also when the reader of the output has left after the work was done"),
    ("1", "failure: one sentence on standard error says what was expected, what was got and what to do"),
    ("2", "wrong usage: no such verb or option, or an unsuitable value"),
    ("129", "ended by SIGHUP: its terminal was closed"),
    ("130", "ended by Ctrl-C (SIGINT)"),
    ("141", "the reader of the output has left before it was complete, as in `vboot history | head -n 1`"),
    ("143", "ended by SIGTERM"),
)
FILES = (
    (
        "appliance.toml",
        "settings of the image and the machine, read from the current folder; --config names another file",
    ),
    ("build/", "the image: vector_boot.rts, vectorland.gguf, vmlinuz, initramfs.cpio, manifest.json"),
    ("build/run/NAME/", "the run folder of a machine: its sockets, console.log and machine.json"),
    ("build/evolve/NAME/", "the folder of a run of `vboot evolve`, from which the same command goes on"),
    ("$XDG_RUNTIME_DIR/vector_boot/runs/", "which machines this user has started, for `vboot ps` from any folder"),
    ("~/.local/state/vector_boot/shell_history", "the lines of earlier prompts"),
    ("~/.cache/vector_boot/", "downloaded models and kernels, and what is known of KVM"),
)
ENVIRONMENT = (
    ("XDG_STATE_HOME", "where the history of the prompt is kept (default: ~/.local/state)"),
    ("XDG_CACHE_HOME", "where downloads are kept (default: ~/.cache)"),
    ("XDG_RUNTIME_DIR", "where the machines of this user that run are listed (default: the state folder)"),
    ("VBOOT_MODEL, VBOOT_TYPE", "what `make MODEL=... TYPE=...` sets; options of the command line overrule them"),
    ("COLUMNS", "width of tables and helps on a terminal"),
)
TOPICS: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "exit-codes": ("with which code each command ends", EXIT_CODES),
    "files": ("what is read and written where", FILES),
    "environment": ("variables that matter", ENVIRONMENT),
}
"""Topics of `vboot help` that are tables: what they are about, and their rows."""


def manual_page(
    parser: argparse.ArgumentParser,
    *,
    version: str,
    errors: Iterable[tuple[str, str]],
    words: Iterable[tuple[str, str]],
) -> str:
    """The page in the man macros of roff. `parser`: with every verb; `errors`: their codes; `words`: the glossary."""
    verbs = _verbs(parser)
    lines = [
        f'.TH VBOOT 1 "" "vector_boot {version}" "User Commands"',
        ".SH NAME",
        "vboot \\- build, boot, change and evolve machines whose program is a GGUF model",
        ".SH SYNOPSIS",
        ".B vboot",
        _text("[OPTIONS] VERB ..."),
        ".SH DESCRIPTION",
        _text(parser.description or ""),
        *_options(parser),
        ".SH VERBS",
    ]
    for name, help_text, verb in verbs:
        lines += _verb(f"vboot {name}", help_text, verb)
    tables = (("EXIT STATUS", EXIT_CODES), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT))
    for title, rows in (*tables, ("ERRORS OF A MACHINE", errors), ("WORDS", words)):
        lines += [f".SH {title}", *_rows(rows)]
    lines += [".SH SEE ALSO", ".BR qemu\\-system\\-x86_64 (1)"]
    return "\n".join(lines)


def _verbs(parser: Any) -> list[tuple[str, str, Any]]:
    """The verbs, or the operations of one: name, help, parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return [(name, helps[name], sub) for name, sub in action.choices.items()]
    return []


def _verb(name: str, help_text: str, parser: Any) -> Iterator[str]:
    yield f'.SS "{_text(name)}"'
    yield _text(f"{help_text[:1].upper()}{help_text[1:]}.")
    yield ".PP"
    yield _text(_usage(parser))
    yield from _options(parser, without=("--help", "--config", "--json", "--debug"))
    if parser.epilog and "examples:" in parser.epilog:
        examples, _, rest = parser.epilog.partition("\n\n")
        yield from (".PP", "Examples:", ".PP", ".nf", *map(_text, examples.splitlines()[1:]), ".fi")
        if rest:
            yield from (".PP", _text(" ".join(rest.split())))
    for operation, text, sub in _verbs(parser):
        yield from _verb(f"{name} {operation}", text, sub)


def _usage(parser: Any) -> str:
    formatter = parser._get_formatter()
    formatter._width = 100_000
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    return " ".join(str(formatter.format_help()).removeprefix("usage: ").split())


def _options(parser: Any, *, without: tuple[str, ...] = ()) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        left_out = not action.help or set(action.option_strings) & set(without)
        if not left_out and not isinstance(action, argparse._SubParsersAction):
            yield from (".TP", f".B {_text(formatter._format_action_invocation(action))}")
            yield _text(formatter._expand_help(action))


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, meaning in rows:
        yield from (".TP", f".B {_text(name)}", _text(meaning))


def _text(text: str) -> str:
    """Text that roff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    text = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    return f"\\&{text}" if text.startswith((".", "'")) else text
