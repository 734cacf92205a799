"""What the page about bundles shows. Standard library only.

Request(data=Path("bccd/data.yaml"), max_drop=0.5)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.fields import check, option


@dataclass(frozen=True)
class Request:
    """What to measure and what to take over."""

    data: Path | None = None
    """Labelled set: accuracy by class, and images they differ on."""
    split: str = "val"
    """Of `data`: train, val or test."""
    images: tuple[str, ...] | None = option(None, metavar="PATH")
    """Images without labels: files, folders, globs, as often as needed; or the folder of a COCO JSON's."""
    results: Path | None = None
    """Take times from this file of bench --json instead."""
    val: tuple[Path, ...] = ()
    """Take accuracy from this file of val --json; one a model."""
    budget: float = option(20.0, least=0)
    """Seconds of timing per model; 0: none."""
    max_drop: float = option(1.0, least=0)
    """Points a faster model may lose."""
    pictures: int = option(6, least=0)
    """Images to show, at most."""
    threads: int | None = option(None, least=1)
    """CPU threads. Default: the runtime's choice."""

    def __post_init__(self) -> None:
        check(self)
