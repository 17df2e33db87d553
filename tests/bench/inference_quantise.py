"""onnxruntime's dynamic int8 quantisation: `python -m tests.bench.inference_quantise GRAPH.onnx OUTPUT.onnx`."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx  # type: ignore[import-not-found, unused-ignore]
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found, unused-ignore]

if __name__ == "__main__":
    quantize_dynamic(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        # The products alone: looking a token up costs nothing and would only lose precision.
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        # What shape inference cannot tell of onnxruntime's own operators.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
