"""Finished detections inside the graph: duplicates suppressed by the runtime's own NonMaxSuppression.

Before: candidates, best first: ``boxes [1, K, 4]``, ``scores [1, K]``, ``labels [1, K]``, other rows of candidates.
After: the same rows of those that no better box of their class overlaps by more than 0.7, best first: ``[1, M, …]``,
M dynamic.

Every class is suppressed for itself: a candidate's score stands in its class's row of a ``[1, C, K]`` matrix and zero
elsewhere, which NonMaxSuppression never selects.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.spec import NMS_IOU, ModelInfo

_WHOLE_IMAGE = ("mask_prototypes",)


def append_nms(model: ir.Model, info: ModelInfo) -> None:
    """Suppress duplicates among the candidates that ``model`` puts out, in place; output names stay."""
    graph = model.graph
    outputs = {value.name: value for value in graph.outputs}
    tape = ir.tape.Tape(graph)

    def constant(name: str, value: np.ndarray) -> ir.Value:
        return tape.initializer(ir.tensor(value, name=f"nms_{name}"))

    boxes, scores, labels = (outputs[role] for role in ("boxes", "scores", "labels"))
    assert boxes.shape is not None
    classes = constant("classes", np.arange(len(info.names), dtype=np.int64).reshape(1, -1, 1))
    one = constant("axis", np.array([1], np.int64))
    mine = tape.op("Equal", [tape.op("Unsqueeze", [labels, one]), classes])
    by_class = tape.op("Where", [mine, tape.op("Unsqueeze", [scores, one]), constant("zero", np.float32(0))])
    most = constant("most", np.array([boxes.shape[1]], np.int64))
    limits = [constant("iou", np.array([NMS_IOU], np.float32)), constant("floor", np.array([0], np.float32))]
    chosen = tape.op("NonMaxSuppression", [boxes, by_class, most, *limits])
    rows = tape.op("Gather", [chosen, constant("row", np.int64(2))], {"axis": 1})
    found = tape.op("Gather", [tape.op("Squeeze", [scores, constant("batch", np.array([0], np.int64))]), rows])
    _, order = tape.op_multi_out("TopK", [found, tape.op("Shape", [rows])], num_outputs=2)
    best = tape.op("Gather", [rows, order])
    for index, value in enumerate(list(graph.outputs)):
        name = value.name
        if name in _WHOLE_IMAGE:
            continue
        value.name = f"{name}_candidates"
        kept = tape.op("Gather", [value, best], {"axis": 1})
        assert value.shape is not None and value.dtype is not None
        kept.name, kept.dtype = name, value.dtype
        kept.shape = ir.Shape([1, "detections", *value.shape[2:]])
        graph.outputs[index] = kept
