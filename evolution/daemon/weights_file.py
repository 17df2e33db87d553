"""The run's weights as a GGUF file: the model with the bytes of every tensor that has changed."""

from __future__ import annotations

from pathlib import Path

from evolution.daemon.reconcile import Reference
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.reports import SurgeryReport
from evolution.surgeon.runtime_check import runtime_check
from evolution.surgeon.surgeon import GGUFSurgeon
from vboot.errors import InputError
from vboot.weights.edits import Dense

_DIGESTS_AT_ONCE = 256


def changes(model: Path, weights: Reference) -> list[Dense]:
    """What makes a model file these weights, as far as it has the tensors. Raises InputError, ToolError."""
    file = GGUFFile(model, runtime_check)
    names = [info.name for info in weights.terrain if not info.protected]
    edits = []
    for start in range(0, len(names), _DIGESTS_AT_ONCE):
        part = names[start : start + _DIGESTS_AT_ONCE]
        for name, digest in weights.digests(part).sha256.items():
            if name in file.tensors and file.sha256(name) != digest:
                edits.append(Dense(name, 0, weights.read(name)))
    return edits


def write_weights(model: Path, weights: Reference, output: Path) -> SurgeryReport:
    """Write these weights as `output`, which appears whole and checked, or not at all.

    Raises InputError, ToolError, and what `weights` raises.
    """
    report = GGUFSurgeon(model).apply(changes(model, weights), output=output)
    if report.model != weights.model:
        output.unlink(missing_ok=True)
        raise InputError(
            f"{model} has no place for all that has changed", remedy="use a model that `vboot compose` made"
        )
    return report
