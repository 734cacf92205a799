"""OpenVINO models changed for what they would cost: their answers mean nothing, their speed does.

model = openvino.Core().read_model("model.xml")
quantize(model)                                  # every convolution in eight bits, with ranges that fit nothing
[silu_input(node) for node in model.get_ordered_ops()]
"""

from __future__ import annotations

from typing import Any

import numpy as np

_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def silu_input(node: Any) -> Any:
    """What ``node`` is the SiLU of, as one operator or as x · sigmoid(x); None if it is something else."""
    if node.get_type_name() == "Swish":
        return node.input_value(0)
    if node.get_type_name() != "Multiply":
        return None
    a, b = node.input_value(0), node.input_value(1)
    for value, gate in ((a, b), (b, a)):
        maker = gate.get_node()
        if maker.get_type_name() == "Sigmoid" and maker.input_value(0) == value:
            return value
    return None


def quantize(model: Any) -> None:
    """Give every convolution quantized weights and inputs, in place, with ranges that fit nothing."""
    import openvino.opset13 as ops

    made: dict[tuple[str, int], Any] = {}  # one grid for all that read a value, else the runtime computes it twice
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _CONVOLUTIONS:
            continue
        for place, (bound, levels) in enumerate(((4.0, 256), (1.0, 255))):
            source = node.input_value(place)
            key = source.get_node().get_friendly_name(), source.get_index()
            if key not in made:
                low, high = (ops.constant(np.float32(v)) for v in (-bound, bound))
                made[key] = ops.fake_quantize(source, low, high, low, high, levels)
            node.input(place).replace_source_output(made[key].output(0))
