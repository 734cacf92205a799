"""How to score. Standard library only.

Options("ultralytics", max_det=100)
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.runtime.fields import check, option

PROTOCOLS = ("coco", "ultralytics")
ROTATED_IOUS = ("probiou", "polygon")


@dataclass(frozen=True)
class Options:
    """How to score."""

    protocol: str = option("coco", choices=PROTOCOLS, renamed={"peer": "ultralytics"})
    """ultralytics: as the tool that made the published checkpoints measures."""
    rotated_iou: str = option("probiou", choices=ROTATED_IOUS)
    """Overlap of oriented boxes: Gaussian, or exact areas."""
    imgsz: tuple[int, int] = (640, 640)
    """(height, width) of the network's input; only the mask protocol of Ultralytics asks."""
    max_det: int | None = option(None, least=1)
    """Keep at most this many objects per image. Default: 300, and of a class COCO's 100 (keypoints 20)."""

    def __post_init__(self) -> None:
        check(self)
