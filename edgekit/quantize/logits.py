"""A detector's class scores moved by a constant: added to a class's logit, it is one more summand of a bias.

    shifted(Path("model.onnx"), Path("moved.onnx"), [0.02, 0.38, 0.85])

| before | after |
|---|---|
| last convolution of a class branch, bias ``b`` | the same, bias ``b + shift`` |

A score ``p`` becomes ``sigmoid(logit(p) + shift)``. Within a class the order stays, so its average precision does; the
graph costs what it did, and whatever runs it, servers included, gives the moved scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.errors import InputError
from edgekit.graph.files import load
from edgekit.nn import layers
from edgekit.runtime.atomic import replacing


def shifted(graph: Path, out: Path, shifts: Sequence[float]) -> None:
    """Write ``graph``, in floating point, to ``out`` with ``shifts`` [C] added to the logits of its classes.

    Raises:
        InputError: no branch of classes is recognised in it, or one of another number.
    """
    model = load(graph)
    ends = [node for node in model.graph.node if node.op_type == "Conv" and _ends_classes(node.name)]
    if not ends:
        raise InputError(f"{graph}: no convolution that gives class scores is recognised; give the checkpoint")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    fresh = {}  # a bias each: branches may share theirs
    for node in ends:
        count = tensors[node.input[1]].dims[0]
        if count != len(shifts):
            raise InputError(f"{graph}: {node.name} gives the scores of {count} classes, not of {len(shifts)}")
        bias = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 else np.zeros(count, np.float32)
        name = f"{node.name}/bias"
        fresh[name] = numpy_helper.from_array(bias + np.asarray(shifts, bias.dtype), name)
        node.input[:] = [*node.input[:2], name]
    taken = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in taken and tensor.name not in fresh]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *fresh.values()])
    with replacing(out) as partial:
        onnx.save(model, partial)


def _ends_classes(name: str) -> bool:
    layer = layers.parse(name)
    return layer is not None and layer.branch == layers.CLASS and layer.last
