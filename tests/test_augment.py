"""Augmentation: the geometry against closed forms and properties, pixels against slower spellings, real sets by eye's
rules (what is inside stays inside, boxes enclose outlines)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.metrics.labels import Labels, shoelace
from edgekit.runtime.image import letterbox
from edgekit.runtime.masks import encode_rle
from edgekit.train import augment as augmentation
from edgekit.train import pixels
from edgekit.train.augment import Augment
from edgekit.train.geometry import (
    Objects,
    compose,
    cut_polygon,
    flip_lr,
    flip_ud,
    move,
    rotation,
    scaling,
)

MATRICES = st.builds(
    lambda angle, scale, sx, sy, x, y, mirrored: compose(
        scaling(-1.0 if mirrored else 1.0, 1.0, x, y), rotation(angle, scale, sx, sy)
    ),
    st.floats(-180, 180),
    st.floats(0.3, 2.0),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(-200, 200),
    st.floats(-200, 200),
    st.booleans(),
)
SEEDS = st.integers(0, 2**32)


def star(rng: np.random.Generator, count: int = 12, size: float = 100.0) -> np.ndarray:
    """A simple polygon: points around a middle by angle."""
    angle = (np.arange(count) + rng.uniform(0.1, 0.9, count)) / count * 2 * np.pi
    radius = rng.uniform(0.3, 1.0, count) * size
    return rng.uniform(0, 300, 2) + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def objects_of(polygons: list[np.ndarray]) -> Objects:
    boxes = np.array([[*p.min(0), *p.max(0)] for p in polygons])
    count = len(polygons)
    return Objects(np.zeros(count, np.int64), boxes, tuple((p,) for p in polygons), layer=np.zeros(count, np.int64))


def posed(rng: np.random.Generator, count: int = 3, points: int = 5) -> Objects:
    corner = rng.uniform(0, 200, (count, 2))
    keypoints = np.concatenate(
        [rng.uniform(0, 300, (count, points, 2)), rng.integers(0, 3, (count, points, 1)).astype(float)], -1
    )
    boxes = np.concatenate([corner, corner + rng.uniform(5, 100, (count, 2))], 1)
    return Objects(np.arange(count), boxes, keypoints=keypoints, layer=np.zeros(count, np.int64))


# ---- matrices -----------------------------------------------------------------------------------------------------


@given(MATRICES, SEEDS)
def test_the_inverse_leads_back(matrix, seed):
    points = np.random.default_rng(seed).uniform(-500, 500, (20, 2))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    assert np.allclose(move(inverse, move(matrix, points)), points, atol=1e-7)


@given(MATRICES, MATRICES, SEEDS)
def test_composition_is_one_after_the_other(first, after, seed):
    points = np.random.default_rng(seed).uniform(-500, 500, (20, 2))
    assert np.allclose(move(compose(after, first), points), move(after, move(first, points)), atol=1e-6)


def test_rotation_is_clockwise_on_the_screen():
    assert np.allclose(move(rotation(90, 2, 0, 0), np.array([[1.0, 0.0]])), [[0, 2]])


# ---- objects through a matrix ---------------------------------------------------------------------------------------


@given(MATRICES, SEEDS)
def test_areas_scale_with_the_determinant_and_boxes_enclose_outlines(matrix, seed):
    rng = np.random.default_rng(seed)
    before = objects_of([star(rng), star(rng)])
    after = before.transformed(matrix)
    for old, new, box in zip(before.outlines, after.outlines, after.boxes, strict=True):
        assert shoelace(new[0]) == pytest.approx(shoelace(old[0]) * abs(np.linalg.det(matrix[:, :2])), rel=1e-9)
        assert np.allclose(box, [*new[0].min(0), *new[0].max(0)])


@given(MATRICES, SEEDS)
def test_points_inside_stay_inside(matrix, seed):
    rng = np.random.default_rng(seed)
    polygon = star(rng)
    probes = rng.uniform(polygon.min(0), polygon.max(0), (30, 2))
    moved, moved_probes = move(matrix, polygon), move(matrix, probes)
    for probe, moved_probe in zip(probes, moved_probes, strict=True):
        distance = cv2.pointPolygonTest(polygon.astype(np.float32), probe.tolist(), True)
        if abs(distance) > 0.1:  # cv2 computes in float32
            inside = cv2.pointPolygonTest(moved.astype(np.float32), moved_probe.tolist(), False)
            assert (inside > 0) == (distance > 0)


@given(MATRICES, SEEDS)
def test_a_plain_box_becomes_the_box_around_its_corners(matrix, seed):
    before = posed(np.random.default_rng(seed))
    after = before.transformed(matrix)
    for (x1, y1, x2, y2), box in zip(before.boxes, after.boxes, strict=True):
        corners = move(matrix, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))
        assert np.allclose(box, [*corners.min(0), *corners.max(0)])


@given(SEEDS, st.booleans())
def test_two_mirrors_change_nothing_and_one_swaps_keypoints(seed, upside_down):
    before = posed(np.random.default_rng(seed))
    mirror, swap = flip_ud(300) if upside_down else flip_lr(300), (0, 2, 1, 4, 3)
    once = before.transformed(mirror, swap)
    assert np.array_equal(once.keypoints[:, :, 2], before.keypoints[:, list(swap), 2])
    axis = int(upside_down)
    assert np.allclose(once.keypoints[..., axis], 300 - before.keypoints[:, list(swap), axis])
    twice = once.transformed(mirror, swap)
    assert np.allclose(twice.keypoints, before.keypoints) and np.allclose(twice.boxes, before.boxes)
    turned = before.transformed(compose(flip_ud(300), flip_lr(300)), swap)  # half a turn: left stays left
    assert np.array_equal(turned.keypoints[..., 2], before.keypoints[..., 2])


@given(SEEDS, st.floats(-180, 180), st.floats(0.5, 2))
def test_oriented_boxes_turn_and_scale(seed, degrees, scale):
    rng = np.random.default_rng(seed)
    w, h, angle = rng.uniform(60, 120), rng.uniform(10, 50), rng.uniform(-np.pi / 2, np.pi / 2)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ axes + 100
    box = np.array([[*corners.min(0), *corners.max(0)]])
    objects = Objects(np.zeros(1, np.int64), box, corners=corners[None], layer=np.zeros(1, np.int64))
    found = objects.transformed(rotation(degrees, scale, 0, 0)).rotated()[0]
    assert np.allclose(found[:2], move(rotation(degrees, scale, 0, 0), np.array([100.0, 100.0])))
    assert np.allclose(found[2:4], [w * scale, h * scale])
    assert abs(np.sin(found[4] - angle - np.deg2rad(degrees))) < 1e-6
    assert -np.pi / 2 <= found[4] < np.pi / 2 + 1e-12


# ---- the canvas ---------------------------------------------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=40)
def test_cut_polygons_match_a_drawn_one(seed):
    polygon = star(np.random.default_rng(seed), size=150)
    inside = cut_polygon(polygon, (200, 250))
    drawn = np.zeros((500 * 4, 600 * 4), np.uint8)  # with room on all sides
    cv2.fillPoly(drawn, [np.rint((polygon + 150) * 4).astype(np.int32)], 1)
    area = drawn[150 * 4 : 350 * 4, 150 * 4 : 400 * 4].sum() / 16
    assert (shoelace(inside) if len(inside) else 0) == pytest.approx(area, abs=0.02 * area + 160)
    if len(inside):
        assert inside.min() >= 0 and (inside <= [250, 200]).all()


def test_what_is_left_on_the_canvas():
    boxes = np.array(
        [
            [10, 10, 50, 50],  # whole
            [-30, 10, 10, 50],  # a quarter is left
            [-95, 10, 5, 50],  # a twentieth is left: goes
            [10, 10, 11, 50],  # 1 px wide: goes
            [10, 10, 310, 12.5],  # whole, 1 : 120: goes
            [400, 400, 500, 500],  # off: goes
        ],
        np.float64,
    )
    left = Objects(np.arange(6), boxes, layer=np.zeros(6, np.int64)).clipped((320, 320))
    assert left.classes.tolist() == [0, 1]
    assert np.array_equal(left.boxes, [[10, 10, 50, 50], [0, 10, 10, 50]])


def test_an_outline_cut_by_the_canvas_has_the_box_of_what_is_left():
    triangle = np.array([[-50.0, 100.0], [50.0, 0.0], [50.0, 200.0]])
    left = objects_of([triangle]).clipped((320, 320))
    assert np.allclose(left.boxes, [[0, 0, 50, 200]])
    assert shoelace(left.outlines[0][0]) == pytest.approx(10000 - 2500)


def test_keypoints_off_the_canvas_are_not_labelled():
    keypoints = np.array([[[5.0, 5, 2], [-1, 5, 2], [5, 321, 1], [7, 7, 0]]])
    objects = Objects(np.zeros(1, np.int64), np.array([[0.0, 0, 50, 50]]), keypoints=keypoints, layer=np.zeros(1, int))
    assert np.array_equal(objects.clipped((320, 320)).keypoints[0], [[5, 5, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_oriented_boxes_go_with_their_centre_and_stay_whole():
    corners = np.array([[[-20.0, 10], [80, 10], [80, 40], [-20, 40]], [[-80, 10], [20, 10], [20, 40], [-80, 40]]])
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    left = Objects(np.arange(2), boxes, corners=corners, layer=np.zeros(2, np.int64)).clipped((320, 320))
    assert left.classes.tolist() == [0]
    assert np.allclose(left.rotated(), [[30, 25, 100, 30, 0]])


def test_the_index_map_says_who_covers_the_middle_of_a_cell():
    big, small = np.array([[0.0, 0], [80, 0], [80, 80], [0, 80]]), np.array([[20.0, 20], [41, 20], [41, 41], [20, 41]])
    found = objects_of([small, big]).index_map((160, 160))
    y, x = np.mgrid[:40, :40] * 4 + 2
    want = np.where((x < 80) & (y < 80), 2, 0)
    want[(x >= 20) & (x <= 41) & (y >= 20) & (y <= 41)] = 1
    assert found.dtype == np.int16 and np.array_equal(found, want)


def test_crowds_are_not_learnt_and_run_lengths_become_outlines():
    mask = np.zeros((100, 120), bool)
    mask[20:60, 30:90] = True
    labels = Labels(
        np.array([0, 1]),
        np.array([[30.0, 20, 90, 60], [0, 0, 120, 100]]),
        np.array([False, True]),
        np.full(2, np.nan),
        size=(120, 100),
        polygons=((), ()),
        rle=(encode_rle(mask), None),
    )
    objects = Objects.from_labels(labels)
    assert objects.classes.tolist() == [0]
    assert np.allclose([*objects.outlines[0][0].min(0), *objects.outlines[0][0].max(0)], [30.5, 20.5, 89.5, 59.5])


# ---- drawing --------------------------------------------------------------------------------------------------------


def dotted() -> tuple[np.ndarray, np.ndarray]:
    """A black image with bright discs, and their centres in continuous pixels."""
    image = np.zeros((300, 400, 3), np.uint8)
    centres = np.array([[60.5, 60.5], [300.5, 80.5], [200.5, 220.5]])
    for x, y in centres:
        cv2.circle(image, (int(x), int(y)), 14, (255, 255, 255), -1)
    return image, centres


@pytest.mark.parametrize(
    "matrix", [scaling(0.7, 0.7, 13.3, -7.8), scaling(1.4, 1.4, -60.2, 10.6), rotation(25, 0.8, 5, -4)]
)
def test_pixels_go_where_the_matrix_says(matrix):
    image, centres = dotted()
    canvas = np.zeros((320, 320, 3), np.uint8)
    used = augmentation.paint(canvas, image, matrix)
    assert np.abs(move(used, centres) - move(matrix, centres)).max() < 1.5
    for x, y in move(used, centres):
        if not (25 < x < 295 and 25 < y < 295):
            continue
        part = canvas[int(y) - 24 : int(y) + 25, int(x) - 24 : int(x) + 25, 0].astype(float)
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
        found = np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum() + [int(x) - 24, int(y) - 24]
        assert np.abs(found - [x, y]).max() < 0.3


def source(count: int = 4):
    """Images of one color each with one box, and a fetch for them."""
    rng = np.random.default_rng(0)
    images = [np.full((240, 320, 3), rng.integers(30, 220, 3), np.uint8) for _ in range(count)]
    for image in images:
        image[60:120, 80:200] = 250
    one = Objects(np.zeros(1, np.int64), np.array([[0.25, 0.25, 0.625, 0.5]]), layer=np.zeros(1, np.int64))
    return images, lambda place: (images[place], one, (1.0, 1.0))


@pytest.mark.parametrize("degrees", [0, 20])
def test_boxes_of_a_mosaic_enclose_what_was_drawn(degrees):
    _, fetch = source()
    augment = Augment(hsv_h=0, hsv_s=0, hsv_v=0, degrees=degrees, flip_ud=0.5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        canvas, objects = augmentation.detection_sample(
            rng, augment, fetch, 0, lambda rng=rng: int(rng.integers(4)), (320, 320), True
        )
        bright = (canvas > 245).all(-1)
        covered = np.zeros_like(bright)
        for x1, y1, x2, y2 in objects.boxes:
            covered[max(int(y1) - 1, 0) : int(y2) + 2, max(int(x1) - 1, 0) : int(x2) + 2] = True
            if not degrees:
                assert bright[round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1].mean() > 0.9
        assert (bright & ~covered).mean() < 0.02  # slivers that were too little to keep


def test_no_augmentation_is_the_letterbox():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (97, 211, 3), np.uint8)
    boxes = np.array([[10.0, 20, 60, 70]])
    one = Objects(np.zeros(1, np.int64), boxes, layer=np.zeros(1, np.int64))
    canvas, objects = augmentation.detection_sample(
        rng, Augment.none(), lambda place: (image, one, (211.0, 97.0)), 0, lambda: 0, (320, 256), True
    )
    want, place = letterbox(image, (320, 256))
    assert np.array_equal(canvas, want)
    assert np.allclose(objects.boxes, place.boxes_to_canvas(boxes), atol=1e-4)
    planes = np.empty((3, 320, 256), np.uint8)
    augmentation.finish(rng, Augment.none(), canvas, planes, classify=True)
    assert np.array_equal(planes, want[:, :, ::-1].transpose(2, 0, 1))


def test_pasted_objects_are_mirrored_on_top_and_cover_little():
    canvas = np.zeros((200, 200, 3), np.uint8)
    square = np.array([[10.0, 20], [60, 20], [60, 70], [10, 70]])
    middle = square + [65, 80]  # its mirror image falls on itself: not pasted
    canvas[20:70, 10:60] = 255
    objects = augmentation._copy_paste(np.random.default_rng(0), 1.0, canvas, objects_of([square, middle]))
    assert len(objects) == 3
    assert np.allclose(objects.boxes[2], [140, 20, 190, 70]) and objects.layer.tolist() == [0, 0, 1]
    assert (canvas[20:70, 140:190] == 255).all() and canvas[20:70, 60:140].sum() == 0
    assert objects.index_map((200, 200))[11, 41] == 3


def test_unknown_amounts_are_refused():
    with pytest.raises(UsageError, match="mosaic"):
        Augment(mosaic=1.5)
    with pytest.raises(UsageError, match="scale"):
        Augment(scale=1.0)
    assert Augment.recipe("x").mixup == 0.2 and not Augment().is_none and Augment.none().is_none


# ---- pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [(0.014, 0.5, 0.2), (-0.014, -0.5, 0.3), (-0.3, 0.2, -0.2), (0.39, 0, 0)])
def test_colours_change_as_tables_would_have_it(change):
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)
    hsv[..., 0] = (hsv[..., 0] + round(change[0] * 180)) % 180
    hsv[..., 1:] = np.clip(np.rint(hsv[..., 1:] * (1 + np.array(change[1:]))), 0, 255)
    want = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(int)
    off = np.abs(want - pixels.shift_hsv(image, *change))
    assert off.max() <= 9 and off.mean() < 0.1  # mirrored hues are rounded the other way


def test_randaugment_operations_are_pillows():
    image_lib = pytest.importorskip("PIL.Image")
    from PIL import ImageEnhance, ImageOps

    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(20, 200, (12, 16, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    pil = image_lib.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    others = {
        "brightness": lambda s: ImageEnhance.Brightness(pil).enhance(1 + 0.9 * s),
        "color": lambda s: ImageEnhance.Color(pil).enhance(1 + 0.9 * s),
        "contrast": lambda s: ImageEnhance.Contrast(pil).enhance(1 + 0.9 * s),
        "sharpness": lambda s: ImageEnhance.Sharpness(pil).enhance(1 + 0.9 * s),
        "posterize": lambda s: ImageOps.posterize(pil, 8 - round(4 * s)),
        "solarize": lambda s: ImageOps.solarize(pil, 255 * (1 - s)),
        "autocontrast": lambda s: ImageOps.autocontrast(pil),
        "equalize": lambda s: ImageOps.equalize(pil),
    }
    for name, other in others.items():
        for strength in (0.3, -0.3) if name in pixels._SIGNED else (0.3, 1.0):
            want = np.asarray(other(strength)).astype(int)
            found = pixels.OPERATIONS[name](image, strength)[:, :, ::-1]
            assert np.abs(found - want).mean() < (4 if name == "equalize" else 0.8), (name, strength)
    for name in set(pixels.OPERATIONS) - set(others):
        assert pixels.OPERATIONS[name](image, 0.3).shape == image.shape
        assert np.abs(pixels.OPERATIONS[name](image, 0.0).astype(int) - image).max() <= 1


def test_erasing_blackens_one_rectangle_of_the_stated_size():
    for seed in range(20):
        planes = np.full((3, 128, 96), 255, np.uint8)
        pixels.erase(np.random.default_rng(seed), planes)
        rows, columns = np.nonzero((planes == 0).all(0))
        if len(rows):
            area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert area == len(rows) and 0.015 < area / (128 * 96) < 0.35


def test_crops_keep_their_share_and_shape():
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, rows, columns = augmentation._random_crop(rng, 0.5, 300, 400)
        assert 0 <= top <= 300 - rows and 0 <= left <= 400 - columns
        assert 0.49 < rows * columns / 120000 <= 1.01 and 0.74 < columns / rows < 1.35
    assert augmentation._random_crop(rng, 1.0, 10, 1000)[2:] == (10, 13)
