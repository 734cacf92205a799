"""`edgekit data check`: sets broken on purpose, what is said of them, and the contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import cli
from edgekit.data import open_dataset
from edgekit.data.check import crosses_itself
from edgekit.data.sheet import CAPTION, GAP, TILE, choose, contact_sheet
from edgekit.data.splits import splits_of

Run = Callable[..., tuple[int, str, str]]
GOOD = "0 0.5 0.5 0.2 0.4"
SQUARE = "0 0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """``run("data", "check", …)`` -> (exit code, standard output, standard error)."""

    def command(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main(["data", "check", *(str(w) for w in words)])
        output = capfd.readouterr()
        code = done.value.code
        return (code if isinstance(code, int) else 0), output.out, output.err

    return command


def write_image(path: Path, width: int = 48, height: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = [*path.parent.name.encode(), *path.stem.encode()]
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))
    return path


def text_set(
    root: Path, train: dict[str, str], val: dict[str, str] | None = None, yaml: str = "names: [cat, dog]"
) -> Path:
    """A set with ten good images of both classes in train and in val, besides those given (stem: rows)."""
    both = f"{GOOD}\n1 0.3 0.3 0.2 0.2"
    rows = {"train": {**{f"g{i}": both for i in range(10)}, **train}, "val": {f"h{i}": both for i in range(10)}}
    rows["val"] |= val or {}
    for split, files in rows.items():
        for stem, text in files.items():
            write_image(root / "images" / split / f"{stem}.png")
            label = root / "labels" / split / f"{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    path = root / "data.yaml"
    path.write_text(f"train: images/train\nval: images/val\n{yaml}\n")
    return path


def issues(run: Run, *words: object) -> tuple[int, list[dict[str, Any]]]:
    code, out, _ = run(*words, "--json")
    document = json.loads(out)
    assert document["kind"] == "data-check" and document["schema"] == 1 and document["ok"] == (code == 0)
    return code, document["issues"]


def test_a_good_set_has_nothing_wrong(run: Run, tmp_path: Path) -> None:
    path = text_set(tmp_path, {})
    code, out, error = run(path)
    assert code == 0 and out == "" and "nothing wrong" in error and "dog" in error
    code, out, error = run(tmp_path, "--json", "--workers", 1)
    document = json.loads(out)
    assert code == 0 and document["issues"] == [] and document["task"] == "detect"
    assert document["splits"]["train"] == {
        "source": str(path),
        "images": 10,
        "objects": 20,
        "per_class": {"cat": 10, "dog": 10},
        "sizes": [{"width": 48, "height": 32, "images": 10}],
        "left_out": {},
        "changed": {},
    }
    assert list(document["splits"]) == ["train", "val"]
    assert list(json.loads(run(path, "--json", "--split", "val")[1])["splits"]) == ["val"]


@pytest.mark.parametrize(
    ("row", "kind", "severity", "says"),
    [
        ("2 0.5 0.5 0.2 0.4", "class", "error", "class 2 is none of the 2"),
        ("0 200 150 20 40", "range", "error", "no fraction"),
        ("0 0.5 0.5 0 0.4", "degenerate", "error", "no area"),
        ("0 0.5 0.5 0.2", "malformed", "error", "3 numbers"),
        ("cat 0.5 0.5 0.2 0.4", "malformed", "error", "not a row of numbers"),
        (GOOD, "duplicate", "warning", "the same row again"),
        ("0 0.95 0.5 0.2 0.4", "clipped", "warning", "beyond its edge"),
    ],
)
def test_every_bad_row_is_named_with_file_and_line(
    run: Run, tmp_path: Path, row: str, kind: str, severity: str, says: str
) -> None:
    path = text_set(tmp_path, {"bad": f"{GOOD}\n\n{row}\n"})
    code, found = issues(run, path)
    (issue,) = found
    assert (issue["kind"], issue["severity"], issue["line"]) == (kind, severity, 3)
    assert says in issue["sentence"] and issue["path"] == str(tmp_path / "labels" / "train" / "bad.txt")
    assert code == (1 if severity == "error" else 0)
    code, _, error = run(path)
    assert f"{severity} {kind} (1)" in error and "bad.txt:3" in error and says in error
    if severity == "error":
        assert code == 1 and "1 error; the first is" in error


def test_images_that_are_unreadable_doubled_or_in_both_splits(run: Run, tmp_path: Path) -> None:
    path = text_set(tmp_path, {"broken": GOOD, "twin": GOOD}, {"leak": GOOD})
    folder = tmp_path / "images"
    (folder / "train" / "broken.png").write_bytes(b"no picture")
    (folder / "train" / "twin.png").write_bytes((folder / "train" / "g0.png").read_bytes())
    (folder / "val" / "leak.png").write_bytes((folder / "train" / "g1.png").read_bytes())
    code, found = issues(run, path)
    assert code == 1
    assert sorted((i["kind"], Path(i["path"]).name, i["severity"]) for i in found) == [
        ("duplicate", "twin.png", "warning"),
        ("overlap", "leak.png", "error"),
        ("unreadable", "broken.png", "error"),
    ]
    assert "g1.png of train" in next(i["sentence"] for i in found if i["kind"] == "overlap")


def test_labels_without_image_and_images_without_labels(run: Run, tmp_path: Path) -> None:
    path = text_set(tmp_path, {})
    folder = tmp_path / "labels" / "train"
    (folder / "lost.txt").write_text(GOOD)
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "g3.txt").unlink()
    code, found = issues(run, path)
    assert code == 1
    assert {(i["kind"], Path(i["path"]).name) for i in found} == {
        ("no image", "lost.txt"),
        ("background", "g3.txt"),
        ("scarce", "data.yaml"),
    }


def test_classes_that_are_rare_or_missing_in_train(run: Run, tmp_path: Path) -> None:
    names = "names: [cat, dog, cow, bee]"
    path = text_set(tmp_path, {}, {"cow": "2 0.5 0.5 0.2 0.4"}, names)
    code, found = issues(run, path)
    assert code == 1
    (absent,) = [i for i in found if i["severity"] == "error"]
    assert absent["kind"] == "absent" and "'cow'" in absent["sentence"] and "never in train" in absent["sentence"]
    scarce = [i["sentence"] for i in found if i["kind"] == "scarce"]
    assert len(scarce) == 4 and sum("'bee'" in s for s in scarce) == 2  # cow and bee, in train and in val


def test_long_lists_are_cut_short_but_not_in_json(run: Run, tmp_path: Path) -> None:
    path = text_set(tmp_path, {"bad": "\n".join(f"7 0.5 0.5 0.2 0.{i}" for i in range(10, 40))})
    code, _, error = run(path)
    assert code == 1 and "error class (30)" in error and "and 22 more" in error and "30 errors" in error
    assert error.count("bad.txt:") == 8 + 1
    assert len(issues(run, path)[1]) == 30


def polygon_set(root: Path, row: str) -> Path:
    both = f"{SQUARE}\n1 0.1 0.1 0.9 0.1 0.5 0.4 0.2 0.5 0.1 0.3"
    path = text_set(root, {f"g{i}": both for i in range(10)}, {f"h{i}": both for i in range(10)})
    (root / "labels" / "train" / "g4.txt").write_text(f"{both}\n7 1 1\n{row}\n")
    return path


def test_polygons_that_cross_themselves(run: Run, tmp_path: Path) -> None:
    bow = "0 0.2 0.2 0.6 0.6 0.6 0.2 0.2 0.5 0.1 0.4"
    code, found = issues(run, polygon_set(tmp_path, bow), "--task", "segment")
    assert code == 1  # of the class 7 above it, which must not shift the line
    assert [(i["kind"], i["line"], i["severity"]) for i in found] == [("crossing", 4, "warning"), ("class", 3, "error")]


def test_boxes_where_polygons_are_needed(run: Run, tmp_path: Path) -> None:
    code, found = issues(run, polygon_set(tmp_path, GOOD), "--task", "segment")
    assert code == 1 and ("no polygon", 4) in [(i["kind"], i["line"]) for i in found]
    code, _, error = run(text_set(tmp_path / "boxes", {}), "--task", "segment")
    assert code == 2 and "a box (4 numbers) where segmentation needs a polygon" in error


def test_corners_out_of_order_are_put_right_and_said(run: Run, tmp_path: Path) -> None:
    square = SQUARE + "\n1 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5"
    path = text_set(tmp_path, {f"g{i}": square for i in range(10)}, {f"h{i}": square for i in range(10)})
    (tmp_path / "labels" / "train" / "g2.txt").write_text(f"{square}\n0 0.1 0.1 0.7 0.3 0.7 0.1 0.1 0.3")
    code, found = issues(run, path, "--task", "obb")
    (issue,) = found
    assert code == 0 and (issue["kind"], issue["line"], issue["severity"]) == ("crossing", 3, "warning")
    labels = open_dataset(path, "obb", "train").samples[2].labels
    x, y = labels.corners[2].T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(0.6 * 0.2)
    np.testing.assert_allclose(labels.boxes[2], [0.1, 0.1, 0.7, 0.3])


def test_keypoints_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    row = "0 0.5 0.5 0.2 0.4 0.5 0.5 2 0.4 0.5 1 0.6 0.5 2"
    rows = {f"g{i}": row + "\n1" + row[1:] for i in range(10)}, {f"h{i}": row + "\n1" + row[1:] for i in range(10)}
    shape = "names: [cat, dog]\nkpt_shape: [3, 3]\n"
    assert issues(run, text_set(tmp_path / "a", *rows, shape + "flip_idx: [0, 2, 1]")) == (0, [])
    code, found = issues(run, text_set(tmp_path / "b", *rows, shape + "flip_idx: [1, 2, 0]"))
    assert code == 1 and {i["kind"] for i in found} == {"keypoints"} and "keypoint 0 becomes 1" in found[0]["sentence"]
    code, found = issues(run, text_set(tmp_path / "c", *rows, shape))
    assert code == 0 and {(i["kind"], i["severity"]) for i in found} == {("keypoints", "note")}
    code, _, error = run(text_set(tmp_path / "d", *rows, "names: [cat, dog]\nkpt_shape: [4, 3]"))
    assert code == 2 and "kpt_shape [4, 3] asks for 16" in error
    code, _, error = run(text_set(tmp_path / "e", *rows, shape + "flip_idx: [0, 1]"))
    assert code == 2 and "flip_idx" in error


def test_paths_that_lead_nowhere(run: Run, tmp_path: Path) -> None:
    path = text_set(tmp_path, {})
    path.write_text("path: sets\ntrain: images/train\nval: images/vall\nnames: [cat, dog]\n")
    code, out, error = run(path, "--json")
    assert code == 2 and out == ""
    assert "val is 'images/vall'" in error
    for place in (tmp_path / "sets" / "images" / "vall", tmp_path / "images" / "vall"):
        assert str(place) in error
    for words in ([tmp_path / "nothing"], [tmp_path / "images"], [path, "--split", "test"], [path, "--task", "fly"]):
        code, out, error = run(*words)
        assert code == 2 and out == "" and "Traceback" not in error, words


def test_a_sheet_is_drawn_and_not_overwritten(run: Run, tmp_path: Path) -> None:
    path, sheet = text_set(tmp_path, {"bad": "7 0.5 0.5 0.2 0.4"}), tmp_path / "sheet.png"
    code, out, _ = run(path, "--sheet", sheet)
    assert code == 1 and out == ""  # drawn all the same
    picture = cv2.imread(str(sheet))
    columns, rows = 4, 5  # 20 of the 21 images
    assert picture.shape[1] == GAP + columns * (TILE + GAP)
    assert 0 <= picture.shape[0] - (GAP + rows * (CAPTION + TILE + GAP)) < 60  # and a legend
    assert picture.std() > 20
    code, _, error = run(path, "--sheet", sheet)
    assert code == 2 and "already exists" in error
    assert run(path, "--sheet", sheet, "--force")[0] == 1
    assert run(path, "--sheet", tmp_path / "sheet.xyz")[0] == 2


def test_class_folders(run: Run, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("daisy", "rose"):
            for i in range(10):
                write_image(tmp_path / "set" / split / name / f"{split}{i}.png")
    for path in (tmp_path / "set" / "train" / "rose").iterdir():
        path.unlink()
    (tmp_path / "set" / "valid" / "daisy" / "valid0.png").write_bytes(b"")
    code, found = issues(run, tmp_path / "set", "--sheet", tmp_path / "sheet.jpg")
    assert code == 1 and cv2.imread(str(tmp_path / "sheet.jpg")) is not None
    assert {i["kind"] for i in found if i["severity"] == "error"} == {"absent", "unreadable"}


def test_coco_files_are_a_split_each(run: Run, tmp_path: Path) -> None:
    def write(split: str, **change: Any) -> Path:
        images = [write_image(tmp_path / split / f"{split}{i}.png").name for i in range(10)]
        box = {"category_id": 1, "bbox": [4, 4, 20, 10], "iscrowd": 0, "area": 200}
        document = {
            "images": [{"id": i, "file_name": n, "width": 48, "height": 32} for i, n in enumerate(images)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": i, "image_id": i, **box, **(change if i == 5 else {})} for i in range(10)],
        }
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
        return path

    train, val = write("train"), write("val", category_id=9)
    code, out, _ = run(train, val, "--json")
    document = json.loads(out)
    assert code == 1 and list(document["splits"]) == ["train", "val"]
    assert [i["kind"] for i in document["issues"]] == ["class", "scarce"]
    assert run(train, "--images", tmp_path / "train")[0] == 0
    code, _, error = run(train, train)
    assert code == 2 and "a second set of train images" in error


def test_splits_of_a_set(tmp_path: Path) -> None:
    assert splits_of(text_set(tmp_path, {})) == ["train", "val"] == splits_of(tmp_path)
    (tmp_path / "data.yaml").write_text("validation: x\ntest: y")
    assert splits_of(tmp_path) == ["val", "test"]
    assert splits_of(Path("a/person_keypoints_test2017.json")) == ["test"]
    assert splits_of(tmp_path / "nothing.yaml") == ["val"]


@pytest.mark.parametrize("seed", range(80))
def test_crossing_polygons_against_plain_geometry(seed: int) -> None:
    def crosses(a: complex, b: complex, c: complex, d: complex) -> bool:
        """Where the lines through a, b and c, d meet, as fractions of both ways (Cramer's rule)."""
        p, q, r = b - a, d - c, c - a
        area = p.real * q.imag - p.imag * q.real
        s = (r.real * q.imag - r.imag * q.real) / area
        t = (r.real * p.imag - r.imag * p.real) / area
        return 0 < s < 1 and 0 < t < 1

    rng = np.random.default_rng(seed)
    points = rng.random((int(rng.integers(3, 8)), 2))
    if seed % 2:  # around a middle in order of angle: star-shaped, never crossing
        angle = np.sort(rng.random(len(points)) * 2 * np.pi)
        points = 0.5 + 0.5 * points[:, :1] * np.column_stack([np.cos(angle), np.sin(angle)])
    z = [complex(*p) for p in points]
    n = len(z)
    apart = [(i, j) for i in range(n) for j in range(i + 2, n) if (j + 1) % n != i]
    assert crosses_itself(points) == any(crosses(z[i], z[i + 1], z[j], z[(j + 1) % n]) for i, j in apart)


def test_outlines_that_touch_themselves_do_not_cross() -> None:
    square = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    hole = np.array([[0.3, 0.3], [0.3, 0.6], [0.6, 0.6], [0.6, 0.3], [0.3, 0.3]])
    assert not crosses_itself(np.concatenate([square, square[:1]]))  # closed by hand
    assert not crosses_itself(np.concatenate([square[:1], hole, square[:1], square[1:]]))  # a bridge there and back


def test_the_choice_shows_every_class_and_the_crowded(tmp_path: Path) -> None:
    many = "\n".join(f"0 0.5 0.5 0.2 0.{i}" for i in range(100, 160))
    path = text_set(tmp_path, {"many": many, "bee": "2 0.5 0.5 0.2 0.4"}, None, "names: [cat, dog, bee]")
    dataset = open_dataset(path, "detect", "train")
    for seed in range(5):
        chosen = [sample.path.stem for _, sample in choose([dataset], 4, seed)]
        assert len(set(chosen)) == 4 and {"many", "bee"} <= set(chosen)
    assert choose([dataset], 6, 1) == choose([dataset], 6, 1)
    assert len(choose([dataset], 100)) == len(dataset)
    assert contact_sheet([dataset], count=3).shape[0] < 2 * TILE


@pytest.mark.parametrize("name", ["bccd", "balloon", "person_pose", "table_tennis_obb", "flowers5"])
def test_sheets_of_real_sets(shared: Path, name: str) -> None:
    dataset = open_dataset(shared / "data" / name, split="val")
    sheet = contact_sheet([dataset], count=4)
    assert sheet.shape[1] == GAP + 4 * (TILE + GAP)
    assert sheet[GAP + CAPTION : GAP + CAPTION + TILE].std() > 20
