"""Which spellings of attention a graph holds, by looking at it only.

    attention_forms(Path("model.onnx"))      # {'scale first, one Softmax': 8}

| form | looks like |
|---|---|
| operator | ``Attention`` (opset 23) |
| area operator | ``edgekit::AreaAttention``, not lowered yet |
| scale first, one Softmax | ``MatMul(Softmax(MatMul(q · s, k)), v)`` |
| scale after, one Softmax | ``MatMul(Softmax(MatMul(q, k) · s), v)`` |
| no scale, one Softmax | the scale is in the weights, or missing |
| Softmax spelled out | ``Exp``, ``ReduceSum`` and ``Div`` where the Softmax would be |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

_LAYOUT = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Cast")
_SCALING = ("Mul", "Div")


def attention_forms(path: Path) -> dict[str, int]:
    """Form -> how often, most frequent first. The file's large tensors are not read."""
    graph = onnx.load(path, load_external_data=False).graph
    producers = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    forms: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type == "Attention":
            forms["operator"] += 1
        elif node.op_type == "AreaAttention":
            forms["area operator"] += 1
        elif node.op_type == "Softmax":
            form = _form(node, producers, consumers)
            forms.update([form] if form else [])
        elif node.op_type == "Exp" and _spelled_out(node, producers, consumers):
            forms["Softmax spelled out"] += 1
    return dict(forms.most_common())


def _form(
    softmax: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], consumers: Mapping[str, list[onnx.NodeProto]]
) -> str | None:
    """The form of the attention around a Softmax; None where there is no product on both sides."""
    if not _reaches_product(softmax.output[0], consumers):
        return None
    before = _behind(softmax.input[0], producers, _LAYOUT)
    scaled_after = before is not None and before.op_type in _SCALING
    if scaled_after and before is not None:
        before = _first(before, producers, (*_LAYOUT, *_SCALING))
    if before is None or before.op_type != "MatMul":
        return None
    if scaled_after:
        return "scale after, one Softmax"
    operands = [_behind(name, producers, _LAYOUT) for name in before.input]
    if any(o is not None and o.op_type in _SCALING for o in operands):
        return "scale first, one Softmax"
    return "no scale, one Softmax"


def _spelled_out(
    exp: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], consumers: Mapping[str, list[onnx.NodeProto]]
) -> bool:
    """Whether an Exp is summed and divided by its sum, with products before and after."""
    after = consumers.get(exp.output[0], [])
    divided = [n for n in after if n.op_type == "Div"]
    if not divided or not any(n.op_type == "ReduceSum" for n in after):
        return False
    before = _behind(exp.input[0], producers, (*_LAYOUT, *_SCALING, "Sub"))
    return before is not None and before.op_type == "MatMul" and _reaches_product(divided[0].output[0], consumers)


def _behind(name: str, producers: Mapping[str, onnx.NodeProto], through: tuple[str, ...]) -> onnx.NodeProto | None:
    """The node that made a value, seen through operators that only pass its first input on."""
    node = producers.get(name)
    while node is not None and node.op_type in through:
        node = producers.get(node.input[0])
    return node


def _first(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], through: tuple[str, ...]
) -> onnx.NodeProto | None:
    found = (_behind(name, producers, through) for name in node.input)
    return next((n for n in found if n is not None), None)


def _reaches_product(name: str, consumers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    pending = list(consumers.get(name, []))
    while pending:
        node = pending.pop()
        if node.op_type == "MatMul":
            return True
        if node.op_type in _LAYOUT:
            pending += consumers.get(node.output[0], [])
    return False
