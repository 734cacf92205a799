"""How far two machines' answers to the same picture are apart, object by object.

found = gap(here, there, bounds("f16"))          # entries of `predict --json`
found.wrong(bounds("f16"))                       # ['boxes off by 2.3']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONF, IOU = 0.25, 0.7  # of every command, by default
Json = dict[str, Any]


@dataclass
class Gap:
    """How far answers are from those they must be: largest differences, and what does not fit at all.

    Attributes:
        sizes: ``boxes``, ``scores``, ``keypoints`` (pixels, 0..1), ``angles`` (radians), ``masks`` (1 - IoU).
        objects: compared.
        alone: clear objects of one side without a partner on the other.
        limits: objects without one that are no clear ones: rounding decides whether their score reaches the threshold,
            or their overlap with a better one what suppression allows.
        order: whether objects came in the same order.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    objects: int = 0
    alone: int = 0
    limits: int = 0
    order: bool = True

    def add(self, what: str, size: float) -> None:
        self.sizes[what] = max(self.sizes.get(what, 0.0), size)

    def join(self, other: Gap) -> None:
        for what, size in other.sizes.items():
            self.add(what, size)
        self.objects += other.objects
        self.alone += other.alone
        self.limits += other.limits
        self.order &= other.order

    def wrong(self, bound: Mapping[str, float]) -> list[str]:
        """What is beyond ``arm_table.bounds``."""
        found = [f"{what} off by {size:.3g}" for what, size in self.sizes.items() if not size <= bound[what]]
        found += [f"{self.alone} objects without a partner"] if self.alone else []
        found += ["another order"] if bound["order"] and not self.order else []
        return found + ([] if self.objects else ["nothing was compared"])


def gap(want: Json, have: Json, bound: Mapping[str, float]) -> Gap:
    """Two entries of ``predict --json`` compared, object by object.

    Args:
        bound: a row of ``arm_table.bounds``: ``scores`` from the threshold, and ``overlap`` from what suppression
            allows, an object may be missing.
    """
    import numpy as np

    if "probs" in want:
        return Gap({"scores": float(np.abs(np.subtract(want["probs"], have["probs"])).max())}, 1)
    from edgekit.metrics.matching import same_objects

    one, other = as_result(want), as_result(have)
    partner = same_objects(one, other)
    found = Gap({"boxes": 0.0, "scores": 0.0}, len(one), order=bool((np.diff(partner[partner >= 0]) > 0).all()))
    left = np.setdiff1d(np.arange(len(other)), partner)
    for rows, mine, rivals in ((np.flatnonzero(partner < 0), one, other), (left, other, one)):
        for row in rows:
            clear = mine.scores[row] >= CONF + bound["scores"] and not _suppressible(mine, row, rivals, bound)
            found.alone += int(clear)
            found.limits += int(not clear)
    for i in np.flatnonzero(partner >= 0):
        _compare(want, have, int(i), int(partner[i]), found)
    return found


def _suppressible(mine: Any, row: int, rivals: Any, bound: Mapping[str, float]) -> bool:
    """Whether a better one of its class among ``rivals`` overlaps it by about what suppression allows."""
    import numpy as np

    from edgekit.runtime.boxes import box_iou, probiou

    if mine.boxes is not None:
        overlap = box_iou(mine.boxes[[row]], rivals.boxes)[0]
    else:
        overlap = probiou(mine.rotated_boxes[[row]], rivals.rotated_boxes)[0]
    better = (rivals.labels == mine.labels[row]) & (rivals.scores >= mine.scores[row] - bound["scores"])
    return bool((np.abs(overlap[better] - IOU) <= bound["overlap"]).any())


def _compare(want: Json, have: Json, i: int, k: int, found: Gap) -> None:
    """Add how far object ``k`` of ``have`` is from object ``i`` of ``want``."""
    import numpy as np

    from edgekit.runtime.masks import decode_rle

    found.add("scores", abs(want["scores"][i] - have["scores"][k]))
    if "boxes" in want:
        found.add("boxes", float(np.abs(np.subtract(want["boxes"][i], have["boxes"][k])).max()))
    if "rotated_boxes" in want:
        x, y, w, h, angle = have["rotated_boxes"][k]
        ways = [
            np.subtract(want["rotated_boxes"][i], way) for way in ((x, y, w, h, angle), (x, y, h, w, angle + np.pi / 2))
        ]
        turned = [float(abs((way[4] + np.pi / 2) % np.pi - np.pi / 2)) for way in ways]
        best = int(np.argmin(turned))  # of a square either side may be the longer
        found.add("boxes", float(np.abs(ways[best][:4]).max()))
        found.add("angles", turned[best])
    if "keypoints" in want:
        off = np.abs(np.subtract(want["keypoints"][i], have["keypoints"][k]))
        found.add("keypoints", float(off[:, :2].max()))
        found.add("scores", float(off[:, 2].max()))
    if "masks" in want:
        a, b = decode_rle(want["masks"][i]), decode_rle(have["masks"][k])
        found.add("masks", 1 - float((a & b).sum() / max((a | b).sum(), 1)))


def as_result(entry: Json) -> Any:
    """What of an entry decides which objects are the same."""
    import numpy as np

    from edgekit.runtime.results import Result

    found = Result((0, 0), ())
    found.labels, found.scores = np.array(entry["labels"], np.int64), np.array(entry["scores"], np.float32)
    for key, sides in (("boxes", 4), ("rotated_boxes", 5)):
        if key in entry:
            setattr(found, key, np.array(entry[key], np.float32).reshape(-1, sides))
    return found
