"""What is kept of a scan of images: used while files stay the same, read anew when they do not, never in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.data import Issue, open_dataset
from edgekit.data.check import examine, open_splits
from edgekit.data.images import image_size
from edgekit.data.scan import Scan
from edgekit.errors import InputError

COUNT = 330  # more than one thread has under way


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of small PNGs of one box each."""
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        cv2.imwrite(str(image(tmp_path / "set", i)), rng.integers(0, 255, (8, 12, 3), np.uint8))
        (tmp_path / "set" / "labels" / f"{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.2 0.4")
    path = tmp_path / "set" / "data.yaml"
    path.write_text("train: images\nnames: [a, b]\n")
    return path


def image(folder: Path, number: int) -> Path:
    return folder / "images" / f"{number}.png"


def replaced(path: Path, content: bytes) -> None:
    """Other bytes in a file that looks as it did: of the same length, with the same time."""
    before = path.stat()
    path.write_bytes(content.ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def found(data: Path, scan: Scan | None = None, quick: bool = False) -> list[Issue]:
    scan = scan or Scan.beside(data)
    return examine(open_splits([data], scan=scan), 2, scan=scan, quick=quick).issues


def test_files_that_did_not_change_are_not_read_again(data: Path) -> None:
    assert found(data) == []
    replaced(image(data.parent, 7), b"no image any more")
    assert found(data) == []
    assert [(i.path.name, i.kind) for i in found(data, Scan())] == [("7.png", "unreadable")]


def test_files_that_changed_are_read_again(data: Path) -> None:
    assert found(data) == []
    image(data.parent, 7).write_bytes(b"no image any more")
    image(data.parent, 8).write_bytes(image(data.parent, 9).read_bytes())
    for _ in range(2):  # what is wrong is kept, too
        assert {(i.path.name, i.kind) for i in found(data)} == {("7.png", "unreadable"), ("9.png", "duplicate")}
    image(data.parent, 7).unlink()
    assert {(i.path.name, i.kind) for i in found(data)} == {("7.txt", "no image"), ("9.png", "duplicate")}


def test_a_check_goes_on_where_another_was_ended(data: Path) -> None:
    done = 0

    def interrupt(_: int) -> None:
        nonlocal done
        done += 1
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(open_splits([data]), 1, interrupt, Scan.beside(data))
    kept = Scan.beside(data).count
    assert done <= kept < COUNT
    for i in range(COUNT):
        replaced(image(data.parent, i), b"no image any more")
    assert [i.kind for i in found(data)] == ["unreadable"] * (COUNT - kept)


def test_a_quick_check_reads_headers_and_labels(data: Path) -> None:
    folder = data.parent
    whole = image(folder, 3).read_bytes()
    image(folder, 3).write_bytes(whole[: len(whole) - 30])  # its end is missing
    image(folder, 4).write_bytes(whole)
    image(folder, 5).write_bytes(b"nothing")
    (folder / "labels" / "6.txt").write_text("7 0.5 0.5 0.2 0.4")
    quick = {(i.path.name, i.kind) for i in found(data, quick=True)}
    assert quick == {("5.png", "unreadable"), ("6.txt", "class")}
    assert {(i.path.name, i.kind) for i in found(data)} == quick | {("3.png", "unreadable")}  # headers known, no more
    assert found(data, quick=True) != []


def test_sizes_of_a_json_are_taken_from_the_scan(data: Path) -> None:
    path = data.parent / "set.json"
    images = [{"id": i, "file_name": f"images/{i}.png", "width": 12, "height": 8} for i in range(COUNT)]
    box = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4]}
    path.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}))
    scan = Scan.beside(path)
    assert len(open_dataset(path, "detect", scan=scan)) == COUNT
    scan.save()
    replaced(image(data.parent, 7), b"no image any more")
    image_size.cache_clear()
    assert len(open_dataset(path, "detect", scan=Scan.beside(path))) == COUNT
    assert len(open_dataset(path, "detect", scan=Scan())) == COUNT - 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda whole: b"",
        lambda whole: b"not a scan",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole.replace(b"images", b"imagos", 1),
    ],
)
def test_a_scan_that_was_harmed_is_not_used_and_said_so(
    harm: Callable[[bytes], bytes], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(data) == []
    file = Scan.beside(data).file
    assert file is not None and caplog.text == ""
    file.write_bytes(harm(file.read_bytes()))
    image(data.parent, 7).write_bytes(b"no image any more")
    assert [i.kind for i in found(data)] == ["unreadable"]
    assert str(file) in caplog.text
    caplog.clear()
    assert Scan.beside(data).count == COUNT and caplog.text == ""  # and is whole again


def test_objects_in_a_scan_are_not_made(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert found(data) == []
    file = Scan.beside(data).file
    assert file is not None
    with np.load(file) as columns:
        harmed = dict(columns) | {"stats": np.array([{"a": 1}], object)}
    np.savez(file, **harmed)
    assert Scan.beside(data).count == 0 and str(file) in caplog.text


def test_a_folder_that_cannot_be_written_is_checked_all_the_same(data: Path) -> None:
    (data.parent / ".edgekit-cache").write_text("a file where the folder would be")
    assert found(data) == [] and found(data) == []


def test_what_is_not_there(tmp_path: Path) -> None:
    scan = Scan(tmp_path / "scan.npz")
    with pytest.raises(InputError, match=r"none\.png"):
        scan.size(tmp_path / "none.png")
    assert scan.content(tmp_path / "none.png").problem
    scan.save()
    assert Scan(tmp_path / "scan.npz").count == 0
