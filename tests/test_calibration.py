"""Calibration: who is chosen, what is refused, and that the choice can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.data import open_dataset
from edgekit.data.dataset import Dataset
from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize import QuantizeOptions, calibration
from edgekit.quantize.sets import open_sets
from edgekit.spec import ModelInfo, Port, sha256_file


def _image(path: Path, level: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(rng.normal(level, 20, (40, 48, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A set of 60 training images: 50 of class a, 10 of class b, one in ten dark; and 6 to judge on."""
    root = tmp_path / "set"
    for i in range(60):
        _image(root / "train" / ("b" if i % 6 == 0 else "a") / f"{i:02}.png", 20 if i % 10 == 0 else 150, i)
    for i in range(6):
        _image(root / "val" / ("b" if i % 2 else "a") / f"{i}.png", 150, 100 + i)
    return root


def _train(root: Path) -> Dataset:
    return open_dataset(root, "classify", "train")


def _info(side: int = 32, batch: int = 1) -> ModelInfo:
    port = Port("images", "images", (batch, 3, side, side))
    out = Port("p", "class_probabilities", (batch, 2))
    return ModelInfo("classify", (side, side), "raw", ("a", "b"), (port,), (out,))


def _batches(manifest: calibration.Manifest, folder: Path, batch: int = 1) -> list[np.ndarray]:
    return calibration.tensors(calibration.located(manifest, [folder]), _info(batch=batch))


def test_every_class_and_light_is_there_and_rare_ones_are_not_drowned(folders: Path) -> None:
    manifest = calibration.choose(_train(folders), 20, seed=3)
    paths = [entry.path for entry in manifest.images]
    assert len(set(paths)) == 20
    assert sum(p.startswith("train/b/") for p in paths) >= 6  # drawn at random there would be about 3
    light = {s.path.relative_to(folders).as_posix(): cv2.imread(str(s.path)).mean() for s in _train(folders).samples}
    ordered = sorted(light, key=light.__getitem__)
    for third in (ordered[:20], ordered[20:40], ordered[40:]):
        assert len(set(third) & set(paths)) >= 4
    assert {entry.why for entry in manifest.images} >= {"class b"}
    for entry in manifest.images:
        assert entry.sha256 == sha256_file(folders / entry.path)


def test_the_same_seed_chooses_the_same_and_another_one_does_not(folders: Path, tmp_path: Path) -> None:
    first, again, other = (calibration.choose(_train(folders), 20, seed) for seed in (0, 0, 1))
    assert first == again and first.sha256 == again.sha256
    assert {e.path for e in first.images} != {e.path for e in other.images} and first.sha256 != other.sha256
    calibration.write(first, tmp_path / "m.json")
    assert calibration.read(tmp_path / "m.json") == first
    assert str(folders) not in (tmp_path / "m.json").read_text()


def test_images_beside_the_folder_of_the_annotations(folders: Path) -> None:
    """As COCO's lie: the manifest must not tell where on somebody's disk that is."""
    annotations = folders / "annotations"
    annotations.mkdir()
    assert calibration._relative(folders / "train" / "a" / "01.png", annotations) == "../train/a/01.png"
    assert calibration._relative(annotations / "1.png", annotations) == "1.png"
    assert calibration._relative(Path("/elsewhere/1.png"), annotations) == "/elsewhere/1.png"
    entry = calibration.Entry("../train/a/01.png", sha256_file(folders / "train" / "a" / "01.png"), "bright")
    manifest = calibration.Manifest("train.json", "train", "classify", 0, (entry,))
    assert _batches(manifest, annotations)[0].shape == (1, 3, 32, 32)


def test_a_coco_file_is_no_split_to_calibrate_on(folders: Path) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": "0.png", "width": 48, "height": 40}],
        "annotations": [box],
        "categories": [{"id": 18, "name": "dog"}],
    }
    path = folders / "val.json"
    path.write_text(json.dumps(document))
    wishes = QuantizeOptions(path, images=folders / "val" / "a")  # --images of a COCO file is where its images are
    with pytest.raises(InputError, match="a COCO file is one split, .* `calibration` FILE"):
        open_sets(wishes, "detect", ("dog",))
    with pytest.raises(InputError, match="which the model does not know"):  # and no reason to make do without labels
        open_sets(wishes, "detect", ("cat",))


def test_images_without_labels_are_no_way_out_where_there_is_no_set(tmp_path: Path) -> None:
    for name in ("absent.json", "absent.yaml", "absent"):
        with pytest.raises(InputError, match=r"absent.*no such file or folder; give a data.yaml.* or a folder$"):
            open_sets(QuantizeOptions(tmp_path / name), "detect", ("dog",))


def test_a_smaller_calibration_is_the_beginning_of_a_larger_one(folders: Path) -> None:
    train = _train(folders)
    assert calibration.choose(train, 40).images[:16] == calibration.choose(train, 16).images


def test_images_that_are_judged_are_left_out(folders: Path) -> None:
    judged = open_dataset(folders, "classify", "val")
    copied = folders / "train" / "a" / "copy.png"
    copied.write_bytes((folders / "val" / "a" / "0.png").read_bytes())
    manifest = calibration.choose(_train(folders), 60, judged_on=judged)
    assert manifest.left_out == 1 and "train/a/copy.png" not in {e.path for e in manifest.images}
    calibration.check_disjoint(manifest, judged)
    with pytest.raises(InputError, match=r"0\.png.*accuracy is judged on.*train/a/copy\.png"):
        calibration.check_disjoint(calibration.choose(_train(folders), 61), judged)


def test_few_images_are_warned_of_and_very_few_refused(folders: Path) -> None:
    train = _train(folders)
    assert "20 images" in str(calibration.choose(train, 20).warning)
    with pytest.raises(UsageError, match=r"`count` 15.*fewer than 16"):
        calibration.choose(train, 15)
    assert len(calibration.choose(train, 4, force=True).images) == 4
    few = Dataset(train.task, train.names, train.samples[:9], train.source, train.split)
    with pytest.raises(InputError, match=r"9 images of split train.*\(`force` takes fewer\)"):
        calibration.choose(few, 300)
    with pytest.raises(InputError, match=r"0 images of split train.*more are in the split.*at least 16 are needed$"):
        calibration.choose(train, 300, judged_on=train)
    entries = tuple(calibration.Entry(str(i), "0", "x") for i in range(128))
    assert calibration.Manifest("set", "train", "classify", 0, entries).warning is None


def test_batches_are_what_the_artifact_takes(folders: Path) -> None:
    manifest = calibration.choose(_train(folders), 5, force=True)
    singles = _batches(manifest, folders)
    pairs = _batches(manifest, folders, batch=2)
    assert [b.shape for b in singles] == [(1, 3, 32, 32)] * 5 and [b.shape for b in pairs] == [(2, 3, 32, 32)] * 3
    np.testing.assert_array_equal(np.concatenate(pairs)[:5], np.concatenate(singles))
    np.testing.assert_array_equal(pairs[2][1], singles[0][0])  # filled up from the front
    assert all(b.min() >= 0 and b.max() <= 1 for b in singles)


def test_images_that_changed_or_went_are_named(folders: Path) -> None:
    manifest = calibration.choose(_train(folders), 5, force=True)
    path = folders / manifest.images[3].path
    _image(path, 99, 999)
    with pytest.raises(GateError, match=f"{path.name}: not the image the calibration was made with"):
        _batches(manifest, folders)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: a calibration image that is not there"):
        _batches(manifest, folders)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "there is no such file or folder"),
        (lambda folder: _image(folder / "a.png", 9, 9), "images but no class folders"),
        (lambda folder: (folder / "notes").mkdir(parents=True), "no images in its class folders"),
    ],
    ids=["nothing", "unlabelled", "empty"],
)
def test_a_folder_that_cannot_be_calibrated_on(make: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    make(tmp_path / "folder")
    with pytest.raises(InputError, match=sentence):
        open_dataset(tmp_path / "folder", "classify", "train")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not a calibration manifest"),
        ("[]", "not a calibration manifest"),
        ('{"schema": 1, "images": [{"path": "a"}]}', "not a calibration manifest"),
        ('{"schema": 9}', "schema 9, this edgekit reads up to 2"),
    ],
)
def test_a_file_that_is_no_manifest(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        calibration.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        calibration.read(tmp_path / "none.json")


def test_the_command(folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from edgekit.cli import main

    out = tmp_path / "m.json"
    with pytest.raises(SystemExit) as left:
        main(["calibrate", str(folders), "--count", "20", "--out", str(out), "--json"])
    assert left.value.code == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["images"] == 20 and printed["sha256"] == calibration.read(out).sha256
    with pytest.raises(SystemExit) as left:
        main(["calibrate", str(folders), "--split", "val", "--out", str(tmp_path / "n.json")])
    assert left.value.code == 2
