"""`vboot keygen`: make the key pairs that sign images and changes."""

from __future__ import annotations

import argparse

from cli.answer import Answer
from cli.option_types import path
from vboot.keys import PAIRS, SECURE_BOOT_CERTIFICATE, SECURE_BOOT_KEY, write_key_pairs, write_secure_boot_pair
from vboot.text import path_text

_EPILOG = """examples:
  vboot keygen my-keys

DIR gets four files, in PEM, and no file is overwritten. code.key signs images (`vboot build --signing-key
DIR/code.key`), and code.pub is what they are checked with (`vboot boot --key DIR/code.pub`). A machine that was made
with `vboot build --mutation-key DIR/mutation.pub` takes only changes that are signed: `vboot mutate`, `rollback`,
`promote`, `apply`, `reload`, `shell` and `evolve` take `--key DIR/mutation.key`.

With --secure-boot DIR gets secureboot.key and secureboot.crt instead, which sign the boot images of a disk (`vboot
build --format disk --sign DIR`). Enrol secureboot.crt in the firmware of the machine.

Keep the two private keys, code.key and mutation.key, off the machines, and apart: whoever may change weights need not
be able to replace the program."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=path, metavar="DIR", help="folder for the keys, made if it is not there")
    parser.add_argument("--secure-boot", action="store_true", help="make the pair that signs boot images for firmware")


def run(arguments: argparse.Namespace) -> Answer:
    """Write the key pairs."""
    if arguments.secure_boot:
        fingerprint = write_secure_boot_pair(arguments.folder)
        names = [SECURE_BOOT_KEY, SECURE_BOOT_CERTIFICATE]
        return Answer(
            {"folder": arguments.folder, "files": names, "certificate_sha256": fingerprint},
            f"{path_text(arguments.folder)} has {' and '.join(names)}; keep the private key secret",
        )
    public = write_key_pairs(arguments.folder)
    files = [f"{name}.{kind}" for name in PAIRS for kind in ("key", "pub")]
    keys = {name: key.public_bytes_raw().hex() for name, key in public.items()}
    return Answer(
        {"folder": arguments.folder, "files": files, "public_keys": keys},
        f"{path_text(arguments.folder)} has {', '.join(files[:-1])} and {files[-1]}; keep the private keys secret",
    )
