"""The commands of the shell that change the weights or show changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cli.answer import Answer
from cli.change_answers import (
    checkpoint_answer,
    history_answer,
    mutation_answer,
    promotion_answer,
    rollback_answer,
)
from cli.proposal import propose
from vboot.client.machine import MachineClient
from vboot.protocol.messages import AlertEvent, Event, MutationEvent
from vboot.text import printable

_RECORDS_SHOWN = 20


def tell_event(event: Event) -> Answer | None:
    """A change of the weights or an alert; None for other events."""
    if isinstance(event, MutationEvent):
        data = {"generation": event.generation, "change": event.change, "id": event.id}
        return Answer(data, f"generation {event.generation}: {printable(event.change)} {printable(event.id or '')}")
    if isinstance(event, AlertEvent):
        return Answer(
            {"what": event.what, "text": event.text}, f"ALERT {printable(event.what)}: {printable(event.text)}"
        )
    return None


def _mutate(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    proposal = propose(values, machine.tensor)
    made = machine.mutate(
        proposal.edits, confidence=proposal.confidence, origin=proposal.origin, lease_ms=proposal.lease_ms
    )
    return mutation_answer(made, proposal)


def _rollback(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    return rollback_answer(machine.rollback(values["generation"], reason=values.get("reason", "")))


def _promote(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    return promotion_answer(machine.promote(_generation(machine, values)))


def _renew(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    generation, seconds = _generation(machine, values), values["seconds"]
    machine.renew(generation, round(seconds * 1000))
    return Answer(
        {"generation": generation, "lease_ms": round(seconds * 1000)},
        f"the trial of generation {generation} lasts for {seconds:g} s from now on",
    )


def _checkpoint(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    return checkpoint_answer(machine.checkpoint(values.get("label", "")))


def _history(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    records = list(machine.numbered_history(values.get("from", 0)))
    shown = records if "from" in values else records[-_RECORDS_SHOWN:]
    return history_answer(shown, left_out=len(records) - len(shown))


def _generation(machine: MachineClient, values: Mapping[str, Any]) -> int:
    generation: int = values["generation"] if "generation" in values else machine.hello().generation
    return generation


COMMANDS: Mapping[str, Callable[[MachineClient, Mapping[str, Any]], Answer]] = {
    "mutate": _mutate,
    "rollback": _rollback,
    "promote": _promote,
    "renew": _renew,
    "checkpoint": _checkpoint,
    "history": _history,
}
