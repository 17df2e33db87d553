"""`vboot apply`: bring a running machine to the weights of a GGUF file."""

from __future__ import annotations

import argparse
import functools
import secrets
from pathlib import Path

from cli.answer import Answer, human_bytes
from cli.base_model import booted_model, settle_machine
from cli.machines import add_key, add_timeout, connected, machine_path
from cli.mutate import in_doubt, suggest_next
from cli.option_types import finite, path
from cli.progress import reported
from cli.rust_reader import rust_reader
from evolution.surgeon.gguf_file import GGUFFile
from evolution.transfer.apply import ApplyPlan, ApplyReport, FileApplication
from vboot.check import check_file
from vboot.errors import InputError
from vboot.text import path_text

_EPILOG = """examples:
  vboot apply evolved.gguf
  vboot apply build/run/NAME evolved.gguf --lease 60
  vboot apply evolved.gguf --dry-run"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.usage = "vboot apply [OPTIONS] [RUN|SOCKET] FILE"
    parser.set_defaults(misused=parser.error)
    parser.add_argument(
        "words", nargs="+", metavar="[RUN|SOCKET] GGUF",
        help="run folder or evolution socket (default: the newest machine that runs), and a GGUF file, plain or "
        "composed, of the model that the machine runs",
    )  # fmt: skip
    add_timeout(parser)
    add_key(parser)
    parser.add_argument(
        "--model", type=path, metavar="BASE",
        help="a file that holds what the machine has in many tensors, which then need not be read from it "
        "(default: the model that the run's image had at boot)",
    )  # fmt: skip
    parser.add_argument(
        "--confidence", type=finite, default=1.0, metavar="C",
        help="probability that the change is good; the machine refuses 0.8 and below (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--lease", type=finite, metavar="SECONDS",
        help="make it a trial: undone after so many seconds unless it is promoted",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="compare, and say what would be sent; change nothing")


def run(arguments: argparse.Namespace) -> Answer:
    """Compare the machine's weights with those of the file, and send the edits that make them equal."""
    *named, file = arguments.words
    if len(named) > 1:
        arguments.misused(f"expected a machine and a file, got {len(arguments.words)} words")
    try:
        arguments.machine, source = (machine_path(named[0]) if named else None), path(file)
    except argparse.ArgumentTypeError as error:
        arguments.misused(str(error))
    lease_ms = None if arguments.lease is None else round(arguments.lease * 1000)
    if lease_ms is not None and lease_ms < 1:
        raise InputError(f"expected a lease of at least 0.001 s, got {arguments.lease:g} s", remedy="give a longer one")
    settle_machine(arguments)
    with reported("apply") as progress:
        check = functools.partial(check_file, rust_reader(source))
        wanted = GGUFFile(source, check)
        base = arguments.model or booted_model(arguments.machine)
        known = None if base is None else GGUFFile(base, check)
        with connected(arguments) as machine, FileApplication(machine, wanted, known, progress) as application:
            if arguments.dry_run:
                return _planned(application.plan(), source)
            ident = secrets.token_hex(16)
            with in_doubt(ident, None, arguments.machine):
                report = application.carry_out(
                    confidence=arguments.confidence, origin="vboot apply", lease_ms=lease_ms, ident=ident
                )
    if report.generation != report.plan.base_generation:
        suggest_next(arguments.machine, report.generation, report.plan.base_generation, on_trial=report.on_trial)
    return _done(report, source, lease_ms)


def _planned(plan: ApplyPlan, source: Path) -> Answer:
    if not plan.parts:
        return _equal(plan, source)
    text = f"would change generation {plan.base_generation}: {_amount(plan)}; nothing was changed"
    return Answer(_data(plan, source) | {"dry_run": True}, f"{text}{_left_out(plan)}", report_only=True)


def _done(report: ApplyReport, source: Path, lease_ms: int | None) -> Answer:
    plan = report.plan
    if not plan.parts and report.generation == plan.base_generation and not report.on_trial:
        return _equal(plan, source)
    lines = [
        f"generation {report.generation}: the weights of {path_text(source)}, {_amount(plan)}",
        f"{human_bytes(plan.read_bytes)} read from the machine; all digests are those of the file",
    ]
    if len(plan.parts) > 1:
        lines.append(f"the edits do not fit one mutation: there were {len(plan.parts)}, on trial until the last")
    if report.on_trial:
        lines.append(
            f"on trial for {lease_ms / 1000:g} s: then taken back, unless it is promoted"
            if lease_ms is not None
            else "part of the trial that was open: taken back with it unless it is promoted"
        )
    data = _data(plan, source) | {"generation": report.generation, "on_trial": report.on_trial}
    return Answer(data, "\n".join(lines) + _left_out(plan))


def _equal(plan: ApplyPlan, source: Path) -> Answer:
    text = f"generation {plan.base_generation} has the weights of {path_text(source)} already; nothing was changed"
    return Answer(_data(plan, source) | {"generation": plan.base_generation}, f"{text}{_left_out(plan)}")


def _amount(plan: ApplyPlan) -> str:
    tensors = f"{len(plan.sha256)} tensor{'' if len(plan.sha256) == 1 else 's'}"
    return f"{tensors} by {plan.edits} edit{'' if plan.edits == 1 else 's'} of {human_bytes(plan.bytes)}"


def _left_out(plan: ApplyPlan) -> str:
    if not plan.left_out:
        return ""
    one = len(plan.left_out) == 1
    how = (
        "differs too, but belongs to the machine and stays as it is"
        if one
        else ("differ too, but belong to the machine and stay as they are")
    )
    return f"\n{', '.join(plan.left_out)} {how}"


def _data(plan: ApplyPlan, source: Path) -> dict[str, object]:
    return {
        "file": source,
        "base_generation": plan.base_generation,
        "equal": not plan.parts,
        "tensors": list(plan.sha256),
        "mutations": len(plan.parts),
        "edits": plan.edits,
        "bytes": plan.bytes,
        "read_bytes": plan.read_bytes,
        "model": plan.model,
        "left_out": list(plan.left_out),
    }
