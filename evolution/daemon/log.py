"""What happened, for people and for programs: each event as a line of text, and as a line of JSON in a file.

{"time": 1784000000.123, "event": "Applied", "move": "3.move", "generation": 12, ...}
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, get_args, get_type_hints

from evolution.daemon import events as e
from vboot.errors import InputError

LOGGER = "vector_boot.evolution"
_TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(e.DaemonEvent)}
_LONGEST_LINE = 1 << 20
_WARNINGS = (e.Alarm, e.ConnectionFailed, e.FellBack, e.RolledBack)


def text_of(event: e.DaemonEvent) -> str:
    """The event as a line for people."""
    return _text_of_search(event) or _text_of_body(event)


def _text_of_search(event: e.DaemonEvent) -> str:  # noqa: PLR0911 -- one line for each kind
    """The line of what is decided; "" for what happens to the body."""
    match event:
        case e.Started():
            how = "goes on" if event.resumed else "begins"
            where = f"generation {event.generation}, {event.accepted} moves accepted"
            return f"{event.version} {how}: {event.strategy} in tier {event.tier}, seed {event.seed}, {where}"
        case e.Evaluated():
            score = event.reason if event.score is None else f"{event.score:.6f}"
            return f"evaluated {event.proposal}: {score} ({event.seconds * 1000:.0f} ms)"
        case e.Judged():
            verdict = "admitted" if event.refusal is None else f"refused, {event.refusal}"
            return f"judged {event.move}: {verdict} (confidence {event.confidence:.3f})"
        case e.KernelInjected():
            return f"kernel injected into slot {event.slot}: {event.before:.6f} before, {event.after:.6f} after"
        case e.GenerationEnded():
            what = "accepted" if event.accepted else "no move"
            return f"generation {event.generation} ended: {what}, fitness {event.fitness:.6f}"
        case e.Steered():
            return f"steered {event.what}: {event.text}"
        case e.Alarm():
            return f"ALARM {event.what}: {event.text}"
        case e.Stopped():
            what = f"generation {event.generation}, {event.accepted} moves accepted, {event.evaluations} evaluations"
            return f"stopped: {event.why}; {what}"
        case _:
            return ""


def _text_of_body(event: e.DaemonEvent) -> str:  # noqa: PLR0911 -- one line for each kind
    """The line of what happens to the body; "" for anything else."""
    match event:
        case e.Connected():
            return f"connected to {event.body}, build {event.build}, generation {event.generation}"
        case e.ConnectionFailed():
            why = f"no connection to {event.body} (attempt {event.attempt}): {event.why}"
            return f"{why}; next try in {event.retry_s:g} s"
        case e.Metabolism():
            energy = "" if event.energy is None else f", energy {event.energy}"
            return f"Rust Pixels Processed: {event.pixels_processed} (cycle {event.cycle}{energy})"
        case e.Pulse():
            how = "as expected" if event.as_expected else "NOT as expected"
            return f"substrate pulse: {event.steps} steps in {event.milliseconds:.1f} ms, {how}"
        case e.Applied():
            what = f"{event.changed_bytes} bytes in {event.milliseconds:.1f} ms"
            return f"applied {event.move}: generation {event.generation}, {what}"
        case e.Acknowledged():
            return f"interrupt {event.vector} acknowledged in {event.latency_us} us"
        case e.Promoted():
            return f"promoted {event.move}: generation {event.generation}"
        case e.RolledBack():
            return f"rolled back {event.move}: generation {event.generation}, {event.why}"
        case e.Recovered():
            how = "found at weights of the run" if event.how == "nothing" else f"recovered ({event.how})"
            return f"{event.what} {how} in {event.seconds:.2f} s, generation {event.generation}"
        case e.FellBack():
            return f"no runtime answers: V6 goes on with files in {event.folder}"
        case e.Returned():
            return f"a runtime answers again after {event.after_s:.1f} s: V7 goes on"
        case _:
            return ""


def log_to_logging(event: e.DaemonEvent) -> None:
    """A listener that hands the event's text to the logger `vector_boot.evolution`."""
    level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
    logging.getLogger(LOGGER).log(logging.DEBUG if isinstance(event, e.Evaluated) else level, "%s", text_of(event))


class EventFile:
    """A listener that appends each event to a file as a line of JSON. A line that was left half-written is cut off."""

    def __init__(self, path: Path) -> None:
        """Raises InputError when the file cannot be written."""
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._file = os.fdopen(descriptor, "r+b")
            self._file.truncate(_whole_lines(self._file))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            what = f"the log {path} cannot be written ({error.strerror or error})"
            raise InputError(what, remedy="choose another folder") from error

    def __call__(self, event: e.DaemonEvent) -> None:
        """Append it. Raises InputError when that fails."""
        record = {"time": round(time.time(), 3), "event": type(event).__name__, **dataclasses.asdict(event)}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            what = f"the log {self._path} cannot be written ({error.strerror or error})"
            raise InputError(what, remedy="free some space: the run goes on where it was") from error

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()


def read_events(path: Path) -> Iterator[tuple[float, e.DaemonEvent]]:
    """The events of a file that `EventFile` wrote, each with its time (seconds since 1970).

    Lines that are none, such as a torn last one, and kinds that are unknown are passed over. Raises InputError when the
    file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        what = f"the log {path} cannot be read ({error.strerror or error})"
        raise InputError(what, remedy="name the folder of a run") from error
    for line in lines:
        event = _parsed(line)
        if event is not None:
            yield event


def _parsed(line: bytes) -> tuple[float, e.DaemonEvent] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        return None
    kind, when = _TYPES.get(record["event"]), record.get("time")
    if kind is None or not isinstance(when, int | float):
        return None
    hints = get_type_hints(kind)
    if not all(_fits(hint, record.get(name)) for name, hint in hints.items()):
        return None
    return float(when), kind(**{name: record[name] for name in hints})


def _fits(hint: Any, value: Any) -> bool:
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return (
        type(value) in kinds or (value is None and types.NoneType in kinds) or (float in kinds and type(value) is int)
    )


def _whole_lines(file: BinaryIO) -> int:
    """How many bytes at the start of a file are whole lines, of which none is longer than what is looked at."""
    start = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
    file.seek(start)
    return start + file.read().rfind(b"\n") + 1
