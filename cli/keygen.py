"""`vboot keygen`: make the key pairs that sign images and changes."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from cli.option_types import path
from vboot.keys import PAIRS, write_key_pairs
from vboot.text import path_text

_EPILOG = """examples:
  vboot keygen my-keys

DIR gets four files, in PEM, and no file is overwritten. code.key signs images (`vboot build --signing-key
DIR/code.key`), and code.pub is what they are checked with (`vboot boot --key DIR/code.pub`). A machine that was made
with `vboot build --mutation-key DIR/mutation.pub` takes only changes that are signed: `vboot mutate`, `rollback`,
`promote`, `apply`, `reload`, `shell` and `evolve` take `--key DIR/mutation.key`.

Keep the two private keys, code.key and mutation.key, off the machines, and apart: whoever may change weights need not
be able to replace the program."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=path, metavar="DIR", help="folder for the keys, made if it is not there")


def run(arguments: argparse.Namespace) -> Answer:
    """Write the key pairs."""
    public = write_key_pairs(arguments.folder)
    files = [f"{name}.{kind}" for name in PAIRS for kind in ("key", "pub")]
    keys = {name: key.public_bytes_raw().hex() for name, key in public.items()}
    return Answer(
        {"folder": arguments.folder, "files": files, "public_keys": keys},
        f"{path_text(arguments.folder)} has {', '.join(files[:-1])} and {files[-1]}; keep the private keys secret",
    )
