"""The answers that show what is on a state device."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from cli.answer import Answer, columns, human_bytes
from vboot.journal.entries import Entry, parse_image
from vboot.journal.recovery import Log
from vboot.journal.replay import newest
from vboot.text import path_text, printable

_HEAD = ("entry", "boot", "kind", "generation", "offset", "bytes", "id", "origin")


def show_answer(state: Path, log: Log) -> Answer:
    """Everything that is on a device."""
    block = log.superblock
    if block is None:
        text = f"{path_text(state)}: {human_bytes(log.size)}, blank: a machine will format it"
        return Answer({"file": state, "bytes": log.size, "state": "blank"}, text, report_only=True)
    last, images = newest(log), [entry for entry in log.entries if entry.head.holds_image]
    data: dict[str, Any] = {
        "file": state,
        "bytes": log.size,
        "state": "sound" if log.fault is None else log.fault.reason,
    }
    if log.fault is not None:
        data["fault"] = vars(log.fault)
    data |= {
        "device_id": block.device_id.hex(),
        "format": block.version,
        "model": block.model.hex(),
        "model_file": block.file.hex(),
        "turn": block.turn,
        "generation": last.generation,
        "promoted": last.promoted,
        "trial": last.lease_until_us != 0,
        "used_bytes": log.tail - block.start,
        "free_bytes": log.free_bytes,
        "boots": _boots(log),
        "images": [_image(log, entry) for entry in images],
        "entries": [_entry(log, entry) for entry in log.entries],
    }
    return Answer(data, "\n".join([*_summary(state, log, data), *_table(data)]), report_only=True)


def verify_answer(state: Path, log: Log, *, model: str | None = None) -> Answer:
    """A device without a fault. `model`: the digest of the newest weights, if they were computed."""
    last = newest(log)
    data: dict[str, Any] = {"file": state, "state": "sound" if log.superblock else "blank", "frames": len(log.frames)}
    data |= {"entries": len(log.entries), "boots": len(_boots(log))}
    data |= {"generation": last.generation, "promoted": last.promoted, "model": model}
    if log.superblock is None:
        return Answer(data, f"{path_text(state)}: blank: a machine will format it", report_only=True)
    counted = f"{data['entries']} entries in {data['frames']} frames of {data['boots']} boots"
    text = f"{path_text(state)}: sound: {counted}, generation {last.generation}, promoted {last.promoted}"
    weights = "the weights were not computed (--model, --image)" if model is None else f"model {model}"
    return Answer(data, f"{text}\n{weights}", report_only=True)


def _summary(state: Path, log: Log, data: dict[str, Any]) -> list[str]:
    trial = ", on trial" if data["trial"] else ""
    lines = [
        f"{path_text(state)}: {human_bytes(log.size)}, {data['state']}",
        f"device {data['device_id']}, model {data['model']}",
        f"generation {data['generation']}, promoted {data['promoted']}{trial}",
        f"{human_bytes(data['used_bytes'])} of history, {human_bytes(data['free_bytes'])} free",
    ]
    if log.fault is not None:
        lines.insert(1, f"fault: {log.fault}")
    for boot in data["boots"]:
        lines.append(f"boot {boot['boot']}: entries {boot['first']} to {boot['last']} in {boot['frames']} frames")
    for image in data["images"]:
        lines.append(f"image of generation {image['generation']}: {image['pages']} pages, {image['ids']} ids")
    return lines


def _table(data: dict[str, Any]) -> list[str]:
    if not data["entries"]:
        return []
    return [columns([_HEAD, *(_row(entry) for entry in data["entries"])])]


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    to = f" -> {entry['target']}" if entry["kind"] in ("rollback", "lease_expired") else ""
    numbers = (str(entry["sequence"]), str(entry["boot"]))
    where = (str(entry["offset"]), str(entry["bytes"]))
    who = (entry["id"] or "-", printable(entry["origin"]) or "-")
    return (*numbers, entry["kind"], f"{entry['generation']}{to}", *where, *who)


def _entry(log: Log, entry: Entry) -> dict[str, Any]:
    head = entry.head
    return {
        "sequence": head.sequence,
        "boot": entry.boot,
        "frame": entry.frame,
        "kind": head.kind.name.lower(),
        "generation": head.generation,
        "promoted": head.promoted,
        "target": head.target,
        "offset": log.place(entry.offset),
        "logical_offset": entry.offset,
        "bytes": head.payload_bytes,
        "changed_tensors": head.changed_tensors,
        "changed_bytes": head.changed_bytes,
        "fingerprint": f"{head.fingerprint:016x}",
        "lease_until_us": head.lease_until_us,
        "id": head.id.hex() if any(head.id) else None,
        "origin": head.who,
        "confidence": head.confidence,
        "uptime_us": head.uptime_us,
    }


def _image(log: Log, entry: Entry) -> dict[str, Any]:
    facts = {"sequence": entry.head.sequence, "generation": entry.head.generation, "offset": log.place(entry.offset)}
    try:
        image = parse_image(log.payload(entry))
    except ValueError:  # what is wrong with it is told by verify
        return {**facts, "pages": None, "ids": None}
    return {**facts, "pages": len(image.pages), "ids": len(image.ids)}


def _boots(log: Log) -> list[dict[str, int]]:
    frames = groupby(log.frames, key=lambda frame: frame.boot)
    grouped = [(boot, list(own)) for boot, own in frames]
    return [
        {
            "boot": boot,
            "frames": len(own),
            "first": own[0].sequence,
            "last": own[-1].sequence + own[-1].entries - 1,
        }
        for boot, own in grouped
    ]
