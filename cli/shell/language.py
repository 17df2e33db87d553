"""The language of the interactive prompt: how a line is read, and what completes it. Pure.

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
from typing import Any

from cli.shell.verbs import WATCHED, Argument, Option, Verb, verbs
from vboot.errors import InputError
from vboot.protocol.tables import FAULT_KINDS
from vboot.text import printable
from vboot.weights.edits import SEEDED_FORMS

AS_JSON = "--json"

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


@dataclass(frozen=True)
class Command:
    """A line that was understood. `values` holds arguments and options by name (a list where there may be many, True
    for an option without a value), and for `raw` the `request`."""

    verb: str
    values: Mapping[str, Any]
    as_json: bool = False


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
        "topic": lambda: [*(verb.name for verb in known), "words"],
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
        # An argument may have been given as an option.
        while (argument := _argument_at(verb, position)) and argument.name in values and not argument.many:
            position += 1
        if argument is not None and argument.kind == "watched" and word not in WATCHED:
            position += 1
            argument = _argument_at(verb, position)
        if argument is None or word.startswith("--"):
            raise _misused(verb, f"{verb.name} does not take {printable(word)}")
        _keep(values, argument.name, _parse_word(verb, argument, word), many=argument.many)
        position += 1
    missing = [argument for argument in verb.arguments[position:] if argument.required and argument.name not in values]
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
