"""Wrong requests are refused before the work begins: by the command line, with neither torch nor a runtime imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit import checkpoint, targets
from edgekit.bundle import preflight
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.source import describe
from edgekit.checkpoint import catalog
from edgekit.errors import UsageError
from edgekit.runtime.processor import is_cpu

# One process for all: it says after each request how it ended and which of the heavy packages it took.
RUNNER = """
import contextlib, io, json, sys
from edgekit.cli import main
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        from edgekit.cli import _common
        _common.console.cache_clear()
        try:
            main(json.loads(line))
        except SystemExit as left:
            code = left.code
    taken = [name for name in ("torch", "onnx", "onnxruntime", "openvino", "nncf") if name in sys.modules]
    print(json.dumps([code, said.getvalue(), taken]), flush=True)
"""

REFUSED = {
    # build: words and numbers
    "no such target": ("build {detect} --target ov-fp8 --out {new}", "ov-fp8"),
    "a float calibrated": ("build {detect} --target ov-fp16 --calibration {photos} --out {new}", "not with ov-fp16"),
    "INT8 of nothing": ("build {detect} --target ort-int8 --out {new}", "give --data"),
    "a speedup that is not timed": ("build {detect} --target ov-fp16 --require-speedup 2 --out {new}", "-speedup"),
    "scores of a float": ("build {detect} --target ov-fp16 --recalibrate-scores --out {new}", "--recalibrate-scores"),
    "scores of a float in a shape": (
        "build {detect} --target ov-fp16 --source 1920x1080 --recalibrate-scores --out {new}",
        "--recalibrate-scores",
    ),
    "a speedup that is not timed in a search": (
        "build {detect} --target ov-fp16 --imgsz-search --data {photos} --require-speedup 2 --out {new}",
        "-speedup",
    ),
    "scores of a classifier": (
        "build {classify} --target ort-int8 --data {classes} --recalibrate-scores --out {new}",
        "--recalibrate-scores",
    ),
    "bits of a float": ("build {detect} --target ort-fp32 --weight-bits 7 --out {new}", "--weight-bits"),
    "an odd size": ("build {detect} --target ort-fp32 --imgsz 100 --out {new}", "--imgsz 100"),
    "a dynamic INT8": ("build {detect} --target ort-int8 --data {photos} --dynamic-batch --out {new}", "fixed batch"),
    "no such option": ("build {detect} --target ov-fp32 --option color=red --out {new}", "color"),
    "an option of another": ("build {detect} --target ort-fp32 --option sm=86 --out {new}", "--option sm"),
    "no such layout": ("build {detect} --target ort-fp32 --layout tar --out {new}", "--layout tar"),
    "a head in batches": ("build {detect} --target ort-fp32 --head nms --batch 2 --out {new}", "--head nms"),
    "no such head": ("build {detect} --target ort-fp32 --head best --out {new}", "--head best"),
    # build: files
    "no model": ("build {gone}.pt --target ort-int8 --data {photos} --out {new}", "gone.pt"),
    "no checkpoint": ("build {text} --target ort-fp32 --out {new}", "notes.txt"),
    "a folder as model": ("build {photos} --target ort-fp32 --out {new}", "no bundle"),
    "what is there": ("build {detect} --target ort-fp32 --out {text}", "--force"),
    "a file in the way": ("build {detect} --target ort-fp32 --out {text} --force", "a file"),
    "files in the way": ("build {detect} --target ort-fp32 --out {photos} --force", "other files"),
    "below a file": ("build {detect} --target ort-fp32 --out {text}/x", "is a file, no folder"),
    "no images": ("build {detect} --target ort-fp32 --images {photos}/*.tif --out {new}", "*.tif"),
    "broken images": ("build {detect} --target ort-fp32 --images {broken} --out {new}", "cut.jpg"),
    # build: what INT8 is calibrated on
    "no data": ("build {detect} --target ort-int8 --data {gone} --out {new}", "gone"),
    "too few pictures": ("build {detect} --target ov-int8 --data {photos} --out {new}", "at least 24 are needed"),
    "one picture": ("build {detect} --target ort-int8 --data {photos}/0.jpg --force --out {new}", "can be read: 1"),
    "other classes": ("build {classify} --target ort-int8 --data {classes} --out {new}", "'cat'"),
    "no manifest": ("build {detect} --target ort-int8 --calibration {text} --out {new}", "notes.txt: not a"),
    "a manifest alone": ("build {detect} --target ov-int8 --calibration {alone} --out {new}", "0.jpg"),
    "a set of another task": ("build {classify} --target ort-int8 --data {yaml} --out {new}", "classify"),
    # the other commands
    "auto on no data": ("build {detect} --target auto --data {gone} --out {new}", "gone"),
    "auto for a wish": ("build {detect} --target auto --objective fast --out {new}", "--objective fast"),
    "auto of no model": ("build {gone}.pt --target auto --out {new}", "gone.pt"),
    "no plan": ("build {detect} --plan {gone}.json --out {new}", "--plan"),
    "no plan in it": ("build {detect} --plan {alone} --out {new}", "not a plan"),
    "an old opset": ("export {detect} --opset 9 --out {new}.onnx", "--opset 9"),
    "export into a file": ("export {detect} --out {text}/x.onnx", "is a file, no folder"),
    "export in batches": ("export {detect} --head nms --dynamic-batch --out {new}.onnx", "--head nms"),
    "calibrate on few": ("calibrate {photos} --out {new}", "at least 24 are needed"),
    "calibrate on what is judged": ("calibrate {classes} --split val --out {new}", "--split val"),
    "calibrate below a file": ("calibrate {photos} --out {text}/m.json", "is a file, no folder"),
    "tune to nothing known": ("tune {detect} --data {yaml} --activation gelu --out {new}", "--activation gelu"),
    "tune for no target": ("tune {detect} --data {yaml} --target ort-fp8 --out {new}", "ort-fp8"),
    "tune on no data": ("tune {detect} --data {gone} --out {new}", "gone"),
    "train on no data": ("train {gone} --out {new}", "gone"),
    "train no model": ("train {yaml} --model yolo13z --out {new}", "yolo13z"),
    "a teacher of another task": ("train {yaml} --model yolo12n --teacher {classify} --out {new}", "--teacher"),
    "no teacher": ("train {yaml} --teacher {gone}.pt --out {new}", "gone.pt"),
    "compare with nothing": ("compare {detect} {gone}", "gone"),
    "compare on nothing": ("compare {detect} {detect} --images {gone}", "gone"),
    "bench nothing": ("bench {detect} {gone}", "gone"),
    "bench on no data": ("bench {detect} --data {gone}", "gone"),
    "bench on no images": ("bench {detect} --images {photos} --images {gone}", "gone"),
    "a table of INT8": ("table --scales n --targets ort-fp32,ov-int8", "--targets ov-int8"),
    "a table by no manifest": ("table --targets ov-int8 --calibration {text}", "notes.txt"),
    "val of nothing": ("val {gone} {yaml}", "gone"),
    "val on nothing": ("val {detect} {gone}", "gone"),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    for name, word in (("detect", "yolo12n"), ("classify", "yolo12n-cls")):
        made = checkpoint.new(catalog.spec(word, classes=2), ("ant", "bee"), imgsz=64)
        checkpoint.save(made, root / f"{name}.pt")
    for i in range(20):
        folder = root / ("photos" if i < 10 else "classes/train/cat" if i < 15 else "classes/val/cat")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.jpg"), np.random.default_rng(i).integers(0, 256, (48, 48, 3), np.uint8))
    (root / "broken").mkdir()
    (root / "broken" / "cut.jpg").write_bytes((root / "photos" / "0.jpg").read_bytes()[:500])
    (root / "notes.txt").write_text("notes")
    (root / "images").mkdir()
    shutil.copyfile(root / "photos" / "0.jpg", root / "images" / "0.jpg")
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [ant, bee]\n")
    entries = [{"path": f"away/{i}.jpg", "sha256": "0" * 64, "why": "bright"} for i in range(20)]
    manifest = {"schema": 1, "set": "away", "split": "train", "task": "detect", "seed": 0, "images": entries}
    (root / "alone.json").write_text(json.dumps(manifest))
    names = {"text": "notes.txt", "alone": "alone.json", "yaml": "data.yaml", "detect": "detect.pt"}
    names |= {"classify": "classify.pt"} | {name: name for name in ("photos", "classes", "broken", "gone", "new")}
    return {name: root / path for name, path in names.items()}


def test_wrong_requests_are_refused_before_anything_is_loaded(places: dict[str, Path]) -> None:
    words = {name: [part.format(**places) for part in line.split()] for name, (line, _) in REFUSED.items()}
    requests = "\n".join(json.dumps(each) for each in words.values())
    done = subprocess.run([sys.executable, "-c", RUNNER], input=requests, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(REFUSED)
    wrong = {}
    for (name, (_, told)), (code, said, taken) in zip(REFUSED.items(), answers, strict=True):
        once = said.count("error:") == 1 or said.startswith("Usage")
        if code != 2 or told not in said or not once or taken:
            wrong[name] = code, said, taken
    assert not wrong
    assert not places["new"].exists() and not [p for p in places["new"].parent.iterdir() if ".partial" in p.name]


def test_a_right_request_is_let_through(places: dict[str, Path], tmp_path: Path) -> None:
    for target in ("ort-fp32", "ov-fp16"):
        checked = preflight.of_build(
            places["detect"], targets.get(target), tmp_path / "out", BuildOptions((64, 64), images=[places["photos"]])
        )
        assert checked == preflight.Checked(targets.get(target).options())


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_what_a_checkpoint_is_for_is_told_without_reading_it_whole(task: str, tmp_path: Path) -> None:
    suffix = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}[task]
    names = ("ant", "b\u00e9e")
    made = checkpoint.new(catalog.spec(f"yolo12n{suffix}", classes=2), names, imgsz=64)
    found = describe(checkpoint.save(made, tmp_path / "model.pt"))
    assert (found.task, found.names) == (task, names)


def test_published_checkpoints_too(shared: Path) -> None:
    known = {
        "bccd": ("detect", ("RBC", "WBC", "Platelets")),
        "seg-balloon": ("segment", ("balloon",)),
        "pose-person": ("pose", ("person",)),
        "obb-table-tennis": ("obb", ("net", "racket", "table")),
        "cls-flowers5": ("classify", ("daisy", "dandelion", "roses", "sunflowers", "tulips")),
    }
    for name, expected in known.items():
        found = describe(shared / "fixtures" / f"yolo12n-{name}.pt")
        assert (found.task, found.names) == expected


def test_words_for_the_processor(places: dict[str, Path]) -> None:
    from edgekit.bundle import loading

    assert [is_cpu(word) for word in (None, "cpu", "CPU", "Cpu:0", "cpu:1", "cuda:0", "GPU")] == [True] * 4 + [
        False
    ] * 3
    assert loading.open_session(places["classify"], device="CPU:0").info.task == "classify"


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_words_for_the_processor_in_bundles(target: str, tmp_path: Path) -> None:
    from edgekit.bundle import loading
    from tests.tiny import tiny_bundle

    place = tiny_bundle(tmp_path / "bundle", "detect", target)
    for word in ("cpu", "CPU", "cpu:0"):
        loading.open_session(place, device=word).close()  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="`device` cpu:1"):
        loading.open_session(place, device="cpu:1")
