"""Many images: listed, shared out, written in parts, joined."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit.bundle.loading import load
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime.image import write_image
from edgekit.runtime.many import formats, listing, shards
from edgekit.runtime.many.merge import merge
from edgekit.runtime.many.options import ManyOptions
from edgekit.runtime.many.parts import Parts, parts_in
from edgekit.runtime.many.record import Record
from edgekit.runtime.many.shards import Shard, locked, parse
from edgekit.runtime.many.work import Task, work
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from tests.conftest import Run
from tests.test_predictor import FakeSession
from tests.test_sources import make_video
from tests.tiny import tiny_bundle

COUNT = 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("many") / "bundle", "detect", "ort-fp32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in three folders, one of them no photo."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT - 1):
        path = folder / f"d{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        write_image(path, rng.integers(0, 256, (40 + i, 64, 3), dtype=np.uint8))
    (folder / "d1" / "bad.png").write_bytes(b"torn")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def keys(sources: Sequence[object]) -> list[str]:
    return [item.key for item in listing.listed([str(source) for source in sources])]


def names(sources: Sequence[object]) -> list[str]:
    return [Path(key).name for key in keys(sources)]


# ---- what comes out ----------------------------------------------------------------------------------------------


def test_rows_are_what_one_image_after_the_other_gives(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    code, out, error = run("predict", bundle, photos, "--conf", "0.1", "--out", tmp_path / "o", "--format", "jsonl",
                           "--part-size", 5, "--batch", 3)  # fmt: skip
    assert code == 0 and not out and "1 of 24 files" in error
    found = rows(tmp_path / "o" / "predictions.jsonl")
    good = [p for p in sorted(photos.rglob("*.png")) if p.name != "bad.png"]
    assert [row["image"] for row in found] == [str(path) for path in good]
    with load(bundle, conf=0.1) as alone:
        for row in found:
            expected = alone(row["image"])[0]
            assert expected.shape == (row.pop("height"), row.pop("width")) and len(expected)
            assert row.pop("index") == sorted(photos.rglob("*.png")).index(Path(row["image"]))
            assert row == expected.to_dict()
    [bad] = rows(tmp_path / "o" / "errors.jsonl")
    assert Path(bad["image"]).name == "bad.png" and bad["index"] == 16


@pytest.mark.parametrize("form", ["jsonl", "parquet", "coco", "txt"])
def test_shards_batches_and_parts_leave_no_trace(
    run: Run, bundle: Path, photos: Path, tmp_path: Path, form: str
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    base = ("predict", bundle, photos, "--conf", "0.1", "--format", form, "--out")
    assert run(*base, tmp_path / "one", "--batch", 4)[0] == 0
    for i in (2, 0, 1):
        assert run(*base, tmp_path / "many", "--shard", f"{i}/3", "--part-size", 1 + i, "--threads", 1 + i)[0] == 0
    assert run("predict", "--merge", tmp_path / "many")[0] == 0

    def whole(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "shard-" not in str(path.relative_to(folder))
        }

    one = whole(tmp_path / "one")
    assert one == whole(tmp_path / "many") and len(one) == (COUNT if form == "txt" else 2)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_every_task_in_every_form(task: str, run: Run, photos: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    model = tiny_bundle(tmp_path / "model", task, "ort-fp32")
    for form in ("jsonl", "parquet", "coco", "txt"):
        done = run("predict", model, photos / "d0", "--conf", "0.2", "--format", form, "--out", tmp_path / form)
        assert done[0] == 0, done
    found = rows(tmp_path / "jsonl" / "predictions.jsonl")
    table = pq.read_table(tmp_path / "parquet" / "predictions.parquet").to_pylist()
    assert len(found) == len(table) == 8
    for row, line in zip(table, found, strict=True):
        assert {key for key, value in row.items() if value is not None} == line.keys()
        for key, value in line.items():
            if key in ("boxes", "keypoints", "rotated_boxes", "scores", "probs"):
                np.testing.assert_allclose(row[key], value, rtol=1e-6)
            else:
                assert row[key] == value
    document = json.loads((tmp_path / "coco" / "predictions.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [line["image"] for line in found]
    assert len(document["annotations"]) == sum(len(line["labels"]) for line in found if "probs" not in line)
    texts = sorted((tmp_path / "txt" / "labels").rglob("*.txt"))
    assert [path.stem for path in texts] == [Path(line["image"]).stem for line in found]
    for path, line in zip(texts, found, strict=True):
        _same_objects(path.read_text().splitlines(), line)


def _same_objects(lines: list[str], row: dict[str, Any]) -> None:
    """YOLO's text says what the row says."""
    if "probs" in row:
        assert [float(text.split()[0]) for text in lines] == pytest.approx(sorted(row["probs"], reverse=True), abs=1e-6)
        return
    assert [int(text.split()[0]) for text in lines] == row["labels"]
    for i, text in enumerate(lines):
        *numbers, score = map(float, text.split()[1:])
        assert score == pytest.approx(row["scores"][i], abs=1e-6)
        size = np.array([row["width"], row["height"]])
        if "rotated_boxes" in row:
            points = np.array(numbers).reshape(4, 2) * size
            (cx, cy), (w, h), _ = cv2.minAreaRect(points.astype(np.float32))
            np.testing.assert_allclose([cx, cy], row["rotated_boxes"][i][:2], atol=0.1)
            np.testing.assert_allclose(sorted((w, h)), sorted(row["rotated_boxes"][i][2:4]), atol=0.2)
        elif "masks" not in row:
            cx, cy, w, h = np.array(numbers[:4]) * np.tile(size, 2)
            np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], row["boxes"][i], atol=0.01)
            if "keypoints" in row:
                points = np.array(numbers[4:]).reshape(-1, 3) * [*size, 1]
                np.testing.assert_allclose(points, row["keypoints"][i], atol=0.01)


def test_coco_documents_are_read_by_coco_s_own_tools(run: Run, photos: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    mask = pytest.importorskip("pycocotools.mask")
    model = tiny_bundle(tmp_path / "model", "segment", "ort-fp32")
    assert run("predict", model, photos, "--conf", "0.2", "--format", "coco", "--out", tmp_path / "o")[0] == 0
    read = coco.COCO(str(tmp_path / "o" / "predictions.json"))
    assert len(read.imgs) == COUNT - 1 and {c["name"] for c in read.cats.values()} == {"ant", "bee", "cat"}
    for annotation in read.anns.values():
        inside = mask.decode(annotation["segmentation"])
        assert inside.shape == (read.imgs[annotation["image_id"]]["height"], 64)


# ---- killed ------------------------------------------------------------------------------------------------------


class Deadly(FakeSession):
    """Kills its process after so many images, as a machine may."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.seen = after, 0

    def run(self, batch: Any) -> dict[str, Any]:
        self.seen += len(batch)
        if self.seen > self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(batch)


def shard_of(folder: Path, shard: Shard, photos: Path, session: FakeSession, size: int, batch: int) -> None:
    """One process's work on a shard."""
    place = folder / shard.folder
    place.mkdir(parents=True, exist_ok=True)
    asked = ManyOptions(format="jsonl")
    model = folder.parent / "model"
    model.write_text("a model")
    Record.of(model, "fake", session.info, Options(), asked, [str(photos)]).write(place)
    with locked(place), Predictor(session, batch=batch) as predictor, Parts(place, formats.get("jsonl"), size) as parts:
        work(predictor, Task([str(photos)], shard), parts)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("size", [1, 3, 7])
def test_killed_at_every_image_and_resumed_nothing_is_lost_or_twice(photos: Path, tmp_path: Path, size: int) -> None:
    shard_of(tmp_path / "one", Shard(), photos, FakeSession(), 100, 4)
    merge(tmp_path / "one")
    rng, kills = random.Random(size), 0
    for index in range(2):
        shard, done = Shard(index, 2), False
        while not done:
            after = rng.randint(size, size + 6)
            child = os.fork()
            if not child:
                shard_of(tmp_path / "many", shard, photos, Deadly(after), size, rng.randint(1, 3))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            done = status == 0
            kills += os.WIFSIGNALED(status)
    assert kills >= 2
    merge(tmp_path / "many")
    assert (tmp_path / "one" / "predictions.jsonl").read_bytes() == (
        tmp_path / "many" / "predictions.jsonl"
    ).read_bytes()
    assert (tmp_path / "one" / "errors.jsonl").read_bytes() == (tmp_path / "many" / "errors.jsonl").read_bytes()


@pytest.mark.slow
def test_sigkill_at_fifty_random_moments(bundle: Path, tmp_path: Path) -> None:
    """The command itself, on 2,000 links to eight photos, in four shards."""
    rng, chance = np.random.default_rng(0), random.Random(0)
    links = tmp_path / "links"
    for i in range(2000):
        place = links / f"{i % 7}" / f"{i:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if i < 8:
            write_image(tmp_path / f"{i}.png", rng.integers(0, 256, (40 + i, 64, 3), dtype=np.uint8))
        os.link(tmp_path / f"{i % 8}.png", place)
    command = [sys.executable, "-m", "edgekit", "predict", str(bundle), str(links), "--conf", "0.1"]
    command += ["--format", "jsonl", "--part-size", "10", "--resume"]
    subprocess.run([*command, "--out", str(tmp_path / "one")], check=True, capture_output=True)
    kills, rounds = 0, 0
    out, left = tmp_path / "many", [0, 1, 2, 3]
    while left:
        index = left[rounds % len(left)]
        place = out / Shard(index, 4).folder
        before = len(parts_in(place))
        process = subprocess.Popen([*command, "--out", str(out), "--shard", f"{index}/4"], stderr=subprocess.DEVNULL)
        rounds += 1
        if kills < 50:
            until = chance.choice((0, 0, 1, 2))  # in starting, or when so many parts more are there
            while process.poll() is None and len(parts_in(place)) < before + until:
                time.sleep(0.001)
            time.sleep(chance.random() * (1.5 if until == 0 else 0.02))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        elif process.wait() == 0:
            left.remove(index)
    assert kills >= 50
    done = subprocess.run([*command[:4], "--merge", str(out)], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "predictions.jsonl").read_bytes() == (out / "predictions.jsonl").read_bytes()


def test_what_is_complete_stays_on_a_full_disk(bundle: Path, photos: Path, tmp_path: Path) -> None:
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))  # writing beyond it fails, as on a full disk
from edgekit.cli import main
main(["predict", {str(bundle)!r}, {str(photos)!r}, "--format", "jsonl", "--out", {str(tmp_path / "o")!r}, "--resume",
      "--conf", "0.5", "--part-size", sys.argv[1]])
"""
    first = subprocess.run([sys.executable, "-c", code, "24"], capture_output=True, text=True)
    place = tmp_path / "o" / Shard().folder
    assert first.returncode == 2 and "part.partial" in first.stderr and "Traceback" not in first.stderr
    assert not parts_in(place) and not list(place.glob("*.partial"))
    second = subprocess.run([sys.executable, "-c", code, "2"], capture_output=True, text=True)
    assert second.returncode == 2 and "predictions.jsonl" in second.stderr and "Traceback" not in second.stderr
    assert parts_in(place)[-1].end == COUNT and not list((tmp_path / "o").rglob("*.partial"))


SMALL_DISK = """
import shutil, subprocess, sys
place, kept, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", place], check=True)
print("mounted", flush=True)
def go():
    done = subprocess.run([sys.executable, "-m", "edgekit", *command], capture_output=True, text=True)
    return done.returncode, done.stderr
first = go()
shutil.copytree(place, kept + "/first")
subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
second = go()
shutil.copytree(place, kept + "/second")
print(repr((first, second)))
"""


def test_a_disk_that_is_full(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    """A file system of 48 KB, in a namespace of its own."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    place.mkdir()
    kept.mkdir()
    base = ("predict", str(bundle), str(photos), "--format", "jsonl", "--conf", "0.01", "--part-size", "2", "--out")
    command = [sys.executable, "-c", SMALL_DISK, str(place), str(kept), *base, str(place / "o"), "--resume"]
    try:
        done = subprocess.run(["unshare", "-rm", *command], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "mounted" not in done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[-200:]}")
    (code, error), again = ast.literal_eval(done.stdout.partition("mounted\n")[2])
    assert code == 2 and os.strerror(errno.ENOSPC) in error and error.count("error:") == 1 and "Traceback" not in error
    parts = parts_in(kept / "first" / "o" / Shard().folder)
    assert 0 < parts[-1].end < COUNT and not list(kept.rglob("*.partial"))
    assert again[0] == 0, again[1]
    assert run(*base, tmp_path / "o")[0] == 0
    expected = (tmp_path / "o" / "predictions.jsonl").read_bytes()
    assert (kept / "second" / "o" / "predictions.jsonl").read_bytes() == expected
    for part in parts:  # what was complete has stayed
        later = kept / "second" / "o" / part.path.parent.name / part.path.name
        assert later.read_bytes() == part.path.read_bytes()


# ---- whose are they ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0, 1, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 101])
def test_shares_are_disjoint_whole_and_equal(total: int, count: int) -> None:
    shares = [[p for p in range(total) if Shard(i, count).owns(p)] for i in range(count)]
    assert sorted(p for share in shares for p in share) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for i, share in enumerate(shares):
        assert Shard(i, count).size(total) == len(share)
        assert [Shard(i, count).position(n) for n in range(len(share))] == share


SLURM = {"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10",
         "SLURM_ARRAY_TASK_MAX": "19", "SLURM_ARRAY_TASK_STEP": "3"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, SLURM, Shard()),
        ("2/5", SLURM, Shard(2, 5)),
        ("auto", SLURM, Shard(1, 4)),
        ("auto/20", SLURM, Shard(13, 20)),
        ("auto/3", {"JOB_COMPLETION_INDEX": "2"}, Shard(2, 3)),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, None),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "2"}, None),  # a few tasks run again
        ("auto/13", SLURM, None),
        ("auto", {}, None),
        ("5/5", {}, None),
        ("1/0", {}, None),
        ("3", {}, None),
        ("-1/4", {}, None),
        ("a/b", {}, None),
    ],
)
def test_shards_as_they_are_named(text: str | None, environment: dict[str, str], expected: Shard | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            parse(text, environment)
    else:
        assert parse(text, environment) == expected


def test_two_processes_of_one_shard(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    base = ("predict", bundle, photos, "--format", "jsonl", "--out", tmp_path / "o", "--shard", "0/2")
    place = tmp_path / "o" / Shard(0, 2).folder
    place.mkdir(parents=True)
    with locked(place):
        code, _, error = run(*base)
        assert code == 2 and str(place) in error and str(os.getpid()) in error
        with pytest.raises(UsageError), locked(place):
            pass
    assert run(*base)[0] == 0


# ---- where they come from ----------------------------------------------------------------------------------------


def test_folders_are_gone_through_in_the_order_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    some = [f"{chance.randrange(10**6):x}/{i}.jpg" if i % 3 else f"{chance.randrange(10**6):x}.PNG" for i in range(40)]
    for name in [*some, ".hidden.jpg", "notes.txt", ".cache/a.jpg", "ä/ö.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = keys([tmp_path])
    assert sorted(found) == sorted(str(tmp_path / name) for name in [*some, "ä/ö.jpg"])

    def order(key: str) -> list[bytes]:
        *above, name = Path(key).relative_to(tmp_path).parts
        return [*(os.fsencode(part + "/") for part in above), os.fsencode(name)]

    assert found == sorted(found, key=order)
    monkeypatch.setattr(listing, "SORTED_IN_MEMORY", 5)
    assert keys([tmp_path]) == found


def test_lists_of_files_and_standard_input(
    run: Run, bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{photos / 'd0' / '03.png'}\n\n{tmp_path / 'nowhere.png'}\n{photos / 'd2'}\n{tmp_path / 'no folder'}\n"
    (tmp_path / "list.txt").write_text(text)
    found = keys([f"@{tmp_path / 'list.txt'}"])
    assert found == [str(photos / "d0" / "03.png"), str(tmp_path / "nowhere.png"), *keys([photos / "d2"]),
                     str(tmp_path / "no folder")]  # fmt: skip
    base = ("predict", bundle, "--format", "jsonl", "--conf", "0.1", "--out")
    code, _, error = run(*base, tmp_path / "a", f"@{tmp_path / 'list.txt'}")
    bad = {row["image"] for row in rows(tmp_path / "a" / "errors.jsonl")}
    assert code == 0 and bad == {str(tmp_path / "nowhere.png"), str(tmp_path / "no folder")} and "2 of 10" in error
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert run(*base, tmp_path / "b", "-")[0] == 0
    assert (tmp_path / "a" / "predictions.jsonl").read_bytes() == (tmp_path / "b" / "predictions.jsonl").read_bytes()
    code, _, error = run(*base, tmp_path / "c", f"@{tmp_path / 'list.txt'}", "--strict", "--part-size", 1)
    assert code == 2 and "nowhere.png" in error and len(parts_in(tmp_path / "c" / Shard().folder)) == 1


def packed(photos: Path, path: Path, mode: Any) -> Path:
    """The photos as WebDataset has them: each with a text beside it."""
    with tarfile.open(path, mode) as tar:
        for photo in sorted(photos.rglob("*.png")):
            tar.add(photo, photo.name)
            note = tarfile.TarInfo(f"{photo.stem}.cls")
            note.size = 1
            tar.addfile(note, io.BytesIO(b"3"))
    return path


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_archives(run: Run, bundle: Path, photos: Path, tmp_path: Path, suffix: str) -> None:
    archive = packed(photos, tmp_path / f"a.{suffix}", "w" if suffix == "tar" else "w:gz")
    assert keys([archive]) == [f"{archive}/{photo.name}" for photo in sorted(photos.rglob("*.png"))]
    base = ("predict", bundle, "--format", "jsonl", "--conf", "0.1", "--out")
    for i in range(2):
        assert run(*base, tmp_path / "a", archive, "--shard", f"{i}/2")[0] == 0
    assert run("predict", "--merge", tmp_path / "a")[0] == 0
    assert run(*base, tmp_path / "b", photos)[0] == 0
    one, other = rows(tmp_path / "a" / "predictions.jsonl"), rows(tmp_path / "b" / "predictions.jsonl")
    assert [{**row, "image": Path(row["image"]).name} for row in one] == [
        {**row, "image": Path(row["image"]).name} for row in other
    ]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_an_archive_cut_short(photos: Path, tmp_path: Path, suffix: str, share: float) -> None:
    whole = packed(photos, tmp_path / f"a.{suffix}", "w" if suffix == "tar" else "w:gz")
    cut = tmp_path / f"b.{suffix}"
    data = whole.read_bytes()
    payload = len(data.rstrip(b"\0")) if suffix == "tar" else len(data)
    cut.write_bytes(data[: int(payload * share)])
    items = list(listing.listed([str(cut)]))
    assert items[-1].problem and items[-1].key == str(cut)
    expected = [f"{cut}/{name}" for name in names([whole])][: len(items) - 1]
    assert [item.key for item in items[:-1]] == expected and len(items) < COUNT + 1
    good = [frame for item in items[:-1] for frame in listing.frames(item) if not item.key.endswith("bad.png")]
    assert all(frame.error is None for frame in good)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_wherever_a_compressed_archive_is_cut(photos: Path, tmp_path: Path, mode: str) -> None:
    """Whatever its name says: all of it or a problem, also where the cut is in the first bytes or the last."""
    data = packed(photos, tmp_path / "a.tgz", mode).read_bytes()
    end = len(data) if mode != "w" else len(data.rstrip(b"\0")) + 1
    cut = tmp_path / "b.tgz"
    for length in {*range(0, 20), *range(20, end, max(end // 200, 1)), *range(end - 30, end)}:
        cut.write_bytes(data[:length])
        assert list(listing.listed([str(cut)]))[-1].problem, length
    cut.write_bytes(data)
    assert not any(item.problem for item in listing.listed([str(cut)]))


def test_stores(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(photos), "/many/photos", recursive=True)
    store.put(str(packed(photos, tmp_path / "a.tar", "w")), "/many/a.tar")
    store.pipe("/many/list.txt", f"memory://many/photos/d0/00.png\n{photos / 'd0' / '03.png'}\n".encode())
    base = ("predict", bundle, "--format", "jsonl", "--conf", "0.1", "--out")
    assert run(*base, tmp_path / "local", photos)[0] == 0
    expected = [row["boxes"] for row in rows(tmp_path / "local" / "predictions.jsonl")]
    for i, source in enumerate(("memory://many/photos/", "memory://many/a.tar", "memory://many/photos/*/*.png")):
        code, _, error = run(*base, tmp_path / str(i), source)
        assert code == 0, error
        found = rows(tmp_path / str(i) / "predictions.jsonl")
        assert [row["boxes"] for row in found] == expected
        assert {row["image"][: len("memory://")] for row in found} == {"memory://"}, source
    assert names(["@memory://many/list.txt"]) == ["00.png", "03.png"]
    code, _, error = run(*base, tmp_path / "x", "memory://many/nothing")
    assert code == 2 and "memory://many/nothing" in error and not (tmp_path / "x").exists()
    store.rm("/many", recursive=True)


@pytest.mark.parametrize("key", ["https://me:secret@host/a.png", "https://me:secret@host/a.tar/b.png"])
def test_bytes_keep_the_address_that_they_are_from(key: str, photos: Path) -> None:
    [frame] = listing.frames(listing.Item(key, data=(photos / "d0" / "00.png").read_bytes()))
    assert frame.error is None and frame.name == key.replace("me:secret@", "")


def test_videos_are_one_file_of_many_rows(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    os.link(photos / "d0" / "00.png", folder / "a.png")
    make_video(folder / "b.mp4", list(range(0, 250, 25)))
    make_video(folder / "c.mp4", list(range(0, 250, 50)))
    for shard in ("0/2", "1/2"):
        code, _, error = run("predict", bundle, folder, "--format", "jsonl", "--out", tmp_path / "o", "--stride", 2,
                             "--shard", shard, "--part-size", 2)  # fmt: skip
        assert code == 0, error
    assert run("predict", "--merge", tmp_path / "o")[0] == 0
    found = [(row["index"], row.get("frame")) for row in rows(tmp_path / "o" / "predictions.jsonl")]
    assert found == [(0, None), *((1, 2 * i) for i in range(5)), *((2, 2 * i) for i in range(3))]


# ---- what does not belong together -------------------------------------------------------------------------------


def test_an_output_of_another_run(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    base = ("predict", bundle, photos, "--format", "jsonl", "--out", tmp_path / "o")
    assert run(*base)[0] == 0
    before = (tmp_path / "o" / "predictions.jsonl").read_bytes()
    for more, told in [
        ([], "--resume"),
        (["--resume", "--conf", "0.5"], "conf"),
        (["--resume", "--tile", "64"], "tile"),
        (["--resume", "--shard", "0/2"], "shards"),
    ]:
        code, _, error = run(*base, *more)
        assert code == 2 and told in error and str(tmp_path / "o") in error
    other = tiny_bundle(tmp_path / "other", "detect", "ort-fp32", seed=1)
    assert run("predict", other, *base[2:], "--resume")[0] == 2
    assert run("predict", bundle, photos / "d0", *base[3:], "--resume")[0] == 2
    assert (tmp_path / "o" / "predictions.jsonl").read_bytes() == before
    code, _, error = run(*base, "--resume")
    assert code == 0 and "complete" in error
    assert run(*base, "--force", "--conf", "0.5")[0] == 0
    assert (tmp_path / "o" / "predictions.jsonl").read_bytes() != before
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").write_text("words")
    assert run(*base[:-1], tmp_path / "else")[0] == 2
    assert [path.name for path in (tmp_path / "else").iterdir()] == ["thesis.txt"]


def test_parts_of_other_models_and_sources_do_not_merge(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    base = ("predict", bundle, photos, "--format", "jsonl", "--out")
    assert run(*base, tmp_path / "a", "--shard", "0/2")[0] == 0
    assert run(*base, tmp_path / "b", "--shard", "1/2", "--conf", "0.4")[0] == 0
    (tmp_path / "b" / Shard(1, 2).folder).rename(tmp_path / "a" / Shard(1, 2).folder)
    code, _, error = run("predict", "--merge", tmp_path / "a")
    assert code == 2 and "conf is 0.4" in error
    assert run("predict", "--merge", tmp_path)[0] == 2
    # a photo more between the shards
    some = tmp_path / "some"
    some.mkdir()
    for name in ("a.png", "b.png"):
        os.link(photos / "d0" / "00.png", some / name)
    base = ("predict", bundle, some, "--format", "jsonl", "--out", tmp_path / "c")
    assert run(*base, "--shard", "0/2")[0] == 0
    os.link(photos / "d0" / "00.png", some / "aa.png")
    assert run(*base, "--shard", "1/2")[0] == 0
    with pytest.raises(InputError):
        merge(tmp_path / "c")


def test_sources_that_changed_are_noticed_when_it_goes_on(photos: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for i in range(9):
        os.link(photos / "d0" / "00.png", some / f"{i}0.png")
    place = tmp_path / "o"
    with pytest.raises(OSError), Parts(_made(place), formats.get("jsonl"), 2) as parts:
        work(Predictor(Failing(5)), Task([str(some)]), parts, workers=1)  # so that the sixth image is the one
    assert [part.end for part in parts_in(place)] == [2, 4]
    os.link(photos / "d0" / "00.png", some / "05.png")
    with pytest.raises(UsageError), Parts(place, formats.get("jsonl"), 2) as parts:
        work(Predictor(FakeSession()), Task([str(some)]), parts)
    (some / "05.png").unlink()
    os.link(photos / "d0" / "00.png", some / "99.png")  # behind what is done
    with Parts(place, formats.get("jsonl"), 2) as parts:
        assert work(Predictor(FakeSession()), Task([str(some)]), parts).total == 10


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


class Failing(FakeSession):
    """A runtime that gives up after so many images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def run(self, batch: Any) -> dict[str, Any]:
        self.left -= 1
        if self.left < 0:
            raise OSError("the device is gone")
        return super().run(batch)


def test_what_is_missing_is_named(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    for i in (0, 2):
        run("predict", bundle, photos, "--format", "jsonl", "--out", tmp_path / "o", "--shard", f"{i}/3")
    with pytest.raises(GateError):
        merge(tmp_path / "o")
    every = keys([photos])
    assert (tmp_path / "o" / "missing.txt").read_text().splitlines() == every[1::3]
    assert not (tmp_path / "o" / "predictions.jsonl").exists()
    assert (
        run("predict", bundle, f"@{tmp_path / 'o' / 'missing.txt'}", "--format", "jsonl", "--out", tmp_path / "p")[0]
        == 0
    )


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_damaged_and_missing_parts(run: Run, bundle: Path, photos: Path, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    base = ("predict", bundle, photos, "--format", form, "--out", tmp_path / "o", "--part-size", 6)
    assert run(*base)[0] == 0
    output = next((tmp_path / "o").glob("predictions.*"))
    before = output.read_bytes()
    parts = parts_in(tmp_path / "o" / Shard().folder)
    parts[1].path.write_bytes(parts[1].path.read_bytes()[:-40])
    with pytest.raises(InputError, match=parts[1].path.name):
        merge(tmp_path / "o")
    parts[1].path.unlink()
    code, _, error = run(*base, "--resume")
    assert code == 2 and parts[2].path.name in error
    for part in parts[2:]:
        part.path.unlink()
    assert run(*base, "--resume")[0] == 0
    assert output.read_bytes() == before


def test_what_is_refused_at_once(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    base = ("predict", bundle, photos, "--format", "jsonl")
    assert run(*base)[0] == 2
    out = ("--out", tmp_path / "o")
    for words in [
        (*base, *out, "--json"),
        (*base, *out, "--frames", 3),
        (*base, *out, "--shard", "4/4"),
        (*base, *out, "--resume", "--force"),
        (*base, *out, "--actors", 2),
        ("predict", bundle, photos, *out, "--resume"),
        ("predict", bundle, photos, *out, "--shard", "0/2"),
        ("predict", bundle, tmp_path / "nowhere", *out, "--format", "jsonl"),
        ("predict", bundle, f"@{tmp_path / 'nowhere'}", *out, "--format", "jsonl"),
        ("predict", bundle, "rtsp://camera/1", *out, "--format", "jsonl"),
        ("predict", bundle, "-", photos, *out, "--format", "jsonl"),
        ("predict", bundle, "--merge", tmp_path),
        ("predict", "--merge", tmp_path / "nowhere"),
        ("predict",),
        ("predict", bundle),
    ]:
        code, printed, error = run(*words)
        assert code == 2 and not printed and "Traceback" not in error, words
        assert not (tmp_path / "o").exists(), words
    (tmp_path / "empty").mkdir()
    assert run("predict", bundle, tmp_path / "empty", *out, "--format", "jsonl")[0] == 2


def test_when_no_file_can_be_used(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    code, _, error = run("predict", bundle, photos / "d1" / "bad.png", "--format", "jsonl", "--out", tmp_path / "o")
    assert code == 2 and "errors.jsonl" in error


# ---- flat memory -------------------------------------------------------------------------------------------------


def test_only_a_few_images_are_ahead(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of images: the listing waits for the writing."""
    ahead: list[int] = []
    listed, written = [0], [0]
    original = listing.listed

    def counted(sources: Sequence[str]) -> Iterator[listing.Item]:
        for item in original(sources):
            listed[0] += 1
            yield item

    monkeypatch.setattr("edgekit.runtime.many.work.listed", counted)
    source = tmp_path / "list.txt"
    source.write_text(f"{photos / 'd0' / '00.png'}\n" * 300)

    def progress(done: int) -> None:
        written[0] = done
        ahead.append(listed[0] - done)
        time.sleep(0.0005)

    with Parts(_made(tmp_path / "o"), formats.get("jsonl"), 50) as parts:
        work(Predictor(FakeSession(), batch=2), Task([f"@{source}"]), parts, progress)
    assert written[0] == 300 and max(ahead) <= 16
    assert threading.active_count() < 20


def test_crops(run: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    found: Callable[[Path], dict[str, bytes]] = lambda folder: {  # noqa: E731
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))
    }
    base = ("predict", bundle, photos, "--conf", "0.5", "--save-crops", "--out")
    assert run(*base, tmp_path / "a", "--format", "jsonl")[0] == 0
    for i in range(2):
        assert run(*base, tmp_path / "b", "--format", "jsonl", "--shard", f"{i}/2")[0] == 0
    assert found(tmp_path / "a") == found(tmp_path / "b")
    expected = [(name, box) for row in rows(tmp_path / "a" / "predictions.jsonl")
                for name, box in zip(row["names"], row["boxes"], strict=True)]  # fmt: skip
    assert len(found(tmp_path / "a")) == len(expected) > 10
    assert {Path(name).parent.name for name in found(tmp_path / "a")} == {name for name, _ in expected}
    first = next(iter(sorted((tmp_path / "a" / "crops").rglob("00000000-*-1.jpg"))))
    x1, y1, x2, y2 = expected[0][1]
    assert cv2.imread(str(first)).shape[:2] == (np.ceil(y2) - np.floor(y1), np.ceil(x2) - np.floor(x1))
    assert run("predict", bundle, photos / "d0", "--conf", "0.5", "--save-crops", "--out", tmp_path / "c")[0] == 0
    assert len(found(tmp_path / "c")) > 1


def test_the_lock_s_file_is_no_part(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert parts_in(tmp_path) == [] and shards.parse("0/1") == Shard()
