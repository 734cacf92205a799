"""What a run learns from and what it is measured on: set apart by hash, written down, narrowed to classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import checkpoint
from edgekit.data import Dataset, account_of, open_dataset
from edgekit.data.derived import Derived
from edgekit.data.divide import divide
from edgekit.data.splits import splits_of
from edgekit.errors import InputError, UsageError
from edgekit.spec import sha256_file
from edgekit.train import loop, sets
from edgekit.train.options import TrainOptions
from edgekit.train.run import fingerprint
from tests.watchers import Watching

SIZE = 64


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), np.uint8))
    return path


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    for c, (name, count) in enumerate(counts.items()):
        for i in range(count):
            noise(root / name / f"{i}.png", 1000 * c + i)
    return root


def coco_set(root: Path, count: int = 10, name: str = "") -> Path:
    """Every image has an ant; of the others every third has a bee too, and one of them a cat."""
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        noise(root / "photos" / f"{name}{i}.png", i)
        for category in (1, *((2,) if i % 3 == 1 else ()), *((3,) if i == 4 else ())):
            box = [4 + 10 * category, 8, 12, 20 + i]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": category, "bbox": box})
    document = {
        "images": [{"id": i, "file_name": f"{name}{i}.png", "width": SIZE, "height": SIZE} for i in range(count)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in ((1, "ant"), (2, "bee"), (3, "cat"))],
    }
    path = root / "set.json"
    path.write_text(json.dumps(document))
    return path


def hashes(dataset: Dataset) -> set[str]:
    return {sha256_file(sample.path) for sample in dataset.samples}


def written(part: Derived, folder: Path) -> Path:
    folder.mkdir()
    for name, content in part.files().items():
        (folder / name).write_bytes(content)
    return folder / "sets.yaml"


# ---- setting images aside ---------------------------------------------------------------------------------------


def test_every_class_gives_its_share(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"ant": 1, "bee": 2, "cat": 20})
    training, validating = divide(open_dataset(root, split="train"), 0.1)
    assert (training.split, validating.split) == ("train", "val")
    assert training.counts()[0].tolist() == [1, 1, 18] and validating.counts()[0].tolist() == [0, 1, 2]
    assert not hashes(training) & hashes(validating)


def test_the_choice_depends_on_bytes_alone(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"ant": 9, "bee": 9})
    before = hashes(divide(open_dataset(root, split="train"), 0.3)[1])
    moved = tmp_path / "moved"
    for i, path in enumerate(sorted(root.rglob("*.png"), key=sha256_file)):
        target = moved / path.parent.name / "deeper" / f"x{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    assert before == hashes(divide(open_dataset(moved, split="train"), 0.3)[1])


def test_the_same_bytes_go_to_the_same_side(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"ant": 6, "bee": 6})
    for i in range(6):
        (root / "ant" / f"again{i}.png").write_bytes((root / "ant" / f"{i}.png").read_bytes())
        (root / "bee" / f"other{i}.png").write_bytes((root / "ant" / f"{i}.png").read_bytes())
    training, validating = divide(open_dataset(root, split="train"), 0.4)
    assert len(training) + len(validating) == 24 and not hashes(training) & hashes(validating)


def test_images_with_objects_stand_for_their_rarest_class(tmp_path: Path) -> None:
    training, validating = divide(open_dataset(coco_set(tmp_path), "detect", "train"), 0.4)
    assert len(training) + len(validating) == 10
    found = validating.counts()[0].tolist()
    assert found[1] >= 1 and found[2] == 0  # the one image with a cat is learnt from


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_share_is_between_nothing_and_everything(fraction: float) -> None:
    with pytest.raises(UsageError, match="`val_fraction`"):
        TrainOptions(val_fraction=fraction)


def test_too_few_images_to_divide(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 images"):
        divide(open_dataset(class_folders(tmp_path, {"ant": 1, "bee": 1}), split="train"), 0.5)


# ---- what is trained on and what is validated on ----------------------------------------------------------------


def test_one_split_is_not_both(tmp_path: Path) -> None:
    for path, task in ((coco_set(tmp_path / "a"), "detect"), (class_folders(tmp_path / "b", {"ant": 3}), "classify")):
        with pytest.raises(UsageError, match="`val_fraction`") as caught:
            sets.open_sets(path, task, None, TrainOptions())
        assert str(path) in str(caught.value) and "`val` " in str(caught.value)
        part = tmp_path / "part.yaml"
        part.write_text(f"source: {path}\nclasses: [ant]\n")
        with pytest.raises(UsageError, match="`val_fraction`"):
            sets.open_sets(part, task, None, TrainOptions())
    described = tmp_path / "a" / "data.yaml"
    described.write_text("train: set.json\nval: set.json\nimages: photos\n")
    training, validating, _ = sets.open_sets(described, "detect", None, TrainOptions())
    assert len(training) == len(validating) == 10
    with pytest.raises(UsageError, match="`val_fraction` 0.2.*has a val split"):
        sets.open_sets(described, "detect", None, TrainOptions(val_fraction=0.2))
    with pytest.raises(UsageError, match="`val`"):
        TrainOptions(val_fraction=0.2, val="other.json")


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(val_fraction=0.3),
        TrainOptions(val_fraction=0.3, classes=("bee", "0")),
        TrainOptions(val_fraction=0.3, single_class=True),
        TrainOptions(val="OTHER", classes=("ant",), single_class=True),
        TrainOptions(val="OTHER", label_options={"crowd": "objects"}),
    ],
)
def test_a_runs_data_yaml_opens_to_the_same(tmp_path: Path, options: TrainOptions) -> None:
    path, other = coco_set(tmp_path / "set"), coco_set(tmp_path / "other", 5, "o")
    os.rename(tmp_path / "set" / "photos", tmp_path / "elsewhere")
    images = [str(tmp_path / "elsewhere" / "*.png")]
    if options.val:
        options, images = options.replace(val=str(other)), [*images, str(tmp_path / "other" / "photos")]
    training, validating, part = sets.open_sets(path, "detect", images, options)
    described = written(part, tmp_path / "run")
    again = [open_dataset(described, "detect", split) for split in ("train", "val")]
    assert fingerprint(*again) == fingerprint(training, validating)
    assert [d.names for d in again] == [training.names] * 2
    assert hashes(again[1]) == hashes(validating)


def test_a_source_that_leads_back_to_itself(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a"), ("c", "c")):
        (tmp_path / f"{one}.yaml").write_text(f"source: {other}.yaml\n")
    for name in "abc":
        with pytest.raises(InputError, match="leads back to itself"):
            open_dataset(tmp_path / f"{name}.yaml", "detect")
        assert splits_of(tmp_path / f"{name}.yaml")


def test_a_file_that_is_listed_under_two_ids_stays_two_samples(tmp_path: Path) -> None:
    path = coco_set(tmp_path)
    document = json.loads(path.read_text())
    document["images"].append({**document["images"][0], "id": 99})
    document["annotations"].append({**document["annotations"][0], "id": 99, "image_id": 99})
    path.write_text(json.dumps(document))
    training, validating, part = sets.open_sets(path, "detect", None, TrainOptions(val_fraction=0.3))
    again = open_dataset(written(part, tmp_path / "run"), "detect", "train")
    assert len(training) + len(validating) == 11
    assert [sample.image_id for sample in again.samples] == [sample.image_id for sample in training.samples]


def test_new_images_of_a_divided_set_are_counted(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", {"ant": 5, "bee": 5})
    _, validating, part = sets.open_sets(root, "classify", None, TrainOptions(val_fraction=0.2))
    described = written(part, tmp_path / "run")
    noise(root / "ant" / "new.png", 77)
    validating.samples[0].path.unlink()
    dataset = open_dataset(described, "classify", "val")
    assert len(dataset) == len(validating) - 1
    found = account_of(dataset).to_dict()["left_out"]
    assert (found["split"]["count"], found["no image"]["count"]) == (1, 1)


# ---- fewer classes ----------------------------------------------------------------------------------------------


def test_a_subset_of_classes(tmp_path: Path) -> None:
    options = TrainOptions(val_fraction=0.3, classes=("cat", "1"))
    training, validating, _ = sets.open_sets(coco_set(tmp_path), "detect", None, options)
    assert training.names == validating.names == ("bee", "cat") and training.category_ids == (2, 3)
    assert len(training) + len(validating) == 10  # images without a bee or a cat are background
    objects = [d.counts()[1].sum() for d in (training, validating)]
    assert sum(objects) == 4
    gone = [account_of(d).to_dict()["left_out"]["subset"]["count"] for d in (training, validating)]
    assert sum(gone) == 10
    with pytest.raises(UsageError, match="`classes` dog"):
        sets.open_sets(tmp_path / "set.json", "detect", None, options.replace(classes=("dog",)))


def test_a_class_of_a_part_that_its_source_has_not(tmp_path: Path) -> None:
    coco_set(tmp_path)
    path = tmp_path / "part.yaml"
    path.write_text("source: set.json\nclasses: [ant, dog]\n")
    with pytest.raises(InputError, match="'dog'"):
        open_dataset(path, "detect")


def test_a_subset_of_folders(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"ant": 4, "bee": 4, "cat": 4})
    options = TrainOptions(val_fraction=0.25, classes=("ant", "cat"))
    training, validating, _ = sets.open_sets(root, "classify", None, options)
    assert training.names == ("ant", "cat") and (len(training), len(validating)) == (6, 2)
    with pytest.raises(UsageError, match="`single_class`"):
        sets.open_sets(root, "classify", None, TrainOptions(val_fraction=0.25, single_class=True))


def test_a_run_on_one_file_keeps_its_sets_when_it_goes_on(tmp_path: Path) -> None:
    path, out = coco_set(tmp_path / "set"), tmp_path / "run"
    options = TrainOptions(epochs=1, batch=4, imgsz=(64, 64), workers=0, val_fraction=0.2, classes=("ant", "bee"))
    watcher = Watching()
    result = loop.train(path, "yolo12n", out, options, watch=watcher)
    assert checkpoint.load(result.best).names == ("ant", "bee")
    assert hashes(result.dataset) == hashes(open_dataset(out / "sets.yaml", "detect", "val"))
    assert any("sets.yaml" in note for note in watcher.notes)
    again = loop.train(path, None, out, TrainOptions(workers=0), resume=True)  # what the run began with holds
    assert again.metrics == result.metrics and again.dataset.names == ("ant", "bee")
    with pytest.raises(UsageError, match="`out`"):
        loop.train(out / "sets.yaml", "yolo12n", out, TrainOptions(workers=0))
    with pytest.raises(UsageError, match="`classes`"):
        loop.train(path, None, out, TrainOptions(classes=("cat",)), resume=True)


def test_what_is_trained_on_and_validated_on_is_said(tmp_path: Path) -> None:
    from edgekit.train.dataset_warnings import remarks

    path = coco_set(tmp_path)
    training, validating, _ = sets.open_sets(path, "detect", None, TrainOptions(val=str(path)))
    assert any("10 of the 10 images" in sentence for sentence in remarks(training, validating))
