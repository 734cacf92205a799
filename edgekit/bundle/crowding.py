"""How many candidates a head should keep, so that no image of a set loses objects.

    crowding = measure(session, [dataset])     # a session of the float model with its raw head
    crowding.candidates                        # 1800: for 224 objects of 4.0 candidates each

A network of this kind answers an object from several cells: in training up to ten of them learn it (task-aligned
assignment, TOOD, arXiv 2108.07755; ``nn/assigner.py``), and suppression keeps the best. How many a trained one really
gives is counted here, on the most crowded images, at the confidence that ``predict`` has by default. Twice the product
is kept: other images may be more crowded than those labelled, and a lower confidence lets more through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError
from edgekit.runtime.image import read_image
from edgekit.runtime.options import AN_OBJECT, Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Json, Session

IMAGES = 8  # looked at, the most crowded ones
SPARE = 2
_EVERY = 1_000_000  # objects: no limit


@dataclass(frozen=True)
class Crowding:
    """How crowded a set is and what follows.

    Attributes:
        objects: in the most crowded image: labelled, or found where that is more.
        an_object: candidates above the confidence for each object found.
        images: that the model looked at.
        candidates: to keep, ``2 · objects · an_object`` rounded up to a hundred.
    """

    objects: int
    an_object: float
    images: int

    @property
    def candidates(self) -> int:
        return math.ceil(SPARE * self.objects * self.an_object / 100) * 100

    def to_dict(self) -> Json:
        return {**asdict(self), "candidates": self.candidates}


def measure(session: Session, datasets: Sequence[Dataset]) -> Crowding | None:
    """The crowding of ``datasets`` as the model of ``session`` (a raw head) sees it; None where there is nothing to
    count: no objects, neither labelled nor found."""
    predictor, options = Predictor(session), Options(max_det=_EVERY)
    samples = _most_crowded([sample for dataset in datasets for sample in dataset.samples])
    objects = max((_objects(sample) for sample in samples), default=0)
    found = above = images = 0
    for sample in samples:
        try:
            batch, geometries = predictor.preprocess([read_image(sample.path)])
        except InputError:
            continue  # those who calibrate and judge say so
        outputs = session.run(batch)
        seen = len(postprocess(outputs, session.info, geometries, options)[0])
        objects, found, images = max(objects, seen), found + seen, images + 1
        above += int((outputs["scores"] > options.conf).sum())
    if not objects:
        return None
    return Crowding(objects, above / found if found else float(AN_OBJECT), images)


def _objects(sample: Sample) -> int:
    return int((~sample.labels.crowd).sum())


def _most_crowded(samples: Sequence[Sample]) -> list[Sample]:
    """Those with the most labelled objects; of a set without labels some from all over it."""
    spread = list(samples[:: max(len(samples) // IMAGES, 1)]) if not any(map(_objects, samples)) else samples
    return sorted(spread, key=_objects, reverse=True)[:IMAGES]
