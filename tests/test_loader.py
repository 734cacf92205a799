"""The loader: one sample whatever the workers, cache, rank or start; bad files, dying workers and killed parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgekit.data.open import open_dataset
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.runtime.image import centre_crop, letterbox, read_image
from edgekit.train import cache
from edgekit.train.augment import Augment
from edgekit.train.loader import Batch, Loader, Loading, Workers
from edgekit.train.samples import SampleBuilder

SETS = {
    "detect": "bccd/data.yaml",
    "segment": "balloon/data.yaml",
    "pose": "person_pose/data.yaml",
    "obb": "table_tennis_obb/data.yaml",
    "classify": "flowers5",
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are processes on Linux only")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Ten images of noise, each with as many boxes as its number says."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(10):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.jpg"), rng.integers(0, 256, (60 + 8 * i, 100, 3), np.uint8))
        rows = [f"{j % 2} {0.2 + 0.05 * j} 0.5 0.2 0.4" for j in range(i)]
        (tmp_path / "labels" / f"{i}.txt").write_text("\n".join(rows))
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a, b]\n")
    return tmp_path / "data.yaml"


def opened(path: Path, task: str = "detect"):
    return open_dataset(path, task, "train")


def loader(path: Path, batch: int = 4, augment: Augment | None = None, **options) -> Loader:
    options = {"workers": 0, "cache": "none"} | options
    return Loader(opened(path), (96, 96), batch, augment or Augment(mixup=0.5), Loading(**options))


def same(one: Batch, other: Batch) -> bool:
    fields = ("image", "classes", "boxes", "rotated", "keypoints", "masks", "class_id")
    pairs = [(one.images, other.images)] + [(getattr(one.targets, f), getattr(other.targets, f)) for f in fields]
    return one.paths == other.paths and all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


def all_same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


# ---- one sample whatever happens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"cache": "ram"},
        {"cache": "disk"},
        {"workers": 2},
        {"workers": 3, "cache": "ram"},
        {"workers": 2, "cache": "disk"},
    ],
)
def test_workers_and_cache_change_nothing(small, options):
    want = [list(loader(small).epoch(e)) for e in (0, 1, 1)]
    other = loader(small, **options)
    found = [list(other.epoch(e)) for e in (0, 1, 1)]  # from the second on out of the cache
    other.close()
    assert all(map(all_same, want, found))
    assert not torch.equal(want[0][0].images, want[1][0].images)


@pytest.mark.parametrize("count", [0, 2])
def test_an_epoch_can_be_entered_anywhere(small, count):
    other = loader(small, workers=count)
    whole = list(other.epoch(3))
    assert [same(a, b) for a, b in zip(whole[1:], other.epoch(3, start=1), strict=True)] == [True, True]
    closed = list(other.epoch(3, mosaic=False))
    assert not torch.equal(closed[0].images, whole[0].images) and closed[0].paths == whole[0].paths
    half = other.epoch(4)
    next(half)  # left in the middle
    assert all_same(list(other.epoch(3)), whole)
    with pytest.raises(RuntimeError, match="ended"):
        next(half)
    other.close()


def test_every_image_once_an_epoch_in_another_order(small):
    epochs = [[p for batch in loader(small).epoch(e) for p in batch.paths] for e in range(3)]
    assert all(len(paths) == 10 == len(set(paths)) for paths in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [p for batch in loader(small, seed=1).epoch(0) for p in batch.paths]


def test_ranks_share_the_batch_of_one_process(small):
    whole = list(loader(small, batch=4).epoch(0))
    ranks = [list(loader(small, batch=2, rank=r, world=2).epoch(0)) for r in range(2)]
    for together, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(together.images[::2], first.images) and torch.equal(together.images[1::2], second.images)
        assert together.paths[::2] == first.paths and together.paths[1::2] == second.paths
    uneven = [list(loader(small, batch=3, rank=r, world=3).epoch(0)) for r in range(3)]  # 9 and then 1
    assert [len(b) for b in uneven] == [2, 2, 2] and [len(b[1].paths) for b in uneven] == [1, 1, 1]


def test_a_new_epoch_is_under_way_before_the_old_one_ends(small):
    other = loader(small, workers=2)
    want = [list(loader(small).epoch(e)) for e in (0, 1)]
    assert all_same(list(other.epoch(0)), want[0])
    assert [p.plan.epoch for p in other._pending] == [1, 1, 1]
    assert all_same(list(other.epoch(1)), want[1])
    other.close()


def test_a_batch_stays_what_it_is_while_others_are_made(small):
    other = loader(small, workers=2)
    kept = list(other.epoch(0))
    other.close()
    assert all_same(kept, list(loader(small).epoch(0)))


# ---- what comes out -----------------------------------------------------------------------------------------------


def test_without_augmentation_batches_are_what_validation_sees(small):
    dataset = opened(small)
    by_path = {sample.path: sample for sample in dataset.samples}
    for batch in Loader(dataset, (96, 64), 4, Augment.none(), Loading(workers=0, cache="ram")).epoch(0):
        for i, path in enumerate(batch.paths):
            image = read_image(path)
            canvas, place = letterbox(image, (96, 64))
            assert np.array_equal(batch.images[i].numpy(), canvas[:, :, ::-1].transpose(2, 0, 1))
            want = place.boxes_to_canvas(by_path[path].labels.scaled(image.shape[1], image.shape[0]).boxes)
            assert np.allclose(batch.targets.boxes[batch.targets.image == i].numpy(), want, atol=1e-3)


@pytest.mark.parametrize("task", SETS)
def test_labels_of_real_sets_are_in_order(shared, task):
    dataset = opened(shared / "data" / SETS[task], task)
    batch = next(Loader(dataset, (192, 192), 16, Augment.recipe("x"), Loading(workers=0, cache="none")).epoch(0))
    targets, count = batch.targets, len(batch.targets.classes)
    assert batch.images.shape == (16, 3, 192, 192) and batch.images.dtype == torch.uint8 and targets.count == 16
    assert targets.boxes.shape == (count, 4) and targets.boxes.dtype == torch.float32
    assert (targets.image.diff() >= 0).all() and targets.classes.dtype == targets.image.dtype == torch.int64
    assert [f is not None for f in (targets.rotated, targets.keypoints, targets.masks, targets.class_id)] == [
        task == "obb", task == "pose", task == "segment", task == "classify"]  # fmt: skip
    if task == "classify":
        assert [dataset.names[c] for c in targets.class_id] == [p.parent.name for p in batch.paths]
        return
    assert count > 16
    sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
    assert sides.min() >= 2 or task == "obb"
    if task != "obb":
        assert targets.boxes.min() >= 0 and targets.boxes.max() <= 192
    if task == "obb":
        w, h, angle = targets.rotated[:, 2:].T
        assert (w >= h).all() and (h >= 1).all() and (angle >= -np.pi / 2 - 1e-6).all() and (angle < np.pi / 2).all()
    if task == "pose":
        points, seen = targets.keypoints[..., :2], targets.keypoints[..., 2] > 0
        assert points.shape[1:] == (17, 2) and seen.any() and points.min() >= 0 and points.max() <= 192
    if task == "segment":
        assert targets.masks.shape == (16, 48, 48) and targets.masks.dtype == torch.int16
        for i in range(16):
            boxes = targets.boxes[targets.image == i] / 4
            for k in targets.masks[i].unique()[1:].tolist():
                rows, columns = torch.nonzero(targets.masks[i] == k, as_tuple=True)
                x1, y1, x2, y2 = boxes[k - 1].tolist()
                assert x1 - 0.25 <= columns.min() + 0.5 and columns.max() + 0.5 <= x2 + 0.25
                assert y1 - 0.25 <= rows.min() + 0.5 and rows.max() + 0.5 <= y2 + 0.25


def test_classification_without_augmentation_is_the_centre_crop(shared):
    dataset = opened(shared / "data" / "flowers5", "classify")
    batch = next(Loader(dataset, (96, 96), 4, Augment.none(), Loading(workers=0)).epoch(0))
    for image, path in zip(batch.images, batch.paths, strict=True):
        want, _ = centre_crop(read_image(path), (96, 96))
        assert np.array_equal(image.numpy(), want[:, :, ::-1].transpose(2, 0, 1))


def test_large_jpegs_are_decoded_small_and_upright(tmp_path):
    image_lib = pytest.importorskip("PIL.Image")
    gradient = np.linspace(0, 255, 800).astype(np.uint8)
    picture = image_lib.fromarray(np.dstack([np.tile(gradient, (600, 1)), np.zeros((600, 800), np.uint8)] * 2)[..., :3])
    exif = image_lib.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    (tmp_path / "train" / "a").mkdir(parents=True)
    picture.save(tmp_path / "train" / "a" / "x.jpg", exif=exif, quality=95)
    sample = opened(tmp_path, "classify").samples[0]
    found = cache.prepared(sample, (100, 100), False, exact=False)
    assert found.shape == (100, 75, 3)
    want = cv2.resize(read_image(sample.path), (75, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - want).mean() < 2
    exact = cache.prepared(sample, (100, 100), False, exact=True)
    assert np.array_equal(exact, cv2.resize(read_image(sample.path), (75, 100), interpolation=cv2.INTER_LINEAR))


# ---- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"cache": "ram"}, {"cache": "disk", "workers": 2}])
def test_a_bad_image_is_replaced_and_told_once(small, options):
    dataset_folder = small.parent / "images"
    (dataset_folder / "3.jpg").write_bytes(b"no image")
    (dataset_folder / "5.jpg").write_bytes((dataset_folder / "5.jpg").read_bytes()[:300])
    want = [list(loader(small).epoch(e)) for e in (0, 1)]
    other = loader(small, **options)
    found = [list(other.epoch(e)) for e in (0, 1)]
    other.close()
    assert all(map(all_same, want, found))
    assert len(other.skipped) == 2 and {"3.jpg", "5.jpg"} == {Path(s.split(":")[0]).name for s in other.skipped}
    paths = [p.name for batch in found[0] for p in batch.paths]
    assert len(paths) == 10 and not {"3.jpg", "5.jpg"} & set(paths)


@pytest.mark.parametrize("count", [0, 2])
def test_a_set_without_a_readable_image_is_refused(small, count):
    for path in (small.parent / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the 10 train images can be read"):
        next(loader(small, workers=count).epoch(0))


@linux
def test_dead_workers_are_replaced(small):
    other = loader(small, workers=2, batch=2)
    want, found = list(loader(small, batch=2).epoch(0)), []
    for i, batch in enumerate(other.epoch(0)):
        found.append(batch)
        if i in (0, 2):
            for pid in other._pool.pids():
                os.kill(pid, signal.SIGKILL)
    other.close()
    assert all_same(found, want)


@linux
def test_a_job_that_kills_every_worker_ends_with_advice(small, monkeypatch):
    monkeypatch.setattr(SampleBuilder, "part", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(EdgekitError, match="memory ran out"):
        next(loader(small, workers=1).epoch(0))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=linux)])
def test_workers_hand_on_errors_and_results(processes):
    def work(job):
        if job < 0:
            raise UsageError("below")
        return job + 1

    pool = Workers(2, work, processes)
    assert [part.result() for part in [pool.submit(i) for i in range(10)]] == [i + 1 for i in range(10)]
    with pytest.raises(UsageError, match="below"):
        pool.submit(-1).result()
    pool.close()


@linux
def test_a_lock_that_a_dead_worker_held_is_renewed(small):
    other = loader(small, workers=2, batch=2)
    batches = other.epoch(0)
    found = [next(batches)]
    for lock in other.images._recent._locks:
        lock.acquire()  # as by the worker
    os.kill(other._pool.pids()[0], signal.SIGKILL)
    found += batches
    other.close()
    assert all_same(found, list(loader(small, batch=2).epoch(0)))


@linux
def test_nothing_is_left_of_a_killed_run(small):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from edgekit.data.open import open_dataset\n"
        "from edgekit.train.loader import Loader, Loading\n"
        "from edgekit.train.augment import Augment\n"
        "l = Loader(open_dataset(sys.argv[1], 'detect', 'train'), (96, 96), 2, Augment(), Loading(workers=2))\n"
        "next(l.epoch(0)); print(*l._pool.pids(), flush=True); time.sleep(60)\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    run = subprocess.Popen([sys.executable, "-c", code, str(small), root], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# ---- the cache ----------------------------------------------------------------------------------------------------


def test_the_cache_goes_where_it_fits(small, tmp_path, monkeypatch):
    dataset = opened(small)
    assert cache.Images(dataset, (96, 96), False).mode == "ram"
    monkeypatch.setattr(cache, "available_memory", lambda: 100_000)
    assert cache.Images(dataset, (96, 96), False).mode == "none"
    with pytest.raises(UsageError, match=r"`cache` ram: 10 images take .* are available"):
        cache.Images(dataset, (96, 96), False, "ram")
    with pytest.raises(UsageError, match="choose from"):
        cache.Images(dataset, (96, 96), False, "disc")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cache.Images(dataset, (96, 96), False, "disk", blocked / "x").mode == "none"


def test_a_changed_image_is_not_taken_from_the_disk_cache(small, tmp_path):
    images = cache.Images(opened(small), (96, 96), False, "disk", tmp_path / "kept")
    before = images[0].copy()
    assert np.array_equal(images[0], before) and len(list((tmp_path / "kept").glob("*.npy"))) == 1
    cv2.imwrite(str(small.parent / "images" / "0.jpg"), np.zeros((50, 50, 3), np.uint8))
    assert images[0].max() < 5
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(b"damaged")
    assert images[0].max() < 5


def test_available_memory_is_something():
    assert 10**7 < cache.available_memory() < 10**15


def test_recent_images_are_shared_and_the_newest_wins() -> None:
    recent = cache.ImageCache(room=300, slots=4)
    images = {i: np.random.default_rng(i).integers(0, 256, (10, 10 - i, 3), dtype=np.uint8) for i in range(6)}
    assert recent.get(0) is None
    for i in range(6):
        recent.put(i, images[i])
    assert recent.get(0) is None and recent.get(1) is None  # 4 and 5 took their places
    for i in (2, 3, 4, 5):
        found = recent.get(i)
        assert found is not None and np.array_equal(found, images[i])
        found[:] = 0  # a copy: the next one is not touched
        assert np.array_equal(recent.get(i), images[i])
    recent.put(6, np.zeros((11, 10, 3), np.uint8))  # larger than a slot: not kept, and nothing is spoilt
    assert recent.get(6) is None and np.array_equal(recent.get(2), images[2])
