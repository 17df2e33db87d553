"""What a machine with a model can and cannot do, as `build` and `inspect` say it; the executable has decided it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vboot.text import printable

Rows = list[tuple[str, str]]


def capability_rows(capabilities: Mapping[str, Any]) -> Rows:
    """Rows of two cells from the member `capabilities` of the report of `vector_boot check --json`."""
    why = printable(capabilities["embed_refused"] or "")
    if not capabilities["serves"]:
        return [("serves", f"no: the machine would boot into an emergency, because {why}")]
    embed = f"no: {why}"
    if capabilities["embed"]:
        embed = f"yes, {capabilities['pooling']} pooling, texts of at most {capabilities['max_tokens']} tokens"
    generate = "yes" if capabilities["generate"] else "no: this runtime has no text generation"
    key = capabilities["mutation_key"]
    signed = [("signed changes", f"required, with the key {key}")] if key else []
    return [("makes embeddings", embed), ("generates text", generate), *signed, *_edit_rows(capabilities["edits"])]


def _edit_rows(edits: Mapping[str, Mapping[str, int]]) -> Rows:
    """A row for each kind of edit that some tensor takes, such as `13 F16 and 2 F32 tensors`."""
    possible = [(f"  {kind} edits", _count(types)) for kind, types in edits.items() if types]
    impossible = [kind for kind, types in edits.items() if not types]
    rows = [("takes changes", "while it runs, by `vboot mutate`, of these tensors:"), *possible]
    return [*rows, ("  of no tensor", ", ".join(impossible))] if impossible else rows


def _count(types: Mapping[str, int]) -> str:
    counts = [f"{count} {name}" for name, count in types.items()]
    return " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
