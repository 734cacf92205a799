"""What a graph computes in, part by part, against graphs made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.quantize.precision import by_group


def test_precision_is_read_from_types_and_quantized_inputs(tmp_path: Path) -> None:
    """A float32 tail behind half precision, behind a convolution whose image and weights were dequantized."""
    node = helper.make_node
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        node("Cast", ["images"], ["h"], name="cast", to=half),
        node("QuantizeLinear", ["h", "s", "z"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        node("DequantizeLinear", ["w8", "s", "z"], ["w"], name="dw"),
        node("Conv", ["d", "w"], ["a"], name="model.0.conv/Conv"),
        node("Conv", ["a", "w16"], ["b"], name="model.6.m.0.0.attn.pe.conv/Conv"),
        node("Softmax", ["b"], ["c"], name="model.6.m.0.0.attn.core/Softmax"),
        node("Conv", ["c", "w16"], ["e"], name="model.21.cv2.0.2/Conv"),
        node("Cast", ["e"], ["f"], name="model.21/Cast", to=single),
        node("Mul", ["f", "f"], ["boxes"], name="model.21/Mul"),
    ]
    weights = [
        numpy_helper.from_array(np.float16(0.1), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
        numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.int8), "w8"),
        numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float16), "w16"),
    ]
    images, boxes = (helper.make_tensor_value_info(n, single, [1, 3, 8, 8]) for n in ("images", "boxes"))
    graph = helper.make_graph(nodes, "g", [images], [boxes], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "m.onnx")
    assert by_group(tmp_path / "m.onnx") == {
        "stem": "i8",
        "stage 6 pe": "f16",
        "attention": "f16",
        "head box stride 8": "f16",
        "decode tail": "f32",
    }
