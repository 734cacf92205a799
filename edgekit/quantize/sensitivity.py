"""Which named groups a model can least afford in eight bits, by what each alone does to the head's values.

    rows = rank(graph, limits, batches, scratch)
    rows[0]["group"], rows[0]["error"], rows[0]["cost"]       # 'stage 8 proj', 0.041, 0.003

Every group is quantized alone, in the explicit form (``qdq``), and run in ONNX Runtime on calibration images: a proxy
for whatever the target does, at a second a group. ``error`` is the root mean square of the change in the values that
enter the decode tail, over their own, summed over them; ``cost`` the group's share of the network's multiply-adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit.nn import layers
from edgekit.quantize import groups, qdq

IMAGES = 16


def rank(
    graph: Path,
    limits: Mapping[str, tuple[float, float]],
    batches: Sequence[np.ndarray],
    scratch: Path,
    means: Mapping[str, np.ndarray] | None = None,
    weight_bits: int = 7,
) -> list[dict[str, Any]]:
    """Groups with ``error`` and ``cost``, worst error first.

    Args:
        graph: the float32 ONNX graph.
        limits, means, weight_bits: see ``qdq.quantize``.
        batches: float32 ``[B, 3, H, W]``; the first few are used.
        scratch: folder for graphs that are thrown away.
    """
    batches = batches[:IMAGES]
    model = onnx.load(graph)
    members = groups.collect(node.name for node in model.graph.node)
    ends = _ends(model)
    expected = _run(graph, ends, batches)
    costs = _costs(model, members)
    rows = []
    for group in members:
        if not costs[group]:
            continue
        alone = scratch / "alone.onnx"
        others = [g for g in members if g != group]
        qdq.quantize(graph, alone, limits, others, means=means, weight_bits=weight_bits)
        rows.append({"group": group, "error": _error(expected, _run(alone, ends, batches)), "cost": costs[group]})
    return sorted(rows, key=lambda row: -row["error"])


def _ends(model: onnx.ModelProto) -> list[str]:
    """The values that leave the groups for the decode tail."""
    names = [node.name for node in model.graph.node]
    tail, grouped = layers.tail(names), {name for members in groups.collect(names).values() for name in members}
    inside = {value for node in model.graph.node if node.name in grouped for value in node.output}
    found = [name for node in model.graph.node if node.name in tail for name in node.input if name in inside]
    outputs = [o.name for o in model.graph.output if o.name in inside]
    return list(dict.fromkeys([*found, *outputs]))


def _costs(model: onnx.ModelProto, members: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Share of the convolutions' multiply-adds."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*inferred.value_info, *inferred.output]
    }
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    work = {
        node.name: float(np.prod(weights[node.input[1]][1:]) * np.prod(shapes[node.output[0]]))
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in weights and node.output[0] in shapes
    }
    total = sum(work.values()) or 1.0
    return {group: sum(work.get(node, 0.0) for node in nodes) / total for group, nodes in members.items()}


def _run(graph: Path, names: Sequence[str], batches: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    import onnxruntime

    model = onnx.load(graph)
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    return [session.run(list(names), {source: batch}) for batch in batches]


def _error(expected: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]) -> float:
    total = 0.0
    for place in range(len(expected[0])):
        change = sum(float(((f[place] - e[place]) ** 2).sum()) for e, f in zip(expected, found, strict=True))
        size = sum(float((e[place] ** 2).sum()) for e in expected)
        total += float(np.sqrt(change / max(size, 1e-12)))
    return total
