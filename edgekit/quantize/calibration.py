"""Which images a model is calibrated on: chosen, written down, and kept apart from those its accuracy is judged on.

    manifest = choose(open_dataset("bccd/data.yaml", "detect", "train"), count=128, seed=0)
    write(manifest, Path("bccd.json"))
    manifest.sha256                     # goes into the bundle
    tensors(located(manifest, [folder]), info)      # float32 [B, 3, H, W] each, as the artifact wants them

Images are drawn stratum by stratum: every class, dark and bright, flat and contrasty, small and large objects, always
from the stratum that has the fewest so far. Labels are not needed: without them light and contrast are the strata. What
cannot be read is left out and named. A manifest holds paths relative to the set and hashes, no images, and where the
set lies as seen from its own folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.atomic import replacing
from edgekit.runtime.image import prepare, read_image
from edgekit.spec import ModelInfo, sha256_file

SCHEMA = 2  # 2 says where the set lies and what of it could not be read
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
        unreadable: a sentence for each image that could not be read, and so was not used either.
        data: the files and folders it was chosen from; empty in files of schema 1.
        root: the folder that paths start at; None in files of schema 1.
    """

    set: str
    split: str
    task: str
    seed: int
    images: tuple[Entry, ...]
    left_out: int = 0
    unreadable: tuple[str, ...] = field(default=(), compare=False)
    data: tuple[Path, ...] = field(default=(), compare=False)
    root: Path | None = field(default=None, compare=False)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the choice, whatever file it is in and wherever the set lies."""
        return hashlib.sha256(_text({"schema": 1, **_chosen(self)}).encode()).hexdigest()

    def named(self, sentences: Iterable[str]) -> list[str]:
        """The sentences without telling where on somebody's disk the set lies: its folder's name stays."""
        return [s if self.root is None else s.replace(str(self.root), self.root.name) for s in sentences]

    @property
    def warning(self) -> str | None:
        """A sentence where there are too few images to trust."""
        if len(self.images) >= FEW:
            return None
        return f"calibrated on {len(self.images)} images; with fewer than {FEW} the ranges are a matter of luck"


def choose(
    dataset: Dataset,
    count: int = QuantizeOptions.count,
    seed: int = 0,
    judged_on: Dataset | None = None,
    force: bool = False,
    data: Sequence[Path] = (),
) -> Manifest:
    """Draw ``count`` images (all there are where that is fewer).

    Args:
        dataset: a split, most often ``train``; its labels may be empty.
        judged_on: what accuracy is measured on; images that are in it too are not used.
        force: take fewer than 16 images.
        data: what the set was opened from; its ``source`` by default.

    Raises:
        UsageError: fewer than 16 images are asked for.
        InputError: there are fewer than 16 that can be read.
    """
    if count < 1 or (count < LEAST and not force):
        raise UsageError(f"`count` {count}: fewer than {LEAST} images say nothing about ranges; `force` takes them")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset))[: max(CANDIDATES * count, 2000)]
    candidates = [dataset.samples[i] for i in order]
    barred = shared(candidates, [s.path for s in judged_on.samples] if judged_on else ())
    candidates, unreadable = readable([s for s in candidates if s.path not in barred])
    if not candidates or (len(candidates) < LEAST and not force):
        apart = [f"{len(barred)} more are in the split that is judged"] if barred else []
        apart += [f"{len(unreadable)} more cannot be read, the first is {unreadable[0]}"] if unreadable else []
        raise InputError(
            f"{dataset.source}: {len(candidates)} images of split {dataset.split} to calibrate on"
            f"{' (' + '; '.join(apart) + ')' if apart else ''}; "
            f"at least {LEAST} are needed{' (`force` takes fewer)' if candidates else ''}"
        )
    root = _root(dataset.source)
    entries = tuple(
        Entry(_relative(sample.path, root), sha256_file(sample.path), why)
        for sample, why in _draw(candidates, dataset, count)
    )
    return Manifest(
        dataset.source.name,
        dataset.split,
        dataset.task,
        seed,
        entries,
        len(barred),
        tuple(unreadable),
        tuple(data) or (dataset.source,),
        root,
    )


def readable(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Those whose image can be read, and a sentence for each of the others."""
    good, bad = [], []
    with ThreadPoolExecutor() as readers:
        for sample, error in zip(samples, readers.map(_complaint, samples), strict=True):
            if error is None:
                good.append(sample)
            else:
                bad.append(error)
    return good, bad


def _complaint(sample: Sample) -> str | None:
    try:
        _look(sample.path)
    except InputError as error:
        return str(error)
    return None


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
    nothing = ["no objects"] if dataset.names else []  # without labels nothing is known of what is on them
    found: list[list[str]] = []
    for sample in samples:
        labels = sample.labels
        classes = labels.classes if labels.class_id is None else np.array([labels.class_id])
        found.append([f"class {dataset.names[c]}" for c in np.unique(classes)] or list(nothing))
    for column, names in enumerate(THIRDS.values()):
        for place, third in enumerate(_thirds(looks[:, column])):
            found[place].append(names[third])
    for place, third in zip(np.flatnonzero(sizes > 0).tolist(), _thirds(sizes[sizes > 0]), strict=True):
        found[place].append(SIZES[third])
    return found


def _look(path: Path) -> tuple[float, float]:
    """Mean and standard deviation of the grey levels, of an eighth of the resolution.

    Raises:
        InputError: the image cannot be read.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return _looked(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _looked(path: Path, size: int, changed: int) -> tuple[float, float]:
    """Of a file as it is: ``size`` and ``changed`` (ns) only tell it from what it was before."""
    image = read_image(path, reduce=8)
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if grey is None:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
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
    for place, folder in ((path.absolute(), root.absolute()), (path.resolve(), root.resolve())):  # links stay links
        for above, start in (("", folder), ("../", folder.parent)):
            if place.is_relative_to(start):
                return above + place.relative_to(start).as_posix()
    return path.resolve().as_posix()  # a data.yaml may point anywhere


def shared(samples: Sequence[Sample], others: Sequence[Path]) -> set[Path]:
    """Those of ``samples`` whose bytes are also in one of ``others``. Only files of equal size are read."""
    sizes = {sample.path: size_of(sample.path) for sample in samples}
    known = set(sizes.values()) - {None}
    hashes = {sha256_file(other) for other in others if size_of(other) in known}
    return {path for path, size in sizes.items() if hashes and size is not None and sha256_file(path) in hashes}


def size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none, as behind a broken link."""
    return path.stat().st_size if path.is_file() else None


def check_disjoint(manifest: Manifest, judged_on: Dataset) -> None:
    """Refuse a calibration on images that accuracy is judged on.

    Raises:
        InputError: an image of the manifest is in ``judged_on``; the sentence names it.
    """
    hashes = {entry.sha256: entry.path for entry in manifest.images}
    for sample in judged_on.samples:
        if sample.path.is_file() and sha256_file(sample.path) in hashes:
            raise InputError(
                f"{sample.path}: in the {judged_on.split} split that accuracy is judged on and among the calibration "
                f"images too ({hashes[sha256_file(sample.path)]}); calibrate on the train split: edgekit calibrate"
            )


def located(manifest: Manifest, roots: Iterable[Path]) -> list[Path]:
    """The files of the manifest's images, in its order, each under the first of ``roots`` that has it as it was.

    Raises:
        InputError: an image is in none of them.
        GateError: what is there is not the image that was chosen.
    """
    folders, found = list(dict.fromkeys(roots)), []
    for entry in manifest.images:
        places = [folder / entry.path for folder in folders]
        there = [path for path in places if path.is_file()]
        path = next((path for path in there if sha256_file(path) == entry.sha256), None)
        if path is None and there:
            raise GateError(
                f"{there[0]}: not the image the calibration was made with (its hash differs); calibrate again"
            )
        if path is None:
            looked = f", nor under {', '.join(map(str, folders[1:]))}" if folders[1:] else ""
            raise InputError(
                f"{places[0]}: a calibration image that is not there{looked}; give the `data` it was chosen from"
            )
        found.append(path)
    return found


def tensors(files: Sequence[Path], info: ModelInfo) -> list[np.ndarray]:
    """The images as the artifact takes them: float32 ``[B, 3, H, W]``, B its fixed batch; a last batch that is not
    full is filled up with the first images.

    Raises:
        InputError: an image cannot be read.
    """
    size = info.batch or 1
    full = [files[i % len(files)] for i in range(-(-len(files) // size) * size)]
    groups = [full[i : i + size] for i in range(0, len(full), size)]
    return [
        prepare([read_image(path) for path in group], info.imgsz, info.preprocess, info.batch or 0)[0].copy()
        for group in groups
    ]


def write(manifest: Manifest, path: Path) -> None:
    """Write ``manifest`` as JSON; the file appears complete or not at all. Where the set lies is written as seen from
    the file's folder, so that both may move together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"schema": SCHEMA, **_chosen(manifest)}
    if manifest.root is not None:
        document["data"] = [_from(place, path.parent) for place in manifest.data]
        document["root"] = _from(manifest.root, path.parent)
    if manifest.unreadable:
        document["unreadable"] = manifest.named(manifest.unreadable)
    with replacing(path) as partial:
        partial.write_text(_text(document), encoding="utf-8")


def _from(place: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # another drive
        return place.absolute().as_posix()


def _chosen(manifest: Manifest) -> dict[str, Any]:
    """What schema 1 holds, and the hash is of."""
    keys = ("set", "split", "task", "seed", "left_out")
    return {key: getattr(manifest, key) for key in keys} | {"images": [vars(entry) for entry in manifest.images]}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


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
        root = document.pop("root", None)
        data = tuple(_at(path.parent, place) for place in document.pop("data", ()))
        unreadable = tuple(map(str, document.pop("unreadable", ())))
        found = Manifest(**document, images=images, unreadable=unreadable, data=data)
        return found if root is None else dataclasses.replace(found, root=_at(path.parent, root))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make one with: edgekit calibrate DATA") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a calibration manifest; make one with: edgekit calibrate DATA") from error


def _at(folder: Path, place: str) -> Path:
    return Path(os.path.normpath(folder / place))
