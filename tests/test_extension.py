"""A target, a rule and a command are one file each, a task of known roles one folder: put into a copy of the package,
they work everywhere, and no other file of the copy changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.long
REPO = Path(__file__).resolve().parents[1]
OWN = Path(__file__).parent / "extension"
PLACES = {"plain.py": "targets", "doubled_relu.py": "graph/rules", "classes.py": "cli", "points": "tasks"}
NAMES = ("dark", "light")


class Copy:
    """The repository's package somewhere else, with the new files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("edgekit", "models", "benchmarks"):
            shutil.copytree(REPO / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for file, place in PLACES.items():
            added = folder / "edgekit" / place / file
            if (OWN / file).is_dir():
                shutil.copytree(OWN / file, added, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(OWN / file, added)

    def __call__(self, *words: Any, code: int = 0) -> Any:
        """What a command prints as JSON; of one that fails, its message."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *map(str, words)],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr if code else json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout


@pytest.fixture(scope="module")
def edgekit(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, dark and light."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for name, level in zip(NAMES, (60, 190), strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.normal(level, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / split / name / f"{split}{i}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with two dots each, and labels ``class x y``, which only the task ``points`` reads."""
    folder = tmp_path_factory.mktemp("dotted")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for i in range(count):
            picture = rng.normal(60, 10, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            places = rng.uniform(0.2, 0.8, (2, 2))
            for x, y in (places * 64).astype(int).tolist():
                cv2.circle(picture, (x, y), 5, (230, 230, 230), -1)
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), picture)
            (folder / "labels" / split / f"{i}.txt").write_text("".join(f"0 {x:.4f} {y:.4f}\n" for x, y in places))
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [dot]\n")
    return folder


@pytest.fixture(scope="module")
def trained(edgekit: Copy, dotted: Path) -> Path:
    """A run of one epoch on points, from random weights."""
    pytest.importorskip("torch")
    small = ("--epochs", 1, "--imgsz", 64, "--batch", 6, "--workers", 0)
    said = edgekit("train", dotted, "--model", "yolo12n-pts", *small, "--out", edgekit.folder / "run", "--json")
    assert said["epochs"] == 1 and said["data"]["train"]["objects"] == 24
    assert 0 <= said["metrics"]["point_map50_95"] <= 1
    return Path(said["best"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from edgekit import checkpoint as checkpoints
    from edgekit.checkpoint import catalog

    made = checkpoints.new(catalog.spec("yolo12n-cls", classes=2), NAMES, imgsz=64)
    return checkpoints.save(made, tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def bundles(edgekit: Copy, checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    edgekit("build", checkpoint, "--target", "plain-fp32", "--out", folder / "fp32")
    gates = ("--data", data, "--max-drop", 100, "--force")
    edgekit("build", checkpoint, "--target", "plain-int8", *gates, "--out", folder / "int8")
    return {"plain-fp32": folder / "fp32", "plain-int8": folder / "int8"}


def test_the_target_is_known_to_doctor(edgekit: Copy) -> None:
    report = edgekit("doctor", "--json")
    ready = {row["name"]: row["ready"] for row in report["targets"]}
    assert ready["plain-fp32"] and ready["plain-int8"]
    assert "plain-runtime" in {package["name"] for package in report["packages"]}


def test_it_builds_with_parity_and_gates(bundles: dict[str, Path]) -> None:
    wide, narrow = (json.loads((bundles[t] / "manifest.json").read_text()) for t in ("plain-fp32", "plain-int8"))
    assert wide["target"] == wide["built_by"] == "plain-fp32" and "plain.bin" in wide["files"]
    assert wide["parity"]["class_probabilities"]["pass"]
    assert narrow["accuracy"]["metric"] == "top1" and narrow["calibration"]["images"] == 20
    assert narrow["speed"]["against"] == "plain-fp32", "its float sibling, by its own record"


def test_what_is_built_answers_is_timed_and_described(edgekit: Copy, bundles: dict[str, Path], data: Path) -> None:
    picture = next((data / "val" / "light").iterdir())
    answers = [edgekit("predict", bundles[t], picture, "--json")[0]["probs"] for t in bundles]
    assert np.allclose(*answers, atol=0.25) and sum(answers[0]) == pytest.approx(1, abs=1e-4)
    records = edgekit("bench", *bundles.values(), "--images", data / "val" / "dark", "--budget", 1, "--json")
    assert [record["target"] for record in records] == list(bundles)
    assert edgekit("inspect", bundles["plain-int8"], "--json")["target"] == "plain-int8"
    assert edgekit("val", bundles["plain-fp32"], data, "--json")["images"] == 8
    page = edgekit.folder / "report.html"
    edgekit("report", *bundles.values(), "--data", data, "--budget", 1, "--out", page)
    assert "plain-int8" in page.read_text()


def test_a_server_that_does_not_read_it_is_refused(edgekit: Copy, checkpoint: Path) -> None:
    for layout in ("triton", "ovms"):
        said = edgekit(
            "build", checkpoint, "--target", "plain-fp32", "--layout", layout, "--out", edgekit.folder / "x", code=2
        )
        assert "plain-fp32" in said and layout in said and "ort-fp32" in said


def test_auto_tries_it(edgekit: Copy, checkpoint: Path, data: Path) -> None:
    edgekit(
        "build", checkpoint, "--target", "auto", "--images", data / "val" / "dark", "--out", edgekit.folder / "auto"
    )
    plan = json.loads((edgekit.folder / "auto" / "plan.json").read_text())
    assert "plain-fp32" in {row["target"] for row in plan["rows"]}
    assert "plain-int8" in json.dumps(plan["left_out"]), "not tried for want of images to calibrate on, and said so"


def test_the_command_is_there(edgekit: Copy, bundles: dict[str, Path]) -> None:
    assert "classes" in edgekit("--help")
    assert edgekit("classes", bundles["plain-fp32"]) == list(NAMES)


RULE = """
from onnx import TensorProto, helper
from onnxscript import ir
from edgekit.graph.rewrite import RECIPES, RULES, rewrite

names = [rule.NAME for rule in RULES]
assert names.index("doubled_relu") == names.index("reshape_static") - 1
assert [n for n, r in RECIPES.items() if "doubled_relu" in [x.NAME for x in r.rules]] == ["portable"]
nodes = [helper.make_node("Relu", ["x"], ["a"], "first"), helper.make_node("Relu", ["a"], ["y"], "second")]
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in "xy")
model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", [x], [y])))
[report] = [r for r in rewrite(model, RECIPES["portable"].rules) if r.fired]
assert (report.rule, report.fired) == ("doubled_relu", 1) and len(list(model.graph)) == 1
"""


def test_the_rule_fires_in_the_recipe_it_names(edgekit: Copy) -> None:
    environment = os.environ | {"PYTHONPATH": str(edgekit.folder)}
    done = subprocess.run(
        [sys.executable, "-c", RULE], cwd=edgekit.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_task_is_known_everywhere(edgekit: Copy, dotted: Path) -> None:
    rows = {row["name"]: row for row in edgekit("models", "--task", "dots", "--json")}
    assert rows["yolo12n-pts"]["task"] == "points" and len(rows) == 5
    report = edgekit("data", "check", dotted, "--task", "points", "--json")
    assert report["task"] == "points"
    assert "--task" in edgekit("data", "check", dotted, "--json", code=2), "no other task reads these labels"


def test_the_task_trains_validates_exports_builds_and_predicts(edgekit: Copy, trained: Path, dotted: Path) -> None:
    """Built for the other new file's target: neither knows the other."""
    scores = edgekit("val", trained, dotted, "--json")
    assert scores["images"] == 4 and {"point_map50", "point_map50_95"} <= set(scores["metrics"])
    graph = edgekit("export", trained, "--out", edgekit.folder / "points.onnx", "--json")
    assert graph["task"] == "points" and [o["role"] for o in graph["outputs"]] == ["boxes", "scores", "labels"]
    folder = edgekit.folder / "points"
    edgekit("build", edgekit.folder / "points.onnx", "--target", "plain-fp32", "--out", folder)
    made = json.loads((folder / "manifest.json").read_text())
    assert made["task"] == "points" and all(made["parity"][role]["pass"] for role in ("boxes", "scores"))
    picture = dotted / "images/val/0.png"
    [found] = edgekit("predict", folder, picture, "--conf", "0.001", "--json")
    assert found["boxes"] and len(found["boxes"]) == len(found["scores"])
    assert edgekit("val", folder, dotted, "--json")["metrics"].keys() == scores["metrics"].keys()


@pytest.mark.slow
def test_the_tasks_int8_is_gated_by_its_own_metric(edgekit: Copy, trained: Path, dotted: Path) -> None:
    folder = edgekit.folder / "points-int8"
    gates = ("--data", dotted, "--max-drop", 100, "--force")
    edgekit("build", trained, "--target", "plain-int8", *gates, "--out", folder)
    made = json.loads((folder / "manifest.json").read_text())
    assert made["accuracy"]["metric"] == "point_map50_95" and made["calibration"]["images"] == 12


def test_no_other_file_changed(edgekit: Copy, bundles: dict[str, Path], trained: Path) -> None:
    places = {path: f"edgekit/{PLACES[path.relative_to(OWN).parts[0]]}" for path in OWN.rglob("*.py")}
    added = {f"{place}/{path.relative_to(OWN).as_posix()}" for path, place in places.items()}
    theirs = {p.relative_to(edgekit.folder).as_posix(): p for p in (edgekit.folder / "edgekit").rglob("*.py")}
    mine = {p.relative_to(REPO).as_posix(): p for p in (REPO / "edgekit").rglob("*.py")}
    assert set(theirs) - set(mine) == added
    assert all(theirs[name].read_bytes() == path.read_bytes() for name, path in mine.items())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("from edgekit.targets.plain import TARGETS", ("plain-fp32", "plain.py", "twin.py")),  # a name that another has
        ("from edgekit.targets._target import Target\nTARGETS = (Target(name='half'),)", ("twin.py", "builder")),
        ("TARGETS = ('ov-fp8',)", ("twin.py", "ov-fp8")),
        ("", ("twin.py", "TARGETS")),
        (
            "import dataclasses\nfrom edgekit.targets.plain import TARGETS as T\n"
            "TARGETS = (dataclasses.replace(T[1], name='none-int8', narrowing=''),)",
            ("twin.py", "none-int8", "narrowing"),
        ),
    ],
)
def test_a_record_that_cannot_be_is_named(edgekit: Copy, text: str, data: tuple[str, ...]) -> None:
    twin = edgekit.folder / "edgekit/targets/twin.py"
    twin.write_text(text)
    try:
        said = edgekit("doctor", "--json", code=2)
    finally:
        twin.unlink()
    assert all(word in said for word in data), said


RECORD = "from edgekit.tasks import Task\nTASK = Task(name='twin', suffix='{}', metric='m', roles={}, aliases=('{}',))"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("from edgekit.tasks.points import TASK", ("tasks/twin", "tasks/points")),  # a name that another has
        (RECORD.format("-seg", "('boxes', 'scores')", "twins"), ("tasks/twin", "tasks/segment", "-seg")),
        (RECORD.format("-t", "('boxes', 'scores')", "cls"), ("tasks/twin", "tasks/classify", "cls")),
        (RECORD.format("-t", "('boxes', 'smells')", "twins"), ("tasks/twin", "smells")),
        ("from edgekit.tasks import Task\nTASK = Task(name='twin')", ("tasks/twin", "suffix")),
        ("TASK = 'twin'", ("tasks/twin", "TASK")),
        ("", ("tasks/twin", "TASK")),
    ],
)
def test_a_tasks_record_that_cannot_be_is_named(edgekit: Copy, text: str, data: tuple[str, ...]) -> None:
    twin = edgekit.folder / "edgekit/tasks/twin"
    twin.mkdir()
    (twin / "__init__.py").write_text(text)
    try:
        said = edgekit("models", "--json", code=2)
    finally:
        shutil.rmtree(twin)
    assert all(word in said for word in data), said
