"""The answers that show changes of the weights of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from cli.answer import Answer, columns, human_bytes
from cli.proposal import MutationProposal
from vboot.client.prediction import Prediction
from vboot.protocol.messages import Checkpoint, JournalRecord, Mutation, Promotion, Rollback
from vboot.text import printable

_NAMES_SHOWN = 16


def mutation_answer(
    made: Mutation, proposal: MutationProposal, *, verified: bool | None = None, joined: bool = False
) -> Answer:
    """An accepted mutation. `verified`: whether its result equals the prediction (None: not compared).

    `joined`: a trial was open, of which it is now a part.
    """
    changed = _changed(made.changed.tensors, made.changed.bytes)
    text = f"generation {made.generation}: {changed}, {'' if made.durable else 'not '}durable"
    if made.replayed:
        text += "; it had already been made with this id"
    if proposal.lease_ms is not None:
        text += f"\non trial for {proposal.lease_ms / 1000:g} s: then taken back, unless it is promoted"
    elif joined:
        text += "\npart of the trial that was open: taken back with it unless it is promoted"
    if verified:
        text += "\nverified: the machine's digests are those predicted"
    trial = {} if proposal.lease_ms is None else {"lease_ms": proposal.lease_ms}
    data = asdict(made) | trial | _seed(proposal) | ({} if verified is None else {"verified": verified})
    return Answer(data, f"{text}{_seed_line(proposal)}{_digests(made.sha256 or {})}")


def prediction_answer(prediction: Prediction, proposal: MutationProposal) -> Answer:
    """The prediction of a mutation (a dry run)."""
    changed = _changed(len(prediction.sha256), prediction.changed_bytes)
    text = f"would change generation {prediction.base_generation}: {changed}; nothing was changed"
    data = {"dry_run": True} | asdict(prediction) | _seed(proposal)
    return Answer(data, f"{text}{_seed_line(proposal)}{_digests(prediction.sha256)}", report_only=True)


def rollback_answer(done: Rollback) -> Answer:
    """A rollback."""
    text = f"generation {done.generation}: the weights are those of generation {done.restored} again"
    return Answer(asdict(done), f"{text}; it had already been made with this id" if done.replayed else text)


def promotion_answer(done: Promotion) -> Answer:
    """A promotion."""
    return Answer(asdict(done), f"generation {done.promoted} is kept: its trial has ended")


def checkpoint_answer(done: Checkpoint) -> Answer:
    """A checkpoint."""
    return Answer(
        asdict(done), f"generation {done.generation} is stored as a full copy, {'' if done.durable else 'not '}durable"
    )


def history_answer(records: Sequence[tuple[int, JournalRecord]], *, left_out: int = 0) -> Answer:
    """Records of the journal with their numbers, oldest first. `left_out`: how many older ones are not among them."""
    rows = [("record", "generation", "what", "verdict", "edits", "changed", "confidence", "origin", "id", "uptime")]
    rows += [
        (
            str(number),
            str(each.generation),
            _what(each),
            printable(each.verdict) + (f" ({each.code})" if each.code else ""),
            str(each.edits),
            human_bytes(each.changed_bytes),
            "" if each.confidence is None else f"{each.confidence:g}",
            printable(each.origin or ""),
            printable((each.id or "")[:8]),
            f"{each.uptime_us / 1e6:.3f} s",
        )
        for number, each in records
    ]
    text = columns(rows) if records else "the weights have not been changed"
    more = f"\n{left_out} older ones are not shown" if left_out else ""
    data = {"records": [{"number": number} | asdict(record) for number, record in records], "left_out": left_out}
    return Answer(data, text + more)


def _what(record: JournalRecord) -> str:
    """The kind of a record, and where it went back to."""
    kind = printable(record.kind)
    return kind if record.restored is None else f"{kind}, back to {record.restored}"


def _changed(tensors: int, size: int) -> str:
    return f"{human_bytes(size)} in {tensors} tensor{'' if tensors == 1 else 's'}"


def _seed(proposal: MutationProposal) -> dict[str, str]:
    return {"seed": proposal.seed} if proposal.seed else {}


def _seed_line(proposal: MutationProposal) -> str:
    return f"\nseed {proposal.seed}" if proposal.seed else ""


def _digests(sha256: Mapping[str, str]) -> str:
    if not sha256:
        return ""
    shown = list(sha256.items())[:_NAMES_SHOWN]
    more = f"\nand {len(sha256) - len(shown)} more" if len(sha256) > len(shown) else ""
    return "\n" + columns((printable(name), digest) for name, digest in shown) + more
