"""COCO's own metrics, computed by faster-coco-eval (the reference evaluator's numbers, faster).

    coco_scores(dataset, predictions, "bbox").metrics["map50_95"]
    coco_scores(dataset, predictions, "segm", prefix="mask_")
    ground_truth(dataset)                     # the set as a COCO JSON, whatever it was read from

Crowd regions, area ranges and, where nobody gives another, the limits on detections (100 a class and image; 20 for
keypoints) are COCO's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.errors import optional
from edgekit.metrics.labels import LabelledImage, LabelledSet
from edgekit.metrics.overlap import keypoint_sigmas
from edgekit.metrics.predictions import Prediction, gather
from edgekit.metrics.scores import IOU_THRESHOLDS, Scores, table
from edgekit.spec import Json

_WHAT = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints by OKS"}
LIMITS = {"bbox": 100, "segm": 100, "keypoints": 20}  # detections of a class in an image that count


def coco_scores(
    dataset: LabelledSet, predictions: Sequence[Prediction], kind: str, prefix: str = "", max_det: int | None = None
) -> Scores:
    """Average precision of ``kind`` ``bbox``, ``segm`` or ``keypoints``; metric names begin with ``prefix``.

    Besides ``map50_95`` and ``map50`` there are ``map_small``, ``map_medium`` and ``map_large`` where the split has
    objects of that size (areas under 32², 96² and over, in pixels of the original image). ``max_det`` is how many
    detections of a class count in an image, COCO's number by default.

    Raises:
        InputError: predictions that do not belong to the set or lack what ``kind`` needs.
        MissingPackageError: faster-coco-eval is not installed.
    """
    what, limit = _WHAT[kind], max_det or LIMITS[kind]
    protocol = (
        f"COCO protocol for {what}: IoU 0.50:0.95, 101 recalls, matched by score, crowds ignored, "
        f"at most {limit} detections a class and image (faster-coco-eval)."
    )
    _check(dataset, predictions, kind)
    ap_CT = np.zeros((len(dataset.names), len(IOU_THRESHOLDS)))
    sizes: dict[str, float] = {}
    if predictions:
        evaluator = _evaluate(dataset, predictions, kind, limit)
        precision_TRKAM = np.asarray(evaluator.eval["precision"]).reshape(evaluator.eval["counts"])
        label = {category: i for i, category in enumerate(dataset.category_ids)}
        rows = [label[category] for category in evaluator.params.catIds]
        ap_CT[rows] = _mean_of_valid(precision_TRKAM[:, :, :, 0, -1], 1).T
        sizes = {
            f"{prefix}map_{name}": float(np.nanmean(values))
            for i, name in enumerate(evaluator.params.areaRngLbl)
            if name != "all" and not np.isnan(values := _mean_of_valid(precision_TRKAM[:, :, :, i, -1], (0, 1))).all()
        }
    scores = table(dataset, ap_CT, prefix, protocol)
    return Scores({**scores.metrics, **sizes}, scores.per_class, scores.protocol)


def ground_truth(dataset: LabelledSet) -> Json:
    """The set as a COCO JSON document with ``images``, ``annotations`` and ``categories``, in pixels."""
    images: list[Json] = []
    annotations: list[Json] = []
    for sample in dataset.samples:
        width, height = sample.size()
        images.append({"id": sample.image_id, "file_name": sample.path.name, "width": width, "height": height})
        for annotation in _annotations(dataset, sample, width, height):
            annotations.append({"id": len(annotations) + 1, **annotation})
    categories = [{"id": i, "name": name} for i, name in zip(dataset.category_ids, dataset.names, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _annotations(dataset: LabelledSet, sample: LabelledImage, width: int, height: int) -> list[Json]:
    labels = sample.labels.scaled(width, height)
    corner_sizes = np.concatenate([labels.boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]], 1)
    rows: list[Json] = [
        {
            "image_id": sample.image_id,
            "category_id": dataset.category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for label, box, area, crowd in zip(
            labels.classes, corner_sizes.tolist(), labels.areas().tolist(), labels.crowd.tolist(), strict=True
        )
    ]
    for i, row in enumerate(rows):
        if labels.polygons is not None:
            region = labels.rle[i] if labels.rle is not None else None
            row["segmentation"] = region or [part.reshape(-1).tolist() for part in labels.polygons[i]]
        if labels.keypoints is not None:
            row["keypoints"] = labels.keypoints[i].reshape(-1).tolist()
            row["num_keypoints"] = int((labels.keypoints[i, :, 2] > 0).sum())
    return rows


def _check(dataset: LabelledSet, predictions: Sequence[Prediction], kind: str) -> None:
    """Refuses in a sentence what the evaluator would assert, or take for something else: it scores a box where a mask
    is missing."""
    for found in gather(dataset, predictions):
        if kind == "segm":
            found.masks()
        if kind == "keypoints" and dataset.keypoint_shape:
            found.keypoints(dataset.keypoint_shape[0])


def evaluator_package() -> Any:
    """faster-coco-eval's module; asked for before hours of inference, not after them.

    Raises:
        MissingPackageError: it is not installed.
    """
    with optional("the COCO protocol", "train"):
        import faster_coco_eval
    return faster_coco_eval


def _evaluate(dataset: LabelledSet, predictions: Sequence[Prediction], kind: str, limit: int) -> Any:
    package = evaluator_package()
    truth = package.COCO(ground_truth(dataset))
    found = truth.loadRes([dict(p) for p in predictions])  # it writes into what it is given
    sigmas = keypoint_sigmas(dataset.keypoint_shape[0]) if kind == "keypoints" and dataset.keypoint_shape else None
    evaluator = package.COCOeval_faster(truth, found, kind, kpt_oks_sigmas=sigmas, print_function=_silent)
    evaluator.params.maxDets = [limit]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _silent(*_: object) -> None:
    """Library code prints nothing."""


def _mean_of_valid(precision: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over the axes of what is not -1, COCO's mark for classes without objects; NaN where nothing is."""
    valid = precision > -1
    total = np.where(valid, precision, 0).sum(axis)
    count = valid.sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
