"""`vboot promote`: make a generation of a running machine permanent."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from cli.change_answers import promotion_answer
from cli.machines import add_generation, add_key, add_machine, connected


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_machine(parser)
    add_key(parser)
    add_generation(parser, "the generation to promote (default: the current one)")


def run(arguments: argparse.Namespace) -> Answer:
    """Promote."""
    with connected(arguments) as machine:
        current = arguments.generation is None
        return promotion_answer(machine.promote(machine.hello().generation if current else arguments.generation))
