"""FP16 in the graph itself, for runtimes whose networks are strongly typed.

    kept = to_fp16(Path("model.onnx"), Path("half.onnx"), limits)      # what would overflow or vanish stays float32

Inputs and outputs stay what they were. The decode tail stays float32: beyond 512 pixels a box needs more than the
eleven bits of half precision. ``graph/narrow.py`` has what a GPU would compute of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter
from onnxscript import ir

from edgekit.errors import InputError
from edgekit.graph.files import load
from edgekit.graph.narrow import cast, kinds_of
from edgekit.graph.opset import OLDEST, raise_opset
from edgekit.nn import layers
from edgekit.quantize import groups
from edgekit.runtime.atomic import replacing

LARGEST = 65504.0  # of FP16 (IEEE 754, binary16)
SMALLEST = 2.0**-14  # the smallest with all eleven bits
MARGIN = 2.0  # images not seen in calibration may reach further
QDQ_OPSET = 19  # the first whose Q/DQ takes FP16
_STAYS = {"Resize": (1, 2)}  # inputs that are float32 whatever the operator computes in

Node = onnx.NodeProto


@dataclass(frozen=True)
class Finding:
    """A value kept in float32: its name, its node, ``overflow`` or ``vanish``, and its calibrated range."""

    value: str
    node: str
    kind: str
    low: float
    high: float


def to_fp16(
    graph: Path, out: Path, limits: Mapping[str, tuple[float, float]] | None = None, keep: Collection[str] = ()
) -> list[Finding]:
    """Write ``graph`` with FP16 values to ``out``; Q/DQ pairs become those of FP16.

    Args:
        graph: an ONNX file edgekit exported, float32; explicit Q/DQ allowed.
        limits: value → range seen in calibration, ``ranges.limits(statistics, "minmax")``.
        keep: groups and nodes that stay float32 besides the decode tail.

    Returns:
        What was kept in float32 because its values would overflow or vanish.

    Raises:
        InputError: the graph is FP16 already.
        UsageError: ``keep`` names neither a group nor a node.
    """
    model = _ready(load(graph))
    if any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer):
        raise InputError(f"{graph}: in FP16 already; give the float32 model")
    kinds = kinds_of(model)
    left = _left(model, keep)
    findings = _findings(model, limits or {}, left)
    left |= {finding.node for finding in findings}
    _Writer(model, kinds, left).convert()
    onnx.checker.check_model(model, full_check=True)
    with replacing(out) as partial:
        onnx.save(model, partial)
    return findings


def _ready(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset whose Q/DQ knows FP16, if it has any."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset >= QDQ_OPSET or not any(n.op_type == "DequantizeLinear" for n in model.graph.node):
        return model
    if opset < OLDEST:
        return version_converter.convert_version(model, QDQ_OPSET)
    raised = ir.from_proto(model)
    raise_opset(raised, QDQ_OPSET)
    return ir.to_proto(raised)


def _left(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """Nodes that stay float32: the decode tail and what is asked for."""
    names = [node.name for node in model.graph.node]
    return layers.tail(names) | groups.chosen(keep, names)


def _findings(model: onnx.ModelProto, limits: Mapping[str, tuple[float, float]], left: set[str]) -> list[Finding]:
    found = []
    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    for node in model.graph.node:
        if node.name in left or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        values = [(name, *limits[name]) for name in node.output if name in limits]
        for name in node.input:
            array = numpy_helper.to_array(weights[name]) if name in weights else np.zeros(0)
            if array.size and np.any(array):
                values.append((name, float(array.min()), float(array.max())))
        for name, low, high in values:
            largest = max(abs(low), abs(high))
            limit = LARGEST / (1 if name in weights else MARGIN)
            if largest > limit or 0 < largest < SMALLEST:
                found.append(Finding(name, node.name, "overflow" if largest > limit else "vanish", low, high))
    return found


class _Writer:
    """Rewrites the node list once, in order, with casts where a value's type is not the one a node works in."""

    def __init__(self, model: onnx.ModelProto, kinds: dict[str, int], left: set[str]) -> None:
        self.model, self.left = model, left
        self.floats = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
        self.weights = {t.name: t for t in model.graph.initializer}
        self.half: set[str] = set()  # values that are FP16 by now
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[Node] = []

    def convert(self) -> None:
        graph = self.model.graph
        ends = {o.name for o in graph.output}
        for node in graph.node:
            works_in = TensorProto.FLOAT if node.name in self.left else TensorProto.FLOAT16
            for place, name in enumerate(node.input):
                if name in self.floats and place not in _STAYS.get(node.op_type, ()):
                    node.input[place] = self._as(name, works_in)
            self.nodes.append(node)
            if works_in == TensorProto.FLOAT:
                continue
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
            for place, name in enumerate(node.output):
                if name in self.floats and name in ends:
                    node.output[place] = f"{name}/half"
                    self.nodes.append(cast(f"{name}/half", name, TensorProto.FLOAT))
                elif name in self.floats:
                    self.half.add(name)
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        _drop_unused(self.model)

    def _as(self, name: str, kind: int) -> str:
        """The value, or weights, in the type ``kind``."""
        if (kind == TensorProto.FLOAT16) == (name in self.half):
            return name
        known = self.casts.get((name, kind))
        if known is None:
            known = self.casts[name, kind] = f"{name}/{'half' if kind == TensorProto.FLOAT16 else 'single'}"
            if name in self.weights:
                array = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.model.graph.initializer.append(numpy_helper.from_array(array, known))
            else:
                self.nodes.append(cast(name, known, kind))
        return known


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
