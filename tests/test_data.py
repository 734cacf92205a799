"""Reading labelled sets: the real ones against plain counting, and broken ones made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.data import Dataset, Issue, account_of, check, open_dataset
from edgekit.data.images import image_size
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.runtime.boxes import corners, rotated_from_corners
from edgekit.runtime.masks import encode_rle

# ---- making small sets ------------------------------------------------------------------------------------------


def write_image(path: Path, width: int = 40, height: int = 20, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng([seed, *path.stem.encode()]).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def text_set(root: Path, labels: dict[str, str | None], yaml: str = "names: [cat, dog]") -> Path:
    """``labels``: image stem to the text of its label file, or None for no file."""
    for stem, text in labels.items():
        write_image(root / "images" / "val" / f"{stem}.png")
        label = root / "labels" / "val" / f"{stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    (root / "data.yaml").write_text(f"val: images/val\n{yaml}\n")
    return root / "data.yaml"


def coco_set(root: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Images 40 x 20 called 1.png and 2.png in ``val``, categories 3 (dog) and 7 (cat)."""
    for i in (1, 2):
        write_image(root / "val" / f"{i}.png")
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 20} for i in (1, 2)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": annotations,
    }
    path = root / "annotations" / "instances_val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**document, **changes}))
    return path


def kinds(dataset: Dataset) -> list[tuple[str, str]]:
    return [(issue.kind, issue.severity) for issue in dataset.problems()]


def only(dataset: Dataset) -> Issue:
    (issue,) = dataset.problems()
    return issue


# ---- the real sets, counted independently -----------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("name", "task"),
    [("bccd", "detect"), ("balloon", "segment"), ("person_pose", "pose"), ("table_tennis_obb", "obb")],
)
def test_text_sets_hold_what_their_files_say(shared: Path, name: str, task: str, split: str) -> None:
    root = shared / "data" / name
    dataset = open_dataset(root / "data.yaml", split=split)
    assert dataset.task == task  # found out from the rows
    assert len(dataset) == len(list((root / "images" / split).iterdir()))
    rows = {p.stem: p.read_text().split("\n") for p in (root / "labels" / split).glob("*.txt")}
    classes = [int(row.split()[0]) for lines in rows.values() for row in lines if row]
    assert dataset.counts()[1].tolist() == np.bincount(classes, minlength=len(dataset.names)).tolist()
    for sample in dataset.samples[:20]:
        expected = [row.split() for row in rows[sample.path.stem] if row]
        assert sample.labels.classes.tolist() == [int(words[0]) for words in expected]
        assert sample.size() == cv2.imread(str(sample.path)).shape[1::-1]
        for i, words in enumerate(expected):
            numbers = np.array(words[1:], float)
            if task in ("detect", "pose"):
                x1, y1, x2, y2 = sample.labels.boxes[i]
                seen = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
                assert seen == pytest.approx(numbers[:4], abs=2e-6)
            if task == "pose":
                points = numbers[4:].reshape(17, 3)
                np.testing.assert_allclose(sample.labels.keypoints[i], points, atol=1e-12)
            if task == "segment":
                np.testing.assert_array_equal(sample.labels.polygons[i][0].reshape(-1), numbers)
                pairs = numbers.reshape(-1, 2)
                np.testing.assert_array_equal(sample.labels.boxes[i], [*pairs.min(0), *pairs.max(0)])
            if task == "obb":
                np.testing.assert_array_equal(sample.labels.corners[i].reshape(-1), np.clip(numbers, 0, 1))


def test_corners_off_the_image_are_clipped_and_said(shared: Path) -> None:
    root = shared / "data" / "table_tennis_obb"
    dataset = open_dataset(root / "data.yaml", "obb", "val")
    off = 0
    for path in (root / "labels" / "val").glob("*.txt"):
        for row in path.read_text().splitlines():
            numbers = np.array(row.split()[1:], float)
            off += bool(max(-numbers.min(), numbers.max() - 1) > 1e-3)
    assert kinds(dataset) == [("clipped", "warning")] * off


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_json_comes_through_unchanged(shared: Path, split: str) -> None:
    path = shared / "data" / "coco_mix" / "annotations" / f"instances_{split}2017.json"
    document = json.loads(path.read_text())
    dataset = open_dataset(path)
    assert dataset.task == "segment"
    assert len(dataset) == len(document["images"])
    crowds = sum(a["iscrowd"] for a in document["annotations"])
    assert [(issue.kind, issue.count) for issue in dataset.problems()] == [("crowd", crowds)]
    ids = sorted(c["id"] for c in document["categories"])
    assert list(dataset.category_ids) == ids
    for sample in dataset.samples:
        mine = [a for a in document["annotations"] if a["image_id"] == sample.image_id]
        assert [ids[label] for label in sample.labels.classes] == [a["category_id"] for a in mine]
        assert sample.labels.crowd.tolist() == [bool(a["iscrowd"]) for a in mine]
        assert sample.labels.area.tolist() == [a["area"] for a in mine]
        assert sample.labels.scaled(*sample.size()) is sample.labels  # pixels already
        for i, a in enumerate(mine):
            x, y, w, h = a["bbox"]
            assert sample.labels.boxes[i].tolist() == [x, y, x + w, y + h]
            parts = [part.reshape(-1).tolist() for part in sample.labels.polygons[i]]
            assert (sample.labels.rle[i] or parts) == a["segmentation"]


def test_coco_keypoints(shared: Path) -> None:
    path = shared / "data" / "coco_mix" / "annotations" / "person_keypoints_mini_val2017.json"
    document = json.loads(path.read_text())
    dataset = open_dataset(path)
    assert (dataset.task, dataset.keypoint_shape) == ("pose", (17, 3))
    assert dataset.flip_idx == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    points = np.concatenate([s.labels.keypoints.reshape(-1, 51) for s in dataset.samples])
    by_image = sorted(document["annotations"], key=lambda a: a["image_id"])
    np.testing.assert_array_equal(points, [a["keypoints"] for a in by_image])


@pytest.mark.parametrize("split", ["train", "val"])
def test_class_folders(shared: Path, split: str) -> None:
    root = shared / "data" / "flowers5"
    dataset = open_dataset(root, split=split)
    assert dataset.task == "classify"
    assert list(dataset.names) == sorted(p.name for p in (root / split).iterdir())
    expected = [len(list((root / split / name).iterdir())) for name in dataset.names]
    assert dataset.counts()[0].tolist() == expected
    assert all(dataset.names[s.labels.class_id] == s.path.parent.name for s in dataset.samples)


def test_checking_a_real_set_finds_nothing_wrong(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "balloon", split="val")
    steps: list[int] = []
    assert check([dataset], workers=2, progress=steps.append) == []
    assert sum(steps) == len(dataset)


# ---- rows -------------------------------------------------------------------------------------------------------

GOOD = "1 0.5 0.5 0.2 0.4"


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ("0 0.5 0.5 0.2", "malformed", "3 numbers"),
        ("0 0.5 0.5 0.2 0.4 0.9", "malformed", "5 numbers"),
        ("cat 0.5 0.5 0.2 0.4", "malformed", "not a row of numbers"),
        ("0 0.5 nan 0.2 0.4", "malformed", "not finite"),
        ("0 0.5 1e999 0.2 0.4", "malformed", "not finite"),
        ("2 0.5 0.5 0.2 0.4", "class", "class 2 is none of the 2"),
        ("-1 0.5 0.5 0.2 0.4", "class", "class -1"),
        ("0.5 0.5 0.5 0.2 0.4", "class", "class 0.5"),
        ("0 200 150 20 40", "range", "no fraction"),
        ("0 0.5 0.5 0 0.4", "degenerate", "no area"),
        ("0 0.5 0.5 -0.2 0.4", "degenerate", "no area"),
        ("0 0.5 0.5 -0.2 -0.4", "degenerate", "no area"),
        ("0 1.1 0.5 0.1 0.4", "degenerate", "no area"),  # wholly beside the image: nothing left after clipping
    ],
)
def test_a_bad_row_is_left_out_and_said(tmp_path: Path, row: str, kind: str, says: str) -> None:
    dataset = open_dataset(text_set(tmp_path, {"a": f"{GOOD}\n\n{row}\n"}), "detect")
    issue = only(dataset)
    assert (issue.kind, issue.line, issue.severity) == (kind, 3, "error")
    assert says in issue.sentence
    assert issue.path == tmp_path / "labels" / "val" / "a.txt"
    assert dataset.samples[0].labels.classes.tolist() == [1]


def test_boxes_are_scaled_clipped_and_merged_when_equal(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.5 0.5\n0 0.95 0.5 0.3 0.2\n0 0.5 0.5 0.5 0.5\n"
    dataset = open_dataset(text_set(tmp_path, {"a": text}), "detect")
    assert kinds(dataset) == [("clipped", "warning"), ("duplicate", "warning")]
    labels = dataset.samples[0].labels.scaled(*dataset.samples[0].size())
    np.testing.assert_allclose(labels.boxes, [[10, 5, 30, 15], [32, 8, 40, 12]])
    np.testing.assert_allclose(labels.areas(), [200, 32])


def test_background_images_are_no_error(tmp_path: Path) -> None:
    dataset = open_dataset(text_set(tmp_path, {"a": GOOD, "b": "", "c": None}), "detect")
    assert [len(s.labels) for s in dataset.samples] == [1, 0, 0]
    assert kinds(dataset) == [("background", "note")]


def test_a_label_file_that_is_no_text_takes_its_image_out(tmp_path: Path) -> None:
    path = text_set(tmp_path, {"a": GOOD, "b": GOOD})
    (tmp_path / "labels" / "val" / "b.txt").write_bytes(b"\x89\xfe\x00\x81")
    dataset = open_dataset(path, "detect")
    assert [s.path.stem for s in dataset.samples] == ["a"]
    assert kinds(dataset) == [("unreadable", "error")]


def test_a_polygon_serves_detection_by_its_box(tmp_path: Path) -> None:
    dataset = open_dataset(text_set(tmp_path, {"a": "0 0.1 0.2 0.5 0.2 0.3 0.8"}), "detect")
    np.testing.assert_allclose(dataset.samples[0].labels.boxes, [[0.1, 0.2, 0.5, 0.8]])


def test_segmentation_says_which_rows_are_boxes(tmp_path: Path) -> None:
    path = text_set(tmp_path, {"a": f"{GOOD}\n0 0.1 0.2 0.5 0.2 0.3 0.8\n"})
    dataset = open_dataset(path, "segment")
    assert (only(dataset).kind, only(dataset).line) == ("no polygon", 1)
    labels = dataset.samples[0].labels.scaled(40, 20)
    assert labels.areas() == pytest.approx([0.4 * 0.6 / 2 * 800])
    with pytest.raises(InputError, match="none of the 1 images.*segment.*polygon"):
        open_dataset(text_set(tmp_path / "b", {"a": GOOD}), "segment")


def test_pose_rows(tmp_path: Path) -> None:
    yaml = "names: [p]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]"
    rows = [
        "0 0.5 0.5 0.2 0.4 0.4 0.4 2 0.6 0.6 1",
        "0 0.5 0.5 0.3 0.4 0.4 0.4 2 1.2 0.6 2",  # second point off the image: not labelled
        "0 0.5 0.5 0.2 0.4 0.4 0.4",  # wrong count
        "0 0.5 0.5 0.2 0.4 400 400 2 0.6 0.6 1",
    ]
    dataset = open_dataset(text_set(tmp_path, {"a": "\n".join(rows)}, yaml))
    assert (dataset.task, dataset.keypoint_shape, dataset.flip_idx) == ("pose", (2, 3), (1, 0))
    assert kinds(dataset) == [("clipped", "warning"), ("malformed", "error"), ("range", "error")]
    points = dataset.samples[0].labels.scaled(40, 20).keypoints
    np.testing.assert_allclose(points, [[[16, 8, 2], [24, 12, 1]], [[16, 8, 2], [0, 0, 0]]])


def test_pose_without_visibility(tmp_path: Path) -> None:
    yaml = "names: [p]\nkpt_shape: [2, 2]"
    dataset = open_dataset(text_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.4 0 0 0.6 0.6"}, yaml))
    np.testing.assert_allclose(dataset.samples[0].labels.keypoints, [[[0, 0, 0], [0.6, 0.6, 2]]])


def test_oriented_rows(tmp_path: Path) -> None:
    rows = ["0 0.25 0 0.75 0 0.75 1 0.25 1", GOOD, "0 0.2 0.2 0.4 0.4 0.2 0.2 0.4 0.4"]
    dataset = open_dataset(text_set(tmp_path, {"a": "\n".join(rows)}), "obb")
    assert kinds(dataset) == [("malformed", "error"), ("degenerate", "error")]
    corners_N42 = dataset.samples[0].labels.scaled(40, 20).corners
    np.testing.assert_allclose(rotated_from_corners(corners_N42)[0, :4], [20, 10, 20, 20])


def test_polygons_without_area(tmp_path: Path) -> None:
    line, bow_tie, triangle = "0.2 0.2 0.4 0.4 0.6 0.6", "0.2 0.2 0.8 0.8 0.8 0.2 0.2 0.8", "0.2 0.2 0.4 0.4 0.6 0.2"
    rows = [f"0 {polygon}" for polygon in (line, bow_tie, triangle)]
    sample = open_dataset(text_set(tmp_path, {"a": "\n".join(rows)}), "segment").samples[0]
    assert [i.kind for i in sample.issues] == ["degenerate", "degenerate"]
    assert "without area" in sample.issues[0].sentence and "crosses itself" in sample.issues[1].sentence


def test_eight_numbers_are_oriented_boxes_only_if_they_look_it(tmp_path: Path) -> None:
    slanted = "0 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5"
    assert open_dataset(text_set(tmp_path / "a", {"a": slanted})).task == "obb"
    kite = "0 0.5 0.2 0.8 0.3 0.5 0.9 0.2 0.3"
    with pytest.raises(UsageError, match="`task` obb or segment"):
        open_dataset(text_set(tmp_path / "b", {"a": kite}))
    assert open_dataset(text_set(tmp_path / "c", {"a": f"{kite}\n0 0.1 0.1 0.4 0.1 0.4 0.4"})).task == "segment"


# ---- data.yaml --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("nc: 2", "has no names"),
        ("names: cat", "has no names"),
        ("names: {0: cat, 2: dog}", "without gaps"),
        ("names: {a: cat}", "label numbers"),
        ("names: [cat]\nnc: 2", "nc says 2"),
        ("names: [cat, dog]\nkpt_shape: 17", "kpt_shape"),
        ("names: [cat, dog]\nkpt_shape: [2, 4]", "kpt_shape"),
        ("names: [cat, dog]\nkpt_shape: [2, 3]\nflip_idx: [0, 0]", "flip_idx"),
        ("names: [cat, dog", "not valid YAML"),
    ],
)
def test_a_bad_yaml_is_refused_in_a_sentence(tmp_path: Path, yaml: str, says: str) -> None:
    path = text_set(tmp_path, {"a": GOOD}, yaml)
    with pytest.raises(InputError, match=says) as caught:
        open_dataset(path, "detect")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "license"),
    [("license: CC0-1.0", "CC0-1.0"), ("roboflow:\n  license: CC BY 4.0", "CC BY 4.0"), ("roboflow: {}", None)],
)
def test_the_license_of_a_set_is_what_its_yaml_states(tmp_path: Path, yaml: str, license: str | None) -> None:
    path = text_set(tmp_path, {"a": GOOD}, f"names: [cat, dog]\n{yaml}")
    assert open_dataset(path, "detect").license == license


def test_a_yaml_that_is_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    for text in ("", "- a\n- b\n", "\x00"):
        path.write_text(text)
        with pytest.raises(InputError):
            open_dataset(path, "detect")


def test_wrong_paths_and_splits(tmp_path: Path) -> None:
    path = text_set(tmp_path, {"a": GOOD})
    with pytest.raises(InputError, match="has no train split; it has val"):
        open_dataset(path, "detect", "train")
    path.write_text("val: images/vall\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match="there is no .*vall"):
        open_dataset(path, "detect")
    (tmp_path / "empty").mkdir()
    path.write_text("val: empty\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match="no images in empty"):
        open_dataset(path, "detect")
    with pytest.raises(InputError, match="no such file"):
        open_dataset(tmp_path / "nothing.yaml")
    with pytest.raises(InputError, match="no set of labelled images"):
        open_dataset(write_image(tmp_path / "x.png"))


def test_no_usable_label_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 2 images.*labels/val/a\.txt"):
        open_dataset(text_set(tmp_path / "a", {"a": "", "b": None}), "detect")
    with pytest.raises(InputError, match=r"first problem.*a\.txt:1: class 9"):
        open_dataset(text_set(tmp_path / "b", {"a": "9 0.5 0.5 0.2 0.4"}), "detect")


def test_ways_to_say_where_images_are(tmp_path: Path) -> None:
    path = text_set(tmp_path / "set", {"a": GOOD, "b": GOOD, "c": GOOD})
    expected = ["a", "b", "c"]

    def stems(yaml: str) -> list[str]:
        path.write_text(yaml + "\nnames: [cat, dog]\n")
        return [s.path.stem for s in open_dataset(path, "detect").samples if len(s.labels)]

    assert stems("val: images/val") == expected
    assert stems("val: ../images/val") == expected  # an exporter's habit
    assert stems(f"path: {tmp_path}\nval: set/images/val") == expected
    assert stems("path: ../datasets/set\nval: images/val") == expected  # another machine's root
    assert stems(f"val: {tmp_path}/set/images/val") == expected
    assert stems("val: [images/val]") == expected
    assert stems("valid: images/val") == expected
    (tmp_path / "set" / "list.txt").write_text("./images/val/a.png\nimages/val/b.png\n\nimages/val/gone.png\n")
    assert stems("val: list.txt") == ["a", "b"]
    dataset = open_dataset(path.parent, "detect")  # the folder of the yaml
    assert (only(dataset).kind, only(dataset).path.name) == ("no image", "gone.png")
    path.write_text("val: [images/val, images/val]\nnames: [cat, dog]\n")
    assert kinds(open_dataset(path, "detect")) == [("duplicate", "warning")]


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_set(tmp_path, {"a": GOOD})
    coco_set(tmp_path, [DOG])
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("data.yaml", "detect").samples[0].labels) == 1
    monkeypatch.chdir(tmp_path / "annotations")
    assert len(open_dataset("instances_val.json").samples[0].labels) == 1


def test_labels_beside_images(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "a.txt").write_text(GOOD)
    (tmp_path / "data.yaml").write_text("val: photos\nnames: [cat, dog]\n")
    assert len(open_dataset(tmp_path / "data.yaml").samples[0].labels) == 1


def test_tasks_that_do_not_go_with_the_form(tmp_path: Path) -> None:
    path = text_set(tmp_path / "text", {"a": GOOD})
    with pytest.raises(UsageError, match="class folders"):
        open_dataset(path, "classify")
    with pytest.raises(InputError, match="kpt_shape"):
        open_dataset(path, "pose")
    with pytest.raises(UsageError, match="no task"):
        open_dataset(path, "tracking")
    with pytest.raises(UsageError, match="`images`"):
        open_dataset(path, images=tmp_path)
    write_image(tmp_path / "folders" / "cat" / "1.png")
    with pytest.raises(UsageError, match="classify, not detect"):
        open_dataset(tmp_path / "folders", "detect")


# ---- COCO -------------------------------------------------------------------------------------------------------

DOG = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 2, 10, 10], "area": 70, "iscrowd": 0}


def test_coco_ids_names_and_images(tmp_path: Path) -> None:
    dataset = open_dataset(coco_set(tmp_path, [DOG, {**DOG, "image_id": 2, "category_id": 7}]))
    assert (dataset.task, dataset.names, dataset.category_ids) == ("detect", ("dog", "cat"), (3, 7))
    assert [s.image_id for s in dataset.samples] == [1, 2]
    assert [s.labels.classes.tolist() for s in dataset.samples] == [[0], [1]]
    assert dataset.samples[0].path == tmp_path / "val" / "1.png"
    elsewhere = tmp_path / "val"
    moved = elsewhere.rename(tmp_path.parent / f"{tmp_path.name}-photos")
    with pytest.raises(InputError, match="`images`"):
        open_dataset(tmp_path / "annotations" / "instances_val.json")
    assert len(open_dataset(tmp_path / "annotations" / "instances_val.json", images=moved)) == 2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"category_id": 4}, "class"),
        ({"image_id": 9}, "orphan"),
        ({"bbox": [1, 2, 3]}, "malformed"),
        ({"bbox": [1, 2, "3", 4]}, "malformed"),
        ({"bbox": None}, "malformed"),
        ({"bbox": [1, 2, 0, 4]}, "degenerate"),
        ({"bbox": [1, 2, 3, -4]}, "degenerate"),
    ],
)
def test_a_bad_annotation_is_left_out_and_said(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    dataset = open_dataset(coco_set(tmp_path, [DOG, {**DOG, "id": 2, **change}]), "detect")
    assert kinds(dataset) == [(kind, "error")]
    assert "annotation 2" in only(dataset).sentence
    assert sum(len(s.labels) for s in dataset.samples) == 1


def test_coco_keeps_what_coco_scores(tmp_path: Path) -> None:
    """Repeated and overhanging boxes count in COCO's evaluation, so they stay."""
    over = {**DOG, "id": 3, "bbox": [35, 2, 10, 10]}
    dataset = open_dataset(coco_set(tmp_path, [DOG, {**DOG, "id": 2}, over]), "detect")
    assert kinds(dataset) == [("duplicate", "warning"), ("clipped", "warning")]
    assert len(dataset.samples[0].labels) == 3


def test_coco_images_that_are_missing_or_listed_twice(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{n}.png", "width": 40, "height": 20} for i, n in ((1, 1), (1, 2), (3, 9))]
    dataset = open_dataset(coco_set(tmp_path, [DOG], images=images), "detect")
    assert len(dataset) == 1
    assert kinds(dataset) == [("duplicate", "error"), ("no image", "error")]
    left_out = account_of(dataset).to_dict()["left_out"]
    assert {kind: found["count"] for kind, found in left_out.items()} == {"duplicate": 1, "no image": 1}
    assert "2.png" in left_out["duplicate"]["first"][0] and "9.png" in left_out["no image"]["first"][0]
    assert account_of(open_dataset(coco_set(tmp_path, [DOG]), "detect")).sentences() == []


def test_coco_sizes_come_from_the_image_where_not_stated(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png"}]
    assert open_dataset(coco_set(tmp_path, [DOG], images=images)).samples[0].size() == (40, 20)


def test_coco_segmentations(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), bool)
    mask[3:9, 5:11] = True
    square = [4.0, 2.0, 14.0, 2.0, 14.0, 12.0, 4.0, 12.0]
    rows = [
        {"segmentation": [square, [0, 0, 1, 1]]},  # the second part is no polygon
        {"segmentation": encode_rle(mask)},
        {"segmentation": []},
        {"segmentation": {"size": [10, 10], "counts": [100]}},
        {"segmentation": {"size": [20, 40], "counts": [7]}},
        {"segmentation": {"size": [20, 40], "counts": [800]}},
        {"segmentation": {"size": [20, 40]}},
        {"segmentation": [[1, 1, 2, 2, 3, 3]]},
        {"segmentation": "square"},
    ]
    path = coco_set(tmp_path, [{**DOG, "id": i, **row} for i, row in enumerate(rows)])
    dataset = open_dataset(path, "segment")
    assert [kind for kind, _ in kinds(dataset) if kind != "duplicate"] == [
        "no polygon",
        "size",
        "malformed",
        "degenerate",
        "malformed",
        "degenerate",
        "malformed",
    ]
    labels = dataset.samples[0].labels
    assert [len(parts) for parts in labels.polygons] == [1, 0]
    assert [rle is not None for rle in labels.rle] == [False, True]
    # Oriented boxes from outlines, and boxes where none is stated.
    without = {k: v for k, v in DOG.items() if k != "bbox"}
    path = coco_set(tmp_path, [{**without, "id": i, **row} for i, row in enumerate(rows[:2])])
    oriented = open_dataset(path, "obb").samples[0].labels
    np.testing.assert_allclose(oriented.boxes, [[4, 2, 14, 12], [5, 3, 11, 9]])
    np.testing.assert_allclose(rotated_from_corners(oriented.corners)[0, :4], [9, 7, 10, 10], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "is a list"),
        ("3", "has no list 'images'"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] must be"),
        (
            '{"images": [{"id": "a", "file_name": "a"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "none of its 1 images",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [], '
            '"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "same id",
        ),
    ],
)
def test_a_file_that_is_no_coco_is_refused_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        open_dataset(path)
    assert str(path) in str(caught.value)


def test_coco_without_annotations_or_keypoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image has a usable annotation"):
        open_dataset(coco_set(tmp_path, []), "detect")
    with pytest.raises(InputError, match="usable annotation"):
        open_dataset(coco_set(tmp_path, [{**DOG, "iscrowd": 1}]), "detect")
    with pytest.raises(InputError, match="keypoints"):
        open_dataset(coco_set(tmp_path, [DOG]), "pose")
    with pytest.raises(UsageError, match="class folders"):
        open_dataset(coco_set(tmp_path, [DOG]), "classify")


# ---- class folders and names ------------------------------------------------------------------------------------


def test_class_folders_without_splits_and_with_gaps(tmp_path: Path) -> None:
    write_image(tmp_path / "plain" / "cat" / "1.png")
    write_image(tmp_path / "plain" / "dog" / "deep" / "2.png")
    assert open_dataset(tmp_path / "plain", split="train").counts()[0].tolist() == [1, 1]
    for place in ("train/ant/1.png", "train/bee/1.png", "val/bee/2.png"):
        write_image(tmp_path / "split" / place)
    dataset = open_dataset(tmp_path / "split", split="val")
    assert dataset.names == ("ant", "bee")
    assert dataset.samples[0].labels.class_id == 1
    assert kinds(dataset) == [("scarce", "warning")]
    with pytest.raises(InputError, match="no test folder, only train, val"):
        open_dataset(tmp_path / "split", split="test")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="neither data.yaml nor"):
        open_dataset(tmp_path / "nothing")
    write_image(tmp_path / "loose" / "1.png")
    with pytest.raises(InputError, match="one folder of images per class"):
        open_dataset(tmp_path / "loose")


def test_labels_in_a_models_order(tmp_path: Path) -> None:
    path = coco_set(tmp_path, [DOG, {**DOG, "image_id": 2, "category_id": 7}])
    dataset = open_dataset(path, names=["ant", "Cat", "bee", "dog"])
    assert [s.labels.classes.tolist() for s in dataset.samples] == [[3], [1]]
    assert (dataset.category_ids[3], dataset.category_ids[1]) == (3, 7)
    assert len(set(dataset.category_ids)) == 4
    assert dataset.counts()[1].tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match="class 'cat', which the model does not know"):
        open_dataset(path, names=["dog", "mouse"])
    write_image(tmp_path / "folders" / "dog" / "1.png")
    assert open_dataset(tmp_path / "folders", names=["cat", "dog"]).samples[0].labels.class_id == 1


# ---- images -----------------------------------------------------------------------------------------------------


def test_check_reads_every_image(tmp_path: Path) -> None:
    path = text_set(tmp_path, dict.fromkeys("abcd", GOOD))
    images = tmp_path / "images"
    (images / "val" / "a.png").write_bytes(b"not an image")
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))[1].tobytes()
    (images / "val" / "e.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "val" / "f.png").write_bytes((images / "val" / "b.png").read_bytes())
    (images / "train").mkdir()
    (images / "train" / "g.png").write_bytes((images / "val" / "c.png").read_bytes())
    (tmp_path / "labels" / "train").mkdir()
    (tmp_path / "labels" / "train" / "g.txt").write_text(GOOD)
    path.write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    issues = check([open_dataset(path, split=split) for split in ("train", "val")], workers=3)
    found = [(issue.kind, issue.path.name) for issue in issues if issue.kind not in ("scarce", "background")]
    assert sorted(found) == [
        ("duplicate", "f.png"),
        ("overlap", "c.png"),
        ("unreadable", "a.png"),
        ("unreadable", "e.jpg"),
    ]
    assert sum(issue.kind == "scarce" for issue in issues) == 4
    assert all(str(issue).startswith(str(tmp_path)) for issue in issues)


def test_check_compares_stated_sizes(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": w, "height": 20 * 40 // w} for i, w in ((1, 20), (2, 40))]
    path = coco_set(tmp_path, [DOG, {**DOG, "image_id": 2}], images=images)
    issues = check([open_dataset(path, "detect")])
    assert ("size", "error") in [(issue.kind, issue.severity) for issue in issues]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_sizes_from_headers(tmp_path: Path, suffix: str) -> None:
    assert image_size(write_image(tmp_path / f"a{suffix}", 57, 33)) == (57, 33)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_sizes_heed_exif_orientation_as_cv2_does(tmp_path: Path, orientation: int, order: str) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((33, 57, 3), np.uint8))[1].tobytes()
    endian = "little" if order == "II" else "big"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, endian)

    entry = number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + b"\0\0"
    tiff = order.encode() + number(42, 2) + number(8, 4) + number(1, 2) + entry + number(0, 4)
    body = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:])
    assert image_size(path) == cv2.imread(str(path)).shape[1::-1]


def test_sizes_of_damaged_files(tmp_path: Path) -> None:
    for name, data in (("a.jpg", b"\xff\xd8\xff\xe1\x00"), ("b.png", b"\x89PNG\r\n\x1a\n\0"), ("c.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        image_size(tmp_path / "gone.png")


# ---- labels and corners -----------------------------------------------------------------------------------------


def test_labels_select_and_scale_together(tmp_path: Path) -> None:
    crowd = {"segmentation": {"size": [20, 40], "counts": [0, 800]}, "iscrowd": 1, "bbox": [0, 0, 40, 20]}
    outline = {"segmentation": [[4, 2, 14, 2, 4, 12]]}
    labels = open_dataset(coco_set(tmp_path, [{**DOG, **crowd}, {**DOG, **outline}]), "segment").samples[0].labels
    assert labels.crowd.tolist() == [True, False]
    kept = labels.select(~labels.crowd)
    assert (len(kept), kept.rle, len(kept.polygons)) == (1, (None,), 1)
    double = kept.scaled(80, 20)
    np.testing.assert_allclose(double.boxes, [[8, 2, 28, 12]])
    np.testing.assert_allclose(double.polygons[0][0], [[8, 2], [28, 2], [8, 12]])
    assert double.areas().tolist() == [140]
    assert len(labels.select(np.array([], int))) == 0


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 400), st.floats(1, 400), st.floats(-20, 20)))
@example((0.0, 0.0, 3.0, 9.0, -2.220446049250313e-16))  # a hair below an end of the half-open range
def test_corners_and_back(box: tuple[float, ...]) -> None:
    """The rectangle comes back as the same set of points, with w >= h and the angle in its range."""
    points = corners(np.array([box]))
    (found,) = rotated_from_corners(points)
    assert found[2] >= found[3]
    assert -np.pi / 2 <= found[4] < np.pi / 2
    assert sorted(found[2:4]) == pytest.approx(sorted(box[2:4]), abs=1e-6)
    distances = np.linalg.norm(corners(found[None])[0][:, None] - points[0], axis=-1)
    assert distances.min(1).max() < 1e-5


def test_least_rectangle_agrees_with_opencv() -> None:
    rng = np.random.default_rng(0)
    quads = rng.uniform(0, 100, (200, 4, 2)).astype(np.float32)  # any order, any shape
    for quad, box in zip(quads, rotated_from_corners(quads), strict=True):
        _, (w, h), _ = cv2.minAreaRect(quad)
        assert box[2] * box[3] == pytest.approx(w * h, rel=1e-3)
    assert rotated_from_corners(np.zeros((0, 4, 2))).shape == (0, 5)


def test_every_refusal_is_foreseen(tmp_path: Path) -> None:
    """Whatever one byte of a yaml or JSON is changed to, there is a dataset or a sentence."""
    rng = np.random.default_rng(0)
    paths = [text_set(tmp_path / "t", {"a": GOOD}), coco_set(tmp_path / "c", [DOG])]
    for path in paths:
        original = path.read_bytes()
        for _ in range(150):
            data = bytearray(original)
            data[rng.integers(len(data))] = rng.integers(32, 127)
            path.write_bytes(data)
            try:
                open_dataset(path, "detect")
            except EdgekitError as error:
                assert "\n" not in str(error)
