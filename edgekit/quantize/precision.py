"""Which precision each part of a graph computes in, read from the graph itself.

    by_group(Path("half.onnx"))     # {'stem': 'f16', 'stage 6 qkv': 'i8', …, 'attention': 'f16', 'decode tail': 'f32'}

A convolution behind a ``DequantizeLinear`` computes in int8: that is how runtimes read explicit Q/DQ pairs. Everything
else computes in the type of what it puts out. Of a group's types the narrowest is told, as its convolutions have it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from edgekit.nn import layers
from edgekit.quantize import groups

ATTENTION, TAIL = "attention", "decode tail"  # what belongs to no group that can be left alone
_SHORT = {TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16"}
_NARROWEST = ("i8", "f16", "f32")
_PASSING = frozenset(
    "Cast Constant QuantizeLinear DequantizeLinear Reshape Transpose Split Concat Slice Unsqueeze Squeeze".split()
)


def by_group(path: Path) -> dict[str, str]:
    """Group -> ``i8``, ``f16`` or ``f32``, of a graph edgekit exported, in the network's order."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: _SHORT.get(value.type.tensor_type.elem_type) for value in values}
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    head = layers.head_of(node.name for node in model.graph.node)
    found: dict[str, set[str]] = {}
    for node in model.graph.node:
        layer = layers.parse(node.name, head)
        if node.op_type in _PASSING or layer is None:
            continue
        kind = "i8" if node.op_type == "Conv" and dequantized.issuperset(node.input[:2]) else types.get(node.output[0])
        if kind:
            group = groups.of(node.name, head) or (ATTENTION if layer.attention else TAIL)
            found.setdefault(group, set()).add(kind)
    return {group: min(kinds, key=_NARROWEST.index) for group, kinds in found.items()}
