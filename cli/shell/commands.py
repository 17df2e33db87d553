"""What each command of the shell does, and its answer as JSON and as a table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import numpy as np

from cli.answer import Answer, columns, human_bytes
from cli.shell.changes import COMMANDS as CHANGES
from cli.shell.changes import tell_event
from cli.shell.explain import help_answer
from cli.shell.inference import COMMANDS as INFERENCE
from cli.shell.language import Command
from cli.tensor_answers import shape_text, tensors_answer
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import MachineError, MachineTimeoutError
from vboot.protocol.messages import HeartbeatEvent, Hello, Stats, TensorBytes
from vboot.text import printable
from vboot.weights.storage_types import element_dtype

_SHOWN = 16
_SHOWN_MOST = 1 << 16
_ROW_ELEMENTS, _ROW_BYTES = 8, 16
_SILENCE_S = 30.0
"""Three times the longest period."""


def execute(command: Command, machine: MachineClient, *, faults: bool) -> Answer:
    """Run any command but quit, exit and watch. Raises MachineError, InputError."""
    if command.verb == "help":
        return help_answer(command.values.get("topic"), faults=faults)
    return _COMMANDS[command.verb](machine, command.values)


def watch(
    machine: MachineClient, *, what: str, seconds: float | None, afterwards: Sequence[str] = ()
) -> Generator[Answer, None, None]:
    """Heartbeats, or mutations and alerts (`shell.WATCHED`), as they come, for so long, else for ever.

    `afterwards` are the kinds of events to subscribe to then. Raises MachineError, also when no heartbeat comes for
    long.
    """
    machine.subscribe(["heartbeat"] if what == "heartbeats" else ["mutation", "alert"])
    try:
        yield from _heartbeats(machine, seconds) if what == "heartbeats" else _changes(machine, seconds)
    finally:
        with suppress(MachineError):
            machine.subscribe(afterwards)


def welcome(hello: Hello) -> str:
    """One line on who the machine is."""
    text = f"vector_boot {printable(hello.version)}, build {printable(hello.build)}, generation {hello.generation}"
    return f"{text}, EMERGENCY: {printable(hello.emergency)}" if hello.emergency else text


def _hello(machine: MachineClient, _values: Mapping[str, Any]) -> Answer:
    hello = machine.hello()
    rows = [
        ("version", f"{printable(hello.version)}, protocol {hello.protocol}"),
        ("build", printable(hello.build)),
        ("generation", _generation_text(hello)),
        ("changes", "only those signed with the machine's key" if hello.signed else "need no signature"),
        (
            "durable",
            "yes: changes outlive the machine" if hello.durable else "no: changes are lost when the machine ends",
        ),
        ("emergency", printable(hello.emergency) if hello.emergency else "none"),
    ]
    return Answer(asdict(hello), columns(rows))


def _generation_text(hello: Hello) -> str:
    if hello.generation != hello.promoted:
        return f"{hello.generation}, on trial: {hello.promoted} comes back unless it is promoted"
    return f"{hello.generation}, the model as built" if hello.generation == 0 else f"{hello.generation}, kept"


def _stats(machine: MachineClient, _values: Mapping[str, Any]) -> Answer:
    stats = machine.stats()
    return Answer(asdict(stats), columns(_stats_rows(stats)))


def _stats_rows(stats: Stats) -> list[tuple[str, str]]:
    late, done, worker, memory = stats.heartbeat_late_us, stats.mutations, stats.worker, stats.memory
    phases = sorted(stats.phases.items(), key=itemgetter(1))
    return [
        ("state", f"{printable(stats.state)} for {_duration(stats.uptime_us)}, generation {stats.generation}"),
        ("heartbeats", f"{stats.heartbeats}, one every {stats.heartbeat_period_ms} ms"),
        ("late", f"p50 {_ms(late.p50)}, p99 {_ms(late.p99)}, p99.9 {_ms(late.p999)}, worst {_ms(late.max)}"),
        ("pixel programs", f"{stats.pixels_processed} pixels run; {stats.interrupts} neural interrupts"),
        ("energy", f"{stats.energy} of 1000 units: a change costs some, time brings them back"),
        ("mutations", f"{done.accepted} accepted, {done.refused} refused, {done.rolled_back} rolled back"),
        ("worker", f"pid {worker.pid}, {worker.restarts} restarts, {human_bytes(worker.anon_bytes)} of its own"),
        ("supervisor", f"pid {stats.supervisor.pid}, {human_bytes(stats.supervisor.anon_bytes)} of its own"),
        ("memory", f"{human_bytes(memory.available_bytes)} of {human_bytes(memory.total_bytes)} available"),
        ("phases", ", ".join(f"{printable(name)} {_ms(us)}" for name, us in phases)),
        ("processor", " ".join(map(printable, stats.cpu_features)) or "no vector instructions"),
    ]


def _tensors(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    return tensors_answer(machine.tensors(values.get("prefix", "")))


def _read(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    info = machine.tensor(values["tensor"])
    dtype = element_dtype(info.type)
    width = dtype.itemsize if dtype else 1
    offset = values.get("offset", 0)
    count = values.get("count", min(_SHOWN, max(1, info.bytes // width - offset)))
    if count > _SHOWN_MOST:
        raise InputError(f"{count} are more than can be shown", remedy=f"read at most {_SHOWN_MOST} at once")
    piece = machine.read(info.name, offset=offset * width, size=count * width)
    elements = np.frombuffer(piece.data, dtype) if dtype else None
    data = {"tensor": info.name, "type": info.type, "offset": offset, "count": count, "generation": piece.generation}
    shown = {"hex": piece.data.hex()} if elements is None else {"values": [_json_number(x) for x in elements.tolist()]}
    title = f"{printable(info.name)}, {info.type} {shape_text(info)}, generation {piece.generation}"
    return Answer(data | shown, f"{title}\n{_hex_rows(piece) if elements is None else _rows(elements, offset)}")


def _rows(elements: np.ndarray[Any, Any], offset: int) -> str:
    cells = [str(x) for x in elements]
    width = max(map(len, cells))
    starts = range(0, len(cells), _ROW_ELEMENTS)
    return columns(
        (f"{offset + start}:", " ".join(cell.rjust(width) for cell in cells[start : start + _ROW_ELEMENTS]))
        for start in starts
    )


def _hex_rows(piece: TensorBytes) -> str:
    starts = range(0, len(piece.data), _ROW_BYTES)
    return columns((f"{piece.offset + at}:", piece.data[at : at + _ROW_BYTES].hex(" ")) for at in starts)


def _digest(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    digest = machine.digest(values.get("name", []))
    rows = [(printable(name), sha256) for name, sha256 in digest.sha256.items()]
    return Answer(asdict(digest), columns([*rows, ("model", f"{digest.model} (generation {digest.generation})")]))


def _interrupt(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    taken = machine.interrupt(values.get("vector", 255))
    return Answer(asdict(taken), f"vector {taken.vector} taken after {taken.latency_us} µs")


def _raw(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    request = values["request"]
    reply = machine.request(request["method"], request.get("params", {}))
    data = {"result": reply.result} | ({"blob": reply.blob.hex()} if reply.blob is not None else {})
    return Answer(data, json.dumps(data, indent=2))


def _fault(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    machine.fault(values["what"], count=values.get("count", 1))
    return Answer({}, f"{printable(values['what'])}: under way")


def _shutdown(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    reboot = values.get("reboot", False)
    machine.shutdown(reboot=reboot)
    return Answer(
        {"reboot": reboot},
        "the machine reboots (one of vboot boot ends: boot it again)" if reboot else "the machine powers off",
    )


_COMMANDS: Mapping[str, Callable[[MachineClient, Mapping[str, Any]], Answer]] = {
    "hello": _hello,
    "stats": _stats,
    "tensors": _tensors,
    "read": _read,
    "digest": _digest,
    "interrupt": _interrupt,
    **INFERENCE,
    **CHANGES,
    "raw": _raw,
    "fault": _fault,
    "shutdown": _shutdown,
}


def _heartbeats(machine: MachineClient, seconds: float | None) -> Iterator[Answer]:
    until = math.inf if seconds is None else time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        event = next(machine.events(timeout=min(left, _SILENCE_S)), None)
        if isinstance(event, HeartbeatEvent):
            yield Answer(asdict(event), f"beat {event.beats}, {_ms(event.late_us)} late")
        elif event is None and left > _SILENCE_S:
            raise MachineTimeoutError(f"no heartbeat came for {_SILENCE_S:g} s", remedy="look at the machine's console")


def _changes(machine: MachineClient, seconds: float | None) -> Iterator[Answer]:
    until = math.inf if seconds is None else time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for event in machine.events(timeout=min(left, _SILENCE_S)):
            if (answer := tell_event(event)) is not None:
                yield answer


def _json_number(value: float) -> float | str:
    """JSON has no words for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _ms(us: int) -> str:
    return f"{us / 1000:.1f} ms"


def _duration(us: int) -> str:
    seconds = us // 1_000_000
    if seconds < 60:
        return f"{us / 1_000_000:.1f} s"
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
