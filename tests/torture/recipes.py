"""Edits as a recipe that `vboot mutate` takes: the edits after which a machine deviated, for analysis. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vboot.weights.edits import Dense, Edit, LowRank, Program, Seeded, Sparse


def recipe(edits: Sequence[Edit]) -> str:
    """The recipe in JSON, in one line; every f32 is written so that parsing gives the same bits."""
    return json.dumps({"confidence": 0.9, "edits": [_members(edit) for edit in edits]})


def _members(edit: Edit) -> dict[str, Any]:
    match edit:
        case Dense():
            return {"kind": "dense", "tensor": edit.tensor, "offset": edit.offset, "hex": edit.data.hex()}
        case Sparse():
            numbers = {"indices": edit.indices.tolist(), "values": edit.values.tolist()}
            return {"kind": "sparse", "tensor": edit.tensor, "op": edit.op, **numbers}
        case LowRank():
            factors = {"a": edit.a.tolist(), "b": edit.b.tolist()}
            return {"kind": "low_rank", "tensor": edit.tensor, "scale": edit.scale, **factors}
        case Seeded():
            return {"kind": "seeded"} | vars(edit)
        case Program():
            return {"kind": "program", "tensor": edit.tensor, "hex": edit.pixels.hex()}
