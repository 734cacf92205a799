"""What a model would cost if it were another: copies of an OpenVINO model whose answers mean nothing; their speed does.

    model, count = varied(core.read_model("model.xml"), "hardswish")

| kind | is |
|---|---|
| ``hardswish`` | every SiLU is a Hardswish |
| ``bare`` | every SiLU is left out: what remains is the network without its activation |
| ``int8`` | every convolution gets quantized weights and inputs, with ranges that fit nothing |
"""

from __future__ import annotations

from typing import Any

import numpy as np

KINDS = ("hardswish", "bare", "int8")
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def varied(model: Any, kind: str) -> tuple[Any, int]:
    """The model, changed in place, and how many of its operators changed."""
    return (model, _quantized(model)) if kind == "int8" else (model, _activated(model, kind))


def _activated(model: Any, kind: str) -> int:
    import openvino.opset13 as ops

    found = [node for node in model.get_ordered_ops() if silu_input(node) is not None]
    for node in found:
        source = silu_input(node)
        node.output(0).replace(ops.hswish(source).output(0) if kind == "hardswish" else source)
    return len(found)


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


def _quantized(model: Any) -> int:
    import openvino.opset13 as ops

    made: dict[tuple[str, int], Any] = {}  # one grid for all that read a value, else the runtime computes it twice
    count = 0
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
        count += 1
    return count
