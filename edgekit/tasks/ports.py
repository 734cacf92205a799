"""What goes into and comes out of a network, by role and shape; no torch needed.

    info(spec, names, (640, 640), batch=1).outputs[1].shape     # (1, 80, 8400)
"""

from __future__ import annotations

from edgekit import tasks
from edgekit.errors import InputError
from edgekit.spec import ModelInfo, ModelSpec, Port

_STRIDES = (8, 16, 32)
_MASKS = 32


def info(
    spec: ModelSpec,
    names: tuple[str, ...],
    imgsz: tuple[int, int],
    batch: int | None = 1,
    licence: str | None = None,
) -> ModelInfo:
    """The ``ModelInfo`` of ``spec`` with a raw head at one image size; ``batch`` None means any batch.

    Raises:
        InputError: the number of names is not the number of classes.
    """
    if len(names) != spec.classes:
        raise InputError(f"{spec.name} has {spec.classes} classes but {len(names)} names")
    task = tasks.get(spec.task)
    height, width = imgsz
    cells = sum((height // s) * (width // s) for s in _STRIDES)
    points = (spec.keypoint_shape or (0, 0))[0]
    shapes: dict[str, tuple[int | None, ...]] = {
        "boxes": (batch, cells, 4),
        "rotated_boxes": (batch, cells, 5),
        "scores": (batch, spec.classes, cells),
        "mask_coefficients": (batch, cells, _MASKS),
        "mask_prototypes": (batch, _MASKS, height // 4, width // 4),
        "keypoints": (batch, cells, points, 3),
        "class_probabilities": (batch, spec.classes),
    }
    return ModelInfo(
        task=spec.task,
        imgsz=imgsz,
        head="raw",
        names=names,
        inputs=(Port("images", "images", (batch, 3, height, width)),),
        outputs=tuple(Port(role, role, shapes[role]) for role in task.roles),
        preprocess=task.preprocess,
        licence=licence,
        spec=spec,
    )
