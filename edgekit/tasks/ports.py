"""What goes into and comes out of a network, by role and shape; no torch needed.

info(spec, names, (640, 640), batch=1).outputs[1].shape     # (1, 80, 8400)
"""

from __future__ import annotations

from edgekit import tasks
from edgekit.errors import InputError, UsageError
from edgekit.spec import BEST, ModelInfo, ModelSpec, Port

_STRIDES = (8, 16, 32)
_MASKS = 32


def info(
    spec: ModelSpec,
    names: tuple[str, ...],
    imgsz: tuple[int, int],
    batch: int | None = 1,
    licence: str | None = None,
    head: str = "raw",
) -> ModelInfo:
    """The ``ModelInfo`` of ``spec`` at one image size; ``batch`` None means any batch.

    ``head`` is ``raw``, ``topk`` or ``nms`` (whose number of rows is dynamic); a task without objects has the raw form
    only and gets it.

    Raises:
        InputError: the number of names is not the number of classes.
        UsageError: the task's boxes cannot be suppressed inside a graph, or not in batches.
    """
    if len(names) != spec.classes:
        raise InputError(f"{spec.name} has {spec.classes} classes but {len(names)} names")
    task = tasks.get(spec.task)
    check_head(task.name, head, batch)
    height, width = imgsz
    head = head if task.detects else "raw"
    cells = sum((height // s) * (width // s) for s in _STRIDES)
    rows: int | None = cells if head == "raw" else min(BEST, cells * spec.classes)
    if head == "nms":
        rows = None
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
        licence=licence,
        spec=spec,
    )


def check_head(name: str, head: str, batch: int | None) -> None:
    """Refuse a form of outputs that the task ``name`` does not come in.

    Raises:
        UsageError: its boxes cannot be suppressed inside a graph, or not in batches.
    """
    task = tasks.get(name)
    if head == "nms" and task.detects and ("boxes" not in task.roles or batch != 1):
        what = f"{task.name} boxes" if "boxes" not in task.roles else "a batch other than 1"
        raise UsageError(f"--head nms: no runtime suppresses {what} inside the graph; use --head topk")
