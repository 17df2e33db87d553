"""The weights that a journal leads to, by the numpy twin of the machine's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vboot.errors import InputError
from vboot.journal.entries import Entry, EntryError, Kind, parse_image, parse_mutation
from vboot.journal.pages import PAGE, Contents, Model, Tensors, fingerprint, fingerprint_difference
from vboot.journal.recovery import Log
from vboot.protocol.tables import PROTECTED_TENSORS
from vboot.weights.arithmetic import EditError, apply
from vboot.weights.edits import unpack

_RETURNS = (Kind.ROLLBACK, Kind.LEASE_EXPIRED)

Progress = Callable[[str, int, int], None]
"""Called with the current phase, entries done and entries in all."""


class ReplayError(Exception):
    """The log does not replay. `entry`: the one that fails."""

    def __init__(self, entry: Entry, why: str) -> None:
        super().__init__(why)
        self.entry = entry


@dataclass(frozen=True)
class Weights:
    """The contents of a generation, and their fingerprint."""

    generation: int
    contents: Contents
    fingerprint: int


@dataclass(frozen=True)
class Newest:
    """What the last entry says: the newest generation, the newest promoted one, and when an open trial ends."""

    generation: int = 0
    promoted: int = 0
    lease_until_us: int = 0


def newest(log: Log) -> Newest:
    """What is current after all entries."""
    if not log.entries:
        return Newest()
    head = log.entries[-1].head
    return Newest(head.generation, head.promoted, head.lease_until_us)


def replay(
    model: Model,
    log: Log,
    *,
    wanted: int | None = None,
    progress: Progress = lambda _phase, _done, _total: None,
) -> Weights:
    """The weights of generation `wanted`, by default of the newest; every entry up to it is checked.

    Some generations may not be there: they returned to one that was removed with the beginning of the log.

    Raises ReplayError for an entry that cannot be what a machine wrote, InputError for a generation that is not there.
    """
    _check_order(log.entries)
    file = Weights(0, {}, 0)
    if wanted == 0:
        return file
    current: Weights | None = file
    kept = {0: file}
    returned_to = {entry.head.target for entry in log.entries if entry.head.kind in _RETURNS}
    for number, entry in enumerate(log.entries):
        progress("replay", number, len(log.entries))
        current = _after(model, log, current, entry, kept, is_first=number == 0)
        generation = entry.head.generation
        if current is not None and generation in returned_to:
            kept[generation] = current
        if current is not None and generation == wanted:
            return current
    last = log.entries[-1].head.generation if log.entries else 0
    if wanted is not None and (wanted != last or current is None):
        first = log.entries[0].head.generation if log.entries else 0
        what = f"generation {wanted} cannot be computed from what the device holds: generation 0 and {first} to {last}"
        raise InputError(what, remedy="name another generation")
    if current is None:
        raise ReplayError(log.entries[-1], "its weights cannot be computed: what they depend on was removed")
    return current


def _check_order(log: Sequence[Entry]) -> None:
    """Raise ReplayError if a generation is missing. One of an image at the beginning may be any."""
    newest_before = 0
    if log and log[0].head.holds_image:
        newest_before = log[0].head.generation - log[0].head.kind.makes_generation
    for entry in log:
        newest_before += entry.head.kind.makes_generation
        if entry.head.generation != newest_before:
            raise ReplayError(entry, f"its generation is {entry.head.generation}, expected {newest_before}")


def _after(
    model: Model, log: Log, before: Weights | None, entry: Entry, kept: Mapping[int, Weights], *, is_first: bool
) -> Weights | None:
    """The weights after an entry; None if what they depend on was removed."""
    head = entry.head
    if head.holds_image:
        after: Weights | None = _image(model, entry, _payload(log, entry))
    elif head.kind == Kind.MUTATE:
        after = None if before is None else _mutated(model, before, entry, _payload(log, entry))
    elif head.kind in _RETURNS:
        after = _returned(entry, kept)
    else:
        after = before
    if after is not None and after.fingerprint != head.fingerprint:
        why = f"the weights of generation {head.generation} have the fingerprint {after.fingerprint:016x}"
        raise ReplayError(entry, f"{why}, expected {head.fingerprint:016x}")
    if head.kind == Kind.IMAGE and not is_first and before is not None and after != before:
        raise ReplayError(entry, "its image is not that of the current weights")
    return after


def _returned(entry: Entry, kept: Mapping[int, Weights]) -> Weights | None:
    head = entry.head
    if head.target >= head.generation:
        raise ReplayError(entry, f"it returns to generation {head.target}, which is not before it")
    target = kept.get(head.target)
    return None if target is None else Weights(head.generation, target.contents, target.fingerprint)


def _payload(log: Log, entry: Entry) -> bytes:
    try:
        return log.payload(entry)
    except EntryError as error:
        raise ReplayError(entry, str(error)) from error


def _image(model: Model, entry: Entry, payload: bytes) -> Weights:
    try:
        image = parse_image(payload)
    except ValueError as error:
        raise ReplayError(entry, str(error)) from error
    contents = {}
    at = 0
    for number in image.pages.tolist():
        if number >= model.pages:
            raise ReplayError(entry, f"page {number} is outside the model of {model.pages} pages")
        page = image.contents[at : at + model.page_bytes(number)]
        at += model.page_bytes(number)
        if page != model.page(number):  # a page may have changed, and changed back
            contents[number] = page
    if at != len(image.contents):
        raise ReplayError(entry, f"its pages have {len(image.contents)} bytes, expected {at}")
    return Weights(entry.head.generation, contents, fingerprint(model, contents))


def _mutated(model: Model, before: Weights, entry: Entry, payload: bytes) -> Weights:
    try:
        members, blob = parse_mutation(payload)
        tensors = Tensors(model, before.contents)
        shapes = {name: tensors[name].shape for name in _low_rank_targets(members) if name in tensors}
        changed = apply(unpack(members, blob, shapes=shapes), tensors, PROTECTED_TENSORS)
    except (ValueError, EditError, InputError) as error:
        raise ReplayError(entry, f"its edits cannot be applied: {error}") from error
    pages = model.written(before.contents, changed)
    grown = before.fingerprint + fingerprint_difference(model, before.contents, pages)
    contents = {**before.contents, **pages}
    for number, page in pages.items():
        if page == model.page(number):
            del contents[number]
    return Weights(entry.head.generation, contents, grown & ((1 << 64) - 1))


def _low_rank_targets(members: Iterable[Mapping[str, object]]) -> Iterable[str]:
    names = (member.get("tensor") for member in members if member.get("kind") == "low_rank")
    return (name for name in names if isinstance(name, str))


def file_bytes(model: Model, contents: Contents) -> Iterable[tuple[int, bytes]]:
    """The changed bytes of the file, with their offsets; pages behind the file are no part of it."""
    return ((number * PAGE, page) for number, page in sorted(contents.items()) if number * PAGE < model.size)
