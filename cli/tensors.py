"""`vboot tensors`: list the tensors of a running machine."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fnmatch import fnmatchcase

from cli.answer import Answer
from cli.machines import add_timeout, connected, require_machine, split_machine
from cli.option_types import path
from cli.tensor_answers import tensors_answer
from vboot.errors import InputError
from vboot.text import printable

_EPILOG = """examples:
  vboot tensors
  vboot tensors 'blk.0.*'
  vboot tensors build/run/NAME token_embd.weight"""
_WILDCARDS = "*?["
_NO_MACHINE = (
    "give the folder that boot printed, or an evolution socket (a pattern that looks like a path must follow it)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.usage = "vboot tensors [OPTIONS] [RUN|SOCKET] [GLOB]"
    parser.set_defaults(misused=parser.error)
    parser.add_argument(
        "words", nargs="*", metavar="[RUN|SOCKET] [GLOB]",
        help="run folder or evolution socket (default: the newest machine that runs), then a pattern such as "
        "blk.*.weight, or how names begin (default: all tensors)",
    )  # fmt: skip
    add_timeout(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """List the tensors that match, in the model's order."""
    arguments.machine, patterns = split_machine(arguments.words)
    if arguments.machine is None and len(patterns) == 2:
        arguments.machine, patterns = path(patterns[0]), patterns[1:]
    if len(patterns) > 1:
        arguments.misused(f"expected one pattern at most, got {len(patterns)}: quote it, or the shell expands it")
    if arguments.machine is not None:
        require_machine(arguments.machine, remedy=_NO_MACHINE)
    with connected(arguments) as machine:
        found = machine.tensors()
    for pattern in patterns:
        found = tuple(info for info in found if _matches(info.name, pattern))
        if not found:
            what = f"no tensor of the machine matches {printable(pattern)}"
            raise InputError(what, remedy="`vboot tensors` without a pattern lists all")
    return replace(tensors_answer(found), report_only=True)


def _matches(name: str, pattern: str) -> bool:
    if any(char in pattern for char in _WILDCARDS):
        return fnmatchcase(name, pattern)
    return name.startswith(pattern)
