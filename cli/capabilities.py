"""What a machine with a model can and cannot do, as `build` and `inspect` say it; the executable has decided it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vboot.text import printable


def capability_rows(capabilities: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of two cells from the member `capabilities` of the report of `vector_boot check --json`."""
    why = printable(capabilities["embed_refused"] or "")
    if not capabilities["serves"]:
        return [("serves", f"no: the machine would boot into an emergency, because {why}")]
    embed = f"no: {why}"
    if capabilities["embed"]:
        embed = f"yes, {capabilities['pooling']} pooling, texts of at most {capabilities['max_tokens']} tokens"
    rows = [
        ("embed", embed),
        ("generate", "yes" if capabilities["generate"] else "no: this runtime has no text generation"),
    ]
    return [*rows, ("edits", "; ".join(_edit(kind, types) for kind, types in capabilities["edits"].items()))]


def _edit(kind: str, types: Mapping[str, int]) -> str:
    """`sparse on 38 F16 and 63 F32`."""
    if not types:
        return f"{kind} on no tensor"
    counts = [f"{count} {name}" for name, count in types.items()]
    return f"{kind} on {' and '.join([', '.join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)}"
