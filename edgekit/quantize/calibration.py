"""Which images a model is calibrated on: chosen, written down, and kept apart from those its accuracy is judged on.

    manifest = choose(open_dataset("bccd/data.yaml", "detect", "train"), count=300, seed=0)
    write(manifest, Path("bccd.json"))
    manifest.sha256                     # goes into the bundle
    batches(manifest, root, info)       # float32 [B, 3, H, W] each, as the artifact wants them

Images are drawn stratum by stratum: every class, dark and bright, flat and contrasty, small and large objects, always
from the stratum that has the fewest so far. A manifest holds paths relative to the set and hashes, no images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.atomic import replacing
from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import GateError, InputError, UsageError
from edgekit.image import prepare, read_image
from edgekit.spec import ModelInfo, sha256_file

SCHEMA = 1
COUNT = 300
FEW, LEAST = 128, 16
CANDIDATES = 10  # times the count: of larger sets a random part is looked at
THIRDS = {"brightness": ("dark", "medium light", "bright"), "contrast": ("flat", "medium contrast", "contrasty")}
SIZES = ("small objects", "medium objects", "large objects")


@dataclass(frozen=True)
class Entry:
    """One image: ``path`` relative to the set's folder (forward slashes), its hash, and the stratum it stands for."""

    path: str
    sha256: str
    why: str


@dataclass(frozen=True)
class Manifest:
    """The images of one calibration.

    Attributes:
        set: name of the file or folder that describes the set.
        split: ``train`` unless asked otherwise.
        task: how the labels were read.
        seed: what the draw started from.
        images: in the order they were drawn; any first part of them is a smaller calibration of the same kind.
        left_out: how many images were also in the split that accuracy is judged on, and so not used.
    """

    set: str
    split: str
    task: str
    seed: int
    images: tuple[Entry, ...]
    left_out: int = 0

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the manifest's content, whatever file it is in."""
        return hashlib.sha256(_text(self).encode()).hexdigest()

    @property
    def warning(self) -> str | None:
        """A sentence where there are too few images to trust."""
        if len(self.images) >= FEW:
            return None
        return f"calibrated on {len(self.images)} images; with fewer than {FEW} the ranges are a matter of luck"


def choose(
    dataset: Dataset, count: int = COUNT, seed: int = 0, judged_on: Dataset | None = None, force: bool = False
) -> Manifest:
    """Draw ``count`` images (all there are where that is fewer).

    Args:
        dataset: a labelled split, most often ``train``.
        judged_on: the split accuracy is measured on; images that are in it too are not used.
        force: take fewer than 16 images.

    Raises:
        UsageError: fewer than 16 images are asked for.
        InputError: there are fewer than 16, or one cannot be read.
    """
    if count < 1 or (count < LEAST and not force):
        raise UsageError(f"--count {count}: fewer than {LEAST} images say nothing about ranges; --force takes them")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset))[: max(CANDIDATES * count, 2000)]
    candidates = [dataset.samples[i] for i in order]
    barred = _shared(candidates, judged_on)
    candidates = [s for s in candidates if s.path not in barred]
    if not candidates or (len(candidates) < LEAST and not force):
        raise InputError(
            f"{dataset.source}: {len(candidates)} images of split {dataset.split} to calibrate on"
            f"{f' ({len(barred)} more are in the split that is judged)' if barred else ''}; "
            f"at least {LEAST} are needed{' (--force takes fewer)' if candidates else ''}"
        )
    root = _root(dataset.source)
    entries = tuple(
        Entry(_relative(sample.path, root), sha256_file(sample.path), why)
        for sample, why in _draw(candidates, dataset, count)
    )
    return Manifest(dataset.source.name, dataset.split, dataset.task, seed, entries, len(barred))


def _draw(samples: Sequence[Sample], dataset: Dataset, count: int) -> list[tuple[Sample, str]]:
    """Samples with the stratum each was drawn for; the first in the given order, of the stratum with the fewest."""
    strata = _strata(samples, dataset)
    members: dict[str, list[int]] = {}
    for place, names in enumerate(strata):
        for name in names:
            members.setdefault(name, []).append(place)
    taken: dict[int, str] = {}
    have = dict.fromkeys(members, 0)
    nexts = dict.fromkeys(members, 0)
    while len(taken) < min(count, len(samples)):
        for name in sorted(members, key=lambda n: (have[n], n)):
            while nexts[name] < len(members[name]) and members[name][nexts[name]] in taken:
                nexts[name] += 1
            if nexts[name] < len(members[name]):
                place = members[name][nexts[name]]
                taken[place] = name
                for other in strata[place]:
                    have[other] += 1
                break
    return [(samples[place], why) for place, why in taken.items()]


def _strata(samples: Sequence[Sample], dataset: Dataset) -> list[list[str]]:
    looks = np.array([_look(sample.path) for sample in samples])
    sizes = np.array([_object_size(sample) for sample in samples])
    found: list[list[str]] = []
    for sample in samples:
        labels = sample.labels
        classes = labels.classes if labels.class_id is None else np.array([labels.class_id])
        found.append([f"class {dataset.names[c]}" for c in np.unique(classes)] or ["no objects"])
    for column, names in enumerate(THIRDS.values()):
        for place, third in enumerate(_thirds(looks[:, column])):
            found[place].append(names[third])
    for place, third in zip(np.flatnonzero(sizes > 0).tolist(), _thirds(sizes[sizes > 0]), strict=True):
        found[place].append(SIZES[third])
    return found


def _look(path: Path) -> tuple[float, float]:
    """Mean and standard deviation of the grey levels, of an eighth of the resolution."""
    try:
        data = np.fromfile(path, np.uint8)
        grey = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8) if data.size else None
    except (OSError, cv2.error):
        grey = None
    if grey is None:
        raise InputError(f"{path}: cannot be read as an image; remove it from the set")
    return float(grey.mean()), float(grey.std())


def _object_size(sample: Sample) -> float:
    """Median side of the objects as a share of the image's; 0 where there are none."""
    labels = sample.labels
    if not len(labels):
        return 0.0
    sides = (labels.boxes[:, 2:] - labels.boxes[:, :2]) / np.array(labels.size)
    return float(np.sqrt(np.median(sides.prod(1).clip(0))))


def _thirds(values: np.ndarray) -> list[int]:
    """0, 1 or 2 for the lower, middle and upper third."""
    if not len(values):
        return []
    found: list[int] = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values).tolist()
    return found


def _root(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _relative(path: Path, root: Path) -> str:
    """From the set's folder; from the one above where that holds the images, as COCO's ``annotations`` do."""
    path, root = path.resolve(), root.resolve()
    for above, start in (("", root), ("../", root.parent)):
        if path.is_relative_to(start):
            return above + path.relative_to(start).as_posix()
    return path.as_posix()  # a data.yaml may point anywhere


def _shared(samples: Sequence[Sample], other: Dataset | None) -> set[Path]:
    """Those of ``samples`` whose bytes are also in ``other``. Only files of equal size are read."""
    if other is None:
        return set()
    sizes = {path: path.stat().st_size for path in (s.path for s in samples)}
    known = set(sizes.values())
    hashes = {sha256_file(s.path) for s in other.samples if s.path.stat().st_size in known}
    return {path for path in sizes if hashes and sha256_file(path) in hashes}


def check_disjoint(manifest: Manifest, judged_on: Dataset) -> None:
    """Refuse a calibration on images that accuracy is judged on.

    Raises:
        InputError: an image of the manifest is in ``judged_on``; the sentence names it.
    """
    hashes = {entry.sha256: entry.path for entry in manifest.images}
    for sample in judged_on.samples:
        if sha256_file(sample.path) in hashes:
            raise InputError(
                f"{sample.path}: in the {judged_on.split} split that accuracy is judged on and among the calibration "
                f"images too ({hashes[sha256_file(sample.path)]}); calibrate on the train split: edgekit calibrate"
            )


def batches(manifest: Manifest, root: Path, info: ModelInfo, most: int | None = None) -> list[np.ndarray]:
    """The images as the artifact takes them: float32 ``[B, 3, H, W]``, B its fixed batch; a last batch that is not
    full is filled up with the first images.

    Args:
        root: the set's ``data.yaml``, JSON or folder; the manifest's paths start at its folder.
        most: use only the first so many images.

    Raises:
        InputError: an image is missing or cannot be read.
        GateError: an image is not the one that was chosen.
    """
    entries, size = manifest.images[:most], info.batch or 1
    folder = _root(root)
    for entry in entries:
        path = folder / entry.path
        if not path.is_file():
            raise InputError(f"{path}: a calibration image that is not there; give the --data it was chosen from")
        if sha256_file(path) != entry.sha256:
            raise GateError(f"{path}: not the image the calibration was made with (its hash differs); calibrate again")
    full = [entries[i % len(entries)] for i in range(-(-len(entries) // size) * size)]
    groups = [full[i : i + size] for i in range(0, len(full), size)]
    return [
        prepare([read_image(folder / e.path) for e in group], info.imgsz, info.preprocess, info.batch or 0)[0].copy()
        for group in groups
    ]


def write(manifest: Manifest, path: Path) -> None:
    """Write ``manifest`` as JSON; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(_text(manifest), encoding="utf-8")


def _text(manifest: Manifest) -> str:
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(manifest)}, indent=1, sort_keys=True) + "\n"


def read(path: Path) -> Manifest:
    """A manifest from its file.

    Raises:
        InputError: no such file, no calibration manifest, or one of a newer schema.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = int(document.pop("schema"))
        if schema > SCHEMA:
            raise InputError(f"{path}: calibration schema {schema}, this edgekit reads up to {SCHEMA}; upgrade edgekit")
        images = tuple(Entry(**{k: str(e[k]) for k in ("path", "sha256", "why")}) for e in document.pop("images"))
        return Manifest(**document, images=images)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make one with: edgekit calibrate DATA") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a calibration manifest; make one with: edgekit calibrate DATA") from error
