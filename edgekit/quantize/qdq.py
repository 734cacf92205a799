"""Explicit INT8: a float32 ONNX graph with QuantizeLinear and DequantizeLinear where its values become eight bits.

    placed = quantize(Path("model.onnx"), Path("int8.onnx"), limits, skip=["head box stride 8"])
    placed.convolutions, placed.skipped

Weights have a scale per output channel and seven bits or eight (``processor.py`` says why), biases stay float.
Attention and the decode tail stay in floating point whatever is asked. Pairs are placed as the backend fuses:

- ``tensorrt``: the input of every convolution, symmetric int8 (zero point 0); a sum that takes the same value takes the
  quantized one too, so that it exists once. Nothing stands between a convolution and its activation: one kernel. Other
  tools, told to leave the same alone, need 1.4 to 3.3 times as many pairs and lose no less beyond the noise
  (``benchmarks/results/int8-placements.json``).
- ``onnxruntime``: besides, what convolutions, activations, sums and concatenations give, since its kernels are for
  operators whose inputs and outputs are all quantized; uint8 with a zero point, since on x86 those kernels exist for no
  other type: with VNNI symmetric int8 took 1.5 times float32's CPU time, uint8 0.6 to 0.9 of it
  (``benchmarks/results/int8-methods.json``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import InputError, UsageError
from edgekit.graph.files import load
from edgekit.nn import layers
from edgekit.quantize import groups
from edgekit.runtime.atomic import replacing

TOP = 127
WEIGHT_TOP = {7: 63, 8: 127}  # bits → largest weight
FUSE = ("tensorrt", "onnxruntime")
_TAKERS = {"tensorrt": ("Conv", "Add"), "onnxruntime": ("Conv", "Add", "Concat", "Sigmoid", "Mul", "Resize", "Split")}
_MAKERS = ("Conv", "Add", "Concat", "Sigmoid", "Mul", "Resize", "Split")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "QLinearConv", "ConvInteger", "MatMulInteger")
_ATTENTION = ("Attention", "Softmax")

Node = onnx.NodeProto
Scale = tuple[np.ndarray, np.ndarray]  # scale (float32) and zero point (int8 or uint8), both scalars


@dataclass(frozen=True)
class Placement:
    """What became eight bits: how many convolutions, which values; and the convolutions left alone by request."""

    convolutions: int
    values: tuple[str, ...]
    skipped: tuple[str, ...]


def quantize(
    graph: Path,
    out: Path,
    limits: Mapping[str, tuple[float, float]],
    skip: Collection[str] = (),
    fuse: str = "tensorrt",
    means: Mapping[str, np.ndarray] | None = None,
    weight_bits: int = 7,
) -> Placement:
    """Write ``graph`` with Q/DQ pairs to ``out``.

    Args:
        graph: an ONNX file edgekit exported, float32, static shapes.
        limits: value → range to cover, ``ranges.limits(...)``; the larger side counts.
        skip: groups (``groups.collect``) and nodes to leave in floating point.
        fuse: whose kernels the pairs are placed for.
        means: value → [C] mean of every channel (``Statistics.channel_means``); with them, biases make up for what
            rounding the weights adds to a mean output (M. Nagel et al., "Data-free quantization through weight
            equalization and bias correction", ICCV 2019, section 4.2).
        weight_bits: 7, or 8 where sums of products are exact.

    Raises:
        InputError: what ``check`` refuses, or a value without a range.
        UsageError: ``skip`` names neither a group nor a node, or ``fuse`` is unknown.
    """
    if fuse not in FUSE:
        raise UsageError(f"Q/DQ pairs are placed for {' or '.join(FUSE)}, not for {fuse!r}")
    model = load(graph)
    check(model, graph)
    convolutions, inside, left = _plan(model, skip, fuse)
    values = _values(model, convolutions, inside, fuse)
    missing = next((v for v in values if v not in limits), None)
    if missing is not None:
        raise InputError(f"{graph}: no calibrated range for {missing!r}; calibrate this very graph")
    chosen = {node.name for node in convolutions}
    _quantize_weights(model, chosen, WEIGHT_TOP[weight_bits], means or {})
    _insert_pairs(model, {v: _eight_bits(*limits[v], fuse) for v in values}, chosen, inside, fuse)
    _drop_unused(model)
    onnx.checker.check_model(model, full_check=True)
    with replacing(out) as partial:
        onnx.save(model, partial)
    skipped = tuple(n.name for n in model.graph.node if n.op_type == "Conv" and n.name in left)
    return Placement(len(convolutions), tuple(values), skipped)


def wanted(graph: Path, fuse: str = "tensorrt") -> list[str]:
    """The values ``quantize`` needs ranges of where nothing is skipped."""
    model = load(graph)
    convolutions, inside, _ = _plan(model, (), fuse)
    return _values(model, convolutions, inside, fuse)


def _plan(model: onnx.ModelProto, skip: Collection[str], fuse: str) -> tuple[list[Node], set[str], set[str]]:
    """Convolutions to quantize, names of all nodes in the groups that are, and of those in groups left alone."""
    left, inside = _split(model, skip)
    ends = last_convolutions(model)
    if fuse == "tensorrt":
        ends = {n for n in ends if keeps_float(n)}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv" and n.name in inside and n.name not in ends]
    return convolutions, inside, left


def keeps_float(last: str) -> bool:
    """Whether a branch's last convolution stays in floating point wherever that is not needed for its kernel: those of
    keypoints, angles and mask coefficients, whose errors go into the answer undamped. They cost next to nothing."""
    layer = layers.parse(last)
    return layer is not None and layer.branch == layers.TASK


def last_convolutions(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions whose values leave for the decode tail. ONNX Runtime has no integer kernel for them, as
    their outputs are not quantized: they would only lose precision."""
    users = _consumers(model)
    tail = layers.tail(node.name for node in model.graph.node)
    outputs = {o.name for o in model.graph.output}
    return {
        n.name
        for n in model.graph.node
        if n.op_type == "Conv"
        and n.name not in tail
        and (n.output[0] in outputs or any(u.name in tail for u in users.get(n.output[0], [])))
    }


def check(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what cannot be quantized.

    Raises:
        InputError: quantized already, weights that are not finite, a dynamic shape, none of YOLO12's attention.
    """
    kinds = {node.op_type: node.name for node in model.graph.node}
    already = next((kind for kind in _QUANTIZED if kind in kinds), None)
    if already:
        raise InputError(f"{path}: already quantized ({already} at {kinds[already]!r}); give the floating-point model")
    for value in model.graph.input:
        if not all(d.dim_value for d in value.type.tensor_type.shape.dim):
            raise InputError(f"{path}: its input {value.name!r} has a dynamic shape; INT8 needs a fixed batch and size")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise InputError(f"{path}: the weights {tensor.name!r} hold NaN or infinity; train or export it again")
    places = [layers.parse(node.name) for node in model.graph.node]
    if not any(kind in kinds for kind in _ATTENTION) or not any(place and place.attention for place in places):
        raise InputError(f"{path}: none of YOLO12's attention in it, so edgekit does not know what to leave alone")


def _split(model: onnx.ModelProto, skip: Collection[str]) -> tuple[set[str], set[str]]:
    """Names of grouped nodes: those to leave alone, and the others."""
    names = [node.name for node in model.graph.node]
    left = groups.chosen(skip, names)
    return left, {node for members in groups.collect(names).values() for node in members} - left


def _consumers(model: onnx.ModelProto) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _values(model: onnx.ModelProto, convolutions: list[Node], inside: set[str], fuse: str) -> list[str]:
    """The values to quantize, in the graph's order."""
    wanted = {node.input[0] for node in convolutions}
    if fuse == "onnxruntime":
        chosen = {node.name for node in convolutions}
        users = _consumers(model)
        for node in model.graph.node:
            if node.op_type in _MAKERS and node.name in inside and (node.op_type != "Conv" or node.name in chosen):
                wanted.update(name for name in node.output if users.get(name))
    ordered = [i.name for i in model.graph.input] + [name for node in model.graph.node for name in node.output]
    ends = {o.name for o in model.graph.output}
    return [name for name in ordered if name in wanted and name not in ends]


def _insert_pairs(
    model: onnx.ModelProto, scales: Mapping[str, Scale], chosen: set[str], inside: set[str], fuse: str
) -> None:
    """A Q/DQ pair behind each value, taken by the operators that compute in eight bits."""
    for node in model.graph.node:
        takes = node.name in chosen if node.op_type == "Conv" else node.op_type in _TAKERS[fuse] and node.name in inside
        if takes:
            for place, name in enumerate(node.input):
                if name in scales:
                    node.input[place] = f"{name}/dequantized"
    nodes: list[Node] = []
    for name in [i.name for i in model.graph.input]:
        nodes += _pair(model, name, scales)
    for node in model.graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += _pair(model, name, scales)
    _set_nodes(model, nodes)


def _pair(model: onnx.ModelProto, name: str, scales: Mapping[str, Scale]) -> list[Node]:
    if name not in scales:
        return []
    for array, suffix in zip(scales[name], ("scale", "zero"), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(array, f"{name}/{suffix}"))
    eight, back = f"{name}/quantized", f"{name}/dequantized"
    constants = [f"{name}/scale", f"{name}/zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *constants], [eight], name=eight),
        helper.make_node("DequantizeLinear", [eight, *constants], [back], name=back),
    ]


def _eight_bits(low: float, high: float, fuse: str) -> Scale:
    """Scale and zero point that cover a range: symmetric int8, or for ONNX Runtime's x86 kernels uint8."""
    if fuse == "tensorrt":
        return np.array(max(-low, high) / TOP, np.float32), np.zeros((), np.int8)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return np.array(scale, np.float32), np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8)


def _quantize_weights(model: onnx.ModelProto, chosen: set[str], top: int, means: Mapping[str, np.ndarray]) -> None:
    """The weights of the chosen convolutions as int8, each behind a DequantizeLinear of its own."""
    tensors = {t.name: t for t in model.graph.initializer}
    nodes: list[Node] = []
    for node in model.graph.node:
        if node.name in chosen:
            bias = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 else None
            parts = _weight_parts(numpy_helper.to_array(tensors[node.input[1]]), bias, top, means.get(node.input[0]))
            name = f"{node.name}/weight"
            for suffix, array in parts.items():
                model.graph.initializer.append(numpy_helper.from_array(array, f"{name}/{suffix}"))
            inputs = [f"{name}/{suffix}" for suffix in ("int8", "scale", "zero")]
            back = f"{name}/dequantized"
            nodes.append(helper.make_node("DequantizeLinear", inputs, [back], name=back, axis=0))
            node.input[1] = back
            if "bias" in parts:
                node.input[2] = f"{name}/bias"
        nodes.append(node)
    _set_nodes(model, nodes)


def _weight_parts(
    weights: np.ndarray, bias: np.ndarray | None, top: int, means: np.ndarray | None
) -> dict[str, np.ndarray]:
    """``int8``, ``scale`` and ``zero``, and where the input's means are known a ``bias`` that makes up for rounding."""
    eight, scales = int8_weights(weights, top)
    parts = {"int8": eight, "scale": scales, "zero": np.zeros(len(scales), np.int8)}
    if means is not None and bias is not None:
        error = weights - eight * scales.reshape(-1, *[1] * (weights.ndim - 1))
        parts["bias"] = bias + _mean_output(error, means)
    return parts


def _set_nodes(model: onnx.ModelProto, nodes: list[Node]) -> None:
    copies = [Node.FromString(node.SerializeToString()) for node in nodes]  # the originals go with the list
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _mean_output(weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """[O] what a convolution of ``weights`` [O, C / groups, kh, kw] gives on maps that are ``means`` [C] everywhere."""
    summed = weights.sum((2, 3), dtype=np.float64)
    blocks = means.reshape(-1, summed.shape[1])  # [groups, C / groups]
    per_group = np.repeat(blocks, len(summed) // len(blocks), axis=0)
    means_O: np.ndarray = (summed * per_group).sum(1).astype(np.float32)
    return means_O


def int8_weights(weights: np.ndarray, top: int = WEIGHT_TOP[7]) -> tuple[np.ndarray, np.ndarray]:
    """``[O, ...]`` float32 as (int8 of the same shape, ``[O]`` scales): symmetric, a scale per output channel."""
    largest = np.abs(weights.reshape(len(weights), -1)).max(1)
    scales = (np.maximum(largest, 1e-12) / top).astype(np.float32)
    spread = scales.reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.rint(weights / spread), -top, top).astype(np.int8), scales


def _drop_unused(model: onnx.ModelProto) -> None:
    """Drop constants nobody takes; an output may be one (the labels of a model of one class)."""
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
