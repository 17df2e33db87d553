"""`vboot rollback`: restore the weights of an older generation of a running machine, exactly."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from cli.change_answers import rollback_answer
from cli.machines import add_generation, add_key, add_machine, connected


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_machine(parser)
    add_key(parser)
    add_generation(parser, "the generation to restore, see `vboot history`", required=True, alias="--to")
    parser.add_argument("--reason", default="", metavar="TEXT", help="reason to record in the history")


def run(arguments: argparse.Namespace) -> Answer:
    """Roll back."""
    with connected(arguments) as machine:
        return rollback_answer(machine.rollback(arguments.generation, reason=arguments.reason))
