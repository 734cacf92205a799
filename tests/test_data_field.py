"""Sets as exporters, editors and file systems leave them: used whole, or the reporter counts what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import cli
from edgekit.data import Dataset, LabelOptions, account_of, open_dataset
from edgekit.data.check import open_splits
from edgekit.data.splits import has_text_labels
from edgekit.data.turned import turned_mask
from edgekit.errors import InputError, UsageError
from edgekit.quantize import calibration
from edgekit.runtime.image import SUFFIXES, read_image
from edgekit.runtime.masks import decode_rle, encode_rle
from edgekit.train.run import fingerprint

WIDTH, HEIGHT = 64, 48
BOX = (8, 4, 40, 20)  # x, y, w, h in pixels: what is white on every picture


def picture(suffix: str = ".png", box: tuple[int, ...] = BOX, mode: str = "color") -> bytes:
    """A dark picture with a white rectangle, in the format of a suffix; ``mode``: also grey, alpha or 16 bits."""
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    x, y, w, h = box
    image[y : y + h, x : x + w] = 250
    if mode == "grey":
        image = image[..., 0]
    elif mode == "alpha":
        image = np.dstack([image, 255 - image[..., 0]])
    elif mode == "16 bits":
        image = image.astype(np.uint16) * 257
    form = {".jfif": ".jpg", ".jpe": ".jpg", ".mpo": ".jpg", ".dib": ".bmp", ".pnm": ".ppm"}.get(suffix.lower(), suffix)
    try:
        done, data = cv2.imencode(form, image if form not in (".pgm", ".pbm") else image[..., 0])
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this OpenCV writes no {form}")
    return data.tobytes()


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with EXIF 2.3's tag 0x0112."""
    entry = (0x0112).to_bytes(2, "big") + b"\0\3\0\0\0\1" + orientation.to_bytes(2, "big") + b"\0\0"
    body = b"Exif\0\0MM\0*" + (8).to_bytes(4, "big") + b"\0\1" + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def white(path: Path) -> tuple[float, ...]:
    """x1, y1, x2, y2 of what is white on the picture as edgekit reads it."""
    ys, xs = np.nonzero(read_image(path)[..., 1] > 140)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def assert_on_the_white(dataset: Dataset, within: float = 1.5) -> None:
    """Every label lies where its picture is white."""
    for sample in dataset.samples:
        height, width = read_image(sample.path).shape[:2]
        for box in sample.labels.scaled(width, height).boxes:
            np.testing.assert_allclose(box, white(sample.path), atol=within, err_msg=str(sample.path))


def row(label: int = 0, box: tuple[int, ...] = BOX) -> str:
    x, y, w, h = box
    values = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
    return f"{label} " + " ".join(f"{value:.6f}" for value in values)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def text_set(root: Path, names: list[str], split: str = "val", rows: str = row()) -> Path:
    """Pictures called ``names`` with one object each."""
    for name in names:
        write(root / "images" / split / name, picture(Path(name).suffix))
        write(root / "labels" / split / Path(name).with_suffix(".txt"), rows + "\n")
    return write(root / "data.yaml", f"{split}: images/{split}\nnames: [cat, dog]\n")


def coco_set(root: Path, count: int = 2, images: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    """The document of ``count`` pictures in ``root/photos``, one object each."""
    for i in range(count):
        write(root / "photos" / f"{i}.jpg", picture(".jpg"))
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT, **(images or {})} for i in range(count)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": list(BOX), "iscrowd": 0, **annotation}
            for i in range(count)
        ],
    }


def saved(root: Path, document: dict[str, Any]) -> Path:
    return write(root / "set.json", json.dumps(document))


def left_out(dataset: Dataset) -> dict[str, int]:
    return {kind: found["count"] for kind, found in account_of(dataset).to_dict()["left_out"].items()}


# ---- text -------------------------------------------------------------------------------------------------------

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with mark": lambda text: text.encode("utf-8-sig"),
    "utf-16 le with mark": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "utf-16 be with mark": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16 le": lambda text: text.encode("utf-16-le"),
    "utf-16 be": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_in_any_encoding_is_read_whole(tmp_path: Path, encoding: str, end: str) -> None:
    text_set(tmp_path, ["a.png", "b.png"])
    for path in (tmp_path / "labels" / "val").iterdir():
        path.write_bytes(ENCODINGS[encoding](f"{row(0)}{end}{row(1)}{end}"))
    (tmp_path / "list.txt").write_bytes(ENCODINGS[encoding](f"images/val/a.png{end}images/val/b.png{end}"))
    (tmp_path / "data.yaml").write_bytes(ENCODINGS[encoding](f"val: list.txt{end}names: [cat, dog]{end}"))
    dataset = open_dataset(tmp_path / "data.yaml", "detect")
    assert [sample.labels.classes.tolist() for sample in dataset.samples] == [[0, 1], [0, 1]]
    assert not dataset.problems()
    assert_on_the_white(dataset)


def test_a_label_file_that_is_no_text_is_counted(tmp_path: Path) -> None:
    path = text_set(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels/val/a.txt").write_bytes(bytes(range(128, 200)))
    assert left_out(open_dataset(path, "detect")) == {"unreadable": 1}


def test_names_in_a_yaml_are_words(tmp_path: Path) -> None:
    words = ["yes", "no", "on", "off", "0010", "1.0", "null", "12:30:00", "2024-01-01", "~", "1_000", "0x1F", "true"]
    path = text_set(tmp_path, ["a.png"])
    write(path, f"val: images/val\nnc: '{len(words)}'\nnames: [{', '.join(words)}]\n")
    assert list(open_dataset(path).names) == words
    write(path, "val: images/val\nnc: 3\nnames: {0: yes, '1': no, 2: 0010}\n")
    assert open_dataset(path).names == ("yes", "no", "0010")
    write(path, "val: images/val\nnames: {0: cat, 0: dog}\n")
    with pytest.raises(InputError, match=r"data\.yaml.*'0'"):
        open_dataset(path)
    write(path, "val: images/val\nnc: 4\nnames: [a, b]\n")
    with pytest.raises(InputError, match="nc says 4"):
        open_dataset(path)


def test_a_test_split_without_its_folder_is_said_and_stops_nothing(tmp_path: Path) -> None:
    path = text_set(tmp_path, ["a.png"])
    write(path, "val: images/val\ntest: ../test/images\nnames: [cat, dog]\n")
    (dataset,) = open_splits([path])
    assert [(issue.kind, issue.severity) for issue in dataset.issues] == [("split", "warning")]
    with pytest.raises(InputError, match="test"):
        open_splits([path], only=["test"])
    write(path, "val: images/val\ntrain: gone\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match="gone"):
        open_splits([path])


def test_two_spellings_of_a_split_are_refused(tmp_path: Path) -> None:
    path = text_set(tmp_path, ["a.png"])
    write(path, "val: images/val\nvalid: images/other\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match="val and valid"):
        open_dataset(path)


# ---- folders and files ------------------------------------------------------------------------------------------


def test_linked_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    path = text_set(tmp_path / "set", ["a.png"])
    text_set(tmp_path / "elsewhere", ["b.png", "c.png"])
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind / "val" / "site").symlink_to(tmp_path / "elsewhere" / kind / "val")
    (tmp_path / "elsewhere/images/val/again").symlink_to(tmp_path / "set/images/val")
    (tmp_path / "set/images/val/unplugged").symlink_to(tmp_path / "gone")
    (tmp_path / "set/images/val/d.png").symlink_to(tmp_path / "gone.png")
    dataset = open_dataset(path, "detect")
    assert [sample.path.name for sample in dataset.samples] == ["a.png", "b.png", "c.png"]
    assert all(len(sample.labels) == 1 for sample in dataset.samples)
    assert left_out(dataset) == {"no image": 2, "link": 1}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    dataset = open_dataset(text_set(tmp_path, [f"a{suffix}", f"b{suffix.upper()}"]), "detect")
    assert len(dataset) == 2 and not dataset.problems()
    if suffix != ".pbm":  # black and white
        assert_on_the_white(dataset, 3)


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    path = text_set(tmp_path, ["a.png"])
    images = tmp_path / "images" / "val"
    write(images / "phone.heic", b"\0\0\0\x18ftypheic")
    write(images / "0001", picture())  # no suffix
    write(images / "notes.txt", "nothing")
    write(images / "site", "../elsewhere")  # a link, as Git for Windows writes it
    dataset = open_dataset(path, "detect")
    assert len(dataset) == 1 and left_out(dataset) == {"format": 3}
    said = {issue.path.name: issue.severity for issue in dataset.issues}
    assert said == {"phone.heic": "error", "0001": "error", "site": "note"}


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    path = text_set(tmp_path, ["a.png"])
    for place in (".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", ".git/x/a.png", "._a.png"):
        write(tmp_path / "images" / "val" / place, picture())
    dataset = open_dataset(path, "detect")
    assert len(dataset) == 1 and left_out(dataset) == {"hidden": 4}
    for name in ("ant", "bee"):
        write(tmp_path / "folders" / "Train" / name / "1.png", picture())
        write(tmp_path / "folders" / "VALID" / name / "1.png", picture())
    write(tmp_path / "folders/Train/.ipynb_checkpoints/1.png", picture())
    write(tmp_path / "folders/Train/loose.png", picture())
    write(tmp_path / "folders/valid/ant/2.png", picture())
    write(tmp_path / "folders/extra/ant/2.png", picture())
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path / "folders", split=split)
        assert dataset.names == ("ant", "bee") and len(dataset) == 2
        assert left_out(dataset)["split"] == 2
    write(tmp_path / "folders/first.png", picture())
    write(tmp_path / "folders/.thumbnails/first.png", picture())
    assert left_out(open_dataset(tmp_path / "folders", split="train")) == {"split": 2, "class": 2, "hidden": 2}


def latin_set(root: Path) -> Path:
    """Names that are no UTF-8, in folders and files."""
    for split in ("train", "val"):
        for i in range(2):
            name = os.fsdecode(b"bl\xe4%d" % i)
            write(root / "images" / split / f"{name}.png", picture(box=(8, 4, 40, 20 + i)))
            write(root / "labels" / split / f"{name}.txt", row(i) + "\n9 0.5 0.5 0.1 0.1\n" * i)
    return write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def test_names_that_are_no_utf8(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = latin_set(tmp_path / os.fsdecode(b"s\xe4t"))
    training, validating = (open_dataset(path, "detect", split) for split in ("train", "val"))
    assert [len(sample.labels) for sample in training.samples] == [1, 1]
    assert len(fingerprint(training, validating)) == 64
    (sentence,) = account_of(training).sentences()
    assert r"bl\xe41.txt:2" in sentence and sentence.encode()
    manifest = calibration.choose(training, 2, force=True)
    calibration.write(manifest, tmp_path / "manifest.json")
    assert {e.path for e in calibration.read(tmp_path / "manifest.json").images} == {
        os.fsdecode(b"images/train/bl\xe4%d.png" % i) for i in range(2)
    }
    listing = write(path.parent / "list.txt", b"".join(b"images/val/bl\xe4%d.png\n" % i for i in range(2)))
    write(path, f"val: {listing.name}\nnames: [cat, dog]\n")
    assert len(open_dataset(path, "detect")) == 2
    with pytest.raises(SystemExit) as end:
        cli.main(["data", "check", str(path), "--json", "--sheet", str(path.parent / "sheet.png")])
    assert end.value.code == 1  # the row of class 9
    document = json.loads(capfd.readouterr().out)
    assert document["splits"]["val"]["left_out"]["class"]["count"] == 1
    assert (path.parent / "sheet.png").is_file()


# ---- COCO -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [str, float, lambda i: f"{i}.0", lambda i: f"id-{i}"])
def test_ids_of_any_type(tmp_path: Path, change: Callable[[int], Any]) -> None:
    document = coco_set(tmp_path, 3)
    for image in document["images"]:
        image["id"] = change(image["id"])
    for category in document["categories"]:
        category["id"] = change(category["id"])
    for annotation in document["annotations"]:
        annotation |= {"image_id": change(annotation["image_id"]), "category_id": change(2), "iscrowd": "0"}
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert [sample.labels.classes.tolist() for sample in dataset.samples] == [[1]] * 3
    assert all(type(sample.image_id) is int for sample in dataset.samples) and not left_out(dataset)
    numbered = {issue.kind: issue.count for issue in dataset.issues}
    assert numbered == ({} if change(1) != "id-1" else {"ids": 2})


def test_a_parent_category_without_annotations_is_no_class(tmp_path: Path) -> None:
    document = coco_set(tmp_path)
    document["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert (dataset.names, dataset.category_ids) == (("cat", "dog"), (1, 2))
    assert left_out(dataset) == {"category": 1}
    document["annotations"][0]["category_id"] = 0  # used: it is a class
    assert open_dataset(saved(tmp_path, document), "detect").names == ("pets", "cat", "dog")


def test_crowd_regions_are_counted_or_made_objects(tmp_path: Path) -> None:
    document = coco_set(tmp_path, 4)
    for annotation in document["annotations"][:2]:
        annotation["iscrowd"] = 1
    path = saved(tmp_path, document)
    dataset = open_dataset(path, "detect")
    assert left_out(dataset) == {"crowd": 2} and account_of(dataset).objects == 2
    dataset = open_dataset(path, "detect", options=LabelOptions(crowd="objects"))
    assert not left_out(dataset) and account_of(dataset).objects == 4
    for annotation in document["annotations"]:
        annotation |= {"iscrowd": "1", "segmentation": [[8, 4, 48, 4, 48, 24, 8, 24]]}
    with pytest.raises(InputError, match="no image has a usable annotation"):
        open_dataset(saved(tmp_path, document))
    assert open_dataset(path, options=LabelOptions(crowd="objects")).task == "segment"
    write(tmp_path / "data.yaml", "val: set.json\nimages: photos\nlabel_options: {crowd: objects}\n")
    assert account_of(open_dataset(tmp_path / "data.yaml", "detect")).objects == 4


def test_images_by_backslash_folder_file_and_pattern(tmp_path: Path) -> None:
    document = coco_set(tmp_path, 4)
    for i, image in enumerate(document["images"]):
        image["file_name"] = f"photos\\{i}.jpg"
    path = saved(tmp_path, document)
    assert len(open_dataset(path, "detect")) == 4
    other = tmp_path / "other"
    for i, place in enumerate(("one", "two/deep", "three", "three")):
        (other / place).mkdir(parents=True, exist_ok=True)
        os.replace(tmp_path / "photos" / f"{i}.jpg", other / place / f"{i}.jpg")
    given = [other / "one", str(other / "two"), str(other / "three" / "*.jpg")]
    assert len(open_dataset(path, "detect", images=given)) == 4
    assert len(open_dataset(path, "detect", images=[*given[:2], other / "three" / "2.jpg"])) == 3
    write(other / "one" / "again" / "1.jpg", picture(".jpg"))  # two files of one name: neither is taken
    dataset = open_dataset(path, "detect", images=given)
    assert len(dataset) == 3 and left_out(dataset) == {"no image": 1}
    with pytest.raises(InputError, match="`images` .*gone"):
        open_dataset(path, "detect", images=[other / "gone"])


def test_a_yaml_that_names_coco_files(tmp_path: Path) -> None:
    document = coco_set(tmp_path)
    saved(tmp_path, document)
    write(tmp_path / "ann" / "val.json", json.dumps({**document, "images": document["images"][:1]}))
    path = write(tmp_path / "data.yaml", "train: set.json\nval: ann/val.json\nimages: [photos]\nnames: [dog, cat]\n")
    training, validating = open_splits([path])
    assert (len(training), len(validating)) == (2, 1)
    assert training.names == ("dog", "cat") and training.samples[0].labels.classes.tolist() == [1]
    assert left_out(validating) == {"orphan": 1}
    assert not has_text_labels(path, "train") and has_text_labels(text_set(tmp_path / "text", ["a.png"]), "val")


# ---- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_drawn_on_the_image_as_stored(tmp_path: Path, orientation: int) -> None:
    """Against what OpenCV makes of the same pixels."""
    document = coco_set(tmp_path, 1)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    x, y, w, h = BOX
    mask[y : y + h, x : x + w] = True
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    document["annotations"] = [
        {**document["annotations"][0], "id": i, "segmentation": shape}
        for i, shape in enumerate(([outline], encode_rle(mask)))
    ]
    write(tmp_path / "photos/0.jpg", with_exif(picture(".jpg"), orientation))
    dataset = open_dataset(saved(tmp_path, document), "segment", options=LabelOptions(exif="stored"))
    assert_on_the_white(dataset)
    labels = dataset.samples[0].labels
    upright = read_image(dataset.samples[0].path)[..., 1] > 140
    assert (decode_rle(labels.rle[1]) == upright).mean() > 0.98
    (part,) = labels.polygons[0]
    assert [*part.min(0), *part.max(0)] == pytest.approx(labels.boxes[0])
    assert turned_mask(mask, orientation).shape == upright.shape


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientations_that_do_not_exist_change_nothing(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path, coco_set(tmp_path, 1))
    write(tmp_path / "photos/0.jpg", with_exif(picture(".jpg"), orientation))
    for exif in ("stored", "fractions"):
        dataset = open_dataset(path, "detect", options=LabelOptions(exif=exif))
        assert_on_the_white(dataset)
        assert not dataset.problems()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_before_exif_turned(tmp_path: Path, orientation: int) -> None:
    """Fractions of the upright image, times the sides as stored: Label Studio's."""
    document = coco_set(tmp_path, 1)
    write(tmp_path / "photos/0.jpg", with_exif(picture(".jpg"), orientation))
    x1, y1, x2, y2 = white(tmp_path / "photos/0.jpg")  # upright, HEIGHT wide
    across, down = WIDTH / HEIGHT, HEIGHT / WIDTH
    document["annotations"][0]["bbox"] = [x1 * across, y1 * down, (x2 - x1) * across, (y2 - y1) * down]
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert_on_the_white(dataset)
    assert dataset.samples[0].labels.size == (HEIGHT, WIDTH)
    changed = account_of(dataset).to_dict()["changed"]
    assert changed["size"]["count"] == 1 and "exif=stored" in changed["size"]["first"][0]


def test_exchanged_sides_with_boxes_in_pixels(tmp_path: Path) -> None:
    """A box that fits the image and not the stated size shows what the others are."""
    document = coco_set(tmp_path, 2, images={"width": HEIGHT, "height": WIDTH})
    wide = (20, 4, 40, 20)
    write(tmp_path / "photos/1.jpg", picture(".jpg", box=wide))
    document["annotations"][1]["bbox"] = list(wide)
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert_on_the_white(dataset)
    assert account_of(dataset).to_dict()["changed"]["size"]["count"] == 2


@pytest.mark.parametrize(
    ("images", "factor", "left", "changed"),
    [
        ({"width": 2 * WIDTH, "height": 2 * HEIGHT}, 2, {}, {"size": 2}),
        ({"width": f"{WIDTH}", "height": float(HEIGHT)}, 1, {}, {}),
        ({"width": None}, 1, {}, {}),
        ({"width": 0, "height": 0}, 1, {}, {}),
    ],
)
def test_stated_sizes(tmp_path: Path, images: dict[str, Any], factor: int, left: dict, changed: dict) -> None:
    document = coco_set(tmp_path, 2, images, bbox=[factor * v for v in BOX])
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert_on_the_white(dataset)
    assert left_out(dataset) == left
    assert {kind: v["count"] for kind, v in account_of(dataset).to_dict()["changed"].items()} == changed


def test_a_size_of_another_shape_takes_the_image_out(tmp_path: Path) -> None:
    document = coco_set(tmp_path, 2)
    document["images"][0]["width"] = 50
    dataset = open_dataset(saved(tmp_path, document), "detect")
    assert len(dataset) == 1 and left_out(dataset) == {"size": 1}


# ---- oriented boxes by an angle ---------------------------------------------------------------------------------


def test_angles_in_degrees_and_radians(tmp_path: Path) -> None:
    """Corners against OpenCV's, whose angle is clockwise in degrees too."""
    angle = 200.0
    rows = f"0 0.5 0.4 0.25 0.5 {angle}\n1 0.4 0.5 0.125 0.25 -10"
    path = text_set(tmp_path, ["a.png"], rows=rows)
    dataset = open_dataset(path, "obb")
    assert account_of(dataset).to_dict()["changed"]["angle"]["count"] == 2
    expected = cv2.boxPoints(((0.5 * WIDTH, 0.4 * HEIGHT), (0.25 * WIDTH, 0.5 * HEIGHT), angle))
    found = dataset.samples[0].labels.scaled(WIDTH, HEIGHT).corners[0]
    nearest = np.abs(expected[:, None] - found[None]).sum(-1).min(1)
    assert nearest.max() < 1e-3
    write(tmp_path / "labels/val/a.txt", "0 0.5 0.4 0.25 0.5 0.5")
    with pytest.raises(UsageError, match="angle=degrees or angle=radians"):
        open_dataset(path, "obb")
    corners = {}
    for unit, factor in (("radians", 1.0), ("degrees", 180 / np.pi)):
        write(tmp_path / "labels/val/a.txt", f"0 0.5 0.4 0.25 0.5 {0.5 * factor}")
        corners[unit] = open_dataset(path, "obb", options=LabelOptions(angle=unit)).samples[0].labels.corners
    np.testing.assert_allclose(corners["radians"], corners["degrees"], atol=1e-9)


def test_label_options_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`label_options` angle=grad"):
        LabelOptions.from_text("angle=grad")
    path = text_set(tmp_path, ["a.png"])
    write(path, "val: images/val\nnames: [cat]\nlabel_options: {crowds: objects}\n")
    with pytest.raises(UsageError, match=r"data\.yaml.*crowds"):
        open_dataset(path, "detect")


# ---- the reporter -----------------------------------------------------------------------------------------------


def test_a_command_says_it_once_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = text_set(tmp_path, [f"{i}.png" for i in range(3)], "train")
    for i in range(3):  # different ones: copies count once
        write(tmp_path / f"images/train/{i}.png", picture(box=(i, *BOX[1:])))
    write(tmp_path / "images/train/.ipynb_checkpoints/0.png", picture())
    write(tmp_path / "labels/train/1.txt", f"{row()}\n7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(SystemExit) as end:
        cli.main(["calibrate", str(path), "--out", str(tmp_path / "c.json"), "--count", "2", "--force", "--json"])
    said = capfd.readouterr()
    assert not end.value.code and json.loads(said.out)["images"] == 2
    assert said.err.count("left out:") == 1
    assert "1 hidden" in said.err and "1 class" in said.err and "1.txt:2" in said.err
