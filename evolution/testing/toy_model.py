"""A model of some hundred weights with a known optimum, to test strategies on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

from evolution.strategies.contract import Proposal, Strategy, Verdict
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import EditError, TensorData, apply

PROTECTED = frozenset({"kernel.0"})

_LAYOUT: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "blk.0.attn_norm.weight": ("F32", (8,)),
    "blk.0.attn_q.bias": ("F32", (8,)),
    "blk.0.attn_q.weight": ("F16", (16, 8)),
    "blk.1.attn_q.weight": ("Q8_0", (32, 4)),
    "blk.1.ffn_up.weight": ("Q4_0", (32, 4)),
    "blk.1.layer_output_norm.bias": ("F32", (8,)),
    "blk.1.layer_output_norm.weight": ("F32", (8,)),
}


def toy_model() -> dict[str, TensorData]:
    """The tensors by name, with random weights in -1..1, and a protected one; the same on every call."""
    random = np.random.Philox(key=1)
    tensors = {"kernel.0": TensorData("kernel.0", "I8", (32,), bytes(32))}
    for name, (kind, shape) in _LAYOUT.items():
        values = (random.random_raw(math.prod(shape)) / 2.0**63 - 1).astype(np.float32).reshape(shape[::-1])
        stored = quants.quantize(values, gguf.GGMLQuantizationType[kind])
        tensors[name] = TensorData(name, kind, shape, stored.tobytes())
    return tensors


def toy_terrain() -> tuple[TensorInfo, ...]:
    """The tensors as a strategy sees them."""
    return tuple(
        TensorInfo(tensor.name, tensor.type, tensor.shape, len(tensor.data), tensor.name in PROTECTED)
        for tensor in toy_model().values()
    )


class ToyTask:
    """The optimum is 0.3 plus half of each initial weight, over the tensors of some names.

    It can be approached by multiplying as well as by adding, so noise of every form can improve.
    """

    def __init__(self, *names: str) -> None:
        model = toy_model()
        self._best = {name: _weights(model[name]) / 2 + np.float32(0.3) for name in names}

    def score(self, tensors: Mapping[str, TensorData]) -> float:
        """The negative mean square distance to the optimum."""
        distances = [_weights(tensors[name]) - best for name, best in self._best.items()]
        return -float(np.mean(np.square(np.concatenate(distances), dtype=np.float64)))

    def verdict(self, proposal: Proposal, parent: Mapping[str, TensorData]) -> Verdict:
        """The verdict that a daemon would give on a proposal."""
        try:
            return Verdict(self.score(child(proposal, parent)))
        except EditError as refusal:
            return Verdict(None, str(refusal))

    def search(self, strategy: Strategy, *, generations: int) -> float:
        """The score after so many generations, of which only improving moves are accepted."""
        tensors = toy_model()
        for _ in range(generations):
            for proposal in strategy.ask():
                strategy.tell(proposal.id, self.verdict(proposal, tensors))
            move = strategy.move()
            score = self.verdict(move, tensors).score if move else None
            accepted = score is not None and score > self.score(tensors)
            if move and accepted:
                tensors = child(move, tensors)
            strategy.settle(accepted)
        return self.score(tensors)


def child(proposal: Proposal, parent: Mapping[str, TensorData]) -> dict[str, TensorData]:
    """The model after a proposal. Raises EditError where a machine refuses."""
    changed = apply(proposal.edits, parent, PROTECTED) if proposal.edits else {}
    return {name: replace(tensor, data=changed.get(name, tensor.data)) for name, tensor in parent.items()}


def _weights(tensor: TensorData) -> NDArray[np.float32]:
    values: NDArray[np.float32] = quants.dequantize(
        np.frombuffer(tensor.data, np.uint8), gguf.GGMLQuantizationType[tensor.type]
    )
    return values.reshape(-1)
