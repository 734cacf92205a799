"""Models made on one processor and run on others, with the right answers beside them.

make(folder)          # needs PyTorch; MODELS x TARGETS as bundles, inputs.npz and answers.npz in double precision
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.bundle import loading
from edgekit.quantize import qdq
from edgekit.runtime import processor
from edgekit.runtime.manifest import manifest_of, write_manifest
from edgekit.spec import ModelInfo
from edgekit.verify import parity, selftest
from tests.networks import noise, settled

MODELS = {"classifier": "yolo12n-cls", "detector": "yolo12n"}
TARGETS = ("ort-fp32", "ov-fp32")
SIZE = (64, 96)
CHANNELS, SIDE = 16, 8


def make(folder: Path) -> None:
    """The two networks for every target, what to feed them and what they answer in double precision."""
    import torch

    from edgekit.graph.export import export

    batch = noise(1, 3, *SIZE)
    np.savez(folder / "inputs.npz", batch=batch)
    for model, name in MODELS.items():
        tolerances = {role: processor.ROUNDING[role] for role in _roles(model)}
        made = settled(name, batch, tolerances, ("a", "b", "c"))
        with torch.no_grad():
            answer = copy.deepcopy(made.net).double()(torch.from_numpy(batch).double())
        np.savez(folder / f"{model}.npz", **{role: value.numpy() for role, value in answer.items()})
        graph = export(made, folder / f"{model}.onnx", SIZE)
        for target in TARGETS:
            place = folder / f"{model}-{target}"
            place.mkdir()
            targets.get(target).build(graph, place)
            images = [image[:60] for image in parity.generated_images(2, 90)]
            bounds = {role: {"rms": limit, "p99": limit, "max": limit} for role, limit in tolerances.items()}
            with loading.load(sealed(place, graph.info, target)) as predictor:
                answers = [runs[0] for runs in selftest.answered(predictor.session, images)]
            plain = [{role: value.tolist() for role, value in each.items()} for each in answers]
            selftest.write(place, images, {"answers": plain, "allowed": {"f32": bounds}, "stages": {}})
            sealed(place, graph.info, target, selftest={"images": len(images)})


def sealed(folder: Path, info: ModelInfo, target: str, **more: object) -> Path:
    """``folder`` with its manifest."""
    write_manifest(folder, manifest_of(info, target, folder, **more))
    return folder


def _roles(model: str) -> tuple[str, ...]:
    return ("class_probabilities",) if model == "classifier" else ("boxes", "scores")


def eight_bits(path: Path, bits: int) -> float:
    """A convolution in explicit INT8 whose weights all take the most that ``bits`` hold; its answer to ones."""
    eight, scales = qdq.int8_weights(np.full((32, CHANNELS, 3, 3), 0.1, np.float32), qdq.WEIGHT_TOP[bits])
    step = np.float32(CHANNELS * 9 * 0.1 / 250)
    constants = {
        "w": eight, "ws": scales.astype(np.float32), "wz": np.zeros(32, np.int8), "s": np.float32(1 / 255),
        "z": np.uint8(0), "ys": step,
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], axis=0),
        helper.make_node("Conv", ["d", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "ys", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "ys", "z"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    shapes = {"x": [1, CHANNELS, SIDE, SIDE], "y": [1, 32, SIDE, SIDE]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "eight bits", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return CHANNELS * 9 * 0.1
