"""`vboot compose`: vectorland.gguf alone."""

from __future__ import annotations

import argparse

from builder.plan import BUILT_IN, TENSORS_NAME, executable_step, plan_composition
from cli.answer import Answer
from cli.build import run_plan
from cli.option_types import path
from cli.settings_flags import add_settings, read_config


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("-o", type=path, dest="to", metavar="FILE", help=f"output file (default: build/{TENSORS_NAME})")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and why; write nothing")
    add_settings(parser, verb="compose")


def run(arguments: argparse.Namespace) -> Answer:
    """Compose the model if it or the settings have changed."""
    config = read_config(arguments)
    steps = plan_composition(config, arguments.to or config.image.output / TENSORS_NAME)
    if config.model.source not in BUILT_IN:
        # A file from outside is judged by the executable before any Python parser sees it.
        steps = [executable_step(), *steps]
    return run_plan(steps, folder=config.image.output, dry_run=arguments.dry_run)
