"""What a build, and verifying what was built, can be asked for, whatever the target. Standard library only: the command
line is derived from it.

BuildOptions(imgsz=(320, 320), quantize=QuantizeOptions(data=Path("bccd/data.yaml")))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.errors import UsageError
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.fields import check, option
from edgekit.spec import HEADS, Images, parse_imgsz


@dataclass(frozen=True)
class BuildOptions:
    """How a model becomes a bundle."""

    imgsz: tuple[int, int] | None = option(None, parse=parse_imgsz, metavar="N|H,W")
    """Input size in pixels, multiples of 32. Default: the model's own.

    (height, width).
    """

    batch: int | None = option(1, least=1)
    """Images per run.

    Fixed in the bundle; None lets any number through.
    """

    images: Images = option(None, metavar="PATH")
    """Files, a folder or a glob of images for the parity check, as often as needed; INT8 without labels is judged on
    them. Default: generated ones."""

    head: str | None = option(None, choices=HEADS)
    """raw (every anchor and class), topk (the best of them) or nms (finished detections). Default: topk, where the
    target has it.

    An ONNX file keeps the one it was exported with.
    """

    candidates: int | None = option(None, least=1)
    """(anchor, class) pairs an image that a topk or nms head keeps before suppression; up to five an object. Default:
    500 at 320 px, 1000 at 640, 2000 at 1280, and more where `data` is more crowded.

    See ``crowding.py``.
    """

    self_test: str = option("given", choices=("given", "generated", "none"))
    """Pictures of the bundle's self-test: a few of those given (`images`, `data`), at 144 px, else generated ones;
    generated ones alone; or none.

    ``edgekit/verify/golden.py``.
    """

    layout: str | None = None
    """Also write what a server reads: triton (trt-*, ort-*) or ovms (ov-*, ort-*)."""

    target: Mapping[str, str] = field(default_factory=dict)
    """Options of the target's own, by name and as the command line spells their values (``Target.options``)."""

    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    """Data, limits and seed of a narrower target; INT8 needs some data."""

    def with_head(self, heads: Sequence[str]) -> BuildOptions:
        """These with a head: the one asked for, or topk or else the first of the target's ``heads``."""
        return self if self.head else dataclasses.replace(self, head="topk" if "topk" in heads else heads[0])

    def __post_init__(self) -> None:
        check(self)
        if self.head == "raw" and self.candidates is not None:
            raise UsageError(
                f"`candidates` {self.candidates}: the raw head keeps every anchor; leave one of the two out"
            )


@dataclass(frozen=True)
class VerifyOptions:
    """How a bundle is verified (``verification.py``)."""

    device: str | None = None
    """cpu, cuda:0, GPU, NPU: as the target knows it. Default: the target's."""
