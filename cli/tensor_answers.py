"""The answer that lists tensors of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cli.answer import Answer, columns, human_bytes
from vboot.protocol.messages import TensorInfo
from vboot.text import printable


def tensors_answer(tensors: Sequence[TensorInfo]) -> Answer:
    """A row for each tensor, and their number and size."""
    rows = [("tensor", "type", "shape", "bytes", "")]
    rows += [
        (printable(each.name), each.type, shape_text(each), str(each.bytes), "protected" if each.protected else "")
        for each in tensors
    ]
    count = f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'}"
    total = f"{count}, {human_bytes(sum(each.bytes for each in tensors))}"
    return Answer({"tensors": [asdict(each) for each in tensors]}, f"{columns(rows)}\n{total}" if tensors else total)


def shape_text(tensor: TensorInfo) -> str:
    """384 x 1536, the fastest dimension first."""
    return " x ".join(map(str, tensor.shape))
