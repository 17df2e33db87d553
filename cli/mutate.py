"""`vboot mutate`: change the weights of a running machine, or predict the effect of a change."""

from __future__ import annotations

import argparse
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import hints
from cli.answer import Answer
from cli.change_answers import mutation_answer, prediction_answer
from cli.edit_options import add_edit_options
from cli.errors import Terminated, VerbStopped
from cli.machines import add_key, add_machine, connected
from cli.option_types import finite
from cli.progress import reported
from cli.proposal import MutationProposal, misuse, propose
from vboot.client.machine import MachineClient
from vboot.client.prediction import Prediction, predict, verify
from vboot.text import path_text
from vboot.weights.recipe_form import forms_data, recipe_help

_EPILOG = """examples:
  vboot mutate --seeded 'blk.*.weight' --density 0.01 --scale 0.001 --confidence 0.9
  vboot mutate --set 'blk.0.ffn_up.bias[7]=0.5' --confidence 0.9 --lease 60
  vboot mutate --recipe recipe.toml --verify"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.set_defaults(misused=parser.error)
    add_machine(parser)
    add_key(parser)
    add_edit_options(parser)
    parser.add_argument(
        "--recipe-help", action="store_true", help="describe recipes: a whole one in TOML and JSON, and every member"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--confidence", type=finite, metavar="C",
        help="probability that the change is good; the machine refuses 0.8 and below",
    )  # fmt: skip
    how.add_argument("--origin", metavar="NAME", help="who or what proposes the change, for the history")
    how.add_argument(
        "--lease", type=finite, metavar="SECONDS",
        help="make it a trial: undone after so many seconds unless it is promoted",
    )  # fmt: skip
    how.add_argument("--base", type=int, metavar="G", help="refuse the change if the current generation is not G")
    how.add_argument("--wait", action="store_true", help="wait until the machine has enough energy")
    how.add_argument("--digest", action="store_true", help="print the SHA-256 of the changed tensors")
    check = parser.add_mutually_exclusive_group()
    check.add_argument("--dry-run", action="store_true", help="predict the effect, or the refusal; change nothing")
    check.add_argument("--verify", action="store_true", help="compare the result with the prediction")


def run(arguments: argparse.Namespace) -> Answer:
    """Make the mutation, or predict it."""
    if arguments.recipe_help:
        return Answer(forms_data(), recipe_help(), report_only=True)
    given = vars(arguments)
    if wrong := misuse(given):
        arguments.misused(wrong)
    with connected(arguments) as machine:
        proposal = propose(given, machine.tensor)
        if arguments.dry_run:
            return prediction_answer(_predict(machine, proposal, arguments.base), proposal)
        expected = _predict(machine, proposal, arguments.base) if arguments.verify else None
        ident = secrets.token_hex(16)
        with in_doubt(ident, proposal.seed, arguments.machine):
            with reported("mutate") as progress:
                made = machine.mutate(
                    proposal.edits,
                    confidence=proposal.confidence,
                    base_generation=expected.base_generation if expected else arguments.base,
                    origin=proposal.origin,
                    lease_ms=proposal.lease_ms,
                    digest=arguments.digest or arguments.verify,
                    id=ident,
                    wait=arguments.wait,
                    progress=lambda sent, total: progress("send", sent, total),
                )
            if expected is not None:
                verify(machine, made, expected)
        joined = proposal.lease_ms is None and machine.hello().promoted < made.generation
        on_trial = joined or proposal.lease_ms is not None
        suggest_next(arguments.machine, made.generation, made.generation - 1, on_trial=on_trial)
        return mutation_answer(made, proposal, verified=True if expected else None, joined=joined)


def suggest_next(machine: Path | None, generation: int, before: int, *, on_trial: bool) -> None:
    """The hint under a change of the weights from generation `before` to `generation`."""
    named = "" if machine is None else f" {shlex.quote(path_text(machine))}"
    if on_trial:
        hints.next_step(f"vboot promote{named} --generation {generation}    # keeps it")
    else:
        hints.next_step(f"vboot rollback{named} --generation {before}    # takes it back")


@contextmanager
def in_doubt(ident: str, seed: str | None, machine: Path | None) -> Iterator[None]:
    """On an interruption, report the id of the change and the seed that was chosen for it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        history = "vboot history" if machine is None else f"vboot history {shlex.quote(path_text(machine))}"
        with_seed = f" with seed {seed}" if seed else ""
        doubt = f"the change {ident}{with_seed} may have been made; see `{history}`"
        raise VerbStopped(stop, doubt, id=ident, **({"seed": seed} if seed else {})) from stop


def _predict(machine: MachineClient, proposal: MutationProposal, base: int | None) -> Prediction:
    with reported("predict") as progress:
        return predict(machine, proposal.edits, confidence=proposal.confidence, base_generation=base, progress=progress)
