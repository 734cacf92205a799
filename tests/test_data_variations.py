"""Fifty sets made by a generator: encodings x line ends x suffixes x modes x links x names x ids x sizes x forms.

Every picture has one white rectangle and one object there. Whatever a set is like, each picture and each object is used
where it is white, or the reporter counts it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data import Dataset, account_of, open_dataset
from edgekit.runtime.image import read_image
from tests.test_data_field import BOX, ENCODINGS, HEIGHT, WIDTH, picture, white, with_exif, write

VARIATIONS = 50
ENDS = ("\n", "\r\n", "\r")
JPEGS = (".jpg", ".JPG", ".jpeg", ".jpe", ".jfif", ".mpo")
READ = (*JPEGS, ".png", ".bmp", ".gif", ".avif", ".jp2", ".tif", ".webp", ".ppm")
MODES = {suffix: ("color", "grey", "alpha", "16 bits") for suffix in (".png", ".tif")}
UNREAD = (".heic", ".tga", "")
STEMS = ("plain", "with space", "图片", "br[ack]et", "ümlaut", os.fsdecode(b"bl\xe4"), "dots.in.it", "UPPER")
FORMS = ("folder", "list", "coco", "coco in yaml", "classes")
IDS: tuple[Callable[[int], Any], ...] = (int, str, float, lambda i: f"{i:04d}", lambda i: f"x{i}")
PLACES = ("beside", "below", "linked folder", "linked file", "hidden", "gone")
SIZES = ("stated", "none", "text", "half", "turned", "of another shape")


class Variation:
    """A set in ``root`` with links to ``aside``; its pictures ``used`` by name, and how many are to be ``counted``."""

    def __init__(self, place: Path, seed: int) -> None:
        self.root, self.aside = place / "set", place / "aside"
        self.rng = np.random.default_rng([2026, seed])
        self.form = FORMS[seed % len(FORMS)]
        self.encode = ENCODINGS[self.pick(tuple(ENCODINGS))]
        self.end = self.pick(ENDS)
        self.identify = self.pick(IDS)
        self.stems = self.rng.permutation(len(STEMS))
        self.used: set[str] = set()
        self.counted = 0
        self.pictures: list[tuple[Path, str]] = []  # path below the folder of images, and how its size is stated
        for number in range(int(self.rng.integers(2, 5))):
            self.add(number)
        self.path = {"folder": self.folder, "list": self.listing, "classes": self.classes}.get(self.form, self.coco)()

    def pick(self, choices: tuple[Any, ...]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    @property
    def images(self) -> Path:
        return self.root / ("ant" if self.form == "classes" else "images/val")

    def add(self, number: int) -> None:
        """One picture: the first is always plain, so that the set is never empty."""
        listed = self.form in ("list", "coco", "coco in yaml")
        first = number == 0
        suffix = ".jpg" if first else self.pick((*READ, *UNREAD))
        place = "beside" if first else self.pick(PLACES)
        size = self.pick(SIZES) if "coco" in self.form and suffix == ".jpg" and not first else "stated"
        name = STEMS[self.stems[number]] + suffix
        folder = {"below": "sub", "linked folder": "link", "hidden": ".ipynb_checkpoints"}.get(place, "")
        path = Path(folder, name)
        data = (
            b"\0\0\0\x18ftypheic"
            if suffix in UNREAD
            else picture(suffix, mode=self.pick(MODES.get(suffix, ("color",))))
        )
        if size == "turned":
            data = with_exif(data, 6)
        target = self.images / path
        if place == "linked folder":
            (self.aside / "folder").mkdir(exist_ok=True, parents=True)
            self.images.mkdir(exist_ok=True, parents=True)
            if not (self.images / "link").exists():
                (self.images / "link").symlink_to(self.aside / "folder")
        if place == "linked file":
            write(self.aside / "files" / name, data)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.symlink_to(self.aside / "files" / name)
        elif place != "gone":
            write(target, data)
        elif not listed:
            target.parent.mkdir(exist_ok=True, parents=True)
            target.symlink_to(self.aside / "nowhere")
        self.pictures.append((path, size))
        readable = suffix not in UNREAD and place != "gone" and size != "of another shape"
        if readable and (listed or place != "hidden"):
            self.used.add(name)
        elif place != "hidden" or listed or suffix not in UNREAD:  # of a hidden folder only pictures are counted
            self.counted += 1

    def label(self, path: Path) -> None:
        x, y, w, h = BOX
        values = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
        text = f"1 {' '.join(f'{v:.6f}' for v in values)}{self.end}"
        place = self.root / "labels/val" / path
        write(Path(os.path.splitext(place)[0] + ".txt"), self.encode(text))

    def yaml(self, text: str) -> Path:
        words = f"{text}{self.end}names: [yes, 0010]{self.end}nc: '2'{self.end}"
        return write(self.root / "data.yaml", self.encode(words))

    def folder(self) -> Path:
        for path, _ in self.pictures:
            self.label(path)
        return self.yaml("val: images/val")

    def listing(self) -> Path:
        for path, _ in self.pictures:
            self.label(path)
        separator = self.pick(("/", "\\"))
        lines = [f"images{separator}val{separator}{str(path).replace('/', separator)}" for path, _ in self.pictures]
        text = self.end.join(lines) + self.end
        try:
            data = self.encode(text)
        except UnicodeEncodeError:  # a name that is no UTF-8 is bytes in the list too
            data = text.encode("utf-8", "surrogateescape")
        write(self.root / "list.txt", data)
        return self.yaml("val: list.txt")

    def classes(self) -> Path:
        write(self.root / "bee" / "1.png", picture())
        self.used.add("1.png")
        return self.root

    def coco(self) -> Path:
        images, annotations = [], []
        separator = self.pick(("/", "\\"))
        for number, (path, size) in enumerate(self.pictures):
            name = str(path).replace("/", separator)
            image: dict[str, Any] = {"id": self.identify(number), "file_name": name, "width": WIDTH, "height": HEIGHT}
            box = np.array(BOX, float)
            if size == "none":
                del image["width"]
            elif size == "text":
                image |= {"width": str(WIDTH), "height": f"{HEIGHT}.0"}
            elif size == "half":
                image |= {"width": WIDTH // 2, "height": HEIGHT // 2}
                box /= 2
            elif size == "turned":  # upright it is HEIGHT wide; its boxes are fractions of that
                x1, y1, x2, y2 = white(self.images / path) if (self.images / path).exists() else (0, 0, 9, 9)
                box = np.array([x1 / HEIGHT * WIDTH, y1 / WIDTH * HEIGHT, 0, 0])
                box[2:] = (x2 - x1) / HEIGHT * WIDTH, (y2 - y1) / WIDTH * HEIGHT
            elif size == "of another shape":
                image["width"] = WIDTH - 20
            images.append(image)
            category = self.identify(2)
            annotations.append({"image_id": image["id"], "category_id": category, "bbox": box.tolist(), "iscrowd": "0"})
        categories = [{"id": self.identify(i), "name": name} for i, name in ((1, "yes"), (2, "0010"))]
        document = {"images": images, "annotations": annotations, "categories": categories}
        data = json.dumps(document).encode(self.pick(("utf-8", "utf-8-sig", "utf-16", "utf-32")))
        path = write(self.root / "val.json", data)
        return path if self.form == "coco" else self.yaml("val: val.json\nimages: images/val".replace("\n", self.end))


def assert_objects_are_where_it_is_white(dataset: Dataset) -> None:
    for sample in dataset.samples:
        height, width = read_image(sample.path).shape[:2]
        labels = sample.labels.scaled(width, height)
        assert labels.classes.tolist() == [1], sample.path
        np.testing.assert_allclose(labels.boxes[0], white(sample.path), atol=3, err_msg=str(sample.path))


@pytest.mark.parametrize("seed", range(VARIATIONS))
def test_used_whole_or_counted(tmp_path: Path, seed: int) -> None:
    made = Variation(tmp_path, seed)
    if made.form == "coco":
        dataset = open_dataset(made.path, "detect", images=[made.images])
    else:
        dataset = open_dataset(made.path, None if made.form == "classes" else "detect")
    account = account_of(dataset)
    assert {sample.path.name for sample in dataset.samples} == made.used
    counted = sum(found["count"] for found in account.to_dict()["left_out"].values())
    assert counted == made.counted, account.sentences()
    assert bool(account.left_out) == any("left out" in sentence for sentence in account.sentences())
    if made.form == "classes":
        assert [dataset.names[sample.labels.class_id or 0] for sample in dataset.samples].count("bee") == 1
        return
    assert dataset.names == ("yes", "0010")
    assert_objects_are_where_it_is_white(dataset)
