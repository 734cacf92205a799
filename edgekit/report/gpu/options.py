"""What ``edgekit gpu-check`` can be told. Standard library only.

GpuOptions(minutes=30, only=("basics", "engine"))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.report.gpu.plan import STEPS
from edgekit.runtime.fields import check, option, words


@dataclass(frozen=True)
class GpuOptions:
    """Which steps are run, for how long, and on what."""

    minutes: float = option(10.0, above=0, most=600)
    """Minutes for everything. The most valuable steps come first; about 30 reach all of them."""
    only: tuple[str, ...] | None = option(None, parse=words, metavar="A,B")
    """These steps alone, by commas: basics, engine, rtx, peer, int8, tasks, scales, cpp, training, loader, failures,
    experimental."""
    device: str = "cuda:0"
    """cpu, cuda:0, GPU, NPU: as the target knows it."""
    model: Path | None = option(None, metavar="CKPT")
    """The detector's checkpoint. Default: models/shapes.pt of the repository."""
    data: Path | None = None
    """A labelled detection set to calibrate and train on. Default: one that the repository draws."""
    rtx: Path | None = option(None, metavar="BUNDLE")
    """A trt-rtx-fp16 bundle built on a machine without a GPU. Default: one built here with the GPU hidden."""
    peer: Path | None = option(None, metavar="VENV")
    """A virtual environment with ultralytics and CUDA's PyTorch, to compare with. Default: EDGEKIT_PEER's."""
    work_dir: Path | None = None
    """Folder for bundles and logs, kept. Default: a temporary one."""

    def __post_init__(self) -> None:
        check(self)
        known = [step.name for step in STEPS]
        for name in self.only or ():
            if name not in known:
                raise UsageError(f"`only` {name}: no such step; there are {', '.join(known)}")
