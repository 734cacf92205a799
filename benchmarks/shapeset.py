"""A small generated set, and the small model trained on it that comes with the repository.

The set is drawn: five kinds of shape in random size, color, rotation and texture, over gradients, blobs and clutter,
hiding each other in part, then blurred and made noisy. The mask of every shape is known, so the boxes are exact. A
box encloses what is *visible* of a shape; no shape is covered to less than half, so nothing visible goes unlabelled.

    data_yaml = make_set(Path("shapes"), train=64, val=16)
    make_video(Path("shapes.mp4"), frames=60)

    python -m benchmarks.shapeset out         # draws the set and trains as models/shapes.json says: an hour

What comes out is ``out/shapes.pt``, in half precision: the model of ``models/shapes.pt``. On a processor of the same
kind with the same versions it is the same bytes; elsewhere sums are rounded otherwise and it is another model as good.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgekit.errors import EdgekitError, InputError
from edgekit.runtime.writer import VideoFile

NAMES = ("circle", "square", "triangle", "cross", "star")
MODELS = Path(__file__).resolve().parents[1] / "models"
CHECKPOINT, RECIPE = MODELS / "shapes.pt", MODELS / "shapes.json"
VISIBLE = 0.5  # the least part of a shape that must stay visible
SMALLEST = 24  # pixels a shape must show: below, it is a speck nobody could name

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """One shape to draw: class index, centre and radius in pixels, angle in radians, two BGR colors, texture."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    color: tuple[int, int, int]
    second: tuple[int, int, int]
    texture: str


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is in it.

    Attributes:
        image: ``[H, W, 3]`` uint8, BGR.
        labels: class index of each shape.
        masks: ``[H, W]`` bool per shape: the pixels where it is seen.
        boxes: ``[N, 4]`` float64 xyxy pixels enclosing each mask.
    """

    image: Image
    labels: tuple[int, ...]
    masks: tuple[Mask, ...]
    boxes: npt.NDArray[np.float64]


def make_set(folder: Path, train: int = 64, val: int = 16, size: int = 320, seed: int = 0) -> Path:
    """Draw a labelled detection set in the usual layout and return its ``data.yaml``.

    ``images/<split>/NNNN.jpg`` with ``labels/<split>/NNNN.txt`` beside it, a line ``class cx cy w h`` (fractions of
    the image) per shape. The same arguments give the same set, and image i is the same whatever the counts are.

    Args:
        folder: where to write; must be empty or not exist.
        train, val: images of each split.
        size: side of the square images in pixels.
        seed: seed of everything drawn.

    Raises:
        InputError: the folder holds something already, or ``size`` is under 64.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give a new folder for the generated set")
    if size < 64:
        raise InputError(f"size {size}: images under 64 pixels have no room for shapes")
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            scene = draw_scene(np.random.default_rng((seed, number, index)), size)
            encoded = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (images / f"{index:04d}.jpg").write_bytes(encoded.tobytes())  # cv2.imwrite says nothing of a full disk
            (labels / f"{index:04d}.txt").write_text(_label_lines(scene), encoding="utf-8")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    data = folder / "data.yaml"
    data.write_text(f"train: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return data


def make_video(path: Path, frames: int = 60, size: int = 320, seed: int = 0, fps: int = 20) -> Path:
    """Draw a video of shapes that move, turn and bounce off the borders; returns ``path`` (``.mp4``).

    Raises:
        EdgekitError: OpenCV cannot write a video there.
    """
    rng = np.random.default_rng((seed, 2))
    background = _background(rng, size)
    shapes = [_random_shape(rng, size) for _ in range(5)]
    speeds = [(rng.uniform(-0.02, 0.02) * size, rng.uniform(-0.02, 0.02) * size) for _ in shapes]
    turns = [rng.uniform(-0.1, 0.1) for _ in shapes]
    with VideoFile(path, fps) as video:
        for frame in range(frames):
            moved = []
            for shape, (vx, vy), turn in zip(shapes, speeds, turns, strict=True):
                x, y = _bounce(shape.x + vx * frame, size), _bounce(shape.y + vy * frame, size)
                moved.append(replace(shape, x=x, y=y, angle=shape.angle + turn * frame))
            video.write(compose(background, moved).image)
    return path


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """One random scene: background, one to eight shapes, then blur and noise as a camera would add."""
    scene = compose(_background(rng, size), _place(rng, size))
    return replace(scene, image=_camera(rng, scene.image))


def compose(background: Image, shapes: Sequence[Shape]) -> Scene:
    """Draw ``shapes`` on a copy of ``background``, each over those before it, and say what is seen of each."""
    image, masks = background.copy(), [shape_mask(s, background.shape[0], background.shape[1]) for s in shapes]
    seen: list[Mask] = []
    for shape, mask in zip(shapes, masks, strict=True):
        seen = [earlier & ~mask for earlier in seen] + [mask]
        image[mask] = _texture(shape, mask)
    boxes = np.array([_enclose(m) for m in seen], dtype=np.float64).reshape(-1, 4)
    return Scene(image, tuple(s.label for s in shapes), tuple(seen), boxes)


def shape_mask(shape: Shape, height: int, width: int) -> Mask:
    """``[height, width]`` bool: the pixels ``shape`` covers inside the image."""
    turn = np.array([[np.cos(shape.angle), -np.sin(shape.angle)], [np.sin(shape.angle), np.cos(shape.angle)]])
    points = _outline(NAMES[shape.label]) @ turn.T * shape.radius + (shape.x, shape.y)
    canvas = np.zeros((height, width), np.uint8)
    fraction = 4  # fillPoly takes fixed-point coordinates with this many bits after the point
    cv2.fillPoly(canvas, [np.round(points * 2**fraction).astype(np.int32)], 1, shift=fraction)
    return canvas.astype(bool)


def _outline(name: str) -> npt.NDArray[np.float64]:
    """Corners of a shape in the unit circle, ``[P, 2]``."""
    if name == "cross":
        arm = 0.3
        quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)]) / np.hypot(1, arm)
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate([quarter @ turn.T for turn in turns])
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[name]
    angles = np.arange(corners) * 2 * np.pi / corners
    radii = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == "star" else np.ones(corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _place(rng: np.random.Generator, size: int) -> list[Shape]:
    """Random shapes of which each stays visible enough; a shape that would hide another too much is dropped."""
    shapes: list[Shape] = []
    whole: list[int] = []
    seen: list[Mask] = []
    for _ in range(rng.integers(1, 9)):
        shape = _random_shape(rng, size)
        mask = shape_mask(shape, size, size)
        area = int(mask.sum())
        left = [earlier & ~mask for earlier in seen]
        enough = all(m.sum() >= max(VISIBLE * a, SMALLEST) for m, a in zip(left, whole, strict=True))
        if area >= SMALLEST and enough:
            shapes, whole, seen = [*shapes, shape], [*whole, area], [*left, mask]
    return shapes


def _random_shape(rng: np.random.Generator, size: int) -> Shape:
    # Sizes are spread evenly over orders of magnitude, as objects in photographs are.
    radius = size * float(np.exp(rng.uniform(np.log(0.04), np.log(0.25))))
    return Shape(
        label=int(rng.integers(len(NAMES))),
        x=float(rng.uniform(0.03, 0.97)) * size,
        y=float(rng.uniform(0.03, 0.97)) * size,
        radius=max(radius, 6.0),
        angle=float(rng.uniform(0, 2 * np.pi)),
        color=_color(rng),
        second=_color(rng),
        texture=str(rng.choice(["plain", "gradient", "stripes", "checks"])),
    )


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    """A saturated BGR color: backgrounds are pale or dark, so shapes stand out without being told by color."""
    hue, saturation, value = rng.integers(180), rng.integers(130, 256), rng.integers(110, 256)
    b, g, r = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)


def _texture(shape: Shape, mask: Mask) -> Image:
    """``[K, 3]``: the shape's color at each of the mask's K pixels, row by row."""
    y, x = np.nonzero(mask)
    along = ((x - shape.x) * np.cos(shape.angle) + (y - shape.y) * np.sin(shape.angle)) / shape.radius
    across = ((y - shape.y) * np.cos(shape.angle) - (x - shape.x) * np.sin(shape.angle)) / shape.radius
    mix = {
        "plain": np.zeros_like(along),
        "gradient": np.clip(along * 0.35 + 0.35, 0, 0.7),
        "stripes": (np.floor(along * 4) % 2) * 0.5,
        "checks": ((np.floor(along * 3) + np.floor(across * 3)) % 2) * 0.5,
    }[shape.texture][:, None]
    return np.round(np.array(shape.color) * (1 - mix) + np.array(shape.second) * mix).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> Image:
    """A pale or dark gradient with soft blobs and thin lines: none of it looks like a class."""
    dark = bool(rng.integers(2))
    low, high = (10, 90) if dark else (150, 245)
    corners = rng.uniform(low, high, (2, 2, 1)) + rng.uniform(-12, 12, (2, 2, 3))
    gradient = cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    blobs = rng.normal(0, rng.uniform(0, 18), (rng.integers(3, 12),) * 2).astype(np.float32)
    lumps = cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.clip(gradient + lumps[..., None], 0, 255).astype(np.uint8)
    for _ in range(rng.integers(0, 6)):
        (x1, y1), (x2, y2) = rng.integers(0, size, (2, 2)).tolist()
        grey = int(rng.integers(low, high))
        cv2.line(image, (x1, y1), (x2, y2), (grey, grey, grey), int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


def _camera(rng: np.random.Generator, image: Image) -> Image:
    """Blur and sensor noise. The blur stays under a pixel so that boxes keep fitting."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.9)))
    noisy = blurred + rng.normal(0, rng.uniform(0, 8), image.shape)
    result: Image = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return result


def _enclose(mask: Mask) -> tuple[int, int, int, int]:
    """xyxy box of a mask's pixels, the right and lower edge exclusive; zeros where there is none."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + w, y + h


def _bounce(position: float, size: int) -> float:
    """``position`` reflected at 0 and ``size``."""
    return size - abs(position % (2 * size) - size)


def _label_lines(scene: Scene) -> str:
    height, width = scene.image.shape[:2]
    x1, y1, x2, y2 = scene.boxes.T
    rows = np.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], axis=1)
    return "".join(
        f"{label} " + " ".join(f"{v:.6f}" for v in row) + "\n" for label, row in zip(scene.labels, rows, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the set and train the model on it, as the recipe says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapeset", description="trains models/shapes.pt anew")
    parser.add_argument("out", type=Path, help="folder for the set, the run and the model")
    options = parser.parse_args(arguments)
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    try:
        data = make_set(options.out / "set", **recipe["set"])
        run = options.out / "run"
        command = ["-m", "edgekit", "train", str(data), "--out", str(run), *recipe["train"]]
        subprocess.run([sys.executable, *command], check=True)
        print(halved(run / "best.pt", options.out / "shapes.pt"))
    except EdgekitError as error:
        parser.error(str(error))


def halved(trained: Path, out: Path) -> str:
    """Write a checkpoint's weights in half precision, which halves the file; its SHA-256."""
    from edgekit import checkpoint
    from edgekit.spec import sha256_file

    loaded = checkpoint.load(trained)
    loaded.net.half()
    loaded.license = "Apache-2.0"
    checkpoint.save(loaded, out)
    return sha256_file(out)


if __name__ == "__main__":
    main()
