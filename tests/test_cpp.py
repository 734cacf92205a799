"""The C++ library against Python's: the same tensors, results and kinds of errors with their data, under sanitizers.

The programs of tests/cpp are compiled once and kept in build/cpp-*; later runs compile what changed. What is random
here is seeded, so both sides can be looked at again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.conformance import OPTIONS
from edgekit import checkpoint, targets
from edgekit.bundle import loading
from edgekit.bundle.conformance import TOLERANCES, differences
from edgekit.bundle.verification import verify
from edgekit.checkpoint import catalog
from edgekit.errors import EdgekitError, InputError, TruncatedWarning
from edgekit.runtime import places, processor
from edgekit.runtime.image import Geometry, as_image, fit, prepare, read_image
from edgekit.runtime.manifest import manifest_of, read_bundle, write_manifest
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess, truncation
from edgekit.runtime.results import Result
from edgekit.spec import Graph, ModelInfo, Port, Preprocess
from edgekit.tasks import ports
from tests.hostile.fuzz import seeds
from tests.hostile.manifests import NO_OBJECT, WRONG, spoil
from tests.native import (
    ENVIRONMENT,
    REPO,
    Probe,
    assert_same_error,
    bundle_around,
    compile_tests,
    data,
    result_of,
    run,
    words_of,
)
from tests.test_postprocess import SIZE, decoded, geometry, outputs
from tests.test_selftest import with_answers
from tests.test_shapes import SPOILT, assembled, rewrite
from tests.tiny import crowded_bundle, tiny_bundle

FIXTURES = "yolo12n-bccd yolo12n-seg-balloon yolo12n-pose-person yolo12n-obb-table-tennis yolo12n-cls-flowers5".split()


@pytest.fixture(scope="session")
def programs() -> Path:
    """The test programs under AddressSanitizer and UndefinedBehaviorSanitizer, warnings being errors."""
    return compile_tests("cpp-address", "-DEDGEKIT_SANITIZE=address,undefined")


@pytest.fixture(scope="session")
def probe(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    made = Probe(programs / "probe", tmp_path_factory.mktemp("probe"))
    yield made
    assert made.close() == 0, "a sanitizer found something when the program ended"


# ---- images to tensors ------------------------------------------------------------------------------------------


def plain_info(size: tuple[int, int], preprocess: Preprocess | None = None) -> ModelInfo:
    port = Port("images", "images", (1, 3, *size))
    made = (Port("boxes", "boxes", (1, 7, 4)), Port("scores", "scores", (1, 2, 7)))
    return ModelInfo("detect", size, "raw", ("cat", "dog"), (port,), made, preprocess or Preprocess())


def tensor(probe: Probe, folder: Path, image: np.ndarray, info: ModelInfo) -> tuple[np.ndarray, list[float]]:
    out = probe.scratch / "tensor"
    found = probe("prepare", folder, *probe.pixels(image), out)
    if info.takes_uint8:
        return np.fromfile(out, np.uint8).reshape(*info.imgsz, 3), found
    return np.fromfile(out, np.float32).reshape(3, *info.imgsz), found


SIZES = [(480, 640), (375, 500), (1080, 1920), (432, 768), (7, 9), (640, 427), (1280, 960), (2, 2), (301, 203),
         (96, 128), (2, 300), (999, 3)]  # fmt: skip


def test_letterbox_is_cv2s_to_the_last_bit(probe: Probe, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, size in enumerate([(96, 128), (64, 64), (640, 480)]):
        info = plain_info(size, Preprocess(fill=114 + k, scale=1 / 255 if k else 0.7))
        folder = bundle_around(tmp_path / str(k), info)
        for height, width in SIZES if k < 2 else SIZES[:3]:
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            found, where = tensor(probe, folder, image, info)
            expected, geometries = prepare([image], size, info.preprocess)
            np.testing.assert_array_equal(found, expected[0])
            g = geometries[0]
            assert where == [g.height, g.width, g.scale_x, g.scale_y, g.left, g.top]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["letterbox", "centre_crop"])
def test_grey_alpha_and_views_of_larger_images(probe: Probe, tmp_path: Path, channels: int, mode: str) -> None:
    info = plain_info((96, 128), Preprocess(mode=mode))
    folder = bundle_around(tmp_path / "b", info)
    whole = np.random.default_rng(1).integers(0, 256, (200, 300, channels), np.uint8)
    view = whole[20:171, 30:240]
    found, _ = tensor(probe, folder, view, info)
    expected, _ = prepare([as_image(view)], info.imgsz, info.preprocess)
    np.testing.assert_array_equal(found, expected[0])


@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_centre_crop_is_pythons_to_the_last_bit(probe: Probe, tmp_path: Path, size: tuple[int, int]) -> None:
    info = plain_info(size, Preprocess(mode="centre_crop"))
    folder = bundle_around(tmp_path / "b", info)
    rng = np.random.default_rng(2)
    for height, width in [*SIZES, (2000, 1500)]:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        found, _ = tensor(probe, folder, image, info)
        np.testing.assert_array_equal(found, prepare([image], size, info.preprocess)[0][0])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["letterbox", "centre_crop"])
def test_pixels_are_pythons_canvas(probe: Probe, tmp_path: Path, channels: int, mode: str) -> None:
    for k, size in enumerate([(96, 128), (64, 64)]):
        info = targets.get("ov-fp16").info(plain_info(size, Preprocess(mode=mode, fill=114 + k)))
        folder = bundle_around(tmp_path / str(k), info)
        for height, width in SIZES:
            whole = np.random.default_rng(height).integers(0, 256, (height + 4, width + 3, channels), np.uint8)
            view = whole[1 : 1 + height, 2 : 2 + width]
            found, where = tensor(probe, folder, view, info)
            canvas, g = fit(as_image(view), size, info.preprocess)
            np.testing.assert_array_equal(found, canvas)
            assert where == [g.height, g.width, g.scale_x, g.scale_y, g.left, g.top]


@pytest.mark.parametrize("shape", [(0, 0, 3), (1, 5, 3), (5, 1, 1), (9, 9, 2)])
def test_images_that_are_none_are_refused_as_in_python(probe: Probe, tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = bundle_around(tmp_path / "b", plain_info((64, 96)))
    path = probe.scratch / "none"
    path.write_bytes(b"0" * 1000)
    with pytest.raises(EdgekitError) as ours:
        probe("prepare", folder, path, shape[1], shape[0], shape[2], 0, probe.scratch / "tensor")
    with pytest.raises(EdgekitError) as theirs:
        as_image(np.zeros(shape, np.uint8))
    assert_same_error(ours.value, theirs.value)
    for pixels, stride, says in ((path, 3, "do not fit a stride of 3"), (probe.scratch / "absent", 0, "no pixels")):
        with pytest.raises(EdgekitError, match=says):
            probe("prepare", folder, pixels, 9, 9, 3, stride, probe.scratch / "tensor")


# ---- outputs to results -----------------------------------------------------------------------------------------


def answered(
    probe: Probe, arrays: dict[str, np.ndarray], info: ModelInfo, g: Geometry, options: Options
) -> dict[str, Any]:
    """What the program prints of the outputs."""
    described = []
    for role, array in arrays.items():
        path = probe.scratch / role
        np.ascontiguousarray(array, np.float32).tofile(path)
        described.append(f"{role}:{'x'.join(map(str, array.shape))}:{path}")
    where = f"{g.height},{g.width},{g.scale_x!r},{g.scale_y!r},{g.left!r},{g.top!r}"
    words = words_of({k: getattr(options, k) for k in ("conf iou max_det agnostic multi_label clip classes".split())})
    head = f"{info.head}/{info.candidates or 0}"
    found: dict[str, Any] = probe("post", head, len(info.names), *info.imgsz, where, ",".join(described), *words)
    return found


def both(
    probe: Probe, arrays: dict[str, np.ndarray], info: ModelInfo, g: Geometry, options: Options
) -> tuple[Any, Any]:
    """(Python's Result, the C++ library's) of the same outputs, or the errors they fail with."""
    try:
        ours: Any = postprocess(arrays, info, [g], options)[0]
    except EdgekitError as error:
        ours = error
    try:
        answer = answered(probe, arrays, info, g, options)
    except EdgekitError as error:
        return ours, error
    return ours, result_of(answer, info.names, ours) if isinstance(ours, Result) else answer


def assert_equal(ours: Result, theirs: Result) -> None:
    assert ours.truncated == theirs.truncated
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    for key in ("boxes", "rotated_boxes", "keypoints"):
        if getattr(ours, key) is not None:
            np.testing.assert_allclose(getattr(theirs, key), getattr(ours, key), rtol=0, atol=2e-4)
    if ours.masks is not None and theirs.masks is not None:
        assert len(ours.masks) == len(theirs.masks)
        for a, b in zip(ours.masks.crops, theirs.masks.crops, strict=True):
            assert (a.left, a.top, a.pixels.shape) == (b.left, b.top, b.pixels.shape)
            assert (a.pixels != b.pixels).mean() < 0.01 if a.pixels.size else True


def with_extras(arrays: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = arrays["scores"].shape[-1]
    arrays["keypoints"] = (rng.random((1, n, 4, 3)) * 150 - 10).astype(np.float32)
    arrays["mask_coefficients"] = rng.normal(0, 1, (1, n, 6)).astype(np.float32)
    arrays["mask_prototypes"] = rng.normal(0, 1, (1, 6, SIZE[0] // 4, SIZE[1] // 4)).astype(np.float32)
    return arrays


OPTION_SETS = (
    Options(conf=0.05),
    Options(conf=0.3, iou=0.45, max_det=7),
    Options(conf=0.0, iou=0.0, agnostic=True),
    Options(conf=0.01, multi_label=True, clip=False, iou=1.0),
    Options(conf=0.1, classes=(1, 3)),
)


def suited(options: Options, head: str) -> Options:
    """Those that the head does not refuse."""
    return dataclasses.replace(options, iou=0.7, agnostic=False) if head == "nms" else options


@pytest.mark.parametrize("options", OPTION_SETS, ids=range(len(OPTION_SETS)))
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
def test_results_are_pythons(probe: Probe, head: str, rotated: bool, options: Options) -> None:
    for seed in range(3):
        arrays = outputs(200, seed, rotated)
        if not rotated:
            arrays = with_extras(arrays, seed)
        if head != "raw":
            prototypes = arrays.pop("mask_prototypes", None)
            arrays = decoded(arrays, 120) | ({} if prototypes is None else {"mask_prototypes": prototypes})
        info = ModelInfo("any", SIZE, head, tuple("abcde"), (), ())
        ours, theirs = both(probe, arrays, info, geometry(150 + seed, 260), suited(options, head))
        assert len(ours) > 0
        assert_equal(ours, theirs)


def test_equal_scores_keep_their_order(probe: Probe) -> None:
    arrays = outputs(300, 5)
    arrays["scores"] = np.round(arrays["scores"] * 4) / 4
    info = ModelInfo("any", SIZE, "raw", tuple("abcde"), (), ())
    for options in OPTION_SETS:
        assert_equal(*both(probe, arrays, info, geometry(), options))


@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
def test_values_no_model_should_give(probe: Probe, head: str) -> None:
    """NaN, infinities, huge and negative sizes, labels that are none: the same candidates are dropped."""
    odd = np.array([np.nan, np.inf, -np.inf, 1e30, -5, 0, 1e-30, 3.7, -0.5], np.float32)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        arrays = with_extras(outputs(150, seed), seed)
        if head != "raw":
            prototypes = arrays.pop("mask_prototypes")
            arrays = decoded(arrays, 100) | {"mask_prototypes": prototypes}
        arrays = {role: np.array(array, np.float32) for role, array in arrays.items()}
        for role, array in arrays.items():
            if role != "mask_prototypes":
                hit = rng.random(array.shape) < 0.02
                array[hit] = rng.choice(odd, hit.sum())
        info = ModelInfo("any", SIZE, head, tuple("abcde"), (), ())
        for options in OPTION_SETS[:4]:
            ours, theirs = both(probe, arrays, info, geometry(), suited(options, head))
            assert_equal(ours, theirs)


def test_limits_that_keep_objects_out_are_said_as_in_python(probe: Probe) -> None:
    """More candidates above the confidence than the head keeps, more objects than max_det, and neither."""
    raw = outputs(200, 1)
    info = ModelInfo("any", SIZE, "topk", tuple("abcde"), (), (), candidates=120)
    seen = set()
    for candidates, options in itertools.product((120, 1000), (Options(0.01), Options(0.3, max_det=3), Options(0.99))):
        info = info.replace(candidates=candidates)
        arrays = decoded(raw, candidates)
        ours, theirs = (
            postprocess(arrays, info, [geometry()], options)[0],
            answered(probe, arrays, info, geometry(), options),
        )
        assert tuple(theirs["truncated"]) == ours.truncated
        for said, reason in zip(theirs["sentences"], ours.truncated, strict=True):
            assert data(said) == data(truncation(reason, info, options))
        seen.add(ours.truncated)
    assert seen == {(), ("candidates",), ("max_det",), ("candidates", "max_det")}


def test_the_same_anchor_is_found_among_many(probe: Probe) -> None:
    """Boxes that share a side, or all but the last bits of every side."""
    rng = np.random.default_rng(4)
    boxes = np.tile(rng.integers(0, 3, (100, 4)).astype(np.float32), (4, 1)) + np.float32([0, 0, 40, 40])
    boxes += rng.uniform(0, 0.008, boxes.shape).astype(np.float32)
    scores = np.sort(rng.random(400).astype(np.float32))[::-1].copy()
    arrays = {"boxes": boxes[None], "scores": scores[None], "labels": rng.integers(0, 5, (1, 400))}
    info = ModelInfo("any", SIZE, "topk", tuple("abcde"), (), ())
    ours, theirs = both(probe, arrays, info, geometry(), Options(0.0, iou=1.0))
    apart = np.abs(boxes[:, None] - boxes).max(2) >= 0.01
    first = [i for i in range(400) if apart[i, :i].all()]
    assert 1 < len(first) < 300 and ours.scores.tolist() == scores[first].tolist()
    assert_equal(ours, theirs)


def test_a_classification_is_handed_on(probe: Probe) -> None:
    probs = np.random.default_rng(0).random((1, 9)).astype(np.float32)
    info = ModelInfo("classify", SIZE, "raw", tuple("abcdefghi"), (), ())
    ours, theirs = both(probe, {"class_probabilities": probs}, info, geometry(), Options())
    np.testing.assert_array_equal(ours.probs, theirs.probs)


def test_outputs_that_do_not_fit_together(probe: Probe) -> None:
    """Where numpy would stumble, the C++ library must not read beyond an array."""
    info = ModelInfo("any", SIZE, "raw", tuple("abcde"), (), ())
    whole = with_extras(outputs(50), 0)
    ours, theirs = both(probe, {"boxes": whole["boxes"]}, info, geometry(), Options())
    assert_same_error(ours, theirs)
    assert "'scores'" in data(str(theirs))
    without = {k: v for k, v in whole.items() if k != "mask_prototypes"}
    ours, theirs = both(probe, without, info, geometry(), Options())
    assert_same_error(ours, theirs)
    assert "'mask_prototypes'" in data(str(theirs))
    cuts = {
        "boxes": whole["boxes"][:, :, :3],
        "scores": whole["scores"][:, :0],
        "keypoints": whole["keypoints"][:, :, :, :2],
        "mask_coefficients": whole["mask_coefficients"][:, :, :5],
        "mask_prototypes": whole["mask_prototypes"][:, :, :, :0],
        "rotated_boxes": np.zeros((1, 40, 5), np.float32),
    }
    for role, array in cuts.items():
        ours, theirs = both(probe, whole | {role: array}, info, geometry(), Options())
        assert_same_error(ours, theirs)
        assert "does not fit the others" in str(ours)
    none = {
        "mask_coefficients": whole["mask_coefficients"][:, :, :0],
        "mask_prototypes": whole["mask_prototypes"][:, :0],
    }
    ours, theirs = both(probe, whole | none, info, geometry(), Options())
    assert_same_error(ours, theirs)
    assert "'mask_coefficients'" in data(str(theirs))
    for shape in ("1", "1x-4x4", "1x99999999x4", "0x50x4", "1x2x2x2x2x2"):
        with pytest.raises(EdgekitError, match="has the shape"):
            probe("post", "raw", 5, *SIZE, "150,260,0.5,0.5,0,0", f"boxes:{shape}:{probe.scratch / 'boxes'}")


WRONG_OPTIONS = [
    ("raw", {"conf": 2.5}), ("raw", {"conf": -1.5}), ("raw", {"iou": 7.5}), ("raw", {"max_det": 0}),
    ("raw", {"classes": (9,)}), ("topk", {"max_det": 121}), ("nms", {"max_det": 1000}), ("nms", {"iou": 0.5}),
    ("nms", {"agnostic": True}),
]  # fmt: skip


@pytest.mark.parametrize(("head", "change"), WRONG_OPTIONS)
def test_bad_options_are_refused_as_in_python(probe: Probe, head: str, change: dict[str, Any]) -> None:
    info = ModelInfo("any", SIZE, head, tuple("abcde"), (), (), candidates=None if head == "raw" else 120)
    with pytest.raises(EdgekitError) as ours:
        Options(**change).check(info)
    with pytest.raises(EdgekitError) as theirs:
        probe("post", f"{head}/120", 5, *SIZE, "150,260,0.5,0.5,0,0", "", *words_of(change))
    assert_same_error(ours.value, theirs.value)


# ---- bundles ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = ports.info(catalog.spec("yolo12n", classes=2), ("cat", "dog"), (64, 96), license="MIT")
    return bundle_around(tmp_path / "bundle", info)


def test_a_sound_manifest_is_read(probe: Probe, folder: Path) -> None:
    assert probe("read", folder) == {"task": "detect", "target": "ort-fp32", "names": 2}
    assert probe("read", f"{folder}/") == {"task": "detect", "target": "ort-fp32", "names": 2}


def test_a_task_that_nobody_knows_is_read(probe: Probe, folder: Path) -> None:
    """What its outputs mean is said by their roles; ``test_results_are_pythons`` post-processes such a task."""
    spoil(folder, lambda m: m.update(task="points"))
    assert probe("read", folder)["task"] == read_bundle(folder).info.task == "points"


ESCAPED = ("role with a quote", "role of lines", "file of backslashes", "file with a zero byte")  # in their own ways


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_refused_as_in_python(probe: Probe, folder: Path, case: str) -> None:
    spoil(folder, WRONG[case][0])
    with pytest.raises(EdgekitError) as ours:
        read_bundle(folder)
    with pytest.raises(EdgekitError) as theirs:
        probe("read", folder)
    assert type(theirs.value) is type(ours.value) and str(folder) in str(theirs.value)
    if case not in ("preprocess is null", "outputs is null", "spec is a list", *ESCAPED):
        assert_same_error(ours.value, theirs.value)


@pytest.mark.parametrize("text", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_no_manifest_at_all_is_refused_as_in_python(probe: Probe, folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(EdgekitError) as ours:
        read_bundle(folder)
    with pytest.raises(EdgekitError) as theirs:
        probe("read", folder)
    assert_same_error(ours.value, theirs.value)


def test_what_is_no_bundle_was_altered_or_reaches_out(probe: Probe, folder: Path, tmp_path: Path) -> None:
    def agree() -> str:
        with pytest.raises(EdgekitError) as ours:
            read_bundle(folder)
        with pytest.raises(EdgekitError) as theirs:
            probe("read", folder)
        assert_same_error(ours.value, theirs.value)
        return str(theirs.value)

    (folder / "model.onnx").write_bytes(b"weightz" * 100)
    assert "its hash differs" in agree()
    (folder / "model.onnx").unlink()
    assert "is missing" in agree()
    (tmp_path / "secret").write_text("x")
    (folder / "model.onnx").symlink_to(tmp_path / "secret")
    assert "outside the bundle" in agree()
    (folder / "manifest.json").write_bytes(b'{"schema": "\xff\xfe"}')
    assert "not valid JSON" in agree()
    (folder / "manifest.json").unlink()
    assert "not a bundle" in agree()
    with pytest.raises(EdgekitError, match="no such file or folder"):
        probe("open", tmp_path / "absent")


def test_a_backend_that_is_not_compiled_in_is_named(probe: Probe, folder: Path) -> None:
    assert probe("backends") == "openvino"
    with pytest.raises(EdgekitError, match="ort-fp32 needs the backend 'onnxruntime', which is not compiled into"):
        probe("open", folder)
    for target, says in (
        ("trt-fp16", "needs the backend 'tensorrt'"),
        ("ncnn-fp16", "edgekit's Python"),
        ("tpu-int4", "there is no such target"),
    ):
        spoil(folder, lambda m, target=target: m.update(target=target))
        with pytest.raises(EdgekitError, match=says):
            probe("open", folder)


# ---- whole models -----------------------------------------------------------------------------------------------


def built(onnx: Path, target: str, folder: Path, seen: list[np.ndarray]) -> Path:
    """A bundle of an exported file, calibrated on images where it is INT8, without the gates of ``edgekit build``."""
    from edgekit.graph.document import read_document

    info = ModelInfo.from_dict(read_document(onnx)["info"])
    folder.mkdir(parents=True)
    path = onnx
    if target == "ov-int8":
        pytest.importorskip("nncf")
        from edgekit.quantize import ir

        path = onnx.with_suffix(".xml")
        ir.quantize(onnx, path, [prepare([image], info.imgsz, info.preprocess)[0] for image in seen])
    info = targets.get(target).info(info)
    targets.get(target).build(Graph(path, info, ""), folder)
    write_manifest(folder, manifest_of(info, target, folder))
    return folder


def assert_conforms(probe: Probe, folder: Path, images: list[np.ndarray], **options: Any) -> int:
    """Every image gets Python's result; how many objects or classes that were."""
    predictor = loading.load(folder, threads=1)
    found = 0
    for image in images:
        expected = predictor.predict(image, **options)[0]
        given = result_of(probe.predict(folder, image, **options), predictor.info.names, expected)
        assert not differences(expected.to_dict(), given, TOLERANCES)
        found += len(expected) or len(expected.probs if expected.probs is not None else ())
    predictor.close()
    return found


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", "classify", "ov-fp32")


def noise(count: int) -> list[np.ndarray]:
    """Images of several sizes whose means differ from place to place."""
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 256, (5, 7, 3), np.uint8) for _ in range(count)]
    sizes = [(120, 200), (64, 96), (333, 210), (50, 480)]
    return [cv2.resize(c, sizes[i % 4][::-1], interpolation=cv2.INTER_CUBIC) for i, c in enumerate(coarse)]


def _needs_bfloat16(does: bool) -> None:
    if does and os.environ.get("EDGEKIT_TEST_FLOAT32"):
        pytest.skip("the limited oneDNN has no bf16, which OpenVINO asks it for by CPUID; emulated processors run this")


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16", "ov-int8"])
@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_every_task_conforms(probe: Probe, tmp_path: Path, task: str, target: str, pixels: bool) -> None:
    bfloat16 = target == "ov-fp16" or (task, target) == ("classify", "ov-int8")  # a product of matrices left in float
    _needs_bfloat16(bfloat16)
    folder = tiny_bundle(tmp_path / "bundle", task, target, pixels=pixels)
    assert assert_conforms(probe, folder, noise(8), **OPTIONS) > 20
    assert assert_conforms(probe, folder, noise(4), conf=0.01, iou=0.4, max_det=9, agnostic=True, multi_label=True) > 9


def test_a_model_runs_from_c_and_from_many_threads(programs: Path, tiny_classifier: Path) -> None:
    done = run(programs / "c_abi", tiny_classifier)
    assert done.stdout.splitlines() == ["classify 3 ant", "0 3 0"]
    assert "absent: no such file or folder" in done.stderr and "too small" in done.stderr
    assert run(programs / "threads", tiny_classifier, 5).stdout == "0 wrong of 40\n"


def test_a_model_that_may_have_lost_objects_says_so_once(probe: Probe, programs: Path, tmp_path: Path) -> None:
    folder = crowded_bundle(tmp_path / "bundle", "ov-fp32")
    image = np.zeros((64, 96, 3), np.uint8)
    expected_data = data(f"{folder}: {truncation('candidates', read_bundle(folder).info, Options())}")
    for conf, says in ((0.25, [expected_data]), (0.5, [])):
        assert [data(said) for said in probe("said", folder, *probe.pixels(image), f"conf={conf}")] == says
    with loading.load(folder) as model, pytest.warns(TruncatedWarning) as warned:
        expected = model(image)[0]
        assert_equal(expected, result_of(probe.predict(folder, image), model.info.names, expected))
    assert str(warned[0].message).endswith(truncation("candidates", read_bundle(folder).info, Options()))
    done = run(programs / "c_abi", folder)
    assert done.stdout.splitlines() == ["detect 3 ant", "5 0 3"] and done.stderr.count("warning: ") == 1


def test_a_forked_process_answers_or_refuses(programs: Path, tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", "detect", "ov-fp32")
    assert [run(programs / "forked", folder, streams).stdout for streams in (0, 2)] == ["answered\n", "refused\n"]


@pytest.mark.parametrize("pixels", [False, True])
def test_the_steps_and_the_callers_memory(programs: Path, tmp_path: Path, pixels: bool) -> None:
    folder = tiny_bundle(tmp_path / "bundle", "detect", "ov-fp32", pixels=pixels)
    assert run(programs / "steps", folder).stdout == "0 failures\n"


def test_pixels_are_for_openvino_alone(probe: Probe, tmp_path: Path) -> None:
    info = targets.get("ov-fp16").info(plain_info((64, 96)))
    folder = bundle_around(tmp_path / "bundle", info)  # of ort-fp32
    with pytest.raises(EdgekitError, match=r"the input 'images' is not float32 \[batch, 3, height, width\]"):
        probe("open", folder)


def test_a_device_that_is_not_there_is_refused_as_in_python(probe: Probe, tiny_classifier: Path) -> None:
    for device in ("TPU", "cpu:1"):
        with pytest.raises(EdgekitError) as ours:
            loading.load(tiny_classifier, device=device)
        with pytest.raises(EdgekitError) as theirs:
            probe("settings", tiny_classifier, device, 0)
        assert_same_error(ours.value, theirs.value)
    for device in ("cpu", "CPU:0"):
        assert probe("settings", tiny_classifier, device, 1)["task"] == "classify"


@pytest.mark.parametrize("device", ["cpu", "CPU"])
@pytest.mark.parametrize("bits", [7, 8, "8", None])
def test_opening_warns_of_the_processor_as_python_does(
    probe: Probe, tiny_classifier: Path, bits: object, device: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """On most machines neither has anything to say; `make test-processors` emulates one where both have."""
    folder = shutil.copytree(tiny_classifier, tmp_path / "bundle")
    spoil(folder, lambda manifest: manifest.update(quantization={"weight_bits": bits}))
    loading.open_session(folder, device=device)
    said = probe("warnings", folder, device)
    assert data(said) == data("".join(str(w.message) for w in recwarn if w.category is RuntimeWarning))
    saturates = processor.adds_exactly() is False or processor.onednn_limit() is not None
    assert bool(said) == (bits == 8 and saturates)


def test_files_openvino_cannot_use_are_named(programs: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    # One of the readers OpenVINO tries on such a file leaks 8 bytes, so leaks are not looked for here.
    probe = Probe(programs / "probe", tmp_path, ASAN_OPTIONS="detect_leaks=0")
    for name in ("model.xml", "model.bin"):
        broken = tmp_path / name
        shutil.copytree(tiny_classifier, broken)
        (broken / name).write_bytes(b"<net>")
        info = read_bundle(tiny_classifier).info
        write_manifest(broken, manifest_of(info, "ov-fp32", broken))
        with pytest.raises(EdgekitError, match="model.xml: OpenVINO cannot compile it"):
            probe("open", broken)
    other = tmp_path / "other"
    shutil.copytree(tiny_classifier, other)
    spoil(other, lambda m: m["outputs"][0].update(name="wishes"))
    says = "its inputs and outputs are not those of the manifest"
    with pytest.raises(EdgekitError, match=says):
        probe("open", other)
    with pytest.raises(EdgekitError, match=says):
        loading.load(other)
    assert probe.close() == 0


def test_many_threads_on_a_fake_backend(programs: Path) -> None:
    assert run(programs / "threads").stdout == "0 wrong of 1600\n"


def test_the_fuzzer_runs(programs: Path, tmp_path: Path) -> None:
    """What it starts from and once found, and a moment of chance, so that it keeps working; the README says how to run
    it for longer."""
    files = []
    for number, seed in enumerate(seeds()):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(seed)
    environment = ENVIRONMENT | {"EDGEKIT_FUZZ_FOLDER": str(tmp_path)}
    command = [programs / "fuzz", "2", "1", *files]
    done = subprocess.run([str(c) for c in command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "inputs" in done.stdout, done.stderr


IMAGES = {"bccd": "data/bccd/images/val", "seg": "data/balloon/images/val", "pose": "data/person_pose/images/val",
          "obb": "data/table_tennis_obb/images/val", "cls": "data/flowers5/val"}  # fmt: skip


def photos(shared: Path, name: str, most: int) -> list[np.ndarray]:
    folder = shared / next(place for key, place in IMAGES.items() if key in name)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [read_image(p) for p in paths[:: max(len(paths) // most, 1)][:most]]


@pytest.mark.parametrize("built", ["ov-fp16", "ov-fp32"])
def test_of_several_input_sizes_the_same_one_answers(
    probe: Probe, built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_bfloat16(built == "ov-fp16")
    folder = assembled(built, tmp_path, monkeypatch)["both"]
    rng = np.random.default_rng(3)
    with loading.load(folder, conf=0.05) as model:
        for size in ((50, 90), (90, 50), (70, 70), (200, 100)):
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            expected = model(image)[0]
            found = result_of(probe.predict(folder, image, conf=0.05), model.info.names, expected)
            assert len(expected) > 0 and found.shape == size
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(("spoil", "_"), SPOILT)
def test_shapes_that_no_build_writes_are_refused_alike(
    probe: Probe, spoil: Any, _: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = assembled("ort-fp32", tmp_path, monkeypatch)["both"]
    rewrite(folder, spoil)
    with pytest.raises(EdgekitError) as ours:
        read_bundle(folder)
    with pytest.raises(EdgekitError) as theirs:
        probe("read", folder)
    assert type(ours.value) is type(theirs.value)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["raw", "topk"])
@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16", "ov-int8"])
@pytest.mark.parametrize("name", FIXTURES)
def test_every_task_target_and_head_conforms(
    probe: Probe, shared: Path, name: str, target: str, head: str, tmp_path: Path
) -> None:
    from edgekit.graph.export import export

    export(
        checkpoint.load(shared / "fixtures" / f"{name}.pt"),
        tmp_path / "m.onnx",
        head=head,
        recipe=targets.get(target).recipe,
    )
    images = photos(shared, name, 8)
    folder = built(tmp_path / "m.onnx", target, tmp_path / "bundle", images)
    assert assert_conforms(probe, folder, images, **OPTIONS) > 0
    assert_conforms(probe, folder, images[:2], conf=0.01, iou=0.5, max_det=50, agnostic=True)


# ---- the rest of the package ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_under_threadsanitizer(tiny_classifier: Path) -> None:
    """A fake backend without suppressions, then OpenVINO with those of tests/cpp/openvino.tsan."""
    folder = compile_tests("cpp-thread", "-DEDGEKIT_SANITIZE=thread", targets=("threads",))
    assert run(folder / "threads").stdout == "0 wrong of 1600\n"
    assert run(folder / "threads", tiny_classifier, 5).stdout == "0 wrong of 40\n"


@pytest.mark.slow
def test_an_installed_library_is_found(tiny_classifier: Path, tmp_path: Path) -> None:
    source, openvino = places.cmake_dir().parent, places.openvino_cmake_dir()
    run("cmake", "-S", source, "-B", tmp_path / "b", f"-DOpenVINO_DIR={openvino}", "-DEDGEKIT_WARNINGS_AS_ERRORS=ON")
    run("cmake", "--build", tmp_path / "b")
    run("cmake", "--install", tmp_path / "b", "--prefix", tmp_path / "prefix")
    user = tmp_path / "user"
    user.mkdir()
    shutil.copy(REPO / "tests/cpp/c_abi.c", user / "main.c")
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(user C CXX)\nfind_package(edgekit REQUIRED)\n"
        "add_executable(main main.c)\ntarget_link_libraries(main edgekit::edgekit)\n"
        "set_target_properties(main PROPERTIES LINKER_LANGUAGE CXX)\n"
    )
    run("cmake", "-S", user, "-B", user / "b", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", user / "b")
    assert run(user / "b/main", tiny_classifier).stdout.splitlines()[0] == "classify 3 ant"


def test_the_command_prints_the_folders() -> None:
    from edgekit.cli import main

    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "runtime", "--cmake-dir", "--openvino-cmake-dir"],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    lines = [Path(line) for line in done.stdout.splitlines()]
    assert (lines[0] / "edgekitConfig.cmake").is_file() and (lines[1] / "OpenVINOConfig.cmake").is_file()
    with pytest.raises(SystemExit) as left:
        main(["runtime"])
    assert left.value.code == 2


# ---- self-tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_a_self_test_passes_and_fails_as_in_python(probe: Probe, task: str, tmp_path: Path) -> None:
    """The answers of a bundle, and those of another whose weights are others."""
    folder = with_answers(tiny_bundle(tmp_path / "right", task, "ov-fp32"))
    assert probe("verify", folder)["state"] == 0
    other = with_answers(tiny_bundle(tmp_path / "wrong", task, "ov-fp32", seed=3))
    for name in ("model.xml", "model.bin"):
        shutil.copyfile(folder / name, other / name)
    reseal(other)
    found = probe("verify", other)
    ours = verify(other)[-1]
    assert (found["state"], ours.state) == (1, "failed")
    wrong = {role for role, row in ours.figures["roles"].items() if not row["pass"]}
    assert found["role"] in wrong and found["role"] in found["message"]


def test_the_figures_of_a_self_test_are_pythons(probe: Probe, tmp_path: Path) -> None:
    """Bounds just above what Python finds pass, just below fail."""
    folder = with_answers(tiny_bundle(tmp_path / "a", "detect", "ov-fp32"))
    other = with_answers(tiny_bundle(tmp_path / "b", "detect", "ov-fp32", seed=3))
    for name in ("model.xml", "model.bin"):
        shutil.copyfile(folder / name, other / name)
    reseal(other)
    roles = verify(other)[-1].figures["roles"]
    where = other / "selftest" / "selftest.json"
    document = json.loads(where.read_text())
    for factor, state in ((1.0001, 0), (0.9999, 1)):
        allowed = {role: {k: max(v * factor, 1e-9) for k, v in row["found"].items()} for role, row in roles.items()}
        where.write_text(json.dumps(document | {"allowed": {"f32": allowed}}))
        assert probe("verify", reseal(other))["state"] == state


def reseal(folder: Path) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    read = read_bundle(folder, verify=False)
    manifest["files"] = manifest_of(read.info, read.target, folder)["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_bundle_without_self_test_is_no_failure(probe: Probe, tmp_path: Path) -> None:
    found = probe("verify", tiny_bundle(tmp_path / "a", "detect", "ov-fp32"))
    assert found["state"] == 2 and "no self-test" in found["message"]


@pytest.mark.parametrize("spoilt", ["{", '{"schema": 1}', '{"schema": 1, "images": [], "answers": [], "allowed": {}}'])
def test_a_self_test_that_is_not_valid_is_refused(probe: Probe, spoilt: str, tmp_path: Path) -> None:
    folder = with_answers(tiny_bundle(tmp_path / "a", "detect", "ov-fp32"))
    (folder / "selftest" / "selftest.json").write_text(spoilt)
    with pytest.raises(InputError, match=r"selftest\.json"):
        probe("verify", reseal(folder))
