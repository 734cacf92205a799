"""A float32 graph that computes what a narrower one would: every operator's output, or the weights alone, rounded.

    rounded(Path("half.onnx"), Path("judge.onnx"))              # what a GPU computes of an FP16 graph, for a CPU
    rounded(Path("model.onnx"), Path("bf16.onnx"), "bfloat16")  # what a CPU with AMX would make of a float32 one

Runtimes for CPUs compute FP16 graphs in float32 between casts, so that running one there proves little.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.files import load
from edgekit.runtime.atomic import replacing

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# Operators that move values and compute none.
MOVES = frozenset(
    "Reshape Transpose Concat Split Unsqueeze Squeeze Expand Slice Gather GatherElements Identity Flatten".split(" ")
)

Node = onnx.NodeProto


def kinds_of(model: onnx.ModelProto) -> dict[str, int]:
    """Value → element type."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.input, *inferred.output]}
    return kinds | {t.name: t.data_type for t in model.graph.initializer}


def cast(source: str, result: str, kind: int) -> Node:
    return helper.make_node("Cast", [source], [result], name=f"{result}/cast from {source}", to=kind)


def rounded(graph: Path, out: Path, to: str = "float16", values: bool = True, first: float = 1.0) -> int:
    """Write a float32 graph to ``out`` that computes what ``graph`` would if every operator's output were rounded.

    Args:
        graph: with FP16 values, where those are rounded; or all float32, where everything is.
        to: ``float16``, or ``bfloat16`` for what CPUs with AMX execute.
        values: False where only the weights are narrow.
        first: the weights of convolutions that read the input are stored times this.

    Returns:
        How many outputs are rounded.
    """
    kind = KINDS[to]
    model = load(graph)
    kinds = kinds_of(model)
    narrow = TensorProto.FLOAT16 if TensorProto.FLOAT16 in kinds.values() else TensorProto.FLOAT
    if narrow == TensorProto.FLOAT:
        _round_weights(model, kind, first)
    ends = {o.name for o in model.graph.output}
    nodes: list[Node] = []
    count = 0
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Cast":
            _float_instead(node)
        if node.op_type in MOVES or not values:
            continue
        for place, name in enumerate(node.output):
            if kinds.get(name) == narrow and not (narrow == TensorProto.FLOAT and name in ends):
                node.output[place] = f"{name}/exact"
                nodes += _rounding(f"{name}/exact", name, kind)
                count += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            model.graph.initializer[place].CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.checker.check_model(model, full_check=True)
    with replacing(out) as partial:
        onnx.save(model, partial)
    return count


def _float_instead(node: Node) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT


def _rounding(source: str, result: str, kind: int) -> Iterator[Node]:
    yield cast(source, f"{result}/narrow", kind)
    yield cast(f"{result}/narrow", result, TensorProto.FLOAT)


def _round_weights(model: onnx.ModelProto, kind: int, first: float) -> None:
    """Weights rounded in place; those of indices and shapes are no floats and stay."""
    narrow = helper.tensor_dtype_to_np_dtype(kind)
    images = {value.name for value in model.graph.input}
    entries = {n.input[1] for n in model.graph.node if n.op_type == "Conv" and n.input[0] in images}
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            stored = np.float32(first if tensor.name in entries else 1.0)
            array = (numpy_helper.to_array(tensor) * stored).astype(narrow).astype(np.float32) / stored
            model.graph.initializer[place].CopyFrom(numpy_helper.from_array(array, tensor.name))
