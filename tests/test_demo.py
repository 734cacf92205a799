"""The generated set: its labels are checked against the pictures, not against the code that made them."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from benchmarks import shapeset
from edgekit.errors import InputError


def box_of(pixels: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(pixels)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def shape(label: int, x: float, y: float, radius: float, angle: float = 0.3, grey: int = 255) -> shapeset.Shape:
    return shapeset.Shape(label, x, y, radius, angle, (grey,) * 3, (grey,) * 3, "plain")


@pytest.mark.parametrize(
    ("name", "area"),  # of a shape that fits the unit circle
    [
        ("circle", math.pi),
        ("square", 2.0),
        ("triangle", 3 * math.sqrt(3) / 4),
        ("cross", (2 * 2 * 0.6 - 0.6**2) / (1 + 0.3**2)),  # two bars 2 by 0.6, less where they cross
        ("star", 10 * 0.5 * 0.45 * math.sin(math.pi / 5)),  # ten triangles between radius 1 and 0.45
    ],
)
@pytest.mark.parametrize("angle", [0.0, 1.1])
def test_shapes_cover_the_area_of_their_closed_form(name: str, area: float, angle: float) -> None:
    mask = shapeset.shape_mask(shape(shapeset.NAMES.index(name), 150, 150, 140, angle), 300, 300)
    assert mask.sum() == pytest.approx(area * 140**2, rel=0.03)  # pixels on the outline count as inside


@pytest.mark.parametrize("seed", range(20))
def test_boxes_and_masks_are_what_the_picture_shows(seed: int) -> None:
    """Every shape in a grey of its own on black: what is left of each grey is what is seen of that shape."""
    rng = np.random.default_rng(seed)
    shapes = [
        shape(int(rng.integers(5)), *rng.uniform(20, 140, 2), rng.uniform(10, 40), rng.uniform(0, 6), grey=40 * (i + 1))
        for i in range(5)
    ]
    scene = shapeset.compose(np.zeros((160, 160, 3), np.uint8), shapes)
    assert scene.labels == tuple(s.label for s in shapes)
    for i, (mask, box) in enumerate(zip(scene.masks, scene.boxes, strict=True)):
        shown = scene.image[..., 0] == 40 * (i + 1)
        np.testing.assert_array_equal(mask, shown)
        if shown.any():
            np.testing.assert_array_equal(box, box_of(shown))


def test_a_covered_shape_gets_the_box_of_its_visible_part() -> None:
    square = shapeset.NAMES.index("square")
    turned = math.pi / 4  # sides along the axes: corners of the unit circle at 45 degrees
    half = 40 / math.sqrt(2)
    left, right = shape(square, 60, 60, 40, turned, 50), shape(square, 80, 60, 40, turned, 90)
    scene = shapeset.compose(np.zeros((120, 160, 3), np.uint8), [left, right])
    expected = [[60 - half, 60 - half, 80 - half, 60 + half], [80 - half, 60 - half, 80 + half, 60 + half]]
    np.testing.assert_allclose(scene.boxes, expected, atol=1.0)


def test_scenes_are_varied_and_every_shape_in_them_can_be_seen() -> None:
    scenes = [shapeset.draw_scene(np.random.default_rng(i), 160) for i in range(60)]
    labels = [label for s in scenes for label in s.labels]
    assert set(labels) == set(range(len(shapeset.NAMES)))
    boxes = np.concatenate([s.boxes for s in scenes])
    assert boxes.min() >= 0 and boxes.max() <= 160
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert sides.min() >= 4 and sides.max() / sides.min() > 5
    assert all(mask.sum() >= shapeset.SMALLEST for s in scenes for mask in s.masks)
    assert len({len(s.labels) for s in scenes}) >= 5
    brightness = [float(s.image.mean()) for s in scenes]
    assert min(brightness) < 80 and max(brightness) > 150


def test_the_set_has_the_usual_layout_and_its_labels_are_the_scenes_boxes(tmp_path: Path) -> None:
    data = shapeset.make_set(tmp_path / "set", train=3, val=2, size=128, seed=7)
    described = yaml.safe_load(data.read_text(encoding="utf-8"))
    assert described["names"] == dict(enumerate(shapeset.NAMES))
    for number, (split, count) in enumerate((("train", 3), ("val", 2))):
        images = sorted((data.parent / described[split]).iterdir())
        assert len(images) == count
        for index, path in enumerate(images):
            image = cv2.imread(str(path))
            assert image.shape == (128, 128, 3)
            rows = np.loadtxt(str(path).replace("images", "labels").replace(".jpg", ".txt"), ndmin=2)
            scene = shapeset.draw_scene(np.random.default_rng((7, number, index)), 128)
            assert rows[:, 0].astype(int).tolist() == list(scene.labels)
            centre, size = rows[:, 1:3] * 128, rows[:, 3:] * 128
            np.testing.assert_allclose(np.hstack([centre - size / 2, centre + size / 2]), scene.boxes, atol=1e-3)
            assert np.abs(image.astype(float) - scene.image).mean() < 6  # the picture saved is that scene


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    def files(name: str, **options: int) -> dict[str, bytes]:
        folder = tmp_path / name
        shapeset.make_set(folder, size=96, **options)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    one = files("one", train=2, val=1)
    assert one == files("same", train=2, val=1)
    assert one != files("other", train=2, val=1, seed=1)
    assert one.items() <= files("more", train=4, val=2).items()
    assert len({content for path, content in one.items() if path.endswith(".jpg")}) == 3


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not empty"):
        shapeset.make_set(tmp_path)
    with pytest.raises(InputError, match="under 64"):
        shapeset.make_set(tmp_path / "new", size=32)


def test_the_video_plays_and_moves(tmp_path: Path) -> None:
    path = shapeset.make_video(tmp_path / "shapes.mp4", frames=12, size=128)
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 12
    assert frames[0].shape == (128, 128, 3)
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 2
    with pytest.raises(InputError, match="cannot write a video"):
        shapeset.make_video(tmp_path / "no-such-folder" / "shapes.mp4", frames=1)
