"""How far a bundle's network is from what this CPU could do: the floor of operations and the floor of bytes.

    python benchmarks/roofline.py BUNDLE... --image street.jpg --out benchmarks/results/roofline.json

The ceilings are measured, with OpenVINO's own kernels (oneDNN) and all cores: convolutions large enough to hide
everything else (3x3 and 1x1, 128 to 512 channels, 40 to 80 cells a side; the best counts) in float32, bf16 and INT8,
and the bytes a second of reading one array and writing another, 256 MB each, far beyond any cache.

The floors of a bundle:

- operations: multiply-adds of every convolution and product of matrices, from the shapes in its IR, times two, over the
  ceiling of the precision each runs in (INT8 where its input is quantized, else what the compiled model executes);
- SiLU: its values over the values a second that it costs where a convolution applies it to what it just computed (two
  chains of four convolutions, one with SiLU and one with ReLU, in turns: the difference). It keeps the units busy that
  the operations need, so both are added. Other activations count as nothing.
- bytes: weights, input and outputs over the bandwidth, as if all in between stayed in the caches;
- bytes, layer by layer: what every convolution and product reads and writes, as if nothing stayed there.

No network reaches them: depthwise convolutions, three input channels and 32-wide attention heads cannot use the units
that the ceiling was measured with, and softmax and concatenations count as nothing. `times_the_floor` is the network's
fastest and median time over the larger of operations with SiLU and bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops

from benchmarks._what_if import quantize, silu_input
from edgekit.bench import machine
from edgekit.bench.clock import WHOLE, ClockOptions, measure
from edgekit.bench.run import REST_S
from edgekit.bundle import loading
from edgekit.runtime.image import read_image
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Session

# channels, cells a side, kernel
LAYERS = ((256, 80, 3), (256, 40, 3), (128, 80, 3), (512, 40, 3), (512, 40, 1), (256, 80, 1))
SILU_LAYER = (128, 80, 1)
STREAM_MB = 256
CHAIN = 4  # convolutions in a row
WIDTH = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
Rows = dict[str, float]


def main() -> None:
    options = _options()
    image = read_image(options.image)
    ceilings = {kind: operations(kind, options.budget) for kind in ("f32", "bf16", "int8")}
    silu = {kind: silu_values(kind, options.budget) for kind in ("f32", "bf16", "int8")}
    bandwidth = bytes_a_second(options.budget)
    predictors = {path.name: Predictor(loading.open_session(path)) for path in options.bundles}
    batches = {name: predictor.preprocess([image])[0] for name, predictor in predictors.items()}
    calls = {name: partial(_run, predictor.session, batches[name]) for name, predictor in predictors.items()}
    clock = ClockOptions(budget_s=options.budget * len(calls), rest_s=REST_S, lead_in=1)
    race = measure(calls, [image], clock)
    rows = []
    for path in options.bundles:
        work = count(path, predictors[path.name].session.precision_by_type())
        floor_ops = sum(1e3 * flops / ceilings[kind]["per_s"] for kind, flops in work["flops"].items())
        floor_silu = sum(1e3 * values / silu[kind]["per_s"] for kind, values in work["silu"].items())
        floor_bytes = 1e3 * work["bytes_once"] / bandwidth["per_s"]
        times = race.stages[path.name][WHOLE]
        floor = max(floor_ops + floor_silu, floor_bytes)
        rows.append({
            "bundle": path.name,
            "target": predictors[path.name].session.target,
            **work,
            "floor_operations_ms": floor_ops,
            "floor_silu_ms": floor_silu,
            "floor_bytes_ms": floor_bytes,
            "bytes_layer_by_layer_ms": 1e3 * work["bytes_by_layer"] / bandwidth["per_s"],
            "network_ms": {key: times[key] for key in ("min", "p50", "n")},
            "times_the_floor": {"min": times["min"] / floor, "p50": times["p50"] / floor},
        })  # fmt: skip
    document = {
        "schema": 1,
        "kind": "roofline",
        "ceilings": ceilings,
        "silu": silu,
        "bandwidth": bandwidth,
        "rows": rows,
        "reliable": race.reliable,
        "disturbances": race.disturbances,
        "machine": machine.describe(),
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: document[k] for k in ("ceilings", "silu", "bandwidth", "rows", "reliable")}, indent=1))


def operations(kind: str, budget: float) -> dict[str, Any]:
    """Most operations a second (two a multiply-add) that a large convolution reaches in a precision."""
    best: dict[str, Any] = {"per_s": 0.0}
    for channels, cells, kernel in LAYERS:
        run, executed = _layer(kind, channels, cells, kernel)
        batch = np.random.default_rng(0).random((1, channels, cells, cells), dtype=np.float32)
        times = measure({"layer": run}, [batch], ClockOptions(budget_s=budget / len(LAYERS), min_rounds=10))
        flops = 2 * channels * channels * kernel * kernel * cells * cells
        rate = 1e3 * flops / times.stages["layer"][WHOLE]["min"]
        if rate > best["per_s"]:
            best = {"per_s": rate, "channels": channels, "cells": cells, "kernel": kernel, "kernels": executed}
    return best


def silu_values(kind: str, budget: float) -> dict[str, Any]:
    """Values a second of SiLU behind a convolution in a precision: what it adds to the time of ReLU."""
    channels, cells, kernel = SILU_LAYER
    runs = {name: _layer(kind, channels, cells, kernel, name)[0] for name in ("relu", "swish")}
    batch = np.random.default_rng(0).random((1, channels, cells, cells), dtype=np.float32)
    times = measure(runs, [batch], ClockOptions(budget_s=budget, min_rounds=30)).stages
    least = {name: times[name][WHOLE]["min"] for name in runs}
    values = channels * cells * cells
    return {"per_s": 1e3 * values / (least["swish"] - least["relu"]), "ms": least}


def _run(session: Session, batch: np.ndarray, _: np.ndarray) -> None:
    session.run(batch)


def _layer(kind: str, channels: int, cells: int, kernel: int, activation: str = "relu") -> tuple[Any, list[str]]:
    """Four such convolutions in a row, so that converting the input counts little; a call of one fourth of them."""
    rng = np.random.default_rng(0)
    value = image = ops.parameter([1, channels, cells, cells], np.float32)
    for _ in range(CHAIN):
        weights = ops.constant(rng.normal(0, 0.02, (channels, channels, kernel, kernel)).astype(np.float32))
        pad = [kernel // 2] * 2
        value = getattr(ops, activation)(ops.convolution(value, weights, [1, 1], pad, pad, [1, 1]))
    model = openvino.Model([value], [image])
    if kind == "int8":
        quantize(model)
    hint = {"f32": "f32", "bf16": "bf16", "int8": "f32"}[kind]
    compiled = openvino.Core().compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    )
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kernels = {str(i["primitiveType"].value) for i in nodes if str(i["layerType"].value) == "Convolution"}
    request = compiled.create_infer_request()

    def run(batch: np.ndarray) -> dict[str, float]:
        began = time.perf_counter()
        request.infer([batch], share_inputs=True, share_outputs=True)
        return {WHOLE: 1e3 * (time.perf_counter() - began) / CHAIN}

    return run, sorted(kernels)


def bytes_a_second(budget: float) -> dict[str, Any]:
    """Bytes read and written a second by one operation on an array far larger than any cache, on all cores."""
    count = STREAM_MB * 1_000_000 // 4
    source = ops.parameter([count // 1024, 1024], np.float32)
    model = openvino.Model([ops.multiply(source, ops.constant(np.float32(1.5)))], [source])
    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", how).create_infer_request()
    array = np.ones((count // 1024, 1024), np.float32)

    def run(batch: np.ndarray) -> None:
        request.infer([batch], share_inputs=True, share_outputs=True)

    times = measure({"stream": run}, [array], ClockOptions(budget_s=budget, min_rounds=10))
    return {"per_s": 2e3 * array.nbytes / times.stages["stream"][WHOLE]["min"], "mb": STREAM_MB}


def count(path: Path, executed: dict[str, int]) -> dict[str, Any]:
    """Operations by precision, and bytes of a bundle's network, from the shapes in its IR."""
    model = openvino.Core().read_model(str(path / "model.xml"))
    floats = {kind: n for kind, n in executed.items() if kind in ("f32", "bf16", "f16")}
    plain = max(floats, key=floats.__getitem__)
    flops: Rows = {}
    silu: Rows = {}
    layered = 0.0
    for node in model.get_ordered_ops():
        source = silu_input(node)
        if source is not None:
            kind = "int8" if _from_quantized(source) else plain
            silu[kind] = silu.get(kind, 0.0) + math.prod(node.output(0).get_shape())
        work = _multiply_adds(node)
        if not work:
            continue
        kind = "int8" if _quantized(node.input_value(0)) else plain
        flops[kind] = flops.get(kind, 0.0) + 2 * work
        values = [*node.input_values(), node.output(0)]
        layered += sum(WIDTH[kind] * math.prod(value.get_shape()) for value in values)
    weights = (path / "model.bin").stat().st_size
    ports = [*model.inputs, *model.outputs]
    once = weights + sum(port.get_element_type().size * math.prod(port.get_shape()) for port in ports)
    return {"flops": flops, "silu": silu, "bytes_once": float(once), "bytes_by_layer": layered, "float_executed": plain}


def _multiply_adds(node: Any) -> float:
    kind = node.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        weights = node.input_value(1).get_shape()
        per_output = math.prod(weights[1:] if kind == "Convolution" else weights[2:])
        return float(per_output * math.prod(node.output(0).get_shape()))
    if kind == "MatMul":
        return float(node.input_value(0).get_shape()[-1] * math.prod(node.output(0).get_shape()))
    if kind == "ScaledDotProductAttention":
        tokens, width = node.input_value(1).get_shape()[-2:]
        return 2.0 * math.prod(node.input_value(0).get_shape()[:-1]) * tokens * width
    return 0.0


def _from_quantized(value: Any) -> bool:
    """Whether a value comes from a convolution that reads eight bits."""
    node = value.get_node()
    while node.get_type_name() == "Add":
        node = node.input_value(0).get_node()
    return "Convolution" in node.get_type_name() and _quantized(node.input_value(0))


def _quantized(value: Any) -> bool:
    """Whether what a layer reads was put on a grid of eight bits, be it before a change of shape."""
    node = value.get_node()
    while node.get_type_name() in ("Reshape", "Transpose", "Split", "VariadicSplit", "MaxPool", "Concat"):
        node = node.input_value(0).get_node()
    return str(node.get_type_name()) == "FakeQuantize"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundles of ov-* targets of one size")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for each ceiling and bundle")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
