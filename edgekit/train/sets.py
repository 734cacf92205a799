"""What a run learns from and what it is measured on: never the same images without a word.

training, validating, part = open_sets(Path("photos.json"), "detect", None, TrainOptions(val_fraction=0.1))
write(part, folder)          # RUN/sets.yaml, which opens to the same two splits
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.data import LabelOptions, open_dataset
from edgekit.data.dataset import Dataset
from edgekit.data.derived import OBJECT, Derived, classes_named, narrowed
from edgekit.data.divide import divide
from edgekit.data.scan import Scan
from edgekit.data.splits import is_one_split, splits_of
from edgekit.errors import UsageError
from edgekit.runtime.atomic import replacing
from edgekit.train.options import TrainOptions
from edgekit.train.run import Folder


def open_sets(
    data: Path,
    task: str,
    images: Sequence[Path | str] | None,
    options: TrainOptions,
    scan: Scan | None = None,
) -> tuple[Dataset, Dataset, Derived]:
    """The images to train and to validate on, and how they came from ``data``; ``scan``: what is
    known of the images.

    Raises:
        InputError, UsageError: a set cannot be used, or there is nothing else to validate on.
    """
    reading = LabelOptions.parse(options.label_options, "`label_options`")
    if options.val is None and options.val_fraction is None and is_one_split(data):
        what = "one COCO JSON" if data.is_file() else "class folders without train and val"
        raise UsageError(
            f"{data}: {what}: what is validated on would be what is trained on; give `val` OTHER, "
            "`val_fraction` 0.1 (sets a tenth of every class's images aside), or a data.yaml with train: and val: "
            "(folders or JSON files)"
        )
    training = open_dataset(data, task, "train", images, options=reading, quiet=True, scan=scan)
    names = training.names
    if options.val_fraction is not None:
        if not is_one_split(data) and "val" in splits_of(data):
            raise UsageError(f"`val_fraction` {options.val_fraction:g}: {data} has a val split; drop the option")
        training, validating = divide(training, options.val_fraction)
    else:
        other = Path(options.val) if options.val is not None else data
        places = images if options.val is None or other.suffix.lower() == ".json" else None
        validating = open_dataset(other, task, "val", places, names, reading, True, scan)
    classes = classes_named(options.classes, names) if options.classes is not None else None
    single = OBJECT if options.single_class else None
    lists = {split.split: [sample.path for sample in split.samples] for split in (training, validating)}
    part = Derived(
        source=data,
        val_source=Path(options.val) if options.val is not None else None,
        images=tuple(map(str, images or ())),
        names=names,
        lists=lists if options.val_fraction is not None else None,
        classes=classes,
        single_class=single,
        options=reading,
    )
    return narrowed(training, classes, single), narrowed(validating, classes, single), part


def write(part: Derived, folder: Folder) -> None:
    """Writes ``sets.yaml`` and the lists it names into a run's folder."""
    for name, content in part.files().items():

        def put(path: Path, content: bytes = content) -> None:
            with replacing(path) as partial:
                partial.write_bytes(content)

        folder.keep(name, put)
