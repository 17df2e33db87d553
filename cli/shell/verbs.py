"""The commands of the interactive prompt: their words, options, explanations and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vboot.protocol.tables import FAULT_KINDS
from vboot.weights.edits import SEEDED_FORMS

Kind = Literal["tensor", "integer", "number", "seconds", "topic", "fault", "form", "watched", "text"]
WATCHED = ("heartbeats", "mutations")
"""What `watch` shows: beats, or changes of the weights and alerts."""
LEAVE = ("quit", "exit")
"""The commands that end the prompt."""


@dataclass(frozen=True)
class Argument:
    """A word after a verb: its name, what it is, and whether it may be missing or be followed by more of its kind."""

    name: str
    kind: Kind
    required: bool = False
    many: bool = False
    help: str = ""

    @property
    def usage(self) -> str:
        """TENSOR, [OFFSET] or [NAME ...]."""
        shown = self.name.upper() + (" ..." if self.many else "")
        return shown if self.required else f"[{shown}]"


@dataclass(frozen=True)
class Option:
    """A word that starts with --; with a `value`, the next word is its value. `many`: it may be given again.

    `key`: its name among the values of a command.
    """

    name: str
    key: str
    help: str
    value: Argument | None = None
    many: bool = False

    @property
    def words(self) -> str:
        """--reboot, or --scale SCALE."""
        return f"{self.name} {self.value.name.upper()}" if self.value else self.name

    @property
    def usage(self) -> str:
        """[--reboot] or [--scale SCALE]."""
        return f"[{self.words} ...]" if self.many else f"[{self.words}]"


@dataclass(frozen=True)
class Verb:
    """One command. `fault_only`: for machines that serve fault requests, not shown on others."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    example: str = ""
    fault_only: bool = False

    @property
    def usage(self) -> str:
        """How it is written, in full."""
        words = [argument.usage for argument in self.arguments] + [option.usage for option in self.options]
        return " ".join([self.name, *words]) if self.name != "raw" else "raw {JSON}"

    @property
    def short_usage(self) -> str:
        """The usage, for a list: many options are not spelt out."""
        if len(self.options) < 3 and not self.arguments:
            return self.usage
        words = [argument.usage for argument in self.arguments] or ["OPTIONS"]
        return " ".join([self.name, *words]) if self.name != "raw" else self.usage


def _valued(name: str, value: str, kind: Kind, text: str, *, many: bool = False, key: str = "") -> Option:
    return Option(name, key or name.removeprefix("--"), text, Argument(value, kind), many)


_MUTATE_OPTIONS = (
    _valued("--recipe", "file", "text", "edits from a recipe, a TOML or JSON file (`vboot mutate --recipe-help`)"),
    _valued("--seeded", "glob", "tensor", "add noise to all tensors whose names match, made from a seed"),
    _valued("--form", "form", "form", f"form of the noise: {', '.join(SEEDED_FORMS)}"),
    _valued("--density", "share", "number", "share of the weights that the noise changes, above 0 and at most 1"),
    _valued("--scale", "scale", "number", "size of the noise"),
    _valued("--seed", "hex", "text", "seed of the noise, 16 hex digits (default: random)"),
    _valued("--set", "tensor[index]=value", "tensor", "set one element", many=True),
    _valued("--dense", "tensor@offset=hex", "tensor", "replace bytes", many=True),
    _valued("--confidence", "c", "number", "how sure you are that it does no harm; the machine needs above 0.8"),
    _valued("--origin", "name", "text", "who or what proposes it, for the history"),
    _valued("--lease", "seconds", "seconds", "on trial: taken back after this time, unless `promote` comes first"),
)
_GENERATION = "number of a state of the weights; `history` lists them"
_GENERATION_OPTION = _valued("--generation", "generation", "integer", "the same, as an option")

VERBS: tuple[Verb, ...] = (
    Verb(
        "help",
        "list the commands, or explain a command, a term, a code of an error or a rule",
        (Argument("topic", "topic", help="a command, `words` (all terms), a term, 1001 to 1022, R1 to R24"),),
        example="help lease",
    ),
    Verb("hello", "version, build and generation of the machine", example="hello"),
    Verb("stats", "state, counters and memory of the machine", example="stats --json"),
    Verb(
        "tensors",
        "list the tensors, or those whose names begin with a prefix",
        (Argument("prefix", "tensor", help="how the names begin"),),
        example="tensors blk.0.",
    ),
    Verb(
        "read",
        "show elements of a tensor (bytes if its type has blocks), by default the first 16",
        (
            Argument("tensor", "tensor", required=True, help="name of the tensor; Tab completes it"),
            Argument("offset", "integer", help="first element (default: 0)"),
            Argument("count", "integer", help="number of elements (default: 16)"),
        ),
        example="read token_embd.weight 0 8",
    ),
    Verb(
        "digest",
        "SHA-256 of the model, and of the tensors named",
        (Argument("name", "tensor", many=True, help="names of tensors (default: the first 256)"),),
        example="digest token_embd.weight",
    ),
    Verb(
        "interrupt",
        "raise a neural interrupt: a signal that runs a pixel program in the machine",
        (Argument("vector", "integer", help="its number, 0 to 255 (default: 255)"),),
        example="interrupt 7",
    ),
    Verb(
        "embed",
        "compute embeddings of texts, and their cosine similarities",
        (Argument("text", "text", required=True, many=True, help="a text; quote it if it has spaces"),),
        example="embed 'a cat on a mat' 'a kitten on a rug'",
    ),
    Verb(
        "similarity",
        "cosine similarity of two texts, from -1 to 1",
        (
            Argument("text", "text", required=True, help="a text"),
            Argument("other", "text", required=True, help="another"),
        ),
        example="similarity 'a cat' 'a dog'",
    ),
    Verb(
        "mutate",
        "change the weights: --seeded noise, --set elements, --dense bytes, or a --recipe",
        options=_MUTATE_OPTIONS,
        example="mutate --seeded 'blk.*.weight' --density 0.01 --scale 0.001 --confidence 0.9 --lease 60",
    ),
    Verb(
        "renew",
        "set the remaining time of the trial of a generation",
        (
            Argument("seconds", "seconds", required=True, help="the time from now on"),
            Argument("generation", "integer", help=f"{_GENERATION} (default: the current one)"),
        ),
        example="renew 60",
    ),
    Verb(
        "promote",
        "keep a generation that is on trial",
        (Argument("generation", "integer", help=f"{_GENERATION} (default: the current one)"),),
        (_GENERATION_OPTION,),
        example="promote",
    ),
    Verb(
        "rollback",
        "restore the weights of an older generation exactly",
        (
            Argument("generation", "integer", required=True, help=f"{_GENERATION}; 0 is the model as built"),
            Argument("reason", "text", help="a text for the history"),
        ),
        (_GENERATION_OPTION, _valued("--to", "generation", "integer", "the same", key="generation")),
        example="rollback 0 'it was worse'",
    ),
    Verb(
        "checkpoint",
        "store a full copy of the weights, so that less has to be replayed",
        (Argument("label", "text", help="a text for the history"),),
        example="checkpoint evening",
    ),
    Verb(
        "history",
        "list the changes of the weights: the newest records, or all from a number on",
        (Argument("from", "integer", help="number of the first record"),),
        example="history 12",
    ),
    Verb(
        "watch",
        "show heartbeats (or mutations and alerts) as they happen, until Ctrl-C or for some seconds",
        (
            Argument("what", "watched", help=" or ".join(WATCHED)),
            Argument("seconds", "seconds", help="how long (default: until Ctrl-C)"),
        ),
        example="watch mutations 60",
    ),
    Verb(
        "run",
        "run a pixel program: a file of its text form, or its lines, each quoted",
        (Argument("line", "text", required=True, many=True, help="a file, or a line of the program"),),
        example="run NEURAL_EXEC",
    ),
    Verb(
        "disassemble",
        "show the pixel program in a slot as text",
        (Argument("slot", "tensor", required=True, help="kernel.0 to kernel.7, or evolved.0 to evolved.7"),),
        example="disassemble kernel.0",
    ),
    Verb("raw", "send any request of the protocol", example='raw {"method": "stats", "params": {}}'),
    Verb(
        "fault",
        "cause a fault in the machine",
        (
            Argument("what", "fault", required=True, help=", ".join(FAULT_KINDS)),
            Argument("count", "integer", help="how many (default: 1)"),
        ),
        example="fault orphans 9",
        fault_only=True,
    ),
    Verb(
        "shutdown",
        "end the machine in order: power off, or reboot",
        options=(Option("--reboot", "reboot", "start it again instead"),),
        example="shutdown",
    ),
    Verb("quit", "leave this prompt (also exit, Ctrl-D)", example="quit"),
    Verb("exit", "leave this prompt (also quit, Ctrl-D)", example="exit"),
)
"""The commands, in the order in which help lists them."""


def verbs(*, faults: bool) -> tuple[Verb, ...]:
    """The verbs of a machine that serves fault requests, or does not."""
    return tuple(verb for verb in VERBS if faults or not verb.fault_only)
