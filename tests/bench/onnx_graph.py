"""The bert of a GGUF as an ONNX graph, for the comparison with onnxruntime.

Needs `onnx` beside `gguf` and `numpy`; neither onnx nor onnxruntime is a dependency of the project.

    python -m tests.bench.onnx_graph MODEL.gguf OUTPUT.onnx

The graph takes `ids`, int64 [texts, tokens], all texts of one length, and gives `embeddings`, float32 [texts,
embedding_length], mean-pooled and scaled to length one. It uses onnxruntime's fused operator for the attention, and the
standard ones that it fuses by itself otherwise: the form in which onnxruntime is fastest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx  # type: ignore[import-not-found, unused-ignore]
from onnx import TensorProto, helper, numpy_helper


class _Graph:
    """Nodes and weights so far; every method returns the name of its result."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.stored = {tensor.name: tensor for tensor in reader.tensors}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def number(self, key: str) -> Any:
        return self.fields[f"bert.{key}"]

    def constant(self, name: str, value: Any) -> str:
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        tensor = self.stored[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return self.constant(name, values.T if transposed else values)

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def linear(self, x: str, at: str) -> str:
        product = self.node("MatMul", x, self.weight(f"{at}.weight", transposed=True))
        return self.node("Add", product, self.weight(f"{at}.bias"))

    def norm(self, x: str, at: str) -> str:
        epsilon = float(self.number("attention.layer_norm_epsilon"))
        weight, bias = self.weight(f"{at}.weight"), self.weight(f"{at}.bias")
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def embeddings(self) -> str:
        tokens = self.node("Gather", self.weight("token_embd.weight"), "ids")
        length = self.node("Shape", "ids", start=1, end=2)
        zero, positions = self.constant("zero", np.array([0], np.int64)), self.weight("position_embd.weight")
        rows = self.node("Slice", positions, zero, length)
        types = self.node("Gather", self.weight("token_types.weight"), zero)
        return self.norm(self.node("Add", self.node("Add", tokens, types), rows), "token_embd_norm")

    def block(self, x: str, at: str) -> str:
        parts = [self.linear(x, at + part) for part in ("attn_q", "attn_k", "attn_v")]
        heads = int(self.number("attention.head_count"))
        mixed = self.node("MultiHeadAttention", *parts, domain="com.microsoft", num_heads=heads)
        x = self.norm(self.node("Add", self.linear(mixed, at + "attn_output"), x), at + "attn_output_norm")
        hidden = self.node("Gelu", self.linear(x, at + "ffn_up"))
        return self.norm(self.node("Add", self.linear(hidden, at + "ffn_down"), x), at + "layer_output_norm")


def bert_graph(path: Path) -> onnx.ModelProto:
    """The graph of the bert in a GGUF file, its weights decoded to float32."""
    graph = _Graph(path)
    x = graph.embeddings()
    for index in range(int(graph.number("block_count"))):
        x = graph.block(x, f"blk.{index}.")
    pooled = graph.node("ReduceMean", x, graph.constant("tokens_axis", np.array([1], np.int64)), keepdims=0)
    normalised = graph.node("LpNormalization", pooled, axis=-1, p=2)
    graph.nodes.append(helper.make_node("Identity", [normalised], ["embeddings"]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])
    width = int(graph.number("embedding_length"))
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["texts", width])
    whole = helper.make_graph(graph.nodes, "bert", [ids], [embeddings], list(graph.weights.values()))
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=domains, ir_version=10)


if __name__ == "__main__":
    onnx.save(bert_graph(Path(sys.argv[1])), sys.argv[2])
