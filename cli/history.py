"""`vboot history`: the changes of the weights of a running machine."""

from __future__ import annotations

import argparse
from dataclasses import replace

from cli.answer import Answer
from cli.change_answers import history_answer
from cli.machines import add_machine, connected
from cli.option_types import count


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_machine(parser, number="the first record to show is named with --from")
    parser.add_argument(
        "--from", dest="start", type=count, default=0, metavar="N", help="start at record N (default: 0)"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """List the records of the journal, oldest first."""
    with connected(arguments) as machine:
        return replace(history_answer(list(machine.numbered_history(arguments.start))), report_only=True)
