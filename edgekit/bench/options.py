"""What ``edgekit bench`` and ``edgekit table`` can be told. Standard library only.

BenchOptions(data=Path("data.yaml"), profile=True)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.runtime.fields import check, option, words
from edgekit.spec import parse_imgsz


def _share(text: str) -> float:
    """``"10%"`` or ``"0.1"`` as 0.1; above 1 only with the percent sign, which would else leave its meaning open."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf or (value > 1 and "%" not in text):
        raise ValueError("give a percentage such as 10%")
    return value


def _counts(text: str) -> tuple[int, ...]:
    parts = words(text)
    if not parts or not all(part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise ValueError("give whole numbers of at least 1, by commas")
    return tuple(dict.fromkeys(map(int, parts)))


@dataclass(frozen=True)
class BenchOptions:
    """What is measured of models, and on what."""

    images: tuple[str, ...] | None = option(None, metavar="PATH", section="On what")
    """Images: a file, a folder or a glob, as often as needed. Default: generated ones. `data`'s come before them; of a
    COCO JSON this is where its images are."""
    data: Path | None = None
    """A labelled set: measure accuracy on it too."""
    split: str = "val"
    """Of `data`: train, val or test."""

    budget: float = option(20.0, least=1, section="How")
    """Seconds per model, at most."""
    width: float = 0.03
    """Stop when medians are known to this fraction."""
    baseline: str | None = None
    """Model that ratios are against. Default: the first."""
    threads: tuple[int, ...] = option((), parse=_counts, metavar="N")
    """CPU threads. Default: the runtime's choice. Of each stream, and several, with `throughput`."""
    profile: bool = False
    """Also time each operator type and stage, and say what would save most."""
    cold: bool = False
    """Also time the first call of a fresh process; memory."""
    throughput: bool = False
    """Instead: images per second over streams, batches and threads."""
    cameras: int | None = option(None, least=1, metavar="N")
    """Instead: frames per second of so many cameras at once over streams, batches and threads (of all streams), in
    turns."""
    store: bool = False
    """With `cameras`: put the fastest into the bundle's plan, for `edgekit.load` on this kind of machine."""
    streams: tuple[int, ...] = option((), parse=_counts, metavar="N,N")
    """For `throughput` and `cameras`. Default: up to the cores."""
    batches: tuple[int, ...] = option((), parse=_counts, metavar="N,N")
    """For `throughput` and `cameras`. Default: the model's."""

    against: Path | None = option(None, section="Gates")
    """Older results: fail if a model got slower."""
    max_slowdown: float = option(0.1, parse=_share, metavar="N%", shown="10%")
    """What `against` allows."""
    require_stable: bool = False
    """Fail when the machine disturbed the run."""

    def __post_init__(self) -> None:
        check(self)
        if self.throughput or self.cameras:
            alone(
                "`throughput`" if self.throughput else "`cameras`", data=self.data, baseline=self.baseline,
                profile=self.profile, cold=self.cold, against=self.against,
                cameras=self.cameras if self.throughput else None,
            )  # fmt: skip
        elif self.streams or self.batches or len(self.threads) > 1:
            raise UsageError("`streams`, `batches` and several `threads` go with `throughput` or `cameras`")
        if self.store and not self.cameras:
            raise UsageError("`store` goes with `cameras`, how many there are")


@dataclass(frozen=True)
class TableOptions:
    """The rows and columns of the model-scale table, and what they are measured on."""

    scales: tuple[str, ...] = option(
        tuple("nsmlx"), parse=lambda text: tuple(s for s in text if s not in ", "), metavar="NSMLX", shown="nsmlx"
    )
    """Rows."""
    targets: tuple[str, ...] = option(("ort-fp32", "ov-fp32", "ov-fp16"), parse=words, metavar="A,B")
    """Columns. The first is what ratios are against."""
    family: str = "v1.0"
    """v1.0 or turbo."""
    task: str = "detect"
    """Which of the published tables."""
    imgsz: tuple[int, int] | None = option(None, parse=parse_imgsz, metavar="N|H,W")
    """Input size in pixels, multiples of 32. Default: the model's own."""
    weights: Path | None = None
    """Folder of checkpoints, yolo12n.pt … Default: random ones."""
    work_dir: Path | None = option(None, was=("keep",))
    """Folder to keep the bundles in, and to take them from the next time."""

    images: tuple[str, ...] | None = option(None, metavar="PATH", section="On what")
    """Images: a file, a folder or a glob, as often as needed. Default: generated ones. `data`'s come before them; of a
    COCO JSON this is where its images are."""
    data: Path | None = None
    """A labelled set: measure accuracy on it too."""
    split: str = "val"
    """Of `data`: train, val or test."""
    calibration: Path | None = None
    """A manifest of `edgekit calibrate` for the INT8 targets."""
    max_drop: float = option(0.5, least=0)
    """Points of the metric that INT8 may lose."""

    budget: float = option(90.0, least=1, section="How")
    """Seconds per model, at most."""
    width: float = 0.03
    """Stop when medians are known to this fraction."""
    threads: int | None = option(None, least=1)
    """CPU threads. Default: the runtime's choice."""
    require_stable: bool = False
    """Fail when the machine disturbed the run."""

    def __post_init__(self) -> None:
        check(self)


def alone(mode: str, **given: object) -> None:
    """Refuse what does not go with ``mode``.

    Raises:
        UsageError: something was given.
    """
    others = [f"`{name}`" for name, value in given.items() if value]
    if others:
        raise UsageError(f"{mode} answers a question of its own: drop {' and '.join(others)}")
