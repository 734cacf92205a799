"""What frame a COCO JSON's boxes are in, where the size it states is not the image's.

    frame = frame(record, image, (640, 480), in_pixels, options)
    labels = frame.place(labels_in_pixels_of(frame.size))       # in pixels of the image upright

Two kinds can be used: copies of another size and the same shape, and photographs that EXIF turns (phones store them
lying and say how to hold them), whose size many tools state as stored. Everything else is left out and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from edgekit.data.coco_document import numbers
from edgekit.data.images import TURNED, orientation
from edgekit.data.options import LabelOptions
from edgekit.data.settings import whole
from edgekit.data.turned import rescaled, turned
from edgekit.metrics.labels import Labels
from edgekit.spec import Json
from edgekit.tasks.rows import BadRow

OUTSIDE = 1.0  # pixels a box may reach beyond its image without a word
ANOTHER_SHAPE = 2.0  # pixels by which a scaled copy's side may miss

Size = tuple[int, int]


class Frame(NamedTuple):
    """The size (width, height) that annotations are in, what brings them onto the image, and what to say of it."""

    size: Size
    place: Callable[[Labels], Labels] = lambda labels: labels
    said: str = ""


def in_pixels(images: Iterable[tuple[Json, Size, Iterable[Json]]]) -> bool:
    """Of images whose stated sides are exchanged (record, true size, annotations): do their boxes fit the images and
    not what is stated?"""
    beyond = [0.0, 0.0]
    for record, true, rows in images:
        stated = _stated(record)
        if stated is None or not _exchanged(stated, true):
            continue
        for annotation in rows:
            try:
                x, y, w, h = numbers(annotation.get("bbox"), 4, "bbox")
            except BadRow:
                continue  # said when it is read
            for i, (width, height) in enumerate((stated, true)):
                beyond[i] = max(beyond[i], x + w - width, y + h - height)
    return beyond[0] > 2 * OUTSIDE >= beyond[1]


def frame(record: Json, image: Path, true: Size, boxes_in_pixels: bool, options: LabelOptions) -> Frame:
    """How the annotations of the image in ``record`` come onto the one at ``image``, which is ``true`` upright.

    Raises:
        BadRow: what is stated cannot be this image's size.
    """
    stated = _stated(record)
    turn = orientation(image) if options.exif == "stored" else 1
    stored = true[::-1] if turn in TURNED else true
    if turn > 1 and stated in (None, stored):
        return Frame(stored, lambda labels: turned(labels, turn), f"EXIF turns it ({turn}), and its boxes with it")
    if stated is None or stated == true:
        return Frame(true)
    sizes = f"is {true[0]} x {true[1]}, its labels say {stated[0]} x {stated[1]}"
    if _exchanged(stated, true):
        if boxes_in_pixels:
            return Frame(true, said=f"{sizes}; boxes are taken as pixels, which they fit")
        if orientation(image) not in (0, *TURNED) or options.exif == "stored":
            raise BadRow("size", f"{sizes}, and EXIF does not turn it; left out, correct width and height")
        said = f"{sizes}, which EXIF turns; boxes are taken as fractions of the upright image"
        advice = "if they were drawn on the image as stored, give `label_options` exif=stored"
        return Frame(stated, lambda labels: rescaled(labels, true), f"{said}; {advice}")
    missed = abs(true[0] * stated[1] - true[1] * stated[0]) / min(stated)
    if missed > ANOTHER_SHAPE:
        raise BadRow("size", f"{sizes}, of another shape; left out, correct width and height or remove them")
    return Frame(stated, lambda labels: rescaled(labels, true), f"{sizes}; boxes are scaled to it")


def _stated(record: Json) -> Size | None:
    width, height = whole(record.get("width")), whole(record.get("height"))
    return (width, height) if width and height and width > 0 and height > 0 else None


def _exchanged(stated: Size, true: Size) -> bool:
    return stated != true and stated == true[::-1]
