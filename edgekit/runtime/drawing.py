"""Drawing what was found on a picture. Numpy and cv2.

Every ``draw_*`` changes a uint8 BGR image in place and takes a color per object; ``line_width`` suits the image's
size. ``Result.plot`` calls them in the order that keeps everything readable: masks, boxes, keypoints.

    colors = [color(label) for label in result.labels]
    draw_boxes(image, result.boxes, colors, ["dog 0.93", "cat 0.71"])
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from edgekit.runtime.boxes import corners
from edgekit.runtime.lettering import FONT as FONT
from edgekit.runtime.lettering import legible
from edgekit.runtime.masks import Masks

Array = np.ndarray
Color = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
VISIBLE = 0.5  # keypoints less certain than this are left out of the picture

# The limbs of COCO's 17 keypoints (0 nose, 1-2 eyes, 3-4 ears, 5-6 shoulders, 7-8 elbows, 9-10 wrists, 11-12 hips,
# 13-14 knees, 15-16 ankles; left before right) by the hue they are drawn in.
_LEFT, _RIGHT, _MIDDLE = (80, 200, 80), (60, 140, 255), (255, 180, 60)
SKELETON = {
    _LEFT: ((5, 7), (7, 9), (11, 13), (13, 15), (1, 3), (0, 1)),
    _RIGHT: ((6, 8), (8, 10), (12, 14), (14, 16), (2, 4), (0, 2)),
    _MIDDLE: ((5, 6), (11, 12), (5, 11), (6, 12), (1, 2), (3, 5), (4, 6)),
}


def color(index: int) -> Color:
    """A bright BGR color, far from those of the neighbouring indices (hues a golden ratio of the circle apart)."""
    saturation, value = ((0.82, 1.0), (0.6, 1.0), (0.9, 0.8))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.025 + index * 0.6180339887) % 1, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def line_width(image: Array) -> int:
    """Pixels of a line that is easy to see on this image: 2 at 640 px, 6 on a 12-megapixel photo."""
    return max(round(sum(image.shape[:2]) / 2 * 0.003), 1)


def draw_boxes(image: Array, boxes: Array, colors: Sequence[Color], tags: Sequence[str], width: int = 0) -> None:
    """Boxes ``[N, 4]`` x1, y1, x2, y2, each with a tag (empty: none) above its top left corner."""
    width = width or line_width(image)
    corner = _pixels(boxes)
    for (x1, y1, x2, y2), shade in zip(corner.tolist(), colors, strict=True):
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), shade, width)
    # Best first in the arrays, so drawn last: its tag is the one that nothing covers.
    for (x1, y1, *_), shade, tag in reversed(list(zip(corner.tolist(), colors, tags, strict=True))):
        _tag(image, (x1, y1), tag, shade, width)


def draw_rotated_boxes(
    image: Array, boxes: Array, colors: Sequence[Color], tags: Sequence[str], width: int = 0
) -> None:
    """Rotated boxes ``[N, 5]``, each with a tag at its topmost corner."""
    width = width or line_width(image)
    outlines = _pixels(corners(boxes))
    for outline, shade in zip(outlines, colors, strict=True):
        cv2.polylines(image, [outline], True, shade, width, cv2.LINE_AA)
    for outline, shade, tag in reversed(list(zip(outlines, colors, tags, strict=True))):
        _tag(image, tuple(outline[outline[:, 1].argmin()].tolist()), tag, shade, width)


def draw_masks(image: Array, masks: Masks, colors: Sequence[Color], width: int = 0, opacity: float = 0.45) -> None:
    """Masks blended over the image, with their outlines."""
    width = width or line_width(image)
    for crop, shade in zip(masks.crops, colors, strict=True):
        if not crop.pixels.any():
            continue
        rows, columns = crop.pixels.shape
        place = image[crop.top : crop.top + rows, crop.left : crop.left + columns]
        tint = cv2.addWeighted(place, 1 - opacity, np.full_like(place, shade), opacity, 0)
        np.copyto(place, tint, where=crop.pixels[:, :, None])
        outlines, _ = cv2.findContours(
            crop.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(crop.left, crop.top)
        )
        cv2.polylines(image, outlines, True, shade, max(width // 2, 1), cv2.LINE_AA)


def draw_keypoints(image: Array, keypoints: Array, colors: Sequence[Color], width: int = 0) -> None:
    """Keypoints ``[N, P, 3]`` x, y, visibility; with limbs where the points are COCO's 17 of a person."""
    width = width or line_width(image)
    for points, shade in zip(keypoints, colors, strict=True):
        seen = points[:, 2] >= VISIBLE
        places = [tuple(p) for p in _pixels(points[:, :2]).tolist()]
        for hue, limbs in SKELETON.items() if len(points) == 17 else ():
            for a, b in limbs:
                if seen[a] and seen[b]:
                    cv2.line(image, places[a], places[b], hue, width, cv2.LINE_AA)
        for place in (p for p, visible in zip(places, seen, strict=True) if visible):
            cv2.circle(image, place, width + 2, WHITE, -1, cv2.LINE_AA)
            cv2.circle(image, place, width + 1, shade, -1, cv2.LINE_AA)


def draw_probabilities(image: Array, probs: Array, names: Sequence[str], top: int = 5) -> None:
    """The ``top`` likeliest classes in the upper left corner, each with a bar as long as it is likely."""
    best = np.argsort(-probs, kind="stable")[:top]
    lines = [f"{probs[i]:.2f} {legible(names[i]) if i < len(names) else i}" for i in best]
    scale = max(min(image.shape[:2]) / 900, 0.36)
    pad = max(round(scale * 10), 3)
    sizes = [cv2.getTextSize(line, FONT, scale, 1)[0] for line in lines]
    step = max(h for _, h in sizes) + 2 * pad
    right = min(max(w for w, _ in sizes) + 4 * pad, image.shape[1])
    panel = image[: min(step * len(lines) + pad, len(image)), :right]
    panel[:] = panel * 0.35
    for row, (index, line) in enumerate(zip(best, lines, strict=True)):
        top_y, full = pad + row * step, right - 2 * pad
        shade = tuple(int(c * 0.75) for c in color(int(index)))
        end = pad + round(full * float(probs[index]))
        if end > pad:
            cv2.rectangle(image, (pad, top_y), (end, top_y + step - pad), shade, -1)
        _text(image, line, (2 * pad, top_y + step - pad - pad // 2 - 1), scale, WHITE)


def _pixels(points: Array) -> Array:
    """Coordinates as the int32 cv2 draws with; what lies absurdly far outside only has to stay outside."""
    pixels: Array = np.rint(np.clip(points, -1e6, 1e6)).astype(np.int32)
    return pixels


def _tag(image: Array, corner: tuple[int, int], text: str, shade: Color, width: int) -> None:
    """``text`` on a filled plate whose lower left corner is at ``corner``, moved as needed to stay on the image."""
    if not text:
        return
    text = legible(text)
    scale = max(width * 0.22, 0.4)
    (text_w, text_h), below = cv2.getTextSize(text, FONT, scale, max(width // 2, 1))
    pad = max(width, 2)
    plate_w, plate_h = text_w + 2 * pad, text_h + below + pad
    x = min(max(corner[0] - width // 2, 0), max(image.shape[1] - plate_w, 0))
    y = corner[1] - plate_h if corner[1] >= plate_h else min(max(corner[1], 0), max(image.shape[0] - plate_h, 0))
    cv2.rectangle(image, (x, y), (x + plate_w, y + plate_h), shade, -1)
    blue, green, red = shade
    dark = 0.114 * blue + 0.587 * green + 0.299 * red < 140  # luma (ITU-R BT.601)
    _text(image, text, (x + pad, y + plate_h - below), scale, WHITE if dark else BLACK, max(width // 2, 1))


def _text(image: Array, text: str, at: tuple[int, int], scale: float, shade: Color, thickness: int = 1) -> None:
    cv2.putText(image, text, at, FONT, scale, shade, thickness, cv2.LINE_AA)
