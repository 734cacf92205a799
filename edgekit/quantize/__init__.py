"""INT8 and FP16 with proof: calibration, quantization, the gates on accuracy and speed, and what to do when one fails.

| file | does |
|---|---|
| ``calibration.py`` | chooses images and writes down which and why |
| ``sets.py`` ``pictures.py`` | what is calibrated and judged on, with labels or without; before the export |
| ``ranges.py`` | what values the graph's tensors take on them |
| ``qdq.py`` | explicit Q/DQ pairs in an ONNX graph |
| ``ir.py`` | OpenVINO's own form, by NNCF |
| ``fp16.py`` | half precision |
| ``groups.py`` | the named parts that are quantized or left alone together |
| ``sensitivity.py`` ``search.py`` | which groups cost accuracy, and the fewest to put back |
| ``pipeline.py`` | all of it, one under the other, for ``edgekit build`` |
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, MissingPackageError, UsageError
from edgekit.spec import Graph, Images
from edgekit.system.processor import adds_exactly
from edgekit.targets import Target, every


@dataclass(frozen=True)
class Wishes:
    """What the user wants of a narrower target.

    Attributes:
        data: a labelled set: calibration images from its ``train`` split, accuracy from ``val``; or pictures without
            labels, one place or several (``sets.py`` has the rules).
        calibration: a manifest from ``edgekit calibrate``; otherwise images are chosen on the fly.
        images: images without labels, where there are no labels: agreement with the float model is measured on them.
        count, seed: of the choice on the fly.
        max_drop: points of the main metric that may be lost.
        require_speedup: the least speedup over the best floating-point artifact; None only records it.
        force: calibrate on fewer than 16 images.
        weight_bits: 7 or 8; by default what the target's kernels add exactly (``weight_bits`` below).
        timing_s: seconds that the comparison of speed may take; 0 leaves it out.
        judged: False calibrates on a few images and looks at no accuracy: an artifact to time, whose speed depends on
            neither, or a random network, which has none to lose.
    """

    data: Path | Sequence[Path] | None = None
    calibration: Path | None = None
    images: Images = None
    count: int = 300
    seed: int = 0
    max_drop: float = 0.5
    require_speedup: float | None = None
    force: bool = False
    weight_bits: int | None = None
    timing_s: float = 20.0
    judged: bool = True

    @property
    def sources(self) -> tuple[Path, ...]:
        """``data`` as a tuple, empty for None."""
        return () if self.data is None else (self.data,) if isinstance(self.data, Path) else tuple(self.data)

    @property
    def others(self) -> tuple[Path, ...]:
        """``images`` as a tuple, empty for None."""
        given = () if self.images is None else (self.images,) if isinstance(self.images, (str, Path)) else self.images
        return tuple(map(Path, given))


@dataclass
class Lowered:
    """The graph to build from, further keys of the bundle's manifest, and images to time on."""

    graph: Graph
    parts: dict[str, Any] = field(default_factory=dict)
    pictures: list[Any] = field(default_factory=list)


def needed(target: Target, wishes: Wishes | None) -> bool:
    """Whether ``lower`` has something to do for ``target``.

    Raises:
        UsageError: INT8 without data, or wishes that the target cannot heed.
    """
    if target.int8 and (wishes is None or not (wishes.sources or wishes.calibration)):
        raise UsageError(
            f"--target {target.name}: INT8 is calibrated and judged on images; give --data, a labelled set or pictures "
            "without labels, or --calibration"
        )
    narrows = bool(target.narrowing)
    if wishes is None:
        return narrows
    if not narrows and (wishes.sources or wishes.calibration):
        raise UsageError(f"--data and --calibration go with INT8 and trt-* targets, not with {target.name}")
    if wishes.require_speedup is not None and (not target.floats or wishes.timing_s == 0):
        timed = " and ".join(other.name for other in every() if other.floats)
        raise UsageError(f"--require-speedup goes with {timed}, which are timed here, not with {target.name}")
    if wishes.weight_bits is not None and not target.int8:
        raise UsageError(f"--weight-bits goes with INT8 targets, not with {target.name}")
    if target.int8:
        weight_bits(target, wishes)
    return narrows


def missing(target: Target) -> str | None:
    """What calibrating for ``target`` needs and is not installed, one message, or None."""
    reason = target.missing_to_build()
    if reason is None and importlib.util.find_spec("onnxruntime") is None:
        reason = str(MissingPackageError("onnxruntime", "calibration", "onnx"))
    return reason


def check_packages(target: Target) -> None:
    """Raise InputError unless what calibrating for ``target`` needs is installed."""
    reason = missing(target)
    if reason:
        raise InputError(reason)


def weight_bits(target: Target, wishes: Wishes) -> int:
    """Bits of the weights: what was asked for, else eight where sums of products are exact (GPUs, CPUs with VNNI), else
    seven, which saturate nowhere.

    Raises:
        UsageError: neither 7 nor 8.
    """
    if wishes.weight_bits is not None:
        if wishes.weight_bits not in (7, 8):
            raise UsageError(f"--weight-bits {wishes.weight_bits}: 8, or 7 for processors without VNNI")
        return wishes.weight_bits
    return 8 if target.exact or adds_exactly() else 7
