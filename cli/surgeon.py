"""`vboot surgeon`: changes the weights in a GGUF file, merges related files, compares files."""

from __future__ import annotations

import argparse
import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli import add_global_options
from cli.answer import Answer
from cli.edit_options import add_edit_options
from cli.option_types import finite, path
from cli.progress import reported
from cli.proposal import MutationProposal, misuse, propose
from cli.rust_reader import rust_reader
from cli.surgeon_answers import difference_answer, export_answer, operation_answer, verification_answer
from evolution.surgeon import GGUFSurgeon
from vboot.check import check_file

_EPILOG = """examples:
  vboot surgeon apply model.gguf --seeded 'blk.*.weight' --density 0.01 --scale 0.001 --dry-run
  vboot surgeon apply model.gguf --requantise '*=Q8_0' -o small.gguf
  vboot surgeon merge mine.gguf yours.gguf --weights 0.7 0.3 -o ours.gguf
  vboot surgeon export build/vectorland.gguf -o model.gguf
  vboot surgeon verify evolved.gguf --against model.gguf --recipe recipe.toml"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the operations and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    operations = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    for name, (text, add_options, _run) in _OPERATIONS.items():
        own = operations.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        own.set_defaults(misused=own.error)
        add_global_options(own, default=argparse.SUPPRESS)
        add_options(own)


def run(arguments: argparse.Namespace) -> Answer:
    """Do one operation."""
    return _OPERATIONS[arguments.operation][2](arguments)


def _configure_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="A", help="a GGUF file")
    parser.add_argument("other", type=path, metavar="B", help="another")
    parser.add_argument("--all", action="store_true", help="list every tensor that differs")


def _diff(arguments: argparse.Namespace) -> Answer:
    with _opened(arguments.file, arguments.other) as surgeon:
        return difference_answer(surgeon.diff(arguments.other), show_all=arguments.all)


def _configure_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="a GGUF file")
    what = add_edit_options(parser)
    what.add_argument(
        "--requantise", action="append", type=_retyped, metavar="GLOB=TYPE",
        help="store matrices as F32, F16, BF16 or Q8_0 (vectors only if they are named); may be given many times",
    )  # fmt: skip
    _add_output(parser)


def _apply(arguments: argparse.Namespace) -> Answer:
    kinds = ("recipe", "seeded", "set", "dense")
    if arguments.requantise and any(getattr(arguments, kind) for kind in kinds):
        arguments.misused("--requantise cannot be combined with other changes")
    if not arguments.requantise:
        _refuse_misuse(arguments)
    with _opened(arguments.file) as surgeon:
        if arguments.requantise:
            return operation_answer(surgeon.requantise(_later_counts(arguments.requantise), **_output(arguments)))
        proposal = _proposal(arguments, surgeon)
        return operation_answer(surgeon.apply(proposal.edits, **_output(arguments)), seed=proposal.seed)


def _configure_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="A", help="a GGUF file; the result has its metadata and types")
    parser.add_argument("others", type=path, nargs="+", metavar="B", help="related files")
    parser.add_argument(
        "--weights", type=finite, nargs="+", metavar="W", help="one for each file, of sum 1 (default: equal)"
    )
    crossing = parser.add_argument_group("whole tensors of A or of B instead of means")
    crossing.add_argument("--crossover", action="store_true", help="take each tensor from one of two files")
    crossing.add_argument("--rows", action="store_true", help="choose for each row of a tensor")
    crossing.add_argument("--share", type=finite, metavar="SHARE", help="about how much comes from B (default: 0.5)")
    crossing.add_argument("--seed", metavar="HEX", help="16 hex digits (default: random, and printed)")
    parser.add_argument("--force", action="store_true", help="also if the weights of the files are unrelated")
    _add_output(parser)


def _merge(arguments: argparse.Namespace) -> Answer:
    stray = [name for name in ("rows", "share", "seed") if getattr(arguments, name) not in (None, False)]
    if stray and not arguments.crossover:
        arguments.misused(f"--{stray[0]} needs --crossover")
    if arguments.crossover and arguments.weights:
        arguments.misused("--weights cannot be combined with --crossover")
    if arguments.crossover and len(arguments.others) > 1:
        arguments.misused("--crossover takes two files")
    how = {"force": arguments.force} | _output(arguments)
    with _opened(arguments.file, *arguments.others) as surgeon:
        if not arguments.crossover:
            return operation_answer(surgeon.merge(arguments.others, weights=arguments.weights, **how))
        seed = arguments.seed or secrets.token_hex(8)
        report = surgeon.crossover(
            arguments.others[0],
            seed=seed,
            unit="row" if arguments.rows else "tensor",
            share=0.5 if arguments.share is None else arguments.share,
            **how,
        )
        return operation_answer(report, seed=None if arguments.seed else seed)


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="IN", help="a GGUF file, for example build/vectorland.gguf")
    parser.add_argument("-o", type=Path, dest="to", metavar="OUT", required=True, help="write this file")


def _export(arguments: argparse.Namespace) -> Answer:
    with _opened(arguments.file) as surgeon:
        return export_answer(surgeon.export(arguments.to))


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="a GGUF file")
    parser.add_argument(
        "--against", type=path, metavar="BASE", help="check that FILE is exactly this file with the given edits"
    )
    add_edit_options(parser)


def _verify(arguments: argparse.Namespace) -> Answer:
    if arguments.against is None:
        if any(getattr(arguments, kind) for kind in ("recipe", "seeded", "set", "dense")):
            arguments.misused("edits need --against")
        with _opened(arguments.file) as surgeon:
            return verification_answer(arguments.file, surgeon.digest(), len(surgeon.tensors()))
    _refuse_misuse(arguments)
    if arguments.seeded and not arguments.seed:
        arguments.misused("--seeded needs --seed here")
    with _opened(arguments.against, arguments.file) as surgeon:
        report = surgeon.verify(arguments.file, _proposal(arguments, surgeon).edits)
        return verification_answer(arguments.file, report.model, len(surgeon.tensors()), report)


def _retyped(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    if not (pattern and equals and kind):
        raise argparse.ArgumentTypeError(f"{text!r} is not GLOB=TYPE")
    return pattern, kind.upper()


def _later_counts(types: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Types by pattern; of equal patterns the last counts, at its place in the order."""
    ordered: dict[str, str] = {}
    for pattern, kind in types:
        ordered.pop(pattern, None)
        ordered[pattern] = kind
    return ordered


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to").add_mutually_exclusive_group(required=True)
    group.add_argument("-o", type=path, dest="to", metavar="OUT", help="write this file")
    group.add_argument("--in-place", action="store_true", help="replace the first file")
    group.add_argument("--dry-run", action="store_true", help="print the changes or the error, and write nothing")


def _output(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"output": arguments.to, "in_place": arguments.in_place}


def _edit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as for a running machine. Only a machine asks for a confidence, so it is 1 here."""
    return vars(arguments) | {"confidence": 1.0}


def _refuse_misuse(arguments: argparse.Namespace) -> None:
    if wrong := misuse(_edit_options(arguments)):
        arguments.misused(wrong)


def _proposal(arguments: argparse.Namespace, surgeon: GGUFSurgeon) -> MutationProposal:
    return propose(_edit_options(arguments), surgeon.tensor)


@contextmanager
def _opened(file: Path, *others: Path) -> Iterator[GGUFSurgeon]:
    """The surgeon of a file, with progress messages. The executable checks every file that is read."""
    check = functools.partial(check_file, rust_reader(file, *others))
    with reported("surgeon") as progress:
        yield GGUFSurgeon(file, check=check, progress=progress)


_OPERATIONS: Mapping[
    str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Answer]]
] = {
    "diff": ("show in which tensors two files differ, and how much", _configure_diff, _diff),
    "apply": ("make the edits of a mutation, or store tensors in another type", _configure_apply, _apply),
    "merge": ("join related files: weighted means, or tensors of one and of the other", _configure_merge, _merge),
    "export": (
        "write the plain model of a composed file, which llama.cpp and other programs can load",
        _configure_export,
        _export,
    ),
    "verify": ("check a file, and whether some edits are all that was done to it", _configure_verify, _verify),
}
"""By operation: its help, the function that adds its options, and the function that runs it."""
