"""What predicting many images can be told. Standard library only.

ManyOptions(format="jsonl", shard="0/4", resume=True)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.runtime.fields import check, option

FORMATS = ("jsonl", "parquet", "coco", "txt")
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class ManyOptions:
    """How many images are worked through, and what is written of them.

    Raises:
        UsageError: a value is out of range, or two contradict each other.
    """

    format: str | None = option(None, choices=FORMATS, section="Many images")
    """Write results to `out` as they come, in this form, instead of pictures."""
    resume: bool = False
    """Go on where an earlier run with the same `out` ended or was killed."""
    shard: str | None = option(None, metavar="I/N")
    """Work on share I of N (from 0); auto or auto/N: as Slurm's or Kubernetes' variables say.

    ``auto`` reads SLURM_ARRAY_TASK_ID and its like, or JOB_COMPLETION_INDEX; Kubernetes does not say how many there
    are, so there it is auto/N.
    """
    merge: Path | None = None
    """Join what all shards wrote into this folder, check that no image is missing, and end."""
    part_size: int = option(500, least=1)
    """Images a part; a kill loses at most the part that was being written."""
    strict: bool = False
    """End at the first file that cannot be used."""
    scoring: bool = False
    """Keep what `edgekit val` scores: confidence 0.001, every class of an anchor, boxes as they are."""
    engine: str = option("local", choices=ENGINES)
    """Who spreads the work: this process, or a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster, or auto. Default: one is started on this machine."""
    actors: int | None = option(None, least=1)
    """Models that Ray runs at once. Default: one a CPU, or one a GPU with `device` cuda."""
    force: bool = False
    """Replace what is already there."""
    tile: int | None = option(None, least=32, section="Large pictures, objects followed and cut out")
    """Look at pictures in squares of this many pixels, one by one."""
    overlap: float = option(0.2, least=0, below=1)
    """Of neighbouring tiles, as a fraction of their side."""
    track: bool = False
    """Give objects of videos the number of the track they belong to."""
    save_crops: bool = False
    """Write every object as a picture of its own to crops/CLASS/ in `out`."""

    def __post_init__(self) -> None:
        check(self)
        if self.format is None:
            for name in ("resume", "shard", "strict", "scoring", "force"):
                if getattr(self, name):
                    raise UsageError(f"`{name}`: belongs to results that are written by `format`; give one")
            if self.engine != "local":
                raise UsageError("`engine` ray: writes results; say in which `format`")
        if self.engine == "local" and (self.address or self.actors):
            raise UsageError(f"`{'address' if self.address else 'actors'}`: is of `engine` ray; give that, too")
        if self.engine == "ray" and (self.shard or self.track or self.save_crops):
            name = next(name for name in ("shard", "track", "save_crops") if getattr(self, name))
            raise UsageError(f"`{name}`: is for `engine` local; Ray divides the work itself")
        if self.resume and self.force:
            raise UsageError("`resume` and `force` contradict each other: the one keeps what is there")
