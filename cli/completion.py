"""`vboot completion`: a script that completes the command line in bash, zsh or fish."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from cli import full_parser
from cli.answer import Answer
from cli.completion_scripts import bash_script, fish_script, zsh_script
from cli.option_types import path
from cli.tensor_names import likely_model, tensor_names

_FILES = frozenset({"PATH", "FILE", "DIR", "DISK", "SOCKET", "PEM", "OUT", "ELF", "GGUF", "BASE", "A", "B"})
_NOTHING = frozenset({"HEX", "TEXT", "N", "NAME=VALUE"})
_TENSORS = {"GLOB": "", "GLOB=TYPE": "=", "TENSOR[INDEX]=VALUE": "[", "TENSOR@OFFSET=HEX|@FILE": "@"}
"""What stands for the name of a tensor, and the character that follows the name."""
_SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


@dataclass(frozen=True)
class Value:
    """What may stand for an option's value or an argument: some words, a file name, a run folder, a tensor.

    `tensor`: the character that follows the name of a tensor, or "" if none does; None if no tensor is meant.
    """

    words: tuple[str, ...] = ()
    file: bool = False
    run: bool = False
    tensor: str | None = None


@dataclass(frozen=True)
class CompletedOption:
    """An option: its names, one line of help, and its value if it takes one."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class CompletedCommand:
    """A verb, or an operation of one: what may follow it. `commands` are its operations by name."""

    help: str
    options: tuple[CompletedOption, ...]
    argument: Value
    commands: dict[str, CompletedCommand]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "shell",
        choices=(*_SCRIPTS, "tensor-names"),
        help="the shell that reads the script; or print the "
        "names that the scripts complete: the tensors of the newest machine, else those of build/vectorland.gguf",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Print the script."""
    if arguments.shell == "tensor-names":
        names = tensor_names(likely_model())
        return Answer({"tensors": names}, "\n".join(names), report_only=True)
    script = _SCRIPTS[arguments.shell](command_tree())
    return Answer({"shell": arguments.shell, "script": script}, script, report_only=True)


def command_tree() -> CompletedCommand:
    """Every verb with all its options, as argparse knows them."""
    return _command(full_parser(), "")


def _command(parser: argparse.ArgumentParser, text: str) -> CompletedCommand:
    options, commands = [], {}
    argument = Value()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = {name: _command(sub, helps[name]) for name, sub in action.choices.items()}
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            options.append(CompletedOption(tuple(action.option_strings), _help(parser, action), value))
        else:
            own = _value(action)
            argument = Value(
                argument.words + own.words,
                argument.file or own.file,
                argument.run or own.run,
                own.tensor if argument.tensor is None else argument.tensor,
            )
    return CompletedCommand(text, tuple(options), argument, commands)


def _value(action: argparse.Action) -> Value:
    words = getattr(action, "completes", action.choices)
    if words is not None:
        return Value(tuple(map(str, words)))
    shown = action.metavar if isinstance(action.metavar, str) else ""
    if shown in _TENSORS:
        return Value(tensor=_TENSORS[shown])
    names = set(shown.replace("[", "").replace("]", "").replace(" ", "|").split("|")) - {""}
    # A metavar such as F16|F32 lists the words themselves.
    words = sorted(names - _FILES - _NOTHING - {"RUN", "GLOB"}) if len(names) > 1 and "=" not in shown else []
    is_file = action.type is path or bool(names & _FILES)
    return Value(tuple(words), is_file, "RUN" in names, "" if "GLOB" in names else None)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""
