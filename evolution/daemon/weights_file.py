"""The run's weights as a GGUF file: the model with the bytes of every tensor that has changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from evolution.daemon.reconcile import Reference
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import EMPTY_SLOT_SHA256, SLOTS, model_sha256
from evolution.surgeon.reports import ExportReport, SurgeryReport
from evolution.surgeon.runtime_check import runtime_check
from evolution.surgeon.surgeon import GGUFSurgeon
from vboot.errors import InputError
from vboot.weights.edits import Dense

_DIGESTS_AT_ONCE = 256


def changes(model: Path, weights: Reference) -> list[Dense]:
    """The edits that turn a model file into these weights, for the tensors that it has.

    Raises InputError, ToolError.
    """
    file = GGUFFile(model, runtime_check)
    differing = (name for name, digest in _digests(weights).items() if _differs(file, name, digest))
    return [Dense(name, 0, weights.read(name)) for name in differing]


def write_weights(model: Path, weights: Reference, output: Path) -> SurgeryReport:
    """Write these weights as `output`, with the tensors and keys of `model`.

    The file appears whole and checked; otherwise a file of that name stays as it was. Raises InputError, ToolError, and
    what `weights` raises.
    """
    _require_tensors(GGUFFile(model, runtime_check), _digests(weights))
    return GGUFSurgeon(model).apply(changes(model, weights), output=output, expected_model=weights.model)


def write_plain_model(model: Path, weights: Reference, output: Path) -> tuple[ExportReport, tuple[str, ...]]:
    """Write these weights as a plain model, without a machine's tensors and keys.

    Returns the report, and the names of the slots whose evolved kernel is not in the file. The file appears whole and
    checked; otherwise a file of that name stays as it was. Raises InputError, ToolError, and what `weights` raises.
    """
    file = GGUFFile(model, runtime_check)
    digests = _digests(weights)
    kernels = tuple(name for name in sorted(SLOTS & digests.keys()) if digests[name] != EMPTY_SLOT_SHA256)
    own = {name: digest for name, digest in digests.items() if name not in SLOTS}
    _require_tensors(file, own)
    contents: dict[str, Callable[[], bytes]] = {
        name: functools.partial(weights.read, name) for name, digest in own.items() if _differs(file, name, digest)
    }
    report = GGUFSurgeon(model).export(output, contents, expected_model=model_sha256(own))
    return report, kernels


def _digests(weights: Reference) -> dict[str, str]:
    """The SHA-256 (hex) of every tensor that is not protected."""
    names = [info.name for info in weights.terrain if not info.protected]
    found: dict[str, str] = {}
    for start in range(0, len(names), _DIGESTS_AT_ONCE):
        found |= weights.digests(names[start : start + _DIGESTS_AT_ONCE]).sha256
    return found


def _differs(file: GGUFFile, name: str, digest: str) -> bool:
    return name in file.tensors and file.sha256(name) != digest


def _require_tensors(file: GGUFFile, digests: Mapping[str, str]) -> None:
    """Raises InputError if the file has no place for some of the weights. An empty slot needs none."""
    for name, digest in digests.items():
        if name not in file.tensors and not (name in SLOTS and digest == EMPTY_SLOT_SHA256):
            remedy = (
                "use a model that `vboot compose` made" if name in SLOTS else "use the model that the run began with"
            )
            raise InputError(f"{file.path} has no tensor {name!r}, which the weights have", remedy=remedy)
