"""`vboot rollback`: restore the weights of an older generation of a running machine, exactly."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from cli.change_answers import rollback_answer
from cli.machines import add_machine, connected


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_machine(parser)
    parser.add_argument(
        "--to", type=int, required=True, metavar="G", help="the generation to restore, see `vboot history`"
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="reason to record in the history")


def run(arguments: argparse.Namespace) -> Answer:
    """Roll back."""
    with connected(arguments) as machine:
        return rollback_answer(machine.rollback(arguments.to, reason=arguments.reason))
