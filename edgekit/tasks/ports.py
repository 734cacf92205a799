"""What goes into and comes out of a network, by role and shape; no torch needed.

info(spec, names, (640, 640), batch=1).outputs[1].shape     # (1, 80, 8400)
"""

from __future__ import annotations

import math

from edgekit import tasks
from edgekit.errors import InputError, UsageError
from edgekit.spec import ModelInfo, ModelSpec, Port, anchors

LEAST, MOST = 300, 3840  # of a default; TensorRT sorts no more than the latter (its TopK operator's k)
_MASKS = 32


def info(
    spec: ModelSpec,
    names: tuple[str, ...],
    imgsz: tuple[int, int],
    batch: int | None = 1,
    license: str | None = None,
    head: str = "raw",
    candidates: int | None = None,
) -> ModelInfo:
    """The ``ModelInfo`` of ``spec`` at one image size; ``batch`` None means any batch.

    ``head`` is ``raw``, ``topk`` or ``nms`` (whose number of rows is dynamic); a task without objects has the raw form
    only and gets it. ``candidates`` is how many the latter two keep, ``default_candidates`` of the size without it;
    all there are where that is fewer.

    Raises:
        InputError: the number of names is not the number of classes.
        UsageError: the task's boxes cannot be suppressed inside a graph, or not in batches; ``candidates`` of a head
            or task that has none.
    """
    if len(names) != spec.classes:
        raise InputError(f"{spec.name} has {spec.classes} classes but {len(names)} names")
    task = tasks.get(spec.task)
    check_head(task.name, head, batch)
    height, width = imgsz
    head = head if task.detects else "raw"
    cells = anchors(imgsz)
    kept = _kept(head, imgsz, spec.classes, candidates)
    rows = {"raw": cells, "topk": kept, "nms": None}[head]
    points = (spec.keypoint_shape or (0, 0))[0]
    shapes: dict[str, tuple[int | None, ...]] = {
        "boxes": (batch, rows, 4),
        "rotated_boxes": (batch, rows, 5),
        "scores": (batch, spec.classes, cells) if head == "raw" else (batch, rows),
        "labels": (batch, rows),
        "mask_coefficients": (batch, rows, _MASKS),
        "mask_prototypes": (batch, _MASKS, height // 4, width // 4),
        "keypoints": (batch, rows, points, 3),
        "class_probabilities": (batch, spec.classes),
    }
    roles = list(task.roles)
    if head != "raw":
        roles.insert(roles.index("scores") + 1, "labels")
    return ModelInfo(
        task=spec.task,
        imgsz=imgsz,
        head=head,
        names=names,
        inputs=(Port("images", "images", (batch, 3, height, width)),),
        outputs=tuple(Port(r, r, shapes[r], "int64" if r == "labels" else "float32") for r in roles),
        preprocess=task.preprocess,
        license=license,
        spec=spec,
        candidates=kept,
    )


def check_head(name: str, head: str, batch: int | None) -> None:
    """Refuse a form of outputs that the task ``name`` does not come in.

    Raises:
        UsageError: its boxes cannot be suppressed inside a graph, or not in batches.
    """
    task = tasks.get(name)
    if head == "nms" and task.detects and ("boxes" not in task.roles or batch != 1):
        what = f"{task.name} boxes" if "boxes" not in task.roles else "a batch other than 1"
        raise UsageError(f"`head` nms: no runtime suppresses {what} inside the graph; use `head` topk")


def default_candidates(imgsz: tuple[int, int]) -> int:
    """Candidates that a head keeps where nobody says how many: 500 at 320 x 320, 1000 at 640, 2000 at 1280.

    An object answers with two to five candidates (``benchmarks/results/candidates.json``), and more objects are to be
    told apart the more pixels there are. Growing with the side rather than the area keeps the price in a few percent
    of the network's time at every size, and is what real sets need: of bccd at 320 pixels 300 candidates lose 2.0
    points of mAP50 and 500 lose 0.1; a sheet of 224 cells at 1280 pixels has 900 above the confidence of 0.25.
    """
    return min(max(100 * round(0.11 * math.sqrt(anchors(imgsz))), LEAST), MOST)


def _kept(head: str, imgsz: tuple[int, int], classes: int, candidates: int | None) -> int | None:
    if head == "raw":
        if candidates is not None:
            raise UsageError(
                f"`candidates` {candidates}: the raw head keeps every anchor, and a classifier has none; leave it out"
            )
        return None
    if candidates is not None and candidates < 1:
        raise UsageError(f"`candidates` {candidates}: must be a whole number of at least 1")
    return min(candidates or default_candidates(imgsz), anchors(imgsz) * (1 if head == "nms" else classes))
