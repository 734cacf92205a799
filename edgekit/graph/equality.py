"""Are two ONNX graphs the same function? Both run in ONNX Runtime on the same random input, output by output.

    for row in differences(before, after):
        row.output, row.largest, row.allowed       # 'output0', 2.1e-04, 6.4e-02

Float rounding is allowed for, nothing else. A graph that sorts or suppresses its candidates would turn rounding into
exchanged rows, so it is compared in two parts: the values that enter the first such operator, within rounding; and
what is made of them, on the same values for both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgekit.errors import InputError, optional

# Largest difference allowed, as a fraction of the largest value in the same row, by the narrower type of the graph.
ROUNDING = {"float32": 1e-4, "float16": 2e-2}
FLOOR = 2e-6  # and where whole rows are next to zero
SIDE = 64  # stands for an unknown height or width
# Operators whose output jumps when their input changes a little.
JUMPS = frozenset(
    "TopK NonMaxSuppression ArgMax ArgMin NonZero Unique Greater GreaterOrEqual Less LessOrEqual Equal".split()
)


@dataclass(frozen=True)
class Difference:
    """How far two graphs are apart at one value, where that comes closest to (or goes beyond) what is allowed."""

    output: str
    largest: float
    allowed: float

    @property
    def equal(self) -> bool:
        return self.largest <= self.allowed


def differences(before: onnx.ModelProto, after: onnx.ModelProto, seed: int = 0) -> list[Difference]:
    """Compare two graphs with the same inputs and outputs.

    Raises:
        InputError: ONNX Runtime cannot run one of them.
        MissingPackageError: onnxruntime is not installed.
    """
    outputs = [value.name for value in before.graph.output]
    feeds = _random_inputs(before, seed)
    behind = _behind(before, JUMPS)
    entering = sorted(_entering(before, behind, feeds))
    if not set(entering) <= {name for node in after.graph.node for name in node.output}:
        behind, entering = set(), []  # their values cannot be told apart there: compare the ends alone
    watched = [name for name in outputs if name not in behind] + [n for n in entering if n not in outputs]
    had, have = (_run(model, feeds, watched) for model in (before, after))
    rounding = ROUNDING["float16" if _half(before) else "float32"]
    found = [_difference(name, had[name], have[name], rounding) for name in watched]
    rest = [name for name in outputs if name in behind]
    if rest:
        values = {**feeds, **{name: had[name] for name in entering}}
        parts = [_only(model, values, rest) for model in (before, after)]
        had, have = (_run(part, values, rest) for part in parts)
        found += [_difference(name, had[name], have[name], rounding) for name in rest]
    return found


def _difference(name: str, had: np.ndarray, have: np.ndarray, rounding: float) -> Difference:
    if had.shape != have.shape or had.dtype != have.dtype:
        return Difference(name, np.inf, 0.0)
    if had.size == 0:
        return Difference(name, 0.0, 0.0)
    if not np.issubdtype(had.dtype, np.floating):
        return Difference(name, float(np.any(had != have)), 0.0)
    a, b = np.atleast_1d(had.astype(np.float64)), np.atleast_1d(have.astype(np.float64))
    gap = np.where(np.isnan(a) & np.isnan(b) | (a == b), 0.0, np.abs(a - b))
    gap[np.isnan(gap)] = np.inf
    finite = np.where(np.isfinite(a), np.abs(a), 0.0)
    allowed = np.broadcast_to(FLOOR + rounding * finite.max(-1, keepdims=True), a.shape)
    worst = int(np.argmax(gap / allowed))
    return Difference(name, float(gap.flat[worst]), float(allowed.flat[worst]))


def _random_inputs(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Values in 0..1, as images have them; an unknown batch is 1, an unknown side 64."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shape = [d.dim_value or (SIDE if place else 1) for place, d in enumerate(tensor.shape.dim)]
            kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            feeds[value.name] = rng.random(shape).astype(kind)
    return feeds


def _behind(model: onnx.ModelProto, kinds: Collection[str], values: Collection[str] = ()) -> set[str]:
    """Names of the values that depend on an operator of these kinds or on one of these values."""
    behind = set(values)
    known = -1
    while known < len(behind):  # once, were the nodes of every file in order
        known = len(behind)
        for node in model.graph.node:
            if node.op_type in kinds or behind & {*node.input}:
                behind.update(node.output)
    return behind - set(values)


def _entering(model: onnx.ModelProto, behind: set[str], inputs: Collection[str]) -> set[str]:
    """Values computed from the inputs that are used behind the jumps without being behind them."""
    computed = _behind(model, (), inputs) - behind
    return {name for node in model.graph.node if behind & {*node.output} for name in node.input if name in computed}


def _only(model: onnx.ModelProto, values: Mapping[str, np.ndarray], outputs: Iterable[str]) -> onnx.ModelProto:
    """The part of ``model`` that makes ``outputs`` from ``values``."""
    makers = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    open_names = list(outputs)
    while open_names:
        name = open_names.pop()
        if name not in needed and name not in values and name in makers:
            needed.update(makers[name].output)
            open_names += makers[name].input
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(node for node in model.graph.node if needed & {*node.output})
    for name, array in values.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        part.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    part.graph.output.extend(value for value in model.graph.output if value.name in set(outputs))
    return part


def _half(model: onnx.ModelProto) -> bool:
    half = onnx.TensorProto.FLOAT16
    return any(tensor.data_type == half for tensor in model.graph.initializer)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """The values called ``names``, outputs or not."""
    with optional("comparing graphs", "onnx"):
        import onnxruntime
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: list[Any] = session.run(names, {k: v for k, v in feeds.items() if k in _input_names(session)})
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run the graph ({str(error).splitlines()[0]})") from error
    return dict(zip(names, found, strict=True))


def _input_names(session: Any) -> set[str]:
    return {value.name for value in session.get_inputs()}
