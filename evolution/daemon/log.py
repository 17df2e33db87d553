"""The events of a run as lines of text for people, and as lines of JSON in a file:

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
_LONG_NAMES = {"body": "machine", "shadow": "copy in which changes are tried (shadow)"}
_STEERED = {"tier": "next tier", "rate": "waiting for energy", "backoff": "slowing down"}
_RECOVERED = {
    "nothing": "has the run's weights",
    "rollback": "was rolled back to the run's weights",
    "synchronised": "was given the run's weights",
}


def text_of(event: e.DaemonEvent) -> str:
    """The event as a line for people."""
    return _text_of_search(event) or _text_of_body(event)


def _text_of_search(event: e.DaemonEvent) -> str:  # noqa: PLR0911 -- one line for each kind
    """The line of an event of the search; "" for an event of the body."""
    match event:
        case e.Started():
            how = "resumes" if event.resumed else "starts"
            where = f"generation {event.generation}, {event.accepted} changes accepted so far"
            return f"{event.version} {how}: strategy {event.strategy}, tier {event.tier}, seed {event.seed}, {where}"
        case e.Progress():
            left = "" if event.left_s is None else f", about {spoken(event.left_s)} left"
            done = f"{event.generation} generations and {event.evaluations} evaluations done"
            return f"{done}, {spoken(event.seconds)} in this invocation{left}"
        case e.Evaluated():
            score = f"no score ({event.reason})" if event.score is None else f"score {event.score:.6f}"
            return f"proposal {event.proposal}: {score}, evaluated in {event.seconds * 1000:.0f} ms"
        case e.Judged():
            verdict = "accepted" if event.refusal is None else f"not accepted ({event.refusal})"
            return f"change {event.move} {verdict}; confidence {event.confidence:.3f}"
        case e.KernelInjected():
            change = f"score {event.before:.6f} before, {event.after:.6f} after"
            return f"evolved kernel written to slot {event.slot}: {change}"
        case e.GenerationEnded():
            what = "change accepted" if event.accepted else "no change accepted"
            return f"generation {event.generation} ended: {what}, score {event.fitness:.6f}"
        case e.Steered():
            return f"{_STEERED.get(event.what, event.what)}: {event.text}"
        case e.Alarm():
            return f"ALARM ({_named(event.what)}): {event.text}"
        case e.Stopped():
            what = f"generation {event.generation}, {event.accepted} changes accepted, {event.evaluations} evaluations"
            return f"stopped: {event.why}; {what}"
        case _:
            return ""


def _text_of_body(event: e.DaemonEvent) -> str:  # noqa: PLR0911 -- one line for each kind
    """The line of an event of the body; "" for any other event."""
    match event:
        case e.Connected():
            return (
                f"connected to {event.body}: executable build {event.build}, weights of generation {event.generation}"
            )
        case e.ConnectionFailed():
            why = f"no connection to {event.body} (attempt {event.attempt}): {event.why}"
            return f"{why}; next attempt in {event.retry_s:g} s"
        case e.Metabolism():
            energy = "" if event.energy is None else f", energy for changes {event.energy} of {e.FULL_ENERGY}"
            weights = f"the machine has weights of generation {event.generation}"
            return f"{weights}{energy}, and has run {event.pixels_processed} pixel instructions"
        case e.Pulse():
            how = "the right" if event.as_expected else "a WRONG"
            return f"check: a known program gave {how} result on the machine ({event.milliseconds:.1f} ms)"
        case e.Applied():
            what = f"{event.changed_bytes} bytes changed in {event.milliseconds:.1f} ms"
            return f"applied change {event.move}: {what}, the weights are generation {event.generation}"
        case e.Acknowledged():
            return f"interrupt {event.vector} acknowledged in {event.latency_us} us"
        case e.Promoted():
            return f"the machine keeps change {event.move} (promoted): generation {event.generation}"
        case e.RolledBack():
            return f"took change {event.move} back (rolled back to generation {event.generation}): {event.why}"
        case e.Recovered():
            how = _RECOVERED.get(event.how, event.how)
            where = f"generation {event.generation}, {event.seconds:.2f} s"
            return f"the {_LONG_NAMES.get(event.what, event.what)} {how} ({where})"
        case e.FellBack():
            return f"no machine answers: the run goes on with files in {event.folder} (V6)"
        case e.Returned():
            return f"the machine answers again after {event.after_s:.1f} s: the run goes on with it (V7)"
        case _:
            return ""


def spoken(seconds: float) -> str:
    """A time to people: 45 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _named(what: str) -> str:
    return "machine" if what == "body" else what


def log_to_logging(event: e.DaemonEvent) -> None:
    """A listener that writes the event's text to the logger `vector_boot.evolution`."""
    level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
    logging.getLogger(LOGGER).log(logging.DEBUG if isinstance(event, e.Evaluated) else level, "%s", text_of(event))


class EventFile:
    """A listener that appends each event to a file as a line of JSON. An incomplete last line is removed first."""

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
        """Append the event. Raises InputError when that fails."""
        record = {"time": round(time.time(), 3), "event": type(event).__name__, **dataclasses.asdict(event)}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            what = f"the log {self._path} cannot be written ({error.strerror or error})"
            raise InputError(what, remedy="free some disk space; the same command resumes the run") from error

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()


def read_events(path: Path) -> Iterator[tuple[float, e.DaemonEvent]]:
    """The events of a file that `EventFile` wrote, each with its time (seconds since 1970).

    Lines that are not events, such as an incomplete last one, and unknown kinds are skipped. Raises InputError when the
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
    """How many bytes at the start of a file are complete lines; only the last _LONGEST_LINE bytes are searched."""
    start = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
    file.seek(start)
    return start + file.read().rfind(b"\n") + 1
