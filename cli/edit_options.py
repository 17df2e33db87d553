"""The command line options for edits; `cli.proposal` turns their values into edits."""

from __future__ import annotations

import argparse

from cli.option_types import finite, path
from vboot.weights.edits import SEEDED_FORMS


def add_edit_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add them. Returns the group of alternatives, of which one must be given."""
    what = parser.add_argument_group("what to change, one of")
    what.add_argument(
        "--recipe", type=path, metavar="FILE", help="read the edits from a .toml or .json file (--recipe-help)"
    )
    what.add_argument("--seeded", metavar="GLOB", help="add pseudo-random noise to the tensors that match")
    what.add_argument("--set", action="append", metavar="TENSOR[INDEX]=VALUE", help="set one element; can be repeated")
    what.add_argument(
        "--dense", action="append", metavar="TENSOR@OFFSET=HEX|@FILE",
        help="write bytes in the tensor's storage type; can be repeated",
    )  # fmt: skip
    noise = parser.add_argument_group("options of --seeded")
    noise.add_argument(
        "--form", choices=SEEDED_FORMS, help="normal: add to elements; step: move codes by one; scale: scale blocks"
    )
    noise.add_argument("--density", type=finite, metavar="SHARE", help="fraction of the elements to change, 0 to 1")
    noise.add_argument("--scale", type=finite, metavar="SCALE", help="standard deviation of the noise")
    noise.add_argument("--seed", metavar="HEX", help="16 hex digits (default: random; printed)")
    return what
