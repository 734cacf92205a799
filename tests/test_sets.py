"""What INT8 is calibrated and judged on: every form that pictures come in, none used twice or dropped silently."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize import QuantizeOptions, calibration
from edgekit.quantize.sets import Sets, open_sets
from edgekit.runtime.results import Result
from edgekit.spec import sha256_file
from edgekit.verify import accuracy

NAMES = ("ant", "bee")


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (48, 40)))
    return path


def photos(folder: Path, count: int = 36, first: int = 0) -> list[Path]:
    return [picture(folder / f"{i:03}.jpg", first + i) for i in range(count)]


def contents(paths: object) -> set[str]:
    return {sha256_file(path) for path in paths}  # type: ignore[attr-defined]


def parts(sets: Sets) -> tuple[set[str], set[str]]:
    """Hashes of what is calibrated on and of what is judged on, which must have nothing in common."""
    judged = contents([sample.path for sample in sets.judged.samples] if sets.judged else [])
    calibrated = contents(sets.files)
    assert calibrated and judged and not calibrated & judged
    assert [entry.sha256 for entry in sets.manifest.images] == [sha256_file(path) for path in sets.files]
    return calibrated, judged


def _flat(root: Path) -> list[Path]:
    photos(root / "photos")
    return [root / "photos"]


def _nested(root: Path) -> list[Path]:
    for i, path in enumerate(photos(root / "all")):
        (root / "photos" / f"2026-{i % 3}" / "raw").mkdir(parents=True, exist_ok=True)
        path.rename(root / "photos" / f"2026-{i % 3}" / "raw" / path.name)
    return [root / "photos"]


def _several(root: Path) -> list[Path]:
    photos(root / "one", 20)
    photos(root / "two", 16, first=20)
    return [root / "one", root / "two"]


def _glob(root: Path) -> list[Path]:
    photos(root / "photos")
    picture(root / "photos" / "other.png", 99)
    return [root / "photos" / "*.jpg"]


def _listed(root: Path) -> list[Path]:
    lines = [path.relative_to(root).as_posix() for path in photos(root / "photos")]
    (root / "list.txt").write_text("\n".join(lines) + "\n")
    return [root / "list.txt"]


def _yaml_without_labels(root: Path) -> list[Path]:
    photos(root / "images" / "train", 36)
    (root / "data.yaml").write_text("train: images/train\nnames: [ant, bee]\n")
    return [root / "data.yaml"]


def _folder_of_a_yaml_without_names(root: Path) -> list[Path]:
    photos(root / "images" / "train", 36)
    (root / "data.yaml").write_text("train: images/train\n")
    return [root]


@pytest.mark.parametrize("task", ["detect", "obb", "classify"])
@pytest.mark.parametrize("make", [_flat, _nested, _several, _glob, _listed])
def test_pictures_in_every_form(make: Callable[[Path], list[Path]], task: str, tmp_path: Path) -> None:
    sets = open_sets(QuantizeOptions(tuple(make(tmp_path))), task, NAMES)
    calibrated, judged = parts(sets)
    assert (len(calibrated), len(judged)) == (24, 12)
    assert sets.labelled is None and len(sets.unlabelled) == 12 and not sets.notes


@pytest.mark.parametrize("make", [_yaml_without_labels, _folder_of_a_yaml_without_names])
def test_a_yaml_without_labels(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    (place,) = make(tmp_path)
    sets = open_sets(QuantizeOptions(place), "detect", NAMES)
    assert [len(part) for part in parts(sets)] == [24, 12] and sets.labelled is None
    photos(tmp_path / "images" / "val", 10, first=100)
    described = tmp_path / "data.yaml"
    described.write_text(described.read_text() + "val: images/val\n")
    calibrated, judged = parts(open_sets(QuantizeOptions(place), "detect", NAMES))
    assert judged == contents((tmp_path / "images" / "val").iterdir())
    assert calibrated == contents((tmp_path / "images" / "train").iterdir())


def test_labels_that_are_there_are_used_and_broken_ones_are_no_missing_ones(tmp_path: Path) -> None:
    images = photos(tmp_path / "images" / "train", 36)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [ant, bee]\n")
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    for image in images:
        (labels / f"{image.stem}.txt").write_text("0 .5 .5 .2 .2\n")
    sets = open_sets(QuantizeOptions(tmp_path / "data.yaml"), "detect", NAMES)
    assert [len(part) for part in parts(sets)] == [24, 12]
    assert sets.labelled is not None and all(len(s.labels) == 1 for s in sets.labelled.samples)
    for image in images:
        (labels / f"{image.stem}.txt").write_text("7 .5 .5 .2 .2\n")
    with pytest.raises(InputError, match="class 7 is none of the 2 declared"):
        open_sets(QuantizeOptions(tmp_path / "data.yaml"), "detect", NAMES)


def test_copies_count_once_and_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    whole = photos(tmp_path / "photos", 30)
    for i in range(20):
        shutil.copyfile(whole[0], tmp_path / "photos" / f"burst{i}.jpg")
    cut = tmp_path / "photos" / "cut.jpg"
    cut.write_bytes(picture(tmp_path / "x.jpg", 77).read_bytes()[:400])
    (tmp_path / "photos" / "text.png").write_text("no picture")
    (tmp_path / "photos" / "phone.heic").write_bytes(b"x")
    (tmp_path / "photos" / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "photos" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    sets = open_sets(QuantizeOptions(tmp_path / "photos"), "detect", NAMES)
    calibrated, judged = parts(sets)
    assert calibrated | judged == contents(whole)
    told = "\n".join(sets.notes)
    assert "once: 20" in told and "left out: 2" in told and "phone.heic" in told
    assert all(name in told for name in ("a.jpg", "b.jpg")) and any(name in told for name in ("cut.jpg", "text.png"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_picture_of_a_labelled_set(split: str, tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "train" / NAMES[i % 2] / f"{i}.jpg", i)
        picture(tmp_path / "val" / NAMES[i % 2] / f"{i}.jpg", 50 + i)
    bad = tmp_path / split / "ant" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:400])
    sets = open_sets(QuantizeOptions(tmp_path), "classify", NAMES)
    if split == "train":
        assert len(sets.files) == 19 and bad not in sets.files
        assert sets.manifest.unreadable and str(bad) in sets.manifest.unreadable[0] and str(bad) in sets.notes[0]
    else:
        assert len(sets.files) == 20
    assert sets.labelled is not None and len(sets.labelled) == 20  # evaluation leaves out what it cannot read


@pytest.mark.parametrize(("count", "force", "fits"), [(24, False, True), (23, False, False), (2, True, True),
                                                      (1, True, False), (10, True, True)])  # fmt: skip
def test_how_many_it_takes(count: int, force: bool, fits: bool, tmp_path: Path) -> None:
    photos(tmp_path / "photos", count)
    wishes = QuantizeOptions(tmp_path / "photos", force=force)
    if fits:
        calibrated, judged = parts(open_sets(wishes, "detect", NAMES))
        assert len(calibrated) + len(judged) == count
        return
    with pytest.raises(InputError, match=rf"photos: different images .*: {count}; at least 24 are needed") as caught:
        open_sets(wishes, "detect", NAMES)
    assert ("`force`" in str(caught.value)) == (count > 1)


def test_pictures_to_judge_on_may_be_given_and_are_not_calibrated_on(tmp_path: Path) -> None:
    own = photos(tmp_path / "photos", 30)
    photos(tmp_path / "others", 5, first=200)
    shutil.copyfile(own[3], tmp_path / "others" / "same.jpg")
    wishes = QuantizeOptions(tmp_path / "photos", images=[str(tmp_path / "others" / "*.jpg")])
    calibrated, judged = parts(open_sets(wishes, "detect", NAMES))
    assert judged == contents((tmp_path / "others").iterdir()) and calibrated == contents(own) - judged


def test_class_folders_without_splits_are_labels(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / "set" / NAMES[i % 2] / f"{i}.jpg", i)
    sets = open_sets(QuantizeOptions(tmp_path / "set"), "classify", NAMES)
    assert [len(part) for part in parts(sets)] == [20, 10]
    assert sets.labelled is not None and {s.labels.class_id for s in sets.labelled.samples} == {0, 1}
    for i, name in enumerate(NAMES):  # folders that mean something else
        (tmp_path / "set" / name).rename(tmp_path / "set" / f"2026-0{i}")
    assert open_sets(QuantizeOptions(tmp_path / "set"), "classify", NAMES).labelled is None
    (tmp_path / "set" / "2026-00").rename(tmp_path / "set" / "ant")
    with pytest.raises(InputError, match="the class '2026-01', which the model does not know"):
        open_sets(QuantizeOptions(tmp_path / "set"), "classify", NAMES)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda root: root / "absent", InputError, "absent"),
        (lambda root: (root / "empty").mkdir() or root / "empty", InputError, "empty: the folder holds no pictures"),
        (lambda root: root / "*.jpg", InputError, r"\*\.jpg"),
        (lambda root: _write(root / "list.txt", "gone.jpg\n"), InputError, "list.txt: lists no image that is there"),
        (lambda root: _write(root / "clip.mp4", "x"), InputError, "clip.mp4: videos only"),
    ],
    ids=["absent", "empty", "glob", "list", "video"],
)
def test_what_holds_no_pictures(
    make: Callable[[Path], Path], error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        open_sets(QuantizeOptions(make(tmp_path)), "detect", NAMES)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_labels_that_are_not_used_are_said(tmp_path: Path) -> None:
    for image in photos(tmp_path / "set" / "images", 24):
        label = tmp_path / "set" / "labels" / f"{image.stem}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 .5 .5 .2 .2\n")
    sets = open_sets(QuantizeOptions(tmp_path / "set"), "detect", NAMES)
    assert sets.labelled is None and any("data.yaml" in note for note in sets.notes)
    _write(tmp_path / "set" / "data.yaml", "train: images\nnames: [ant, bee]\n")
    assert open_sets(QuantizeOptions(tmp_path / "set"), "detect", NAMES).labelled is not None
    photos(tmp_path / "more", 3)
    with pytest.raises(InputError, match="a labelled set stands alone"):
        open_sets(QuantizeOptions((tmp_path / "more", tmp_path / "set")), "detect", NAMES)


# A calibration that was chosen before


def _command(*words: object) -> int:
    from edgekit.cli import main

    with pytest.raises(SystemExit) as left:
        main(["calibrate", *map(str, words)])
    return int(left.value.code or 0)


@pytest.mark.parametrize("make", [_flat, _nested, _several, _listed, _yaml_without_labels])
def test_a_manifest_finds_its_files_from_anywhere(
    make: Callable[[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "before"
    root.mkdir()
    given = make(root)
    monkeypatch.chdir(root)  # relative as it is typed
    assert _command(*[os.path.relpath(place) for place in given], "--out", "kept/m.json", "--task", "detect") == 0
    first = open_sets(QuantizeOptions(calibration=root / "kept" / "m.json"), "detect", NAMES)
    calibrated, judged = parts(first)
    assert (len(calibrated), len(judged)) == (24, 12)
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "after")
    moved = open_sets(QuantizeOptions(calibration=tmp_path / "after" / "kept" / "m.json"), "detect", NAMES)
    assert parts(moved) == (calibrated, judged) and moved.manifest.sha256 == first.manifest.sha256
    assert str(tmp_path) not in (tmp_path / "after" / "kept" / "m.json").read_text()

    alone = Path(shutil.copy(tmp_path / "after" / "kept" / "m.json", tmp_path / "alone.json"))
    with pytest.raises(InputError, match="`data`"):
        open_sets(QuantizeOptions(calibration=alone), "detect", NAMES)
    places = tuple(tmp_path / "after" / place.relative_to(root) for place in given)
    if make is not _listed:  # whose pictures lie elsewhere than the list
        assert parts(open_sets(QuantizeOptions(places, alone), "detect", NAMES)) == (calibrated, judged)


def test_beside_the_manifest(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    assert _command(tmp_path / "photos", "--out", tmp_path / "far" / "away" / "m.json") == 0
    together = tmp_path / "together"
    together.mkdir()
    shutil.move(tmp_path / "photos", together / "photos")
    shutil.move(tmp_path / "far" / "away" / "m.json", together / "m.json")
    others = tmp_path / "others"
    photos(others, 9, first=300)
    sets = open_sets(QuantizeOptions(calibration=together / "m.json", images=[others]), "detect", NAMES)
    assert [len(part) for part in parts(sets)] == [24, 9]


def test_older_manifests_are_read(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    assert _command(tmp_path / "photos", "--out", tmp_path / "m.json") == 0
    newer = calibration.read(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    older = {key: document[key] for key in ("set", "split", "task", "seed", "images", "left_out")} | {"schema": 1}
    (tmp_path / "m.json").write_text(json.dumps(older))
    read = calibration.read(tmp_path / "m.json")
    assert read == newer and read.sha256 == newer.sha256 and read.data == () and read.root is None
    with pytest.raises(InputError, match="give the `data` it was chosen from"):
        open_sets(QuantizeOptions(calibration=tmp_path / "m.json"), "detect", NAMES)
    found = open_sets(QuantizeOptions(tmp_path / "photos", tmp_path / "m.json"), "detect", NAMES)
    assert [len(part) for part in parts(found)] == [24, 12]


def test_images_of_a_manifest_that_changed_or_cannot_be_read(tmp_path: Path) -> None:
    images = photos(tmp_path / "photos", 60)
    assert _command(tmp_path / "photos", "--out", tmp_path / "m.json") == 0
    document = json.loads((tmp_path / "m.json").read_text())
    path = tmp_path / "photos" / document["images"][5]["path"]
    path.write_bytes(path.read_bytes()[:400])
    document["images"][5]["sha256"] = sha256_file(path)  # as an older edgekit chose it
    (tmp_path / "m.json").write_text(json.dumps(document))
    sets = open_sets(QuantizeOptions(calibration=tmp_path / "m.json"), "detect", NAMES)
    assert len(sets.files) == len(document["images"]) - 1 and any(path.name in note for note in sets.notes)
    picture(tmp_path / "photos" / document["images"][7]["path"], 999)
    with pytest.raises(GateError, match="not the image the calibration was made with"):
        open_sets(QuantizeOptions(calibration=tmp_path / "m.json"), "detect", NAMES)
    assert len(images) == 60


def test_a_manifest_of_all_there_is_leaves_nothing_to_judge_on(tmp_path: Path) -> None:
    for place in photos(tmp_path / "all", 24):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copyfile(place, tmp_path / "photos" / place.name)
    picture(tmp_path / "photos" / "more.jpg", 500)
    assert _command(tmp_path / "photos", "--out", tmp_path / "m.json") == 0
    kept = {entry.path for entry in calibration.read(tmp_path / "m.json").images}
    for path in (tmp_path / "photos").iterdir():
        if path.name not in kept:
            path.unlink()
    with pytest.raises(InputError, match=r"m\.json, and none is left to judge on; give others as `images`"):
        open_sets(QuantizeOptions(calibration=tmp_path / "m.json"), "detect", NAMES)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    shutil.copyfile(tmp_path / "photos" / "000.jpg", os.fsencode(tmp_path / "photos") + b"/bl\xe4.jpg")
    (tmp_path / "photos" / "000.jpg").unlink()
    assert _command(tmp_path / "photos", "--out", tmp_path / "m.json") == 0
    found = open_sets(QuantizeOptions(calibration=tmp_path / "m.json"), "detect", NAMES)
    assert [len(part) for part in parts(found)] == [24, 12]


def test_images_that_say_where_a_coco_file_s_are(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 3)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": "000.jpg", "width": 48, "height": 40}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (tmp_path / "c.json").write_text(json.dumps(document))
    wishes = QuantizeOptions(tmp_path / "c.json", images=[tmp_path / "photos"])
    sets = open_sets(wishes, "detect", ("ant",), calibrate=False)
    assert sets.manifest is None and "`calibration` FILE" in sets.lacking and len(sets.labelled or ()) == 1
    several = QuantizeOptions(tmp_path / "c.json", images=[tmp_path, tmp_path / "photos"])
    assert len(open_sets(several, "detect", ("ant",), calibrate=False).labelled or ()) == 1


def test_a_classifier_has_no_use_for_a_yaml(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 3)
    _write(tmp_path / "data.yaml", "train: photos\nnames: [ant]\n")
    with pytest.raises(UsageError, match="classify"):
        open_sets(QuantizeOptions(tmp_path / "data.yaml"), "classify", NAMES)


# Agreement


def _seen(count: int) -> Result:
    boxes = np.array([[10 * i, 0, 10 * i + 8, 8] for i in range(count)], np.float32).reshape(-1, 4)
    scores, labels = np.full(count, 0.9, np.float32), np.zeros(count, np.int64)
    return Result((100, 100), NAMES, boxes=boxes, scores=scores, labels=labels)


class _Answers:
    """Stands for a session: what it finds on each image."""

    def __init__(self, counts: list[int]) -> None:
        self.results = [_seen(count) for count in counts]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    class Predictor:
        def __init__(self, session: _Answers, *_: object) -> None:
            self.session = session

        def predict(self, images: object) -> list[Result]:
            return self.session.results

    monkeypatch.setattr(accuracy, "Predictor", Predictor)


@pytest.mark.usefixtures("answering")
def test_empty_images_prove_nothing() -> None:
    """Ninety images of nothing do not make up for ten on which half of what there is was lost."""
    reference, lossy = _Answers([4] * 10 + [0] * 90), _Answers([2] * 10 + [0] * 90)
    judge = accuracy.by_agreement([None] * 100, reference, "photos")  # type: ignore[arg-type]
    assert judge.seen == 10 and judge.warning is None
    assert judge.score(reference) == 1  # type: ignore[arg-type]
    assert judge.score(lossy) == pytest.approx(4 / 6)  # type: ignore[arg-type]
    inventive = _Answers([4] * 10 + [1] * 10 + [0] * 80)
    assert judge.score(inventive) == pytest.approx(0.5)  # type: ignore[arg-type]
    few = accuracy.by_agreement([None] * 40, _Answers([1] * 3 + [0] * 37), "photos")  # type: ignore[arg-type]
    assert few.warning is not None and "3 of 40" in few.warning
    nothing = accuracy.by_agreement([None] * 40, _Answers([0] * 40), "photos")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="photos: the float model finds nothing .* 40 images"):
        accuracy.check_seen(nothing)
