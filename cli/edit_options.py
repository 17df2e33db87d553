"""The options by which edits are given on the command line; `cli.proposal` makes edits of them."""

from __future__ import annotations

import argparse

from cli.option_types import finite, path
from vboot.weights.edits import SEEDED_FORMS


def add_edit_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add them; returns the group of those that say what to change, of which one must be given."""
    what = parser.add_argument_group("what to change, one of")
    what.add_argument("--recipe", type=path, metavar="FILE", help="edits in a .toml or .json file")
    what.add_argument("--seeded", metavar="GLOB", help="noise on the tensors of this name or pattern")
    what.add_argument(
        "--set", action="append", metavar="TENSOR[INDEX]=VALUE", help="one element; may be given many times"
    )
    what.add_argument(
        "--dense", action="append", metavar="TENSOR@OFFSET=HEX|@FILE",
        help="bytes in the tensor's storage type; may be given many times",
    )  # fmt: skip
    noise = parser.add_argument_group("options of --seeded")
    noise.add_argument(
        "--form", choices=SEEDED_FORMS, help="normal: add to elements; step: move codes by one; scale: scale blocks"
    )
    noise.add_argument("--density", type=finite, metavar="SHARE", help="share of the elements, 0 to 1")
    noise.add_argument("--scale", type=finite, metavar="SCALE", help="size of the noise")
    noise.add_argument("--seed", metavar="HEX", help="16 hex digits (default: made up, and told)")
    return what
