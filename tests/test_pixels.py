"""Bundles that take canvases as they are (uint8 NHWC BGR): the function of the float ones, and nothing lost.

The references are the graph before the change, run by ONNX Runtime or in numpy, and OpenVINO's own float model.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.bundle import build as building
from edgekit.bundle import layouts, loading
from edgekit.bundle.options import BuildOptions
from edgekit.errors import UsageError
from edgekit.graph.document import read_document
from edgekit.runtime.image import canvases, centre_crop, letterbox, to_input
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Graph, ModelInfo, Port, Preprocess
from edgekit.targets.openvino import OpenVinoOptions
from edgekit.verify import parity
from tests.test_postprocess import SIZE as RESULT_SIZE
from tests.tiny import SIZE, tiny_bundle

openvino = pytest.importorskip("openvino")
SIDE = 32


def pictures(count: int = 3) -> list[np.ndarray]:
    return parity.generated_images(count, 90)


# ---- canvases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["letterbox", "centre_crop"])
def test_canvases_are_drawn_into_memory_that_held_others(mode: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((50, 80), (64, 96), (200, 60), (9, 300))]
    memory = rng.integers(0, 256, (5, 64, 96, 3), np.uint8)
    preprocess = Preprocess(mode=mode, fill=7, color="BGR", scale=1)
    found, geometries = canvases(images, (64, 96), preprocess, 5, memory)
    assert found is memory and not found[4].any()
    for image, canvas, geometry in zip(images, found, geometries, strict=False):
        fresh, where = letterbox(image, (64, 96), 7) if mode == "letterbox" else centre_crop(image, (64, 96))
        np.testing.assert_array_equal(canvas, fresh)
        assert geometry == where
    np.testing.assert_array_equal(canvases(images, (64, 96), preprocess, 5)[0], found)


# ---- the graph --------------------------------------------------------------------------------------------------


def network(folder: Path, batch: Any = 1) -> tuple[Path, ModelInfo]:
    """One convolution of random weights, padded and strided, and its ReLU."""
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32), rng.normal(0, 1, 8).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["c"], name="first", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["class_probabilities"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [batch, 3, SIDE, SIDE]), ("class_probabilities", [batch, 8]))
    ]
    constants = [numpy_helper.from_array(value, name) for value, name in ((weights, "w"), (bias, "b"))]
    graph = helper.make_graph(nodes, "one", ports[:1], ports[1:], constants)
    path = folder / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    size = None if isinstance(batch, str) else batch
    out = (Port("class_probabilities", "class_probabilities", (size, 8)),)
    source = (Port("images", "images", (size, 3, SIDE, SIDE)),)
    return path, ModelInfo("classify", (SIDE, SIDE), "raw", tuple("abcdefgh"), source, out)


def made(path: Path, info: ModelInfo, target: str, folder: Path) -> Any:
    folder.mkdir()
    targets.get(target).build(Graph(path, info, ""), folder)
    return targets.get(target).open(folder, info)


def takes_in(info: ModelInfo, options: OpenVinoOptions | None = None) -> ModelInfo:
    """What an OpenVINO artifact of a graph with ``info`` takes and gives."""
    return targets.get("ov-fp32").info(info, options)


def kinds(folder: Path) -> list[str]:
    model = openvino.Core().read_model(folder / "model.xml")
    return [op.get_type_name() for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]


@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16"])
def test_a_convolution_takes_them_in(tmp_path: Path, target: str) -> None:
    path, info = network(tmp_path)
    session = made(path, takes_in(info), target, tmp_path / "made")
    operators = [kind for kind in kinds(tmp_path / "made") if kind != "Convert"]
    assert operators[:4] == ["Parameter", "Multiply", "Transpose", "Convolution"]
    reference = targets.get("ort-fp32").open(path, info)
    for picture in pictures():
        canvas = letterbox(picture, (SIDE, SIDE))[0]
        found = session.run(canvas[None])["class_probabilities"]
        wanted = reference.run(to_input([canvas]))["class_probabilities"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 if target == "ov-fp32" else 2e-2)
        np.testing.assert_array_equal(session.run(to_input([canvas]))["class_probabilities"], found)


def test_a_dynamic_batch(tmp_path: Path) -> None:
    path, info = network(tmp_path, "n")
    session = made(path, takes_in(info), "ov-fp32", tmp_path / "made")
    batch = np.stack([letterbox(picture, (SIDE, SIDE))[0] for picture in pictures()])
    assert session.memory() is None
    found = np.array(session.run(batch)["class_probabilities"])
    reference = targets.get("ort-fp32").open(path, info)
    np.testing.assert_allclose(found, reference.run(to_input(list(batch)))["class_probabilities"], rtol=0, atol=1e-5)
    results = Predictor(session, batch=2).predict(pictures())
    for result, probs in zip(results, found, strict=True):
        np.testing.assert_allclose(result.probs, probs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("high", [1.0, 0.83])
@pytest.mark.parametrize("stored", ["float", "int8"])
def test_the_grid_of_int8_is_the_bytes_themselves(tmp_path: Path, high: float, stored: str) -> None:
    """Every byte reaches the integer convolution as it is, whatever range was calibrated: against whole numbers."""
    path, info = network(tmp_path)
    weights, scales, bias = quantized(path, tmp_path / "q.xml", high, stored)
    session = made(tmp_path / "q.xml", takes_in(info), "ov-int8", tmp_path / "made")
    session.run(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    for picture in pictures():
        canvas = letterbox(picture, (SIDE, SIDE))[0]
        whole = convolved(canvas[:, :, ::-1].astype(np.int64), weights)
        wanted = np.maximum(whole * (scales / 255)[:, None, None] + bias[:, None, None], 0).mean((1, 2))
        found = session.run(canvas[None])["class_probabilities"][0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
    assert sum(session.precision_by_type().values()) >= 1
    if high == 1.0:  # then the float form has the same grid
        float_session = made(tmp_path / "q.xml", info, "ov-int8", tmp_path / "float")
        np.testing.assert_allclose(float_session.run(to_input([canvas]))["class_probabilities"][0], found, atol=2e-5)


def quantized(path: Path, out: Path, high: float, stored: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network with its convolution quantized as NNCF writes it; weights in whole numbers, their scales, biases.

    Weights use seven of the eight bits: with all, sums saturate on x86 without VNNI.
    """
    import openvino.opset13 as ops

    model = openvino.Core().read_model(path)
    node = next(op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    values = node.input_value(1).get_node().get_data()
    scales = np.abs(values).max((1, 2, 3), keepdims=True) / 63
    whole = np.rint(values / scales)
    low, top = (np.float32(v).reshape(1, 1, 1, 1) for v in (0, high))
    grid = ops.fake_quantize(node.input_value(0), *(ops.constant(v) for v in (low, top, low, top)), 256)
    if stored == "int8":
        eight = ops.convert(ops.constant(whole.astype(np.int8)), "f32")
        weights = ops.multiply(eight, ops.constant(scales.astype(np.float32)))
    else:
        limits = [ops.constant((sign * 127 * scales).astype(np.float32)) for sign in (-1, 1)]
        weights = ops.fake_quantize(ops.constant(values), *limits, *limits, 255)
    node.input(0).replace_source_output(grid.output(0))
    node.input(1).replace_source_output(weights.output(0))
    openvino.save_model(model, out, compress_to_fp16=False)
    bias = numpy_helper.to_array(onnx.load(path).graph.initializer[1])
    return whole.astype(np.int64), scales.ravel(), bias


def convolved(image_HWC: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A 3 x 3 convolution of stride 2 and padding 1, written out."""
    padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)))
    side = SIDE // 2
    out = np.zeros((len(weights), side, side), np.int64)
    for y in range(3):
        for x in range(3):
            part = padded[y : y + SIDE : 2, x : x + SIDE : 2]
            out += np.einsum("oc,hwc->ohw", weights[:, :, y, x], part)
    return out


@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16", "ov-int8"])
def test_what_is_no_convolution_gets_floats_back(tmp_path: Path, target: str) -> None:
    plain, pixels = (tiny_bundle(tmp_path / str(p), "detect", target, pixels=p) for p in (False, True))
    images = pictures()
    for a, b in zip(loading.load(plain, conf=0.01)(images), loading.load(pixels, conf=0.01)(images), strict=True):
        assert len(a) and len(a) == len(b)
        np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-2 if target == "ov-fp16" else 1e-4)


def test_real_networks_give_the_same(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path = exported("yolo12n-bccd")
    info = ModelInfo.from_dict(read_document(path)["info"])
    floats, pixels = (made(path, i, "ov-fp32", tmp_path / str(k)) for k, i in enumerate((info, takes_in(info))))
    canvas = letterbox(parity.generated_images(1)[0], info.imgsz)[0]
    wanted = {k: np.array(v) for k, v in floats.run(to_input([canvas])).items()}
    found = pixels.run(canvas[None])
    assert np.abs(found["scores"] - wanted["scores"]).max() < 1e-5
    assert np.abs(found["boxes"] - wanted["boxes"]).max() < 2e-3
    assert pixels.precision_by_type() == floats.precision_by_type()
    tapped = (
        pixels.intermediates(to_input([canvas]), ["model.0.conv/Conv"]),
        floats.intermediates(to_input([canvas]), ["model.0.conv/Conv"]),
    )
    np.testing.assert_allclose(*(t["model.0.conv/Conv"] for t in tapped), rtol=0, atol=1e-4)
    assert [row[0] for row in pixels.profile(canvas[None], 1)]


# ---- sessions and bundles ---------------------------------------------------------------------------------------


def test_every_thread_draws_into_memory_of_its_own(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "b", "detect", "ov-fp32", pixels=True)
    predictor = loading.load(folder, conf=0.01)
    images = parity.generated_images(4, 120)
    expected = [predictor(image)[0] for image in images]
    assert predictor.session.memory() is predictor.session.memory()  # type: ignore[attr-defined]
    wrong: list[int] = []
    places: set[int] = set()

    def work(number: int) -> None:
        for i in range(30):
            k = (i + number) % 4
            found = predictor(images[k])[0]
            if not np.array_equal(found.boxes, expected[k].boxes) or not np.array_equal(
                found.scores, expected[k].scores
            ):
                wrong.append(number)
        places.add(predictor.session.memory().ctypes.data)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(places) == 4
    for (_, result), want in zip(predictor.stream(iter(images)), expected, strict=True):
        np.testing.assert_array_equal(result.boxes, want.boxes)


def test_a_batch_that_is_not_full_is_padded(tmp_path: Path) -> None:
    path, info = network(tmp_path, 3)
    session = made(path, takes_in(info), "ov-fp32", tmp_path / "made")
    predictor = Predictor(session)
    whole = predictor(pictures(3))
    alone = predictor(pictures(1))
    assert not session.memory()[1:].any()
    np.testing.assert_allclose(alone[0].probs, whole[0].probs, rtol=0, atol=1e-6)


def test_the_manifest_says_so(tmp_path: Path) -> None:
    pixels, plain = (tiny_bundle(tmp_path / str(p), "detect", "ov-fp32", pixels=p) for p in (True, False))
    opened = read_bundle(pixels)
    assert opened.manifest["schema"] == read_bundle(plain).manifest["schema"] == 3
    assert opened.info.inputs == (Port("images", "images", (1, *SIZE, 3), "uint8"),)
    assert (opened.info.preprocess.color, opened.info.preprocess.scale) == ("BGR", 1.0)
    config = layouts.triton_config("tiny", targets.get("ov-fp32").servers["triton"], opened.info)
    assert 'name: "images", data_type: TYPE_UINT8, dims: [ 1, 64, 96, 3 ]' in config
    served = openvino.Core().read_model(pixels / "model.xml").inputs[0]
    assert openvino.layout_helpers.get_layout(served) == openvino.Layout("[N,H,W,C]")


def test_a_build_takes_pixels_unless_told_otherwise(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path = exported("yolo12n-cls-flowers5")
    pixels = building.build(path, "ov-fp32", tmp_path / "pixels", BuildOptions(layout="triton"))
    floats = building.build(path, "ov-fp32", tmp_path / "floats", BuildOptions(target={"input": "float"}))
    assert pixels.info.takes_uint8 and not floats.info.takes_uint8
    assert pixels.manifest["parity"]["class_probabilities"]["max_abs"] < 1e-4
    assert "TYPE_UINT8" in next(pixels.path.rglob("config.pbtxt")).read_text()
    image = parity.generated_images(1)[0]
    a, b = (loading.load(made.path)(image)[0].probs for made in (pixels, floats))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, says", [({"input": "half"}, "must be uint8 or float"), ({"dla": "0"}, "they have input")]
)
def test_other_options_are_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        OpenVinoOptions.parse(options)


def test_only_three_planes_become_pixels() -> None:
    info = ModelInfo("detect", RESULT_SIZE, "raw", ("a",), (Port("images", "images", (1, 1, *RESULT_SIZE)),), ())
    assert takes_in(info) is info
    color = dataclasses.replace(info, inputs=(Port("images", "images", (None, 3, *RESULT_SIZE)),))
    assert takes_in(color, OpenVinoOptions("float")) is color
    assert takes_in(takes_in(color)) == takes_in(color) and takes_in(color).batch is None
