"""The answers of `vboot surgeon`: the surgeon's reports as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.answer import Answer, columns, human_bytes
from evolution.surgeon.machine_tensors import MACHINE_TENSORS
from evolution.surgeon.reports import ExportReport, FileDifference, SurgeryReport, TensorChange, TensorDifference
from image.embedding_settings import MAX_TOKENS_KEY
from vboot.text import path_text, printable

_TENSORS_SHOWN = 16


def operation_answer(report: SurgeryReport, *, seed: str | None = None) -> Answer:
    """The changes of an operation or of a dry run; `seed` (16 hex): the random seed, if none was given."""
    amount = f"{human_bytes(report.changed_bytes)} in {_tensors(len(report.tensors))}"
    if report.output is None:
        head = f"would change {path_text(report.base)}: {amount}; nothing was written"
    else:
        head = f"{path_text(report.output)}: {human_bytes(report.bytes)}, changed {amount}"
    lines = [head, f"model {report.model}, before {report.model_before}"]
    lines += [f"seed {seed}"] if seed else []
    for file, distance in report.distances.items():
        lines.append(f"distance of {path_text(file)}: {'unknown' if distance is None else f'{distance:.4f}'}")
    lines += [f"kept as in the first file: {', '.join(map(printable, report.kept))}"] if report.kept else []
    lines.append(_changes(report.tensors))
    data = {"dry_run": report.output is None} | _with_paths(asdict(report), "base", "output")
    data |= {"seed": seed} if seed else {}
    return Answer(data, "\n".join(lines))


def export_answer(report: ExportReport) -> Answer:
    """What was exported, and a warning about what a plain model cannot hold."""
    lines = [f"{path_text(report.output)}: plain model, {human_bytes(report.bytes)}, {_tensors(report.tensors)}"]
    if report.removed_tensors or report.removed_keys:
        keys = f"{len(report.removed_keys)} key{'' if len(report.removed_keys) == 1 else 's'}"
        lines.append(f"without {_tensors(len(report.removed_tensors))} and {keys} of the machine")
    else:
        lines.append(f"{path_text(report.base)} has no tensors of a machine: it was copied unchanged")
    lines.append(f"model {report.model}")
    if report.lost_kernels:
        lines.append(f"warning: the evolved kernels in {', '.join(report.lost_kernels)} are not in the plain model")
    if MAX_TOKENS_KEY in report.removed_keys:
        lines.append(
            "warning: the token limit of the composed file is not in the plain model; "
            "`vboot inspect` on the composed file shows it, `--max-tokens` sets it when an image is built"
        )
    return Answer(_with_paths(asdict(report), "base", "output"), "\n".join(lines))


def difference_answer(found: FileDifference, *, show_all: bool) -> Answer:
    """How two files differ, the greatest differences first; all tensors only with `show_all`."""
    machines = [each for each in found.tensors if each.name in MACHINE_TENSORS and None in each.types]
    tensors = found.tensors if show_all else tuple(each for each in found.tensors if each not in machines)
    shown = tensors if show_all else tensors[:_TENSORS_SHOWN]
    lines = [f"{_tensors(len(found.tensors))} differ, {found.same} are the same"]
    for at, file in enumerate((found.first, found.other)):
        if count := sum(each.types[at] is not None for each in machines):
            lines.append(f"only {path_text(file)} holds {_tensors(count)} of the machine")
    if found.metadata:
        lines.append(f"metadata: {', '.join(map(printable, found.metadata))}")
    lines += [
        f"model {digest} in {path_text(file)}"
        for digest, file in zip(found.models, (found.first, found.other), strict=True)
    ]
    if shown:
        heads = ("tensor", "type", "shape", "changed", "blocks", "relative", "l2", "max")
        lines += ["", columns([heads, *map(_difference_row, shown)])]
    if len(shown) < len(tensors):
        lines.append(f"and {len(tensors) - len(shown)} more: use --all to list them")
    return Answer(_with_paths(asdict(found), "first", "other"), "\n".join(lines), report_only=True)


def verification_answer(file: Path, model: str, tensors: int, report: SurgeryReport | None = None) -> Answer:
    """The answer on a valid file; `report`: the changes by the edits to the file it was compared with."""
    data = {"file": file, "model": model, "tensors": tensors}
    text = f"{path_text(file)}: sound GGUF file of {_tensors(tensors)}, model {model}"
    if report is None:
        return Answer(data, text)
    exact = f"it is exactly {path_text(report.base)} with these edits: {_tensors(len(report.tensors))} changed"
    return Answer(data | {"against": Path(report.base), "changed": asdict(report)["tensors"]}, f"{text}\n{exact}")


def _with_paths(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """The data with these members as paths. Reports have them as text."""
    return data | {name: Path(data[name]) for name in names if data[name] is not None}


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _changes(tensors: Sequence[TensorChange]) -> str:
    rows = [("tensor", "type", "changed", "blocks", "SHA-256")]
    rows += [
        (
            printable(each.name),
            _pair(each.type_before, each.type),
            human_bytes(each.changed_bytes),
            f"{each.changed_blocks} of {each.blocks}",
            each.sha256,
        )
        for each in tensors[:_TENSORS_SHOWN]
    ]
    more = f"\nand {len(tensors) - _TENSORS_SHOWN} more" if len(tensors) > _TENSORS_SHOWN else ""
    return f"\n{columns(rows)}{more}"


def _difference_row(each: TensorDifference) -> tuple[str, ...]:
    shapes = ("none" if shape is None else " x ".join(map(str, shape)) for shape in each.shapes)
    return (
        printable(each.name),
        _pair(*(kind or "none" for kind in each.types)),
        _pair(*shapes),
        "" if each.changed_bytes is None else human_bytes(each.changed_bytes),
        "" if each.changed_blocks is None else f"{each.changed_blocks} of {each.blocks}",
        *("" if number is None else f"{number:.4g}" for number in (each.relative, each.l2, each.max)),
    )


def _pair(ours: str, theirs: str) -> str:
    return ours if ours == theirs else f"{ours} -> {theirs}"
