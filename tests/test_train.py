"""The training loop: what it writes, that it resumes exactly, and what it does when things go wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks import shapeset
from edgekit import checkpoint
from edgekit.bundle.loading import open_session
from edgekit.cli import main
from edgekit.data import open_dataset
from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.runtime.predictor import Predictor
from edgekit.train import loop, setup
from edgekit.train.options import TrainOptions
from edgekit.verify.evaluate import evaluate
from tests.watchers import Interrupted, Watching

SMALL = TrainOptions(epochs=3, batch=4, imgsz=(64, 64), workers=0, patience=0, close_mosaic=1, seed=5)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn images to train on and four to validate on."""
    return shapeset.make_set(tmp_path_factory.mktemp("shapes"), train=10, val=4, size=96)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by color."""
    root = tmp_path_factory.mktemp("colors")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name, channel in (("blue", 0), ("red", 2)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (48, 40, 3), dtype=np.uint8)
                image[..., channel] += 150
                cv2.imwrite(str(root / split / name / f"{i}.png"), image)
    return root


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "resume.pt", weights_only=True)


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    """Bit for bit, through whatever is nested in whatever."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), where


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    """A run that nothing interrupted."""
    return loop.train(shapes, "yolo12n", tmp_path_factory.mktemp("whole"), SMALL)


def test_a_run_leaves_what_it_promises(whole: loop.Result, shapes: Path) -> None:
    assert whole.epochs == 3 and len(whole.history) == 3 and not whole.unread
    rows = list(csv.DictReader((whole.folder / "results.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(float(row["loss_box"]) > 0 and 0 <= float(row["map50_95"]) <= 1 for row in rows)
    assert json.loads((whole.folder / "options.json").read_text())["epochs"] == 3
    assert (whole.folder / "labels.png").is_file() and (whole.folder / "batch.png").is_file()
    loaded = checkpoint.load(whole.best)
    assert loaded.names == shapeset.NAMES and loaded.imgsz == (64, 64)
    assert loaded.provenance["epoch"] == whole.best_epoch
    with Predictor(open_session(whole.best), batch=4) as predictor:
        again = evaluate(predictor, open_dataset(shapes, "detect", "val"))
    assert again.scores.metrics == pytest.approx(whole.metrics, abs=1e-6)


def test_weights_move_and_the_average_follows(whole: loop.Result) -> None:
    state = state_of(whole.folder)
    fresh = checkpoint.new(loop.checkpoint.load(whole.best).spec, seed=SMALL.seed).net.state_dict()
    moved = [k for k, v in state["net"].items() if v.is_floating_point() and not torch.equal(v, fresh[k])]
    still = set(fresh) - set(moved) - {k for k in fresh if k.endswith("num_batches_tracked")}
    # Nine batches need not have an object for the box branch of the coarsest cells.
    assert {k for k in still if not k.startswith("model.21.cv2.2.")} == {"model.21.dfl.conv.weight"}
    assert any(not torch.equal(state["average"][k], state["net"][k]) for k in moved)


@pytest.mark.parametrize(  # three batches an epoch
    "batches", [pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long), 7]
)
def test_a_killed_run_resumes_to_the_very_same_bits(
    batches: int, whole: loop.Result, shapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(save_minutes=0), watch=Watching(batches))
    resumes = (tmp_path / "resume.pt").exists()  # not when the very first batch was the last
    again = loop.train(shapes, "yolo12n", tmp_path, SMALL, resume=resumes)
    mine, theirs = state_of(tmp_path), state_of(whole.folder)
    for key in ("net", "average", "updates", "optimizer", "scaler", "progress"):
        assert_equal(mine[key], theirs[key], key)
    assert again.metrics == whole.metrics


def test_a_resumed_run_needs_its_own_data_and_options(whole: loop.Result, tmp_path: Path, shapes: Path) -> None:
    other = shapeset.make_set(tmp_path / "other", train=10, val=4, size=96, seed=3)
    with pytest.raises(InputError, match="was trained on .* not the same"):
        loop.train(other, "yolo12n", whole.folder, SMALL, resume=True)
    with pytest.raises(UsageError, match="`lr` 0.5: the run was started with None"):
        loop.train(shapes, "yolo12n", whole.folder, SMALL.replace(lr=0.5), resume=True)
    with pytest.raises(InputError, match="holds no run"):
        loop.train(shapes, "yolo12n", tmp_path / "nothing", SMALL, resume=True)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "resume.pt").write_bytes((whole.folder / "resume.pt").read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        loop.train(shapes, "yolo12n", damaged, SMALL, resume=True)


def test_a_full_disk_costs_no_file_that_was_there(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watching()
    real, saves = torch.save, []

    def save(document: Any, path: Any) -> None:
        saves.append(path)
        if len(saves) > 3:  # best, last and resume of the first epoch
            Path(path).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(document, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match="could not be written.*run again with `resume`"):
        loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(epochs=2), watch=watcher)
    monkeypatch.undo()
    assert any("No space left" in note for note in watcher.notes)
    assert checkpoint.load(tmp_path / "best.pt").provenance["epoch"] == 1
    assert state_of(tmp_path)["progress"]["epoch"] == 1
    assert not list(tmp_path.glob("*.partial"))
    assert loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(epochs=2), resume=True).epochs == 2


def with_faulty_loss(monkeypatch: pytest.MonkeyPatch, faulty: Any) -> None:
    real, count = setup._loss, []

    def make(*args: Any) -> Any:
        inner = real(*args)

        def loss(raw: Any, targets: Any) -> Any:
            total, terms = inner(raw, targets)
            count.append(1)
            return (total * float("nan") if faulty(len(count)) else total), terms

        return loss

    monkeypatch.setattr(setup, "_loss", make)


def test_a_step_that_is_not_finite_is_left_out_and_counted(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faulty_loss(monkeypatch, lambda n: n == 2)
    result = loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(epochs=2, warmup=0))
    assert result.skipped_steps == 1
    assert all(torch.isfinite(v).all() for v in state_of(tmp_path)["net"].values() if v.is_floating_point())


def test_many_such_steps_end_the_run_with_advice(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_faulty_loss(monkeypatch, lambda n: n > 3)
    monkeypatch.setattr(loop, "HOPELESS", 4)
    with pytest.raises(GateError, match="not finite.*`lr`"):
        loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(epochs=30, val_every=30))


def test_classification_learns_colours(flowers: Path, tmp_path: Path) -> None:
    options = SMALL.replace(epochs=20, augment={"hsv_h": 0.0, "randaugment": 0, "erasing": 0.0}, val_every=4)
    result = loop.train(flowers, "yolo12n-cls", tmp_path, options)
    assert result.metrics["top1"] == 1.0
    assert [("top1" in row) for row in result.history] == [False, False, False, True] * 5


def test_frozen_layers_stay_as_they_were(shapes: Path, whole: loop.Result, tmp_path: Path) -> None:
    result = loop.train(shapes, str(whole.best), tmp_path, SMALL.replace(epochs=1, freeze=9))
    before, after = checkpoint.load(whole.best).net.state_dict(), checkpoint.load(result.best).net.state_dict()
    for key, value in before.items():
        layer = int(key.split(".")[1])
        if layer < 9:
            assert torch.equal(value, after[key]), key
    assert not torch.equal(before["model.20.cv2.conv.weight"], after["model.20.cv2.conv.weight"])
    assert result.taken.tensors == result.taken.of


def test_early_stopping(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.2, 0.1])

    class Scored:
        def __init__(self) -> None:
            self.scores = self
            self.metrics = {"map50_95": next(metrics)}

    monkeypatch.setattr(loop, "_validate", lambda *args: Scored())
    result = loop.train(shapes, "yolo12n", tmp_path, SMALL.replace(epochs=20, patience=3))
    assert (result.epochs, result.best_epoch) == (5, 2)
    assert result.stopped and "for 3 epochs" in result.stopped


def test_what_cannot_be_trained_on(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: images/train\nval: nowhere\nnames: [a]\n")
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/train/a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(EdgekitError, match="val"):
        loop.train(tmp_path / "data.yaml", "yolo12n", tmp_path / "run", SMALL)
    with pytest.raises(UsageError, match="`batch` 100000: yolo12n at 64x64 needs about .* fit"):
        loop.train(shapes, "yolo12n", tmp_path / "run", SMALL.replace(batch=100000))
    with pytest.raises(UsageError, match="`device`"):
        loop.train(shapes, "yolo12n", tmp_path / "run", SMALL.replace(device="cuda:7"))
    with pytest.raises(UsageError, match="`freeze` 40"):
        loop.train(shapes, "yolo12n", tmp_path / "run", SMALL.replace(freeze=40))
    with pytest.raises(UsageError, match="`augment` mozaic"):
        loop.train(shapes, "yolo12n", tmp_path / "run", SMALL.replace(augment={"mozaic": 1.0}))
    assert not (tmp_path / "run" / "resume.pt").exists()


def test_a_class_without_objects_and_a_bad_file_are_said(shapes: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(shapes.parent, tmp_path / "set"))
    labels = sorted((copied / "labels/train").glob("*.txt"))
    for file in labels:
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("4 ")))
    image = sorted((copied / "images/train").iterdir())[0]
    image.write_bytes(image.read_bytes()[:50])
    watcher = Watching()
    result = loop.train(copied / "data.yaml", "yolo12n", tmp_path / "run", SMALL.replace(epochs=1), watch=watcher)
    assert any("no object of star in train" in note for note in watcher.notes)
    assert len(result.unread) == 1 and image.name in result.unread[0]


def run_cli(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *words])
    assert not end.value.code


def test_the_command_prints_one_document_and_draws(
    shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--epochs", "1", "--batch", "4", "--imgsz", "64", "--workers", "0", "--augment", "mosaic=0.5"]
    run_cli(str(shapes), "--out", str(out), *options, "--json")
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert {split: found["images"] for split, found in document["data"].items()} == {"train": 10, "val": 4}
    assert document["epochs"] == 1 and set(document["metrics"]) >= {"map50_95", "map50"}
    assert "epoch   1/1" in captured.err
    for name in ("curves", "confusion", "pr_curve", "predictions", "worst", "labels", "batch"):
        assert cv2.imread(str(out / f"{name}.png")) is not None, name
    with pytest.raises(SystemExit) as end:
        main(["train", str(shapes), "--out", str(out), *options])
    assert end.value.code == 2 and "--resume" in capfd.readouterr().err
    run_cli(str(shapes), "--out", str(out), "--resume", "--json")
    assert json.loads(capfd.readouterr().out)["metrics"] == document["metrics"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch", "many"], "--batch many"),
        (["--augment", "mosaic"], "NAME=NUMBER"),
        (["--model", "yolo12n-seg", "--task", "pose"], "drop one"),
        (["--optimizer", "lion"], "--optimizer lion"),
    ],
)
def test_wrong_words_get_a_sentence(
    words: list[str], sentence: str, shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", str(shapes), "--out", str(tmp_path / "run"), *words])
    assert end.value.code == 2 and sentence in capfd.readouterr().err


# ---- minutes each -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/bccd"
    for split in ("train", "val"):
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
            (tmp_path / kind / split).mkdir(parents=True)
            for image in sorted((source / "images/train").glob("*.jpg"))[:8]:
                shutil.copy(source / kind / "train" / f"{image.stem}{suffix}", tmp_path / kind / split)
    names = open_dataset(source, "detect", "val").names
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(names)}\n")
    options = TrainOptions(
        epochs=300, batch=8, nominal_batch=8, imgsz=(320, 320), workers=0, augment={"none": 1}, val_every=50, patience=0
    )
    result = loop.train(tmp_path / "data.yaml", "yolo12n", tmp_path / "run", options)
    assert result.metrics["map50"] > 0.95


@pytest.mark.slow
def test_eight_flowers_are_learnt_by_heart(shared: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder in sorted((shared / "data/flowers5/train").iterdir())[:4]:
            (tmp_path / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:2]:
                shutil.copy(image, tmp_path / split / folder.name)
    options = TrainOptions(
        epochs=150, batch=8, imgsz=(128, 128), workers=0, augment={"none": 1}, nominal_batch=8, lr=0.001, val_every=50
    )
    assert loop.train(tmp_path, "yolo12n-cls", tmp_path / "run", options).metrics["top1"] == 1.0


@pytest.mark.slow
def test_compiled_training_is_the_same_training(shapes: Path, tmp_path: Path) -> None:
    once = SMALL.replace(epochs=1, batch=5, amp="off")  # no smaller last batch, to be compiled once
    eager, compiled = (
        loop.train(shapes, "yolo12n", tmp_path / str(on), once.replace(compile=on)).history[0] for on in (False, True)
    )
    for name in ("loss_box", "loss_cls", "loss_dfl"):
        assert compiled[name] == pytest.approx(eager[name], rel=1e-3)
    assert (
        checkpoint.load(tmp_path / "True/last.pt").net.state_dict().keys()
        == checkpoint.load(tmp_path / "False/last.pt").net.state_dict().keys()
    )


@pytest.mark.slow
def test_thirty_kills(shapes: Path, tmp_path: Path) -> None:
    """Real processes, killed with SIGKILL at random moments, resumed: all end at the same bits."""
    words = ["--epochs", "4", "--batch", "4", "--imgsz", "64", "--workers", "1", "--threads", "1", "--patience", "0"]

    def start(out: Path, resume: bool) -> subprocess.Popen:
        more = ["--resume"] if resume else ["--force"]
        command = [sys.executable, "-m", "edgekit", "train", str(shapes), "--out", str(out), *words, *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    began = time.monotonic()
    assert start(tmp_path / "whole", False).wait() == 0
    seconds = time.monotonic() - began
    expected, rng, kills, round_ = state_of(tmp_path / "whole"), random.Random(0), 0, 0
    while kills < 30:
        out = tmp_path / f"run{round_}"
        round_ += 1
        while True:
            process = start(out, (out / "resume.pt").exists())
            try:
                if process.wait(rng.uniform(0.3, 1.1) * seconds) == 0:
                    break
                pytest.fail("the run failed by itself")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
        mine = state_of(out)
        for key in ("net", "average", "updates", "optimizer", "progress"):
            assert_equal(mine[key], expected[key], key)
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_small_disk_fills_up(shapes: Path, whole: loop.Result, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=180m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    filler = place / "filler"

    class Fills(Watching):
        def ended_epoch(self, run: setup.Run, row: object) -> None:
            if run.progress.epoch == 1:
                filler.write_bytes(b"x" * max(shutil.disk_usage(place).free - (4 << 20), 0))

    try:
        watcher = Fills()
        with pytest.raises(InputError, match="could not be written"):
            loop.train(shapes, "yolo12n", place / "run", SMALL, watch=watcher)
        assert any("could not be written" in note for note in watcher.notes)
        assert checkpoint.load(place / "run" / "best.pt").names == shapeset.NAMES
        assert state_of(place / "run")["progress"]["epoch"] == 1
        filler.unlink()
        assert loop.train(shapes, "yolo12n", place / "run", SMALL, resume=True).metrics == whole.metrics
    finally:
        subprocess.run(["umount", str(place)], check=False)
