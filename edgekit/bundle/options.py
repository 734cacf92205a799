"""What a build can be asked for, whatever the target. Standard library only: the command line is derived from it.

BuildOptions(imgsz=(320, 320), quantize=QuantizeOptions(data=Path("bccd/data.yaml")))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.quantize.options import QuantizeOptions
from edgekit.spec import Images


@dataclass(frozen=True)
class BuildOptions:
    """How a model becomes a bundle."""

    imgsz: tuple[int, int] | None = None
    """(height, width) of the input in pixels; the source's own by default."""

    batch: int | None = 1
    """Images a run, fixed in the bundle; None lets any number through."""

    images: Images = None
    """Files, folders and globs of images for the parity check; INT8 without labels is judged on them. Generated ones by
    default."""

    head: str = "topk"
    """``raw``, ``topk`` or ``nms``; an ONNX file keeps the one it was exported with."""

    candidates: int | None = None
    """How many a topk or nms head keeps; by default what suits the size, and the objects in the images that INT8 is
    calibrated and judged on (``crowding.py``)."""

    layout: str | None = None
    """Also write the files the way a server reads them: ``triton`` or ``ovms``."""

    target: Mapping[str, str] = field(default_factory=dict)
    """Options of the target's own, by name and as the command line spells their values (``Target.options``)."""

    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    """Data, limits and seed of a narrower target; INT8 needs some data."""
