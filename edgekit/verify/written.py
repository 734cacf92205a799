"""Accuracy of predictions that are written already: what `predict --format` left, by however many processes.

evaluation = evaluate_written(Path("out"), dataset, digest)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgekit import metrics
from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError, UsageError
from edgekit.metrics.limits import crowded
from edgekit.runtime.boxes import corners
from edgekit.runtime.garbage import no_garbage_collection
from edgekit.runtime.many.formats import get
from edgekit.runtime.many.merge import merge, shards_in
from edgekit.runtime.many.parts import parts_in, rows_of
from edgekit.runtime.many.record import Record, fingerprint
from edgekit.runtime.options import SCORING
from edgekit.spec import Json
from edgekit.verify.evaluate import Evaluation, Rows, score


def check_written(folder: Path, model: Path) -> Record:
    """The record of the predictions in ``folder``, which must be whole, of ``model`` and made for scoring.

    Raises:
        InputError: there are none.
        UsageError: they are of another model, or were cut off by a confidence that scoring does not have.
    """
    shards = shards_in(folder)
    if not shards:
        raise InputError(f"{folder}: has no results of `format` to score")
    record = Record.read(folder / shards[0].folder)
    if record.model != fingerprint(model):
        raise UsageError(f"{folder}: its predictions are of another model, {record.path}, not of {model}")
    kept = {key: record.options[key] for key in ("conf", "iou", "multi_label", "clip", "agnostic", "classes")}
    if kept != {key: asdict(SCORING)[key] for key in kept}:
        raise UsageError(f"{folder}: its predictions were not made for scoring; make them with `scoring`")
    return record


@no_garbage_collection()
def evaluate_written(folder: Path, record: Record, dataset: Dataset, scoring: metrics.Options) -> Evaluation:
    """Score the predictions in ``folder`` on ``dataset`` (in the model's order of classes).

    Images are told by their files. Numbers are as they were written, rounded: coordinates to 0.001 pixels, scores to
    0.000001.

    Raises:
        GateError: shards are missing.
        InputError: images of the set have no predictions, or those are damaged.
    """
    start = perf_counter()
    merge(folder)
    samples = {os.path.realpath(sample.path): sample for sample in dataset.samples}
    found: dict[int, Rows] = {}
    skipped: list[str] = []
    for document in _documents(folder, record):
        sample = samples.pop(os.path.realpath(document["image"]), None)
        if sample is None:
            continue
        if "error" in document:
            skipped.append(str(document["error"]))
        else:
            found[sample.image_id] = list(coco_results(document, sample, dataset.category_ids))
    if samples:
        raise InputError(f"{folder}: {len(samples)} of {len(dataset)} images of {dataset.source} have no predictions, "
                         f"{next(iter(samples))} the first; predict the set's images")  # fmt: skip
    if not found:
        raise InputError(f"{dataset.source}: none of its {len(dataset)} images could be read ({skipped[0]})")
    read = perf_counter()
    scored = replace(dataset, samples=tuple(s for s in dataset.samples if s.image_id in found))
    predictions = [row for sample in scored.samples for row in found[sample.image_id]]
    options = replace(scoring, imgsz=record.imgsz)
    scores = score(scored, predictions, options)
    end = perf_counter()
    seconds = {"read": read - start, "pre": 0.0, "network": 0.0, "post": 0.0, "score": end - read, "whole": end - start}
    limit = record.options["max_det"]
    height, width = record.imgsz
    protocol = (
        f"{height}x{width} px, {record.target}, predictions as written in {folder}; confidence {SCORING.conf}, NMS IoU "
        f"{SCORING.iou} per class, {limit} detections, boxes not clipped to the image. {scores.protocol}"
    )
    return Evaluation(scores, predictions, len(scored), seconds, skipped, protocol, crowded(scored, limit, scoring))


def _documents(folder: Path, record: Record) -> Iterator[Json]:
    form = get(record.format)
    for shard in shards_in(folder):
        for row in rows_of(parts_in(folder / shard.folder), form):
            yield row.document()


def coco_results(document: Mapping[str, Any], sample: Sample, category_ids: tuple[int, ...]) -> Iterator[Json]:
    """A written row as COCO result dicts, as ``Result.to_coco`` makes them."""
    if "probs" in document:
        yield {"image_id": sample.image_id, "probs": document["probs"]}
        return
    points = None
    if "rotated_boxes" in document:
        points = corners(np.array(document["rotated_boxes"], np.float64).reshape(-1, 5)).reshape(-1, 4, 2)
        boxes = np.concatenate([points.min(1), points.max(1)], 1).tolist()
    else:
        boxes = document["boxes"]
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        row: Json = {"image_id": sample.image_id, "category_id": category_ids[document["labels"][i]],
                     "bbox": [x1, y1, x2 - x1, y2 - y1], "score": document["scores"][i]}  # fmt: skip
        if "masks" in document:
            row["segmentation"] = document["masks"][i]
        if points is not None:
            row["segmentation"] = [points[i].ravel().tolist()]
        if "keypoints" in document:
            row["keypoints"] = [value for point in document["keypoints"][i] for value in point]
        yield row
