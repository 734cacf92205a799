"""Bundles of networks so small that they are written out by hand: every role of a task, answers that depend on the
image, and no checkpoint, export or minutes.

    folder = tiny_bundle(tmp_path / "bundle", "pose", "ov-fp32")
    crowd = crowded_bundle(tmp_path / "crowd", "ov-fp32")         # a topk head all of whose candidates are likely
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.runtime.manifest import manifest_of, write_manifest
from edgekit.spec import Graph, ModelInfo, Port, Preprocess, sha256_file

SIZE = (64, 96)
CELL = 16
CANDIDATES = 40
NAMES = ("ant", "bee", "cat")
POINTS, PROTOTYPES = 5, 8

Array = np.ndarray


def tiny_bundle(folder: Path, task: str, target: str, seed: int = 0, pixels: bool = False) -> Path:
    """A bundle of ``detect``, ``segment``, ``pose``, ``obb`` or ``classify`` with a raw head and random weights; with
    ``pixels`` (ov-*) its input is uint8.

    The image is averaged in cells of 16 px; every output is a linear function of those means (scores: its sigmoid).
    """
    rng = np.random.default_rng(seed)
    roles = _roles(task, rng)
    ports = tuple(Port(role, role, shape) for role, (shape, _, _) in roles.items())
    preprocess = Preprocess(mode="centre_crop" if task == "classify" else "letterbox")
    info = ModelInfo(task, SIZE, "raw", NAMES, (Port("images", "images", (1, 3, *SIZE)),), ports, preprocess)
    folder.mkdir(parents=True)
    path = folder.parent / f"{folder.name}.onnx"
    onnx.save(_model(roles, rng), path)
    if target == "ov-int8":
        path = _eight_bits(path, rng)
    backend = targets.get(target)
    info = backend.info(info) if pixels else info
    backend.build(Graph(path, info, sha256_file(path)), folder)
    write_manifest(folder, manifest_of(info, target, folder))
    return folder


def crowded_bundle(folder: Path, target: str) -> Path:
    """A bundle whose topk head finds 40 objects apart from each other in any image, at scores from 0.9 down to 0.3:
    all the candidates that it keeps."""
    n = CANDIDATES
    places = np.stack(np.meshgrid(np.arange(8) * 12.0, np.arange(5) * 12.0), -1).reshape(n, 2)
    fixed = {
        "boxes": np.concatenate([places, places + 10], 1)[None].astype(np.float32),
        "scores": np.linspace(0.9, 0.3, n, dtype=np.float32)[None],
        "labels": np.arange(n, dtype=np.int64)[None] % len(NAMES),
    }
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),  # every output depends on the image, by nothing
    ]
    for role in fixed:
        kind = TensorProto.INT64 if role == "labels" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{role}.nothing"], to=kind))
        nodes.append(helper.make_node("Add", [f"{role}.fixed", f"{role}.nothing"], [role]))
    constants = [zero, *(numpy_helper.from_array(value, f"{role}.fixed") for role, value in fixed.items())]
    outputs = [helper.make_tensor_value_info(c.name[:-6], c.data_type, c.dims) for c in constants[1:]]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])
    graph = helper.make_graph(nodes, "crowded", [images], outputs, constants)
    folder.mkdir(parents=True)
    path = folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    ports = tuple(Port(role, role, v.shape, "int64" if role == "labels" else "float32") for role, v in fixed.items())
    info = ModelInfo("detect", SIZE, "topk", NAMES, (Port("images", "images", (1, 3, *SIZE)),), ports, candidates=n)
    targets.get(target).build(Graph(path, info, sha256_file(path)), folder)
    write_manifest(folder, manifest_of(info, target, folder))
    return folder


def _eight_bits(path: Path, rng: np.random.Generator) -> Path:
    """An IR beside the file in which every MatMul is of integers."""
    nncf = pytest.importorskip("nncf")
    import openvino

    images = [rng.random((1, 3, *SIZE), np.float32) for _ in range(4)]
    small = nncf.quantize(openvino.convert_model(str(path)), nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(small, str(path.with_suffix(".xml")), compress_to_fp16=False)
    return path.with_suffix(".xml")


def _roles(task: str, rng: np.random.Generator) -> dict[str, tuple[tuple[int, ...], Array, float]]:
    """Role -> its shape, its values for a black image, and how strongly the image moves them."""
    n = CANDIDATES
    centre, side = rng.random((n, 2)) * SIZE[::-1], 8 + rng.random((n, 2)) * 40
    boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
    rotated = np.concatenate([centre, side, rng.random((n, 1)) * 3 - 1.5], 1)
    scores = rng.normal(-2, 1, (len(NAMES), n))
    if task == "classify":
        return {"class_probabilities": ((1, len(NAMES)), np.zeros(len(NAMES)), 2.0)}
    found: dict[str, tuple[tuple[int, ...], Array, float]] = {
        "boxes": ((1, n, 4), boxes, 0.3),
        "scores": ((1, len(NAMES), n), scores, 0.6),
    }
    if task == "obb":
        found = {"rotated_boxes": ((1, n, 5), rotated, 0.02), "scores": found["scores"]}
    if task == "pose":
        points = rng.random((n, POINTS, 3)) * [SIZE[1], SIZE[0], 1]
        found["keypoints"] = ((1, n, POINTS, 3), points, 0.3)
    if task == "segment":
        shape = (1, PROTOTYPES, SIZE[0] // 4, SIZE[1] // 4)
        waves = [np.cumsum(np.cumsum(rng.normal(0, 1, shape[2:]), 0), 1) for _ in range(PROTOTYPES)]
        found["mask_coefficients"] = ((1, n, PROTOTYPES), rng.normal(0, 1, (n, PROTOTYPES)), 0.2)
        found["mask_prototypes"] = (shape, np.stack(waves), 0.1)
    return found


def _model(roles: dict[str, tuple[tuple[int, ...], Array, float]], rng: np.random.Generator) -> onnx.ModelProto:
    means = 3 * (SIZE[0] // CELL) * (SIZE[1] // CELL)
    cell = [CELL, CELL]
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=cell, strides=cell),
        helper.make_node("Flatten", ["cells"], ["means"]),
    ]
    constants: list[onnx.TensorProto] = []
    outputs = []
    for role, (shape, base, strength) in roles.items():
        weights = rng.normal(0, strength, (means, base.size)).astype(np.float32)
        if role == "class_probabilities":
            weights -= weights.mean(0)  # of how cells differ, not of how bright they all are: that saturates
        values = {"w": weights, "b": base.reshape(1, -1).astype(np.float32), "s": np.array(shape, np.int64)}
        constants += [numpy_helper.from_array(value, f"{role}.{key}") for key, value in values.items()]
        last = {"scores": "Sigmoid", "class_probabilities": "Softmax"}.get(role, "Identity")
        nodes += [
            helper.make_node("MatMul", ["means", f"{role}.w"], [f"{role}.m"]),
            helper.make_node("Add", [f"{role}.m", f"{role}.b"], [f"{role}.a"]),
            helper.make_node("Reshape", [f"{role}.a", f"{role}.s"], [f"{role}.r"]),
            helper.make_node(last, [f"{role}.r"], [role]),
        ]
        outputs.append(helper.make_tensor_value_info(role, TensorProto.FLOAT, shape))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])
    graph = helper.make_graph(nodes, "tiny", [images], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
