"""Two models side by side on the same images: raw outputs role by role, detections, and the stage where they part.

    report = compare(Path("yolo12n.pt"), Path("yolo12n-ov"), images)
    report["detections"]["matched"], report["stage"]

Any two models of one task will do: checkpoints, exported ONNX files, bundles, and other tools' models as far as
``edgekit.foreign`` understands them, whose stages are not known. What an application sees is compared
after suppression (``detections``): objects of the two answers are paired by label and overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import bundle, parity, stages
from edgekit.boxes import box_iou, probiou
from edgekit.errors import UsageError
from edgekit.foreign import is_foreign
from edgekit.loading import open_session
from edgekit.results import Result
from edgekit.runtime.postprocess import Options
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Session

SAME_OBJECT = 0.5  # overlap from which two answers are the same object


def compare(
    first: Path,
    second: Path,
    images: Sequence[np.ndarray],
    conf: float = 0.25,
    size: tuple[int, int] | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Compare two models.

    Args:
        first, second: whatever ``edgekit.loading.load`` opens, or another tool's model; ``first`` is the reference.
        images: uint8 BGR ``[h, w, 3]``.
        conf: confidence that detections are compared at.
        size: input size of checkpoints; by default that of the other model, if it has a fixed one.
        task: what another tool's model is for, where it does not say.

    Returns:
        ``roles`` (None where the heads differ), ``detections`` and ``stage`` (None where roles agree or none stands
            out).

    Raises:
        UsageError: the models are of different tasks, classes or input sizes.
    """
    a, b = _open_both(first, second, size, task)
    with Predictor(a, Options(conf)) as left, Predictor(b, Options(conf)) as right:
        same_form = {p.role: p.shape[1:] for p in a.info.outputs} == {p.role: p.shape[1:] for p in b.info.outputs}
        batches = [parity.batch_of(image, b.info) for image in images]
        narrow = stages.narrowest(b)
        roles = parity.compare(a, b, batches, narrow) if same_form else None
        pairs = [(left(image)[0], right(image)[0]) for image in images]
        detections = matched(pairs) if pairs[0][0].probs is None else agreement(pairs)
        # Inside equal models, too, errors may jump: where values cancel, say. Outputs that hold leave nothing to blame.
        equal = roles is not None and all(role["pass"] for role in roles.values())
        stage = None if equal else _parting(a, b, batches[0], _stages(first), _stages(second))
    return {
        "first": {"path": str(first), "target": a.target, "head": a.info.head},
        "second": {"path": str(second), "target": b.target, "head": b.info.head},
        "images": len(images),
        "roles": roles,
        "detections": detections,
        "stage": stage,
    }


def _parting(
    a: Session, b: Session, batch: np.ndarray, own: stages.Stages | None, theirs: stages.Stages | None
) -> dict[str, Any] | None:
    """The stage where ``b`` parts from ``a``; None where neither says which values its stages are."""
    if theirs and (a.target == "pytorch" or own):
        return stages.first_difference(a, b, batch, theirs, own)
    if own and b.target == "pytorch":
        return stages.first_difference(b, a, batch, own)
    return None


def _open_both(first: Path, second: Path, size: tuple[int, int] | None, task: str | None) -> tuple[Session, Session]:
    b = open_session(second, imgsz=size, foreign=True, task=task)
    fixed = b.info.imgsz if b.target != "pytorch" else None
    head = b.info.head if b.info.head != "nms" else "raw"
    a = open_session(first, imgsz=size or fixed, head=head, foreign=True, task=task)
    if b.target == "pytorch" and a.info.imgsz != b.info.imgsz:
        b = open_session(second, imgsz=a.info.imgsz, head=a.info.head)
    if a.info.task != b.info.task or a.info.names != b.info.names:
        what = f"tasks {a.info.task} and {b.info.task}" if a.info.task != b.info.task else "different classes"
        raise UsageError(f"{first} and {second} have {what}; only models that answer the same question compare")
    if a.info.imgsz != b.info.imgsz:
        raise UsageError(f"{first} takes {a.info.imgsz} pixels and {second} {b.info.imgsz}; build them for one size")
    return a, b


def _stages(path: Path) -> stages.Stages | None:
    if is_foreign(path):
        return None
    if path.is_dir():
        found: stages.Stages | None = bundle.read(path, verify=False).manifest.get("stages")
        return found
    if path.suffix == ".onnx":
        from edgekit.graph.document import read_document

        return read_document(path).get("stages")
    return None


def matched(pairs: Sequence[tuple[Result, Result]]) -> dict[str, Any]:
    """Objects of the two answers paired by label and overlap, best scores first, and how far pairs are apart.

    ``max_box_px`` is the largest difference of a coordinate in pixels of the original image (of a rotated box: of its
    centre and sides), ``max_score`` that of scores; ``only_first`` and ``only_second`` count objects without a partner.
    """
    counts = dict.fromkeys(("first", "second", "matched"), 0)
    boxes, scores, keypoints = [0.0], [0.0], [0.0]
    lonely = [0.0]
    for a, b in pairs:
        counts["first"], counts["second"] = counts["first"] + len(a), counts["second"] + len(b)
        rows = _pairs(a, b)
        counts["matched"] += len(rows)
        left, right = (np.array(side, int) for side in (list(zip(*rows, strict=True)) or [(), ()]))
        places = (a.boxes, b.boxes) if a.boxes is not None else (a.rotated_boxes, b.rotated_boxes)
        assert a.scores is not None and b.scores is not None and places[0] is not None and places[1] is not None
        boxes.append(float(np.abs(places[0][left, :4] - places[1][right, :4]).max(initial=0.0)))
        scores.append(float(np.abs(a.scores[left] - b.scores[right]).max(initial=0.0)))
        if a.keypoints is not None and b.keypoints is not None:
            gap = np.abs(a.keypoints[left, :, :2] - b.keypoints[right, :, :2])
            keypoints.append(float(gap.max(initial=0.0)))
        lonely.append(float(np.delete(a.scores, left).max(initial=0.0)))
        lonely.append(float(np.delete(b.scores, right).max(initial=0.0)))
    report = {
        **counts,
        "only_first": counts["first"] - counts["matched"],
        "only_second": counts["second"] - counts["matched"],
        "max_box_px": max(boxes),
        "max_score": max(scores),
        "best_unmatched_score": max(lonely),
    }
    return report | ({"max_keypoint_px": max(keypoints)} if len(keypoints) > 1 else {})


def agreement(pairs: Sequence[tuple[Result, Result]]) -> dict[str, Any]:
    """Classifications: how often the likeliest class is the same, and the largest difference of a probability."""
    same = [a.top1 == b.top1 for a, b in pairs]
    gaps = [float(np.abs(a.probs - b.probs).max()) for a, b in pairs if a.probs is not None and b.probs is not None]
    return {"images": len(pairs), "same_top1": int(np.sum(same)), "max_probability": max(gaps, default=0.0)}


def _pairs(a: Result, b: Result) -> list[tuple[int, int]]:
    """(row of a, row of b) of the same object, greedily by a's order."""
    if not len(a) or not len(b):
        return []
    if a.boxes is not None and b.boxes is not None:
        overlap = box_iou(a.boxes, b.boxes)
    else:
        assert a.rotated_boxes is not None and b.rotated_boxes is not None
        overlap = probiou(a.rotated_boxes, b.rotated_boxes)
    assert a.labels is not None and b.labels is not None
    overlap = np.where(a.labels[:, None] == b.labels[None], overlap, 0.0)
    rows = []
    for row in range(len(a)):
        partner = int(overlap[row].argmax())
        if overlap[row, partner] >= SAME_OBJECT:
            rows.append((row, partner))
            overlap[:, partner] = 0.0
    return rows
