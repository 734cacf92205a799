"""Large pictures in tiles; objects of videos followed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.loading import open_session
from edgekit.errors import UsageError
from edgekit.runtime.many.tiles import Tiled, tiles
from edgekit.runtime.options import OpenOptions, Options
from edgekit.runtime.predictor import Predictor
from tests.conftest import Run
from tests.test_many import bundle as bundle
from tests.test_many import photos as photos
from tests.test_many import rows
from tests.test_sources import make_video
from tests.tiny import CANDIDATES, crowded_bundle, tiny_bundle


@pytest.mark.parametrize("side", [32, 100, 640])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("size", [(10, 700), (100, 100), (641, 640), (999, 1500)])
def test_tiles_cover_the_picture_and_overlap(side: int, overlap: float, size: tuple[int, int]) -> None:
    width, height = size
    covered = np.zeros((height, width), np.int32)
    places = tiles(width, height, side, overlap)
    for x1, y1, x2, y2 in places:
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1 and (overlap > 0 or covered.max() <= 4)
    lefts = sorted({x1 for x1, *_ in places})
    assert lefts[0] == 0 and lefts[-1] == max(width - side, 0)
    assert all(b - a <= side - int(side * overlap) for a, b in itertools.pairwise(lefts))


@pytest.mark.parametrize("size", [(300, 400), (64, 64), (65, 500), (40, 50)])
def test_it_finds_what_supervision_s_slicer_finds(size: tuple[int, int], tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    session = open_session(tiny_bundle(tmp_path / "model", "detect", "ort-fp32"))
    options = Options(conf=0.3, iou=0.5)
    image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    plain = Predictor(session, options)

    def found(part: np.ndarray) -> Any:
        return plain.predict(np.ascontiguousarray(part))[0].to_supervision()

    slicer = sv.InferenceSlicer(found, slice_wh=64, overlap_wh=12, iou_threshold=0.5)
    expected = slicer(image)
    with Tiled(session, Options(conf=0.3, iou=0.5, max_det=100_000), tile=64, overlap=0.2) as tiled:
        result = tiled(image)[0]
    assert len(result) == len(expected) > 5

    def ordered(boxes: Any, scores: Any, labels: Any) -> np.ndarray:
        table = np.column_stack([boxes, scores, labels])
        return table[np.lexsort(table.T)]

    np.testing.assert_allclose(
        ordered(result.boxes, result.scores, result.labels),
        ordered(expected.xyxy, expected.confidence, expected.class_id),
        atol=1e-3,
    )
    assert (np.diff(result.scores) <= 0).all()


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_several_at_once_find_the_same(target: str, tmp_path: Path) -> None:
    place = tiny_bundle(tmp_path / "model", "detect", target)
    image = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    found = []
    for how in (OpenOptions(threads=1), OpenOptions(threads=2, streams=2)):
        session = open_session(place, how)
        with Tiled(session, Options(conf=0.3), tile=64, overlap=0.2) as tiled:
            assert session.streams == (how.streams or 1)
            found.append(tiled([image, image[:100, :70], image[::2]]))
    for one, several in zip(*found, strict=True):
        assert len(one) == len(several) > 0 and (one.labels == several.labels).all()
        np.testing.assert_allclose(one.boxes, several.boxes, atol=1e-3)


def test_a_picture_holds_more_objects_than_a_tile_s_head(tmp_path: Path) -> None:
    session = open_session(crowded_bundle(tmp_path / "model", "ort-fp32"))
    options = Options(conf=0.2, iou=0.9, max_det=20 * CANDIDATES)
    with pytest.raises(UsageError):
        Predictor(session, options)
    image = np.zeros((256, 384, 3), np.uint8)
    with Tiled(session, options, tile=128, overlap=0) as tiled:
        assert len(tiled(image)[0]) > CANDIDATES
        assert len(tiled(image, max_det=CANDIDATES + 1)[0]) == CANDIDATES + 1


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_what_is_in_one_tile_is_moved_whole(task: str, tmp_path: Path) -> None:
    """At an overlap of none and tiles of their own, objects are those of each part, at the picture's pixels."""
    session = open_session(tiny_bundle(tmp_path / "model", task, "ort-fp32"))
    options = Options(conf=0.3, iou=1.0)  # nothing suppresses
    image = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    plain = Predictor(session, options)
    places = [(x, y) for y in (0, 64) for x in (0, 64, 128)]
    with Tiled(session, options, tile=64, overlap=0) as tiled:
        whole = tiled(image)[0]
        parts = [(x, y, plain(np.ascontiguousarray(image[y : y + 64, x : x + 64]))[0]) for x, y in places]
    assert len(whole) == sum(len(part) for _, _, part in parts) > 5
    x, y, part = max(parts, key=lambda each: each[2].scores[:1].max(initial=0))
    first = whole.to_dict()
    if task == "obb":
        np.testing.assert_allclose(whole.rotated_boxes[0], part.rotated_boxes[0] + [x, y, 0, 0, 0], atol=1e-3)
    else:
        np.testing.assert_allclose(first["boxes"][0], part.boxes[0] + [x, y, x, y], atol=1e-3)
    if task == "pose":
        np.testing.assert_allclose(whole.keypoints[0], part.keypoints[0] + [x, y, 0], atol=1e-3)
    if task == "segment":
        expected = np.zeros((128, 192), bool)
        expected[y : y + 64, x : x + 64] = part.masks[0]
        assert (whole.masks[0] == expected).all()


def test_tiles_from_the_command(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    base = ("predict", bundle, photos / "d0", "--conf", "0.3", "--tile", 32, "--overlap", "0.25")
    code, out, _ = run(*base, "--json")
    assert code == 0
    assert run(*base, "--format", "jsonl", "--out", tmp_path / "o")[0] == 0
    found = rows(tmp_path / "o" / "predictions.jsonl")
    assert [row["boxes"] for row in found] == [row["boxes"] for row in json.loads(out)]
    assert any(row["boxes"] for row in found)
    classifier = tiny_bundle(tmp_path / "c", "classify", "ort-fp32")
    assert run("predict", classifier, photos, "--json", "--tile", 32)[0] == 2
    with pytest.raises(UsageError):
        Tiled(open_session(bundle), tile=1, overlap=1.0)


def test_objects_of_a_video_keep_their_number(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    pytest.importorskip("trackers")
    video = make_video(tmp_path / "a.mp4", [100] * 12)  # nothing moves
    base = ("predict", bundle, "--conf", "0.5", "--track")
    code, out, error = run(*base, video, "--json")
    assert code == 0, error
    alone = json.loads(out)
    assert all(len(row["tracks"]) == len(row["boxes"]) for row in alone)
    followed = [{number for number in row["tracks"] if number >= 0} for row in alone]
    assert followed[-1] and followed[-1] == followed[-2] == followed[-3]
    for row, later in zip(alone[-3:], alone[-2:], strict=False):
        assert dict(zip(row["tracks"], row["labels"], strict=True)).items() >= {
            (n, label) for n, label in zip(later["tracks"], later["labels"], strict=True) if n >= 0
        } - {(-1, None)}
    assert run(*base, video, video, "--format", "jsonl", "--out", tmp_path / "o")[0] == 0
    found = rows(tmp_path / "o" / "predictions.jsonl")
    assert [row["tracks"] for row in found[:12]] == [row["tracks"] for row in alone]
    assert [[n >= 0 for n in row["tracks"]] for row in found[12:]] == [[n >= 0 for n in row["tracks"]] for row in alone]
    code, _, error = run(*base, photos / "d0", "--format", "jsonl", "--out", tmp_path / "p")
    assert code == 2 and "errors.jsonl" in error


def test_val_of_what_was_written(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    from edgekit.runtime.image import write_image

    model = tiny_bundle(tmp_path / "model", "detect", "ort-fp32")
    rng = np.random.default_rng(3)
    for i in range(12):
        write_image(
            _below(tmp_path / "images" / "val") / f"{i:02}.png", rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        )
        labels = "\n".join(f"{rng.integers(3)} {x:.3f} {y:.3f} 0.3 0.3" for x, y in rng.uniform(0.2, 0.8, (3, 2)))
        (_below(tmp_path / "labels" / "val") / f"{i:02}.txt").write_text(labels)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/val\nval: images/val\nnames: [ant, bee, cat]\n")
    base = ("predict", model, tmp_path / "images", "--format")
    for form in ("jsonl", "parquet"):
        for i in range(2):
            done = run(*base, form, "--out", tmp_path / form, "--scoring", "--shard", f"{i}/2")
            assert done[0] == 0, done
        code, out, error = run("val", model, data, "--json", "--predictions", tmp_path / form)
        assert code == 0, error
        plain = json.loads(run("val", model, data, "--json")[1])
        written = json.loads(out)
        assert written["images"] == plain["images"] == 12
        for name, value in plain["metrics"].items():
            if isinstance(value, float):
                assert written["metrics"][name] == pytest.approx(value, abs=1e-4), name
        assert plain["metrics"]["map50"] > 0
    assert run(*base, "jsonl", "--out", tmp_path / "cut")[0] == 0
    code, _, error = run("val", model, data, "--predictions", tmp_path / "cut")
    assert code == 2 and "--scoring" in error
    other = tiny_bundle(tmp_path / "other", "detect", "ort-fp32", seed=1)
    assert run("val", other, data, "--predictions", tmp_path / "jsonl")[0] == 2
    assert run(*base, "jsonl", "--out", tmp_path / "half", "--scoring", "--shard", "0/2")[0] == 0
    assert run("val", model, data, "--predictions", tmp_path / "half")[0] == 1
    write_image(tmp_path / "images" / "val" / "99.png", np.zeros((64, 96, 3), np.uint8))
    code, _, error = run("val", model, data, "--predictions", tmp_path / "jsonl")
    assert code == 2 and "99.png" in error


def _below(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
