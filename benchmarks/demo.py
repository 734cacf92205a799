"""``make demo``: a small generated set, then edgekit used on it as a user would.

The set is drawn: five kinds of shape in random size, color, rotation and texture, over gradients, blobs and clutter,
hiding each other in part, then blurred and made noisy. The mask of every shape is known, so the boxes are exact. A
box encloses what is *visible* of a shape; no shape is covered to less than half, so nothing visible goes unlabelled.

    data_yaml = make_set(Path("shapes"), train=64, val=16)
    make_video(Path("shapes.mp4"), frames=60)

    python -m benchmarks.demo demo-out
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgekit.bench.doctor import target_states
from edgekit.errors import EdgekitError, InputError
from edgekit.runtime.writer import VideoFile

NAMES = ("circle", "square", "triangle", "cross", "star")
HERE = ("ort-", "ov-")  # targets that run on any machine
# Many small steps: a short run. Of 8000 images seen, batches of 16 leave an mAP50-95 of 0.48, of 8 0.58.
RECIPE = ("--batch", 8, "--nominal-batch", 8, "--lr", 0.002, "--close-mosaic", 8, "--val-every", 5)
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
        color=_colour(rng),
        second=_colour(rng),
        texture=str(rng.choice(["plain", "gradient", "stripes", "checks"])),
    )


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
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
    """Run the demo: every step is a command a user could type."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="edgekit on a small generated set")
    parser.add_argument("out", type=Path, help="folder for everything the demo makes")
    parser.add_argument("--train", type=int, default=256, help="training images")
    parser.add_argument("--val", type=int, default=32, help="validation images")
    parser.add_argument("--size", type=int, default=192, help="side of the images in pixels, a multiple of 32")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except EdgekitError as error:
        parser.error(str(error))


def _run(options: argparse.Namespace) -> None:
    data, video = _draw(options)
    photos = data.parent / "images" / "val"

    _say("What is installed")
    _edgekit("doctor")

    _say("Is the set sound?")
    _edgekit("data", "check", data, "--sheet", options.out / "set.png")

    _say("A YOLO12-n learns the shapes from scratch: a few minutes")
    run = options.out / "run"
    size = ["--epochs", options.epochs, "--imgsz", options.size]
    _edgekit("train", data, "--model", "yolo12n", "--out", run, "--seed", options.seed, *size, *RECIPE)
    model = run / "best.pt"

    bundles = []
    for target in [t["name"] for t in target_states() if t["ready"] and t["name"].startswith(HERE)]:
        _say(f"A bundle for {target}, compared with the model")
        bundles.append(options.out / target)
        _edgekit("build", model, "--target", target, "--out", bundles[-1], *_checked_on(target, data, photos))

    _say("Predictions on a picture and a video")
    picture = photos / "0000.jpg"
    _edgekit("predict", bundles[-1], picture, video, "--out", options.out / "seen")

    _say("Accuracy, measured with the very artifact")
    _edgekit("val", bundles[-1], data)

    _say("Times, side by side")
    _edgekit("bench", *bundles, "--images", photos, "--budget", 10)
    _say(f"Look at {options.out / 'seen' / picture.name}, and at the curves in {run}")


def _checked_on(target: str, data: Path, photos: Path) -> list[Any]:
    """A float bundle is compared with the model on photos; an INT8 one is also judged by its accuracy."""
    return ["--data", data, "--max-drop", 2] if target.endswith("int8") else ["--images", photos]


def _draw(options: argparse.Namespace) -> tuple[Path, Path]:
    """The labelled set and the video, in a folder of their own."""
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out}: is not empty; give a new folder, nothing is overwritten")
    _say("A generated set and a video")
    data = make_set(options.out / "set", options.train, options.val, options.size, options.seed)
    video = make_video(options.out / "shapes.mp4", size=options.size, seed=options.seed)
    return data, video


def _say(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def _edgekit(*arguments: Any) -> None:
    """Run ``edgekit <arguments>`` in a process of its own and stop the demo where it fails."""
    words = [str(a) for a in arguments]
    print("$ edgekit " + " ".join(words), file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, "-m", "edgekit", *words], check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
