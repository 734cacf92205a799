"""Objects that a protocol cannot count, because an image has more of them than it keeps detections.

crowded(dataset, 300, Options())      # ['3 images hold more than 300 labelled objects …']
"""

from __future__ import annotations

import numpy as np

from edgekit.errors import command_line
from edgekit.metrics.coco import LIMITS
from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.options import Options


def crowded(dataset: LabelledSet, max_det: int, options: Options) -> list[str]:
    """A sentence for every limit that labelled objects exceed: ``max_det`` detections an image, and those of a class
    and image that COCO counts. Empty where none does, and for classification."""
    roles = dataset.roles
    if "scores" not in roles:
        return []
    classes = [sample.labels.classes[~sample.labels.crowd] for sample in dataset.samples]
    sentences = [_sentence([len(c) for c in classes], max_det, "labelled objects", "detections an image are kept")]
    if options.protocol == "coco" and "boxes" in roles:
        limit = LIMITS["keypoints" if "keypoints" in roles else "bbox"] if options.max_det is None else options.max_det
        most = [int(np.bincount(c).max(initial=0)) for c in classes]
        sentences.append(_sentence(most, limit, "labelled objects of a class", "detections a class and image count"))
    return [sentence for sentence in sentences if sentence]


def _sentence(counts: list[int], limit: int, of_what: str, kept: str) -> str:
    over = [count for count in counts if count > limit]
    if not over:
        return ""
    images = "1 image holds" if len(over) == 1 else f"{len(over)} images hold"
    return (
        f"{images} more than {limit} {of_what} (the most: {max(over)}), but only {limit} {kept}, so some must count as "
        f"missed; `{command_line('val', max_det=max(over))}` counts them all"
    )
