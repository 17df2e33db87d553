"""The language of the interactive prompt: its verbs, how a line is read, what completes it. Pure.

A line is a verb and its words, quoted as a POSIX shell quotes; `--json` may stand anywhere, `#` starts a comment line.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from vboot.errors import InputError
from vboot.protocol.tables import FAULT_KINDS
from vboot.text import printable
from vboot.weights.edits import SEEDED_FORMS

Kind = Literal["tensor", "integer", "number", "seconds", "verb", "fault", "form", "watched", "text"]
AS_JSON = "--json"
WATCHED = ("heartbeats", "mutations")
"""What `watch` shows: beats, or changes of the weights and alerts."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


@dataclass(frozen=True)
class Argument:
    """A word after a verb: its name, what it is, and whether it may be missing or be followed by more of its kind."""

    name: str
    kind: Kind
    required: bool = False
    many: bool = False

    @property
    def usage(self) -> str:
        """TENSOR, [OFFSET] or [NAME ...]."""
        shown = self.name.upper() + (" ..." if self.many else "")
        return shown if self.required else f"[{shown}]"


@dataclass(frozen=True)
class Option:
    """A word that starts with --; with a `value`, the next word is its value. `many`: it may be given again."""

    name: str
    value: Argument | None = None
    many: bool = False

    @property
    def key(self) -> str:
        """Its name among the values of a command."""
        return self.name.removeprefix("--")

    @property
    def usage(self) -> str:
        """[--reboot] or [--scale SCALE]."""
        words = f"{self.name} {self.value.name.upper()}" if self.value else self.name
        return f"[{words} ...]" if self.many else f"[{words}]"


@dataclass(frozen=True)
class Verb:
    """One command. `fault_only`: for machines that serve fault requests, not shown on others."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    fault_only: bool = False

    @property
    def usage(self) -> str:
        """How it is written, in full."""
        words = [argument.usage for argument in self.arguments] + [option.usage for option in self.options]
        return " ".join([self.name, *words]) if self.name != "raw" else "raw {JSON}"

    @property
    def short_usage(self) -> str:
        """The usage, for a list: many options are not spelt out."""
        return self.usage if len(self.options) < 3 else f"{self.name} OPTIONS"


def _valued(name: str, value: str, kind: Kind, *, many: bool = False) -> Option:
    return Option(name, Argument(value, kind), many)


_MUTATE_OPTIONS = (
    _valued("--recipe", "file", "text"),
    _valued("--seeded", "glob", "tensor"),
    _valued("--form", "form", "form"),
    _valued("--density", "share", "number"),
    _valued("--scale", "scale", "number"),
    _valued("--seed", "hex", "text"),
    _valued("--set", "tensor[index]=value", "tensor", many=True),
    _valued("--dense", "tensor@offset=hex", "tensor", many=True),
    _valued("--confidence", "c", "number"),
    _valued("--origin", "name", "text"),
    _valued("--lease", "seconds", "seconds"),
)

VERBS: tuple[Verb, ...] = (
    Verb("help", "list the commands, or explain one", (Argument("command", "verb"),)),
    Verb("hello", "version, build and generation of the machine"),
    Verb("stats", "state, counters and memory of the machine"),
    Verb("tensors", "list the tensors, or those whose names begin with a prefix", (Argument("prefix", "tensor"),)),
    Verb(
        "read",
        "show elements of a tensor (bytes if its type has blocks), by default the first 16",
        (Argument("tensor", "tensor", required=True), Argument("offset", "integer"), Argument("count", "integer")),
    ),
    Verb("digest", "SHA-256 of the model, and of the tensors named", (Argument("name", "tensor", many=True),)),
    Verb("interrupt", "raise a neural interrupt: a vector from 0 to 255 (255)", (Argument("vector", "integer"),)),
    Verb(
        "embed",
        "compute embeddings of texts, and their cosine similarities",
        (Argument("text", "text", required=True, many=True),),
    ),
    Verb(
        "similarity",
        "cosine similarity of two texts, from -1 to 1",
        (Argument("text", "text", required=True), Argument("other", "text", required=True)),
    ),
    Verb(
        "mutate",
        "change the weights: --seeded noise, --set elements, --dense bytes, or a --recipe; see `help mutate`",
        options=_MUTATE_OPTIONS,
    ),
    Verb(
        "renew",
        "set the remaining time of the trial of a generation (default: the current one)",
        (Argument("seconds", "seconds", required=True), Argument("generation", "integer")),
    ),
    Verb("promote", "make a generation (default: the current one) permanent", (Argument("generation", "integer"),)),
    Verb(
        "rollback",
        "restore the weights of an older generation exactly",
        (Argument("generation", "integer", required=True), Argument("reason", "text")),
    ),
    Verb(
        "checkpoint", "store a full copy of the weights, so that less has to be replayed", (Argument("label", "text"),)
    ),
    Verb(
        "history",
        "list the changes of the weights: the newest records, or all from a number on",
        (Argument("from", "integer"),),
    ),
    Verb(
        "watch",
        "show heartbeats (or mutations and alerts) as they happen, until Ctrl-C or for some seconds",
        (Argument("what", "watched"), Argument("seconds", "seconds")),
    ),
    Verb(
        "run",
        "run a pixel program: a file of its text form, or its lines, each quoted",
        (Argument("line", "text", required=True, many=True),),
    ),
    Verb("disassemble", "show the pixel program in a slot as text", (Argument("slot", "tensor", required=True),)),
    Verb("raw", 'send any request, such as raw {"method": "stats", "params": {}}'),
    Verb(
        "fault",
        f"cause a fault in the machine: {', '.join(FAULT_KINDS)}",
        (Argument("what", "fault", required=True), Argument("count", "integer")),
        fault_only=True,
    ),
    Verb("shutdown", "end the machine in order: power off, or reboot", options=(Option("--reboot"),)),
    Verb("quit", "leave this prompt"),
)
"""The commands, in the order in which help lists them."""


@dataclass(frozen=True)
class Command:
    """A line that was understood. `values` holds arguments and options by name (a list where there may be many, True
    for an option without a value), and for `raw` the `request`."""

    verb: str
    values: Mapping[str, Any]
    as_json: bool = False


def verbs(*, faults: bool) -> tuple[Verb, ...]:
    """The verbs of a machine that serves fault requests, or does not."""
    return tuple(verb for verb in VERBS if faults or not verb.fault_only)


def parse(line: str, *, faults: bool) -> Command | None:
    """Read one line; None for one that says nothing. Raises InputError that says how it should be written."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    if any("\ud800" <= char <= "\udfff" for char in line):
        raise InputError("the line is not UTF-8", remedy="give commands in UTF-8")
    name, _, rest = line.partition(" ")
    if name == "raw":
        return Command("raw", {"request": _parse_request(rest)}, as_json=True)
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InputError(f"the line cannot be split into words ({error})", remedy="close the quotation") from error
    as_json = AS_JSON in words
    words = [word for word in words if word != AS_JSON]
    if not words:
        raise InputError(f"{AS_JSON} goes with a command", remedy="`help` lists them")
    verb = _find(words[0], faults=faults)
    return Command(verb.name, _parse_words(verb, words[1:]), as_json)


def completions(text: str, *, tensors: Callable[[], Sequence[str]], faults: bool) -> tuple[str, ...]:
    """What the last, perhaps empty word of `text` may become. `tensors` is asked for names when they matter."""
    *before, word = text.split(" ")
    before = [each for each in before if each]
    known = verbs(faults=faults)
    if not before:
        return _starting(word, [verb.name for verb in known])
    verb = next((verb for verb in known if verb.name == before[0]), None)
    if verb is None or verb.name == "raw":
        return ()
    position, option = _walk(verb, before[1:])
    if option is None and word.startswith("-"):
        return _starting(word, [*(each.name for each in verb.options), AS_JSON])
    argument = option.value if option else _argument_at(verb, position)
    candidates: Mapping[str, Callable[[], Sequence[str]]] = {
        "tensor": tensors,
        "verb": lambda: [verb.name for verb in known],
        "fault": lambda: FAULT_KINDS,
        "form": lambda: SEEDED_FORMS,
        "watched": lambda: WATCHED,
    }
    if argument is None or argument.kind not in candidates:
        return ()
    return _starting(word, candidates[argument.kind]())


def _walk(verb: Verb, words: Sequence[str]) -> tuple[int, Option | None]:
    """How many arguments these words are, and the option whose value is to come next, if one is."""
    position = 0
    option: Option | None = None
    for word in words:
        if option is not None:
            option = None
        elif word.startswith("-"):
            option = next((each for each in verb.options if each.name == word and each.value), None)
        else:
            position += 1
    return position, option


def _starting(word: str, candidates: Sequence[str]) -> tuple[str, ...]:
    return tuple(candidate for candidate in candidates if candidate.startswith(word))


def _find(name: str, *, faults: bool) -> Verb:
    known = {verb.name: verb for verb in verbs(faults=faults)}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "`help` lists the commands"
        raise InputError(f"there is no command {printable(name)}", remedy=hint)
    return known[name]


def _parse_words(verb: Verb, words: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    options = {option.name: option for option in verb.options}
    position = 0
    left = iter(words)
    for word in left:
        if word in options:
            _take_option(verb, options[word], left, values)
            continue
        argument = _argument_at(verb, position)
        if argument is not None and argument.kind == "watched" and word not in WATCHED:
            position += 1
            argument = _argument_at(verb, position)
        if argument is None or word.startswith("--"):
            raise _misused(verb, f"{verb.name} does not take {printable(word)}")
        _keep(values, argument.name, _parse_word(verb, argument, word), many=argument.many)
        position += 1
    missing = [argument for argument in verb.arguments[position:] if argument.required]
    if missing:
        raise _misused(verb, f"{verb.name} needs {missing[0].name.upper()}")
    return values


def _take_option(verb: Verb, option: Option, left: Iterator[str], values: dict[str, Any]) -> None:
    if option.value is None:
        values[option.key] = True
        return
    word = next(left, None)
    if word is None or word.startswith("--"):
        raise _misused(verb, f"{option.name} needs {option.value.name.upper()}")
    if option.key in values and not option.many:
        raise _misused(verb, f"{option.name} may be given once")
    _keep(values, option.key, _parse_word(verb, option.value, word), many=option.many)


def _keep(values: dict[str, Any], name: str, value: str | float, *, many: bool) -> None:
    if many:
        values.setdefault(name, []).append(value)
    else:
        values[name] = value


def _argument_at(verb: Verb, position: int) -> Argument | None:
    if position < len(verb.arguments):
        return verb.arguments[position]
    return verb.arguments[-1] if verb.arguments and verb.arguments[-1].many else None


def _parse_word(verb: Verb, argument: Argument, word: str) -> str | int | float:
    # Not int() alone: it also takes "1_000", " 7 " and other scripts' digits.
    if argument.kind == "integer":
        if not (word.isascii() and word.isdigit()) or len(word) > 15:
            raise _misused(verb, f"{argument.name.upper()} must be a whole number, not {printable(word)}")
        return int(word)
    if argument.kind == "seconds":
        whole, _, fraction = word.partition(".")
        if not (word.isascii() and whole.isdigit() and (fraction + "0").isdigit()) or len(word) > 15:
            raise _misused(verb, f"{argument.name.upper()} must be a number of seconds, not {printable(word)}")
        return float(word)
    if argument.kind == "number":
        if not _NUMBER.fullmatch(word) or not isfinite(float(word)):
            raise _misused(verb, f"{argument.name.upper()} must be a finite number, not {printable(word)}")
        return float(word)
    return word


def _misused(verb: Verb, what: str) -> InputError:
    return InputError(what, remedy=f"write {verb.short_usage}")


def _parse_request(text: str) -> dict[str, Any]:
    remedy = 'write raw {"method": "stats", "params": {}}'
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is not JSON ({error})", remedy=remedy) from error
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise InputError("a request is an object with a method", remedy=remedy)
    if not isinstance(request.get("params", {}), dict) or request.keys() - {"method", "params"}:
        raise InputError("a request holds a method and params, an object, and nothing else", remedy=remedy)
    return request
