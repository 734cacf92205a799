"""What running a model can be told: how it is opened, and what is kept of what it finds. Standard library only.

OpenOptions(device="GPU", imgsz=640)
Options(conf=0.4, max_det=50)
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict

from edgekit.errors import UsageError, command_line
from edgekit.runtime.fields import check, option
from edgekit.spec import MAX_DET, NMS_IOU, ModelInfo

AN_OBJECT = 5  # candidates that an object answers with, two to five: benchmarks/results/candidates.json


@dataclass(frozen=True)
class OpenOptions:
    """How a model is opened."""

    task: str | None = option(None, section="How it is opened")
    """What a model of another tool is for, if it does not say."""
    outputs: str | None = option(None, metavar="TEXT")
    """How a detector of another tool lays its outputs out, e.g. 'xyxy; scores' (``bundle/external/outputs.py``)."""
    imgsz: str | int | tuple[int, int] | None = option(None, parse=str, metavar="N|H,W")
    """Input size in pixels, multiples of 32. Default: the model's own.

    Only a checkpoint can change it, an artifact's is fixed.
    """
    device: str | None = None
    """cpu, cuda:0, GPU, NPU: as the target knows it. Default: the target's."""
    threads: int | None = option(None, least=1)
    """CPU threads. Default: the runtime's choice."""
    streams: int | None = None
    """Images worked on at once, for more of them a second. Default: one, as fast as possible."""
    batch: int | None = option(None, least=1)
    """Images per run. Only for models that take any number; 1 by default."""
    cache: Path | str | bool | None = None
    """Folder that keeps what OpenVINO compiled, for a faster next start: ov-*.

    True: beside the bundle (``edgekit.runtime.modelcache``).
    """


@dataclass(frozen=True)
class Options:
    """What to keep of what the model finds.

    Raises:
        UsageError: a value is out of range.
    """

    conf: float = option(0.25, least=0, most=1, section="What is kept")
    """Drop objects scored below this."""
    iou: float = option(0.7, least=0, most=1)
    """Suppress boxes overlapping a better one by more.

    Of a class; for rotated boxes the overlap is the probabilistic IoU.
    """
    max_det: int = option(MAX_DET, least=1)
    """Keep at most this many objects per image."""
    classes: tuple[int, ...] | None = None
    """Labels to keep; None for all."""
    agnostic: bool = False
    """Let boxes suppress each other across classes."""
    multi_label: bool = False
    """Let one anchor answer with every class above ``conf``, not its best only; used when scoring."""
    clip: bool = True
    """Cut boxes off at the image's edge.

    Published figures score boxes as the network gives them, so scoring does not.
    """

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise UsageError(f"`{name}` {value}: must be a number between 0 and 1")
            object.__setattr__(self, name, float(value))  # numpy's numbers are welcome
        object.__setattr__(self, "max_det", _index("max_det", self.max_det, 1))
        if self.classes is not None:
            given = (self.classes,) if isinstance(self.classes, int) else self.classes
            object.__setattr__(self, "classes", tuple(_index("classes", label, 0) for label in given))
        check(self)

    def changed(self, changes: Mapping[str, Any]) -> Options:
        """These, with other values for the fields that ``changes`` names.

        Raises:
            UsageError: there is no such field, or its value is out of range.
        """
        _check_names(changes, [field.name for field in fields(self)])
        return replace(self, **changes)

    def check(self, info: ModelInfo) -> None:
        """Whether this model can do what is asked for. The default ``max_det`` is a limit that every head takes.

        Raises:
            UsageError: a class it does not have, more objects than its head keeps candidates, or another suppression
                than the one inside its graph.
        """
        for label in self.classes or ():
            if label >= len(info.names):
                raise UsageError(f"`classes` {label}: the model has the classes 0 to {len(info.names) - 1}")
        if info.cuts and info.candidates is not None and info.candidates < self.max_det != MAX_DET:
            raise UsageError(
                f"`max_det` {self.max_det}: the model's head keeps {info.candidates} candidates an image, which is the "
                f"most objects it can give; {rebuild(AN_OBJECT * self.max_det)}"
            )
        if info.head == "nms" and (self.agnostic or abs(self.iou - NMS_IOU) > 1e-6):
            given = "`agnostic`" if self.agnostic else f"`iou` {self.iou:g}"
            raise UsageError(
                f"{given}: the model's graph has suppressed duplicates already, as it was made to; "
                "build it with `head` topk, or export it without nms, to choose"
            )


class LoadOptions(TypedDict, total=False):
    """The fields of both by name, for those who check types."""

    task: str | None
    outputs: str | None
    imgsz: str | int | tuple[int, int] | None
    device: str | None
    threads: int | None
    streams: int | None
    batch: int | None
    cache: Path | str | bool | None
    conf: float
    iou: float
    max_det: int
    classes: tuple[int, ...] | None
    agnostic: bool
    multi_label: bool
    clip: bool


def told(given: Mapping[str, Any]) -> tuple[OpenOptions, Options]:
    """How a model is opened, and what is kept of what it finds, of what was given by name.

    Raises:
        UsageError: there is no such option, or its value is out of range.
    """
    owners = {field.name: each for each in (OpenOptions, Options) for field in fields(each)}
    _check_names(given, list(owners))
    opening, kept = ({n: v for n, v in given.items() if owners[n] is each} for each in (OpenOptions, Options))
    return OpenOptions(**opening), Options(**kept)


def _check_names(given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"`{name}`: is no option; options are {', '.join(known)}")


def rebuild(candidates: int) -> str:
    """The advice to build a bundle that keeps more candidates."""
    return f"build it with more: {command_line('build', 'MODEL', target='T', candidates=candidates, out='DIR')}"


def _index(name: str, value: SupportsIndex, smallest: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < smallest or isinstance(value, bool):
        raise UsageError(f"`{name}` {value}: must be a whole number of at least {smallest}")
    return number


# What published accuracy is measured with; of oriented boxes one protocol has another ``conf``.
SCORING = Options(conf=0.001, iou=NMS_IOU, max_det=MAX_DET, multi_label=True, clip=False)
