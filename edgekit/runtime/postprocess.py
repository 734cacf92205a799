"""From a model's outputs to Results. Acts on the outputs' roles alone, so a task of known roles needs no code.

The steps are the same for every task and head: take the candidates above the confidence, drop duplicates, move what
stays back to the original image. ``edgekit.spec.ROLES`` gives the shapes.

    results = postprocess(session.run(batch), session.info, geometries, Options(conf=0.4))

Rules worth knowing, as other implementations must follow them too: a score must be *above* ``conf``; equal scores keep
the order anchor, then class; candidates with a value that is not finite or beyond a million, or with a side that is not
positive, are dropped, and so are boxes of which nothing lies inside the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from edgekit.errors import InputError
from edgekit.runtime.boxes import nms, regularise
from edgekit.runtime.image import Geometry
from edgekit.runtime.masks import Crop, Masks
from edgekit.runtime.options import Options, rebuild
from edgekit.runtime.results import Result
from edgekit.spec import ROLES, ModelInfo

Array = np.ndarray

MOST_CANDIDATES = 30_000  # the best so many go into suppression; more only cost time
ABSURD = 1e6  # no coordinate or coefficient of a working model comes near it
SAME_BOX = 0.01  # pixels: boxes as near as this on all sides come from one anchor


def truncation(reason: str, info: ModelInfo, options: Options) -> str:
    """What ``Result.truncated`` means, and what to do: one sentence for ``candidates`` or ``max_det``."""
    if reason == "max_det":
        return f"more objects were found than `max_det` {options.max_det}, which keeps the best; give more to see all"
    if info.head == "raw":
        return f"the {MOST_CANDIDATES} best candidates alone were looked at; raise `conf` {options.conf:g}"
    kept = info.candidates
    many, more = (f"{kept} ", rebuild(4 * kept)) if kept else ("", "build it with more `candidates`")
    return (
        f"all {many}candidates that the model's head keeps lie above `conf` {options.conf:g}, so there may be more "
        f"objects; raise `conf`, or {more}"
    )


def postprocess(
    outputs: Mapping[str, Array], info: ModelInfo, geometries: Sequence[Geometry], options: Options
) -> list[Result]:
    """One Result per geometry; images of the batch beyond them are padding.

    Args:
        outputs: an array per role, batch first (``edgekit.spec.ROLES``); nothing of them is kept.
        info: the model's head form, class names and input size.
        geometries: where each image lies on its canvas.
        options: what to keep.

    Raises:
        InputError: the outputs lack a role that the others need, or their shapes do not fit together.
    """
    read = ROLES.keys() - ({"labels"} if info.head == "raw" else set())  # others may hold anything
    arrays = {role: np.asarray(array, np.float32) for role, array in outputs.items() if role in read}
    _check(arrays, info, len(geometries))
    results = []
    for i, geometry in enumerate(geometries):
        result = Result(shape=(geometry.height, geometry.width), names=info.names)
        if "class_probabilities" in arrays:
            result.probs = arrays["class_probabilities"][i].copy()
        else:
            _fill(result, {role: array[i] for role, array in arrays.items()}, info, geometry, options)
        results.append(result)
    return results


def _check(arrays: Mapping[str, Array], info: ModelInfo, images: int) -> None:
    """Roles that need each other are there, and what belongs together has as many rows: a file may say anything."""
    shape = "rotated_boxes" if "rotated_boxes" in arrays else "boxes"
    wanted: dict[str, tuple[int | None, ...]] = {"class_probabilities": (None,)}
    if "class_probabilities" not in arrays:
        needed = {
            shape: True,
            "scores": True,
            "labels": info.head != "raw",
            "mask_prototypes": "mask_coefficients" in arrays,
        }
        for role, is_needed in needed.items():
            if is_needed and role not in arrays:
                raise InputError(f"the model's outputs lack the role {role!r} that the others need; export it again")
        rows = arrays[shape].shape[1] if arrays[shape].ndim > 1 else None
        masks = arrays["mask_coefficients"].shape[-1:] if "mask_coefficients" in arrays else ()
        count = masks[0] or None if masks else None  # of none at all, no mask can be made
        wanted = {
            "boxes": (rows, 4),
            "rotated_boxes": (rows, 5),
            "scores": (None, rows) if info.head == "raw" else (rows,),
            "labels": (rows,),
            "keypoints": (rows, None, 3),
            "mask_coefficients": (rows, count),
            "mask_prototypes": (count, None, None),
        }
    for role, sides in wanted.items():
        if role not in arrays:
            continue
        found = arrays[role].shape
        fits = len(found) == len(sides) + 1 and found[0] >= images
        fits = fits and all(w in (None, f) and (w is not None or f > 0) for w, f in zip(sides, found[1:], strict=True))
        if not fits:
            raise InputError(f"the model's output {role!r} does not fit the others; build the bundle again")


def _fill(result: Result, roles: dict[str, Array], info: ModelInfo, geometry: Geometry, options: Options) -> None:
    """Put the objects of one image into ``result``."""
    shape = "rotated_boxes" if "rotated_boxes" in roles else "boxes"
    rows, scores, labels, cut = _candidates(roles, shape, info, options)
    boxes = roles[shape][rows]
    if info.head != "nms":  # one more than is kept shows that there are more
        keep = nms(boxes, None if options.agnostic else labels, options.iou, options.max_det + 1)
    else:
        keep = np.arange(len(rows))
    reasons = {"candidates": cut, "max_det": len(keep) > options.max_det}
    result.truncated = tuple(reason for reason, met in reasons.items() if met)
    keep = keep[: options.max_det]
    boxes, rows = boxes[keep], rows[keep]
    visible = geometry.boxes_to_image(boxes) if shape == "boxes" else None
    if visible is not None:
        inside = (visible[:, :2] < visible[:, 2:]).all(1)
        visible, boxes, rows, keep = visible[inside], boxes[inside], rows[inside], keep[inside]
        result.boxes = visible if options.clip else geometry.boxes_to_image(boxes, clip=False)
    else:
        result.rotated_boxes = regularise(geometry.rotated_to_image(boxes))
    result.scores, result.labels = scores[keep], labels[keep]
    if "keypoints" in roles:
        result.keypoints = roles["keypoints"][rows]
        result.keypoints[..., :2] = geometry.points_to_image(result.keypoints[..., :2])
    if "mask_coefficients" in roles and visible is not None:
        result.masks = assemble_masks(
            roles["mask_coefficients"][rows], roles["mask_prototypes"], visible, info.imgsz, geometry
        )


# ---- candidates -------------------------------------------------------------------------------------------------


def _candidates(
    roles: dict[str, Array], shape: str, info: ModelInfo, options: Options
) -> tuple[Array, Array, Array, bool]:
    """Rows of the usable candidates, their scores and labels, best first; and whether there may be more of them."""
    pick = _pick_raw if info.head == "raw" else _pick_decoded
    rows, scores, labels = pick(roles, shape, options)
    wanted = (labels >= 0) & (labels < len(info.names))
    if options.classes is not None:
        wanted &= np.isin(labels, options.classes)
    rows, scores, labels = rows[wanted], scores[wanted], labels[wanted]
    # Candidates below the confidence end the list of a head that cuts; of finished detections those of no object do.
    kept = roles["scores"]
    every = kept.size > 0 and bool(((kept > options.conf) & (kept < np.inf)).all())
    cut = len(rows) > MOST_CANDIDATES or (info.cuts and every)
    order = best_first(scores, MOST_CANDIDATES)
    rows, scores, labels = rows[order], scores[order], labels[order]
    if info.head == "topk" and not options.multi_label and len(rows) > 1:
        # The graph's best K are (anchor, class) pairs; as with `raw`, only an anchor's best class counts.
        first = _first_of_each_box(roles[shape][rows])
        rows, scores, labels = rows[first], scores[first], labels[first]
    return rows, scores, labels, cut


def _pick_raw(roles: dict[str, Array], shape: str, options: Options) -> tuple[Array, Array, Array]:
    """Candidates above the confidence from scores ``[C, N]``, in the order anchor, class."""
    scores = roles["scores"]
    # One pass over contiguous memory leaves the few anchors that matter: 0.1 ms for 80 x 8400. NaN is never above.
    best = scores.max(0)
    anchors = _sound(roles, shape, np.flatnonzero((best > options.conf) & (best < np.inf)))
    found = np.ascontiguousarray(scores[:, anchors].T)
    if options.multi_label:
        pairs = np.flatnonzero(found > options.conf)
        place, labels = np.divmod(pairs, len(scores))
        return anchors[place], found.ravel()[pairs], labels
    labels = found.argmax(1)
    return anchors, found[np.arange(len(anchors)), labels], labels


def _pick_decoded(roles: dict[str, Array], shape: str, options: Options) -> tuple[Array, Array, Array]:
    """Candidates above the confidence from scores and labels ``[N]``."""
    scores = roles["scores"]
    rows = _sound(roles, shape, np.flatnonzero((scores > options.conf) & (scores < np.inf)))
    with np.errstate(invalid="ignore"):  # what is no number becomes a label no model has
        return rows, scores[rows], roles["labels"][rows].astype(np.int64)


def _sound(roles: dict[str, Array], shape: str, rows: Array) -> Array:
    """Those rows whose values all make sense and whose sides are positive."""
    for role in (shape, "keypoints", "mask_coefficients"):
        if role in roles:
            sensible = np.abs(roles[role][rows]) < ABSURD  # false for NaN
            rows = rows[sensible.all(axis=tuple(range(1, sensible.ndim)))]
    boxes = roles[shape][rows]
    positive = boxes[:, 2:4] > 0 if shape == "rotated_boxes" else boxes[:, 2:] > boxes[:, :2]
    sound: Array = rows[positive.all(1)]
    return sound


def best_first(scores: Array, limit: int) -> Array:
    """Indices of the ``limit`` highest scores, highest first, equal ones in their own order (also at the cut)."""
    if len(scores) > limit:
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = np.sort(np.concatenate([above, equal[: limit - len(above)]]))
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _first_of_each_box(boxes: Array) -> Array:
    """Bool ``[N]``: no earlier box is the same."""
    # Same boxes are neighbours by their first side, so only those few are compared, not all with all.
    order = np.argsort(boxes[:, 0], kind="stable")
    ordered, first = boxes[order], np.ones(len(boxes), bool)
    for apart in range(1, len(boxes)):
        gaps = np.abs(ordered[apart:] - ordered[:-apart])
        if not (gaps[:, 0] < SAME_BOX).any():
            break
        same = (gaps < SAME_BOX).all(1)
        first[np.maximum(order[apart:][same], order[:-apart][same])] = False
    return first


# ---- masks ------------------------------------------------------------------------------------------------------


def assemble_masks(
    coefficients: Array, prototypes: Array, boxes: Array, imgsz: tuple[int, int], geometry: Geometry
) -> Masks:
    """Instance masks in the original image: where the sum of weighted prototypes is positive inside the box.

    The sum is a logit, so positive means a probability above one half. Only the box's part of it is computed and
    brought to the original's pixels, bilinearly, before the threshold, which keeps outlines smooth.

    Args:
        coefficients: ``[N, M]``.
        prototypes: ``[M, h, w]`` over the whole canvas.
        boxes: ``[N, 4]`` in the original image.
        imgsz: (height, width) of the canvas.
        geometry: where the image lies on the canvas.
    """
    # Prototype pixels per image pixel, and where the image's corner is among them.
    fx, fy = prototypes.shape[2] / imgsz[1], prototypes.shape[1] / imgsz[0]
    scale_x, scale_y = geometry.scale_x * fx, geometry.scale_y * fy
    left, top = geometry.left * fx, geometry.top * fy
    crops = []
    for weights, (x1, y1, x2, y2) in zip(coefficients, boxes.tolist(), strict=True):
        # Pixels whose centre is in the box.
        column, row = math.ceil(x1 - 0.5), math.ceil(y1 - 0.5)
        width, height = math.ceil(x2 - 0.5) - column, math.ceil(y2 - 0.5) - row
        if width <= 0 or height <= 0:
            crops.append(Crop(column, row, np.zeros((max(height, 0), max(width, 0)), bool)))
            continue
        start_x, start_y = (column + 0.5) * scale_x + left - 0.5, (row + 0.5) * scale_y + top - 0.5
        from_x, to_x = _span(start_x, start_x + (width - 1) * scale_x, prototypes.shape[2])
        from_y, to_y = _span(start_y, start_y + (height - 1) * scale_y, prototypes.shape[1])
        with np.errstate(all="ignore"):  # prototypes that are not finite give an empty mask, not a warning
            part = prototypes[:, from_y:to_y, from_x:to_x]
            logits = (weights @ part.reshape(len(part), -1)).reshape(part.shape[1:])
        # Image pixel i of the crop reads prototype position start + i * scale.
        matrix = np.array([[scale_x, 0, start_x - from_x], [0, scale_y, start_y - from_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        resized = cv2.warpAffine(logits, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        crops.append(Crop(column, row, resized > 0))
    return Masks((geometry.height, geometry.width), tuple(crops))


def _span(first: float, last: float, size: int) -> tuple[int, int]:
    """The pixels bilinear reads from ``first`` to ``last`` need, as a slice inside ``size``; never empty."""
    begin = min(max(math.floor(first), 0), size - 1)
    return begin, max(min(math.floor(last) + 2, size), begin + 1)
