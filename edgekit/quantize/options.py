"""What can be asked of a narrower target. Standard library only: the command line is derived from it.

QuantizeOptions(data=Path("bccd/data.yaml"), max_drop=0.3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.fields import check, option
from edgekit.spec import Images


@dataclass(frozen=True)
class QuantizeOptions:
    """Data, limits and seed of a model in fewer bits."""

    data: Path | Sequence[Path] | None = option(None, section="Judged by accuracy")
    """What accuracy is judged on and INT8 calibrated: a labelled set (train, val), or pictures without labels: a folder
    with all below it, a glob, a .txt list; as often as needed.

    ``sets.py`` has the rules.
    """

    calibration: Path | None = None
    """A manifest of ``edgekit calibrate``, which knows its set. Default: images chosen on the fly."""

    images: Images = None
    """Where there are no labels: images that agreement with the float model is measured on."""

    count: int = 128  # no more than 64 are needed (calibration/README.md), and fewer than this are warned of
    """Images to choose on the fly."""

    seed: int = option(0, least=0)
    """Seed of everything random.

    The choice on the fly is.
    """

    max_drop: float = option(0.5, least=0)
    """Points of the metric or agreement that the artifact, or auto's choice, may lose."""

    max_f1_drop: float | None = option(None, least=0)
    """Points of F1 that it may lose at the float model's best threshold. Default: as `max_drop`, beyond which it warns.

    One object of the set is let pass in any case.
    """

    max_class_drop: float | None = option(None, least=0)
    """Points of the metric that a class may lose. Default: four times `max_drop`, beyond which it warns.

    One object of the class is let pass in any case.
    """

    recalibrate_scores: bool = False
    """Move INT8's scores back to what the float model's meant, class by class, where that is measurably better.

    ``edgekit/verify/recalibration.py``.
    """

    require_speedup: float | None = option(None, least=0)
    """Fail unless INT8 is so many times as fast.

    As the best floating-point bundle of the same runtime; None only records it.
    """

    force: bool = False
    """Calibrate on fewer than 16 images."""

    weight_bits: int | None = None
    """7 or 8. Default: 8, on CPUs without VNNI 7.

    What the target's kernels add exactly.
    """

    timing_s: float = 20.0
    """Seconds that the comparison of speed may take, at most; 0 leaves it out."""

    judged: bool = True
    """False calibrates on a few images and looks at no accuracy: an artifact to time, whose speed depends on neither,
    or a random network, which has none to lose."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def sources(self) -> tuple[Path, ...]:
        """``data`` as a tuple, empty for None."""
        return () if self.data is None else (self.data,) if isinstance(self.data, Path) else tuple(self.data)

    @property
    def others(self) -> tuple[Path, ...]:
        """``images`` as a tuple, empty for None."""
        given = () if self.images is None else (self.images,) if isinstance(self.images, (str, Path)) else self.images
        return tuple(map(Path, given))
