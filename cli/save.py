"""`vboot save`: write the weights of a running machine as a plain GGUF file."""

from __future__ import annotations

import argparse
import functools
from dataclasses import asdict
from pathlib import Path

from cli.answer import Answer, human_bytes
from cli.base_model import require_model, settle_machine
from cli.machines import add_generation, add_machine, connected
from cli.option_types import path
from cli.progress import reported
from cli.rust_reader import rust_reader
from evolution.surgeon import GGUFSurgeon
from evolution.transfer.save import SaveReport, save
from image.embedding_settings import MAX_TOKENS_KEY
from vboot.check import check_file
from vboot.errors import InputError
from vboot.text import path_text

_EPILOG = """examples:
  vboot save -o evolved.gguf
  vboot save --generation 3 -o third.gguf
  vboot save /tmp/socket --model build/vectorland.gguf -o evolved.gguf"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add_machine(parser)
    parser.add_argument("-o", type=path, dest="to", metavar="OUT", required=True, help="write this file")
    add_generation(parser, "an older generation that is still kept, see `vboot history` (default: the current one)")
    parser.add_argument(
        "--model", type=path, metavar="BASE",
        help="the model that the machine was booted with, plain or composed: the keys are taken from it "
        "(default: the model that the run's image had at boot)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


def run(arguments: argparse.Namespace) -> Answer:
    """Save the weights of one generation, also while other clients change them."""
    if arguments.to.exists() and not arguments.force:
        raise InputError(f"{path_text(arguments.to)} is there", remedy="name another file, or replace it with --force")
    settle_machine(arguments)
    base = require_model(arguments.model, arguments.machine)
    with reported("save") as progress:
        surgeon = GGUFSurgeon(base, check=functools.partial(check_file, rust_reader(base)), progress=progress)
        with connected(arguments) as machine:
            report = save(machine, surgeon, arguments.to, generation=arguments.generation, progress=progress)
    return _answer(report)


def _answer(report: SaveReport) -> Answer:
    file = report.file
    changed = f"{report.fetched} tensor{'' if report.fetched == 1 else 's'}"
    lines = [
        f"{path_text(file.output)}: the weights of generation {report.generation} as a plain model, "
        f"{human_bytes(file.bytes)}",
        f"{changed} differ from {path_text(file.base)}; {human_bytes(report.read_bytes)} read from the machine",
        f"model {file.model}",
    ]
    if report.lost_kernels:
        lines.append(f"warning: the evolved programs in {', '.join(report.lost_kernels)} are not in a plain model")
    if MAX_TOKENS_KEY in file.removed_keys:
        lines.append(
            "warning: the limit of tokens (vector_boot.max_tokens) is a key of the machine and not in a plain model; "
            "give --max-tokens when you build an image from it"
        )
    data = asdict(report) | {"file": asdict(file) | {"base": Path(file.base), "output": Path(file.output)}}
    return Answer(data, "\n".join(lines))
