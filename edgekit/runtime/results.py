"""What was found in one image, and the forms others want it in. Numpy and cv2.

A plain record of arrays; everything else is derived from them when asked for.

    result = model("street.jpg")[0]
    result.boxes, result.scores, result.labels        # float32 [N, 4] pixels, float32 [N], int64 [N]
    result.save("street-annotated.jpg")
    detections = result.to_supervision()
    rows = result.to_coco(image_id=17)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, optional
from edgekit.runtime import drawing
from edgekit.runtime.boxes import corners, enclosing
from edgekit.runtime.image import as_image, read_image, write_image
from edgekit.runtime.masks import Masks
from edgekit.spec import Json

Array = np.ndarray


@dataclass(eq=False)
class Result:
    """The answer for one image. Rows belong together across fields, best score first; what the task lacks is None.

    Attributes:
        shape: (height, width) of the original image; every coordinate is in its pixels.
        names: all class names in label order.
        boxes: float32 ``[N, 4]`` x1, y1, x2, y2, inside the image.
        scores: float32 ``[N]``.
        labels: int64 ``[N]``.
        masks: N masks the size of the image (``masks.dense()`` is bool ``[N, h, w]``).
        keypoints: float32 ``[N, P, 3]`` x, y, visibility; may lie outside the image.
        rotated_boxes: float32 ``[N, 5]`` centre x, y, width >= height, angle in [-pi/2, pi/2) clockwise.
        probs: float32 ``[C]``, every class's probability (classification only).
        image: path of the file it came from, if any.
        frame: index of the frame where that file is a video.
        pixels: the original image itself where it was given as an array, so that ``plot`` needs no second look.
        truncated: limits that may have kept objects out: ``candidates`` (all that the model's head keeps lie above the
            confidence threshold), ``max_det`` (more objects than that were found).
        tracks: int64 ``[N]``, the number of the track each object of a video belongs to, -1 where it is not followed
            (yet); None where nobody follows (``edgekit.runtime.many.tracks``).
    """

    shape: tuple[int, int]
    names: tuple[str, ...]
    boxes: Array | None = None
    scores: Array | None = None
    labels: Array | None = None
    masks: Masks | None = None
    keypoints: Array | None = None
    rotated_boxes: Array | None = None
    probs: Array | None = None
    image: str | None = None
    frame: int | None = None
    pixels: Array | None = field(default=None, repr=False)
    truncated: tuple[str, ...] = ()
    tracks: Array | None = None

    def __len__(self) -> int:
        """How many objects were found; 0 for a classification."""
        return 0 if self.labels is None else len(self.labels)

    @property
    def class_names(self) -> list[str]:
        """The name of each object's class, ``[N]``."""
        return [] if self.labels is None else [self._name(label) for label in self.labels.tolist()]

    @property
    def top1(self) -> int:
        """The likeliest class of a classification.

        Raises:
            InputError: the result is no classification.
        """
        if self.probs is None:
            raise InputError("top1 belongs to classifications; this result holds objects: see labels and scores")
        return int(self.probs.argmax())

    def _name(self, label: int) -> str:
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    # ---- other forms --------------------------------------------------------------------------------------------

    def to_dict(self) -> Json:
        """The entry of ``predict --json``: plain lists; keys the task has nothing for are absent.

        Pixels are rounded to 0.001, probabilities and angles to 1e-6. A classification gives its likeliest class in
        ``labels``, ``names`` and ``scores`` beside ``probs``.
        """
        entry: Json = {"image": self.image}
        if self.frame is not None:
            entry["frame"] = self.frame
        labels, scores, names = self.labels, self.scores, self.class_names
        if self.probs is not None:
            labels, scores, names = np.array([self.top1]), self.probs[[self.top1]], [self._name(self.top1)]
        if self.boxes is not None:
            entry["boxes"] = _rounded(self.boxes, 3)
        if scores is not None and labels is not None:
            entry.update(scores=_rounded(scores, 6), labels=labels.tolist(), names=names)
        if self.masks is not None:
            entry["masks"] = self.masks.rle()
        if self.keypoints is not None:
            entry["keypoints"] = _rounded(self.keypoints, 3, 6)
        if self.rotated_boxes is not None:
            entry["rotated_boxes"] = _rounded(self.rotated_boxes, 3, 6)
        if self.probs is not None:
            entry["probs"] = _rounded(self.probs, 6)
        if self.tracks is not None:
            entry["tracks"] = self.tracks.tolist()
        if self.truncated:
            entry["truncated"] = list(self.truncated)
        return entry

    def to_coco(self, image_id: int, category_ids: Mapping[int, int] | Sequence[int] | None = None) -> list[Json]:
        """COCO result rows: ``bbox`` x, y, width, height; ``segmentation`` compressed RLE; flat ``keypoints``.

        A rotated box becomes its enclosing ``bbox`` and a ``segmentation`` polygon of its four corners. A
        classification has no rows.

        Args:
            image_id: the image's id in the annotations.
            category_ids: category id of each label (default: the label itself).
        """
        boxes = self.enclosing_boxes()
        if boxes is None or self.labels is None or self.scores is None:
            return []
        columns: dict[str, Sequence[object]] = {
            "category_id": [n if category_ids is None else category_ids[n] for n in self.labels.tolist()],
            "bbox": _rounded(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1), 4),
            "score": self.scores.tolist(),
        }
        if self.masks is not None:
            columns["segmentation"] = self.masks.rle()
        if self.rotated_boxes is not None:
            columns["segmentation"] = _rounded(corners(self.rotated_boxes).reshape(-1, 1, 8), 3)
        if self.keypoints is not None:
            columns["keypoints"] = _rounded(self.keypoints.reshape(len(self), 3 * self.keypoints.shape[1]), 4)
        return [{"image_id": image_id, **{k: v[i] for k, v in columns.items()}} for i in range(len(self))]

    def to_supervision(self) -> Any:
        """As the ``supervision`` package has it: ``Detections``, ``KeyPoints`` (pose) or ``Classifications``.

        Class names are in ``data["class_name"]``, the corners of rotated boxes in ``data["xyxyxyxy"]``.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        with optional("to_supervision()", "supervision"):
            import supervision as sv
        if self.probs is not None:
            return sv.Classifications(class_id=np.arange(len(self.probs)), confidence=self.probs)
        data: dict[str, np.ndarray | list[Any]] = {"class_name": np.array(self.class_names, dtype=str)}
        if self.keypoints is not None:
            confidence = self.keypoints[:, :, 2]
            fields = sv.KeyPoints.__dataclass_fields__
            renamed = {"keypoint_confidence": confidence, "detection_confidence": self.scores}
            extra = renamed if "keypoint_confidence" in fields else {"confidence": confidence}  # older releases
            if self.boxes is not None:
                data["xyxy"] = self.boxes
            return sv.KeyPoints(xy=self.keypoints[:, :, :2], class_id=self.labels, data=data, **extra)
        boxes: Any = self.enclosing_boxes()
        if self.rotated_boxes is not None:
            data["xyxyxyxy"] = corners(self.rotated_boxes).astype(np.float32)
        return sv.Detections(
            xyxy=boxes,
            mask=None if self.masks is None else self.masks.dense(),
            confidence=self.scores,
            class_id=self.labels,
            data=data,
        )

    def enclosing_boxes(self) -> Array | None:
        """float32 ``[N, 4]``: the boxes, of rotated ones those around them; None of a classification."""
        if self.rotated_boxes is not None and self.boxes is None:
            return enclosing(self.rotated_boxes).astype(np.float32)
        return self.boxes

    # ---- pictures -----------------------------------------------------------------------------------------------

    def plot(self, image: Array | None = None, *, tags: bool = True, width: int = 0) -> Array:
        """The image with what was found drawn on it: a new uint8 BGR ``[h, w, 3]``.

        Args:
            image: the original, BGR; default: the array given to the model, or the file read again.
            tags: write class and score at each object.
            width: of lines in pixels; 0 suits the image.

        Raises:
            InputError: there is no image to draw on, or it has another size.
        """
        picture: Array = self._original(image).copy()
        if self.probs is not None:
            drawing.draw_probabilities(picture, self.probs, self.names)
            return picture
        labels = [] if self.labels is None else self.labels.tolist()
        scores = [] if self.scores is None else self.scores.tolist()
        # One class only: tell objects apart instead.
        colors = [drawing.color(i if len(self.names) == 1 else label) for i, label in enumerate(labels)]
        texts = [f"{name} {score:.2f}" if tags else "" for name, score in zip(self.class_names, scores, strict=True)]
        if self.tracks is not None:
            followed = [f"{number} " if tags and number >= 0 else "" for number in self.tracks.tolist()]
            texts = [number + text for number, text in zip(followed, texts, strict=True)]
        if self.masks is not None:
            drawing.draw_masks(picture, self.masks, colors, width)
        if self.boxes is not None:
            drawing.draw_boxes(picture, self.boxes, colors, texts, width)
        if self.rotated_boxes is not None:
            drawing.draw_rotated_boxes(picture, self.rotated_boxes, colors, texts, width)
        if self.keypoints is not None:
            drawing.draw_keypoints(picture, self.keypoints, colors, width)
        return picture

    def save(self, path: str | Path, image: Array | None = None) -> None:
        """Write ``plot(image)`` to ``path``; the suffix names the format."""
        write_image(path, self.plot(image))

    def _original(self, image: Array | None) -> Array:
        if image is None:
            image = self.pixels
        if image is None and (self.image is None or self.frame is not None):
            raise InputError("plot() has no image to draw on; give it: result.plot(image)")
        found: Array = read_image(str(self.image)) if image is None else as_image(image)
        if found.shape[:2] != self.shape:
            raise InputError(
                f"plot(): the image is {found.shape[1]} x {found.shape[0]} pixels, "
                f"the result belongs to one of {self.shape[1]} x {self.shape[0]}"
            )
        return found


def _rounded(array: Array, digits: int, last: int | None = None) -> list[Any]:
    """Nested lists of python floats rounded to ``digits``, the last column to ``last`` where given."""
    exact = np.asarray(array, np.float64)
    near = np.round(exact, digits)
    if last is not None:
        near[..., -1] = np.round(exact[..., -1], last)
    plain: list[Any] = near.tolist()
    return plain
