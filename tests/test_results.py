"""Results and the forms they take: JSON, COCO, supervision, pictures; and the run-length encoding of masks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runtime import drawing
from edgekit.runtime.boxes import corners
from edgekit.runtime.image import read_image, write_image
from edgekit.runtime.masks import Crop, Masks, decode_rle, encode_rle, pack_counts, unpack_counts
from edgekit.runtime.results import Result

NAMES = ("cat", "dog", "owl")


def blobs(n: int = 3, height: int = 40, width: int = 60) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(n, height, width)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(m, (0, 0), 4) > 0.05 for m in noise])


def result(n: int = 3, **fields: object) -> Result:
    rng = np.random.default_rng(1)
    start = rng.random((n, 2)) * 15
    base = {
        "boxes": np.concatenate([start, start + 5 + rng.random((n, 2)) * 15], 1).astype(np.float32),
        "scores": np.sort(rng.random(n).astype(np.float32))[::-1].copy(),
        "labels": np.arange(n, dtype=np.int64) % 3,
    }
    return Result(shape=(40, 60), names=NAMES, **{**base, **fields})


def rotated(n: int = 3) -> Result:
    rng = np.random.default_rng(2)
    boxes = np.column_stack([20 + rng.random((n, 2)) * 10, 15 + rng.random(n) * 5, 5 + rng.random(n) * 5,
                             (rng.random(n) - 0.5) * math.pi]).astype(np.float32)  # fmt: skip
    return result(n, boxes=None, rotated_boxes=boxes)


def keypoints(n: int = 3) -> np.ndarray:
    return (np.random.default_rng(3).random((n, 17, 3)) * [60, 40, 1]).astype(np.float32)


def classified() -> Result:
    return Result(shape=(40, 60), names=NAMES, probs=np.array([0.1, 0.7, 0.2], np.float32))


# ---- run-length encoding ----------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_rle_agrees_with_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((height, width)) < share
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    rle = encode_rle(mask)
    assert rle == {"size": [height, width], "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(decode_rle(rle), mask)
    np.testing.assert_array_equal(decode_rle(expected), mask)


@settings(max_examples=200)
@given(st.data())
def test_rle_of_a_crop_is_that_of_the_whole(data: st.DataObject) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    top, left = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    shape = data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
    seed = data.draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).random(shape) < data.draw(st.floats(0, 1))
    whole = np.zeros((height, width), bool)
    whole[top : top + shape[0], left : left + shape[1]] = pixels
    masks = Masks((height, width), (Crop(left, top, pixels),))
    np.testing.assert_array_equal(masks.dense()[0], whole)
    counts = reference.encode(np.asfortranarray(whole.astype(np.uint8)))["counts"].decode()
    assert masks.rle() == [{"size": [height, width], "counts": counts}]


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**31), max_size=30))
def test_run_lengths_survive_packing(runs: list[int]) -> None:
    np.testing.assert_array_equal(unpack_counts(pack_counts(runs)), np.array(runs, np.int64))


def test_rle_also_comes_as_plain_runs() -> None:
    expected = np.array([[0, 1, 1], [0, 1, 0]], bool)
    np.testing.assert_array_equal(decode_rle({"size": [2, 3], "counts": [2, 3, 1]}), expected)


@pytest.mark.parametrize("counts", ["", "~", "PPYo", "\u20ac", [1, 2], [-1, 7], "P" * 40 + "0", b"\xff"])
def test_bad_rle_is_refused(counts: object) -> None:
    with pytest.raises(InputError, match="run-length"):
        decode_rle({"size": [2, 3], "counts": counts})


def test_masks_are_a_sequence_of_dense_masks() -> None:
    dense = blobs()
    masks = Masks.from_dense(dense)
    assert len(masks) == 3
    np.testing.assert_array_equal(np.stack(list(masks)), dense)
    assert Masks((40, 60), ()).dense().shape == (0, 40, 60)


# ---- JSON -------------------------------------------------------------------------------------------------------


def test_to_dict_has_the_keys_of_the_task_and_plain_values() -> None:
    common = {"image", "scores", "labels", "names"}
    cases = {
        "detect": (result(), common | {"boxes"}),
        "segment": (result(masks=Masks.from_dense(blobs())), common | {"boxes", "masks"}),
        "pose": (result(keypoints=keypoints()), common | {"boxes", "keypoints"}),
        "obb": (rotated(), common | {"rotated_boxes"}),
        "classify": (classified(), common | {"probs"}),
        "video": (result(image="a.mp4", frame=7), common | {"boxes", "frame"}),
    }
    for task, (found, keys) in cases.items():
        entry = json.loads(json.dumps(found.to_dict()))
        assert set(entry) == keys, task
        assert len(entry["scores"]) == len(entry["labels"]) == len(entry["names"])


def test_to_dict_values() -> None:
    found = result(masks=Masks.from_dense(blobs()), keypoints=keypoints(), image="x/y.jpg")
    entry = found.to_dict()
    assert entry["image"] == "x/y.jpg"
    np.testing.assert_allclose(entry["boxes"], found.boxes, atol=6e-4)
    np.testing.assert_allclose(entry["scores"], found.scores, atol=6e-7)
    np.testing.assert_allclose(entry["keypoints"], found.keypoints, atol=6e-4)
    assert entry["labels"] == [0, 1, 2] and entry["names"] == ["cat", "dog", "owl"]
    np.testing.assert_array_equal(np.stack([decode_rle(m) for m in entry["masks"]]), blobs())
    assert all(len(repr(v)) <= 8 for row in entry["boxes"] for v in row)


def test_to_dict_of_a_classification_names_its_best() -> None:
    entry = classified().to_dict()
    assert (entry["labels"], entry["names"], entry["scores"]) == ([1], ["dog"], [0.7])
    assert entry["probs"] == [0.1, 0.7, 0.2]
    assert classified().top1 == 1 and len(classified()) == 0


def test_nothing_found_is_empty_lists() -> None:
    empty = result(0, masks=Masks((40, 60), ()), keypoints=np.zeros((0, 17, 3), np.float32))
    entry = empty.to_dict()
    assert all(entry[key] == [] for key in ("boxes", "scores", "labels", "names", "masks", "keypoints"))
    assert empty.to_coco(1) == [] and len(empty) == 0
    assert rotated(0).to_dict()["rotated_boxes"] == [] and rotated(0).to_coco(1) == []


# ---- COCO -------------------------------------------------------------------------------------------------------


def test_to_coco_is_read_by_pycocotools() -> None:
    api = pytest.importorskip("pycocotools.coco")
    masks = blobs()
    found = result(masks=Masks.from_dense(masks), keypoints=keypoints())
    rows = found.to_coco(image_id=5, category_ids=[10, 20, 30])
    truth = api.COCO()
    truth.dataset = {"images": [{"id": 5, "height": 40, "width": 60}], "annotations": [],
                     "categories": [{"id": i, "name": str(i)} for i in (10, 20, 30)]}  # fmt: skip
    truth.createIndex()
    loaded = truth.loadRes(json.loads(json.dumps(rows)))
    annotations = loaded.loadAnns(loaded.getAnnIds())
    assert [a["category_id"] for a in annotations] == [10, 20, 30]
    for annotation, box, score, mask in zip(annotations, found.boxes, found.scores, masks, strict=True):
        x, y, w, h = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, atol=1e-3)
        assert annotation["score"] == score
        np.testing.assert_array_equal(loaded.annToMask(annotation).astype(bool), mask)
    np.testing.assert_allclose(np.reshape([r["keypoints"] for r in rows], (3, 17, 3)), found.keypoints, atol=1e-4)
    assert [r["category_id"] for r in found.to_coco(5)] == [0, 1, 2]
    assert [r["category_id"] for r in found.to_coco(5, {0: 7, 1: 8, 2: 9})] == [7, 8, 9]


def test_to_coco_of_rotated_boxes_gives_corners() -> None:
    found = rotated()
    for row, box in zip(found.to_coco(1), found.rotated_boxes, strict=True):
        polygon = np.reshape(row["segmentation"], (4, 2))
        area = cv2.contourArea(polygon.astype(np.float32))
        assert area == pytest.approx(box[2] * box[3], rel=1e-3)
        x, y, w, h = row["bbox"]
        np.testing.assert_allclose([*polygon.min(0), *polygon.max(0)], [x, y, x + w, y + h], atol=1e-2)
    assert classified().to_coco(1) == []


# ---- supervision ------------------------------------------------------------------------------------------------


def test_to_supervision() -> None:
    sv = pytest.importorskip("supervision")
    masks = blobs()
    found = result(masks=Masks.from_dense(masks))
    detections = found.to_supervision()
    assert isinstance(detections, sv.Detections) and len(detections) == 3
    np.testing.assert_array_equal(detections.xyxy, found.boxes)
    np.testing.assert_array_equal(detections.mask, masks)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    assert list(detections["class_name"]) == ["cat", "dog", "owl"]
    assert len(detections[detections.class_id == 1]) == 1

    posed = result(keypoints=keypoints()).to_supervision()
    assert isinstance(posed, sv.KeyPoints)
    np.testing.assert_array_equal(posed.xy, keypoints()[:, :, :2])

    turned = rotated()
    detections = turned.to_supervision()
    np.testing.assert_allclose(detections.data["xyxyxyxy"], corners(turned.rotated_boxes), atol=1e-4)
    np.testing.assert_allclose(detections.xyxy[:, :2], detections.data["xyxyxyxy"].min(1), atol=1e-4)

    classes = classified().to_supervision()
    assert isinstance(classes, sv.Classifications) and classes.get_top_k(1)[0].tolist() == [1]

    for empty in (result(0), result(0, masks=Masks((40, 60), ())), rotated(0)):
        assert len(empty.to_supervision()) == 0


# ---- pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detect", "segment", "pose", "obb", "classify"])
def test_plot_draws_on_a_copy(kind: str) -> None:
    found = {
        "detect": result(),
        "segment": result(masks=Masks.from_dense(blobs())),
        "pose": result(keypoints=keypoints()),
        "obb": rotated(),
        "classify": classified(),
    }[kind]
    image = np.full((40, 60, 3), 90, np.uint8)
    picture = found.plot(image)
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert (image == 90).all()
    assert (picture != image).any()


def test_boxes_are_drawn_where_they_are() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    found = Result((100, 100), NAMES, np.array([[20, 30, 60, 80]], np.float32), np.array([0.5]), np.array([1]))
    touched = np.argwhere(found.plot(image, tags=False, width=1).any(2))
    assert touched.min(0).tolist() == [30, 20] and touched.max(0).tolist() == [79, 59]
    assert not found.plot(image, tags=False, width=1)[35:75, 25:55].any()


def test_masks_tint_their_pixels_only() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:20, 30:50] = True
    drawing.draw_masks(image, Masks((40, 60), (Crop(30, 10, mask[0, 10:20, 30:50]),)), [(255, 0, 0)], width=1)
    changed = (image != 100).any(2)
    grown = cv2.dilate(mask[0].astype(np.uint8), np.ones((3, 3))) > 0  # the outline is a smooth line around it
    assert changed[mask[0]].all() and not changed[~grown].any()


def test_neighbouring_colours_differ() -> None:
    colors = np.array([drawing.color(i) for i in range(80)], int)
    assert (np.abs(colors[1:] - colors[:-1]).sum(1) > 100).all()


@pytest.mark.parametrize("shape", [(2, 2), (2, 300), (300, 2), (3000, 20)])
def test_drawing_outlandish_values_does_not_fail(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    wild = np.full((1, 17, 3), 3e38, np.float32)
    Result(shape, ("x" * 200,), np.array([[0, 0, *shape[::-1]]], np.float32), np.array([1.0]), np.array([0]),
           keypoints=wild, rotated_boxes=wild[0, :1, :1].repeat(5, 1)).plot(image)  # fmt: skip
    Result(shape, (), probs=np.array([0.5, 0.5])).plot(image)


def test_plot_finds_the_image_itself(tmp_path: Path) -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    write_image(tmp_path / "a.png", image)
    expected = result().plot(image)
    np.testing.assert_array_equal(result(image=str(tmp_path / "a.png")).plot(), expected)
    np.testing.assert_array_equal(result(pixels=image).plot(), expected)
    result(pixels=image).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), expected)
    with pytest.raises(InputError, match="no image"):
        result().plot()
    with pytest.raises(InputError, match="no image"):
        result(image="clip.mp4", frame=3).plot()
    with pytest.raises(InputError, match="60 x 41"):
        result().plot(np.zeros((41, 60, 3), np.uint8))
