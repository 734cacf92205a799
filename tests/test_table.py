"""The model-scale table: what it measures, what it says of what it could not, how it stands beside the published."""

from __future__ import annotations

import copy
import csv
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import checkpoint
from edgekit.bundle.loading import open_session
from edgekit.checkpoint import catalog
from edgekit.cli import _app
from edgekit.data import open_dataset
from edgekit.errors import InputError, UsageError
from edgekit.quantize import calibration
from edgekit.report import table, table_results, table_text
from edgekit.runtime.predictor import Predictor
from edgekit.tasks import network
from edgekit.verify.evaluate import evaluate
from tests import networks

MACHINE = {
    "cpu": {"model": "A CPU", "usable": 2},
    "packages": {"openvino": "2026.4"},
    "os": {"system": "Linux"},
    "gpus": [],
}


def times(p50: float) -> dict[str, float]:
    return {"min": 0.9 * p50, "p50": p50, "p90": 1.1 * p50, "p99": 1.2 * p50, "max": 1.3 * p50, "n": 50}


def figures(network: float = 40.0, **changes: Any) -> dict[str, Any]:
    return {
        "pre_ms": times(1.0), "network_ms": times(network), "post_ms": times(1.0), "whole_ms": times(network + 2.0),
        "precision_executed": "bf16", "precision_by_type": {"bf16": 100}, "ratio": None, "rounds": 50,
        "reliable": True, "disturbances": [], "not_measured": {"accuracy": table.NO_DATA}, **changes,
    }  # fmt: skip


def row(scale: str = "n", **targets: dict[str, Any]) -> dict[str, Any]:
    spec = catalog.build_spec(scale, "detect")
    counted = catalog.counted(spec)
    found: dict[str, Any] = {
        "name": spec.name, "scale": scale, "family": "v1.0", "task": "detect", "imgsz": [640, 640],
        "parameters": counted["parameters"], "flops_g": counted["convolution_flops"] / 1e9,
        "flops_with_attention_g": 7.5, "published": catalog.published(spec), "weights": None,
        "machine": copy.deepcopy(MACHINE), "measured": {k.replace("_", "-"): v for k, v in targets.items()},
    }  # fmt: skip
    found["difference"] = table_results.counted_differences(found)
    for target, measured in found["measured"].items():
        measured["difference"] = table_results.differences(found, target, measured)
    return found


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    rows = rows or (row(ov_fp16=figures()),)
    scored = next((f["accuracy"] for r in rows for f in r["measured"].values() if f.get("accuracy")), None)
    spec = catalog.build_spec("n", "detect")
    return {
        "schema": 1, "kind": "table", "family": "v1.0", "task": "detect", "scales": [r["scale"] for r in rows],
        "targets": list(rows[0]["measured"]), "imgsz": [640, 640],
        "set": scored and {"name": scored["set"], "images": scored["images"]},
        "source": table_results.published_source(spec), "rows": list(rows),
    }  # fmt: skip


ACCURACY = {"metric": "map50_95", "value": 0.416, "skipped": 0, "protocol": "coco"}
COCO = {**ACCURACY, "set": "coco, instances_val2017", "images": 5000}
T4 = {"gpus": [{"model": "Tesla T4"}]}


@pytest.fixture
def edgekit(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """``edgekit table WORDS`` → (exit code, JSON document or None, standard error)."""

    def call(*words: object) -> tuple[int, Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            _app.main(["table", *map(str, words)])
        out, err = capfd.readouterr()
        return int(end.value.code or 0), json.loads(out) if out else None, " ".join(err.split())

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``weights/`` with a classifier of three classes for scale n alone, and ``data/``, six labelled images."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "weights").mkdir()
    made = networks.settled("yolo12n-cls", networks.pictures(), 1e-3, ("a", "b", "c"))
    checkpoint.save(made, folder / "weights" / "yolo12n-cls.pt")
    rng = np.random.default_rng(0)
    for label in "abc":
        (folder / "data" / "val" / label).mkdir(parents=True)
        for i in range(2):
            picture = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "data" / "val" / label / f"{i}.png"), picture)
    return folder


@pytest.mark.long
def test_a_table_with_weights_for_one_scale_of_two(
    place: Path, edgekit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.json"
    words = ("--task", "classify", "--scales", "ns", "--targets", "ort-fp32,ov-fp32", "--imgsz", 64, "--budget", 1)
    inputs = ("--weights", place / "weights", "--data", place / "data", "--work-dir", tmp_path / "kept")
    code, found, err = edgekit(*words, *inputs, "--out", out, "--json")
    assert code == 0, err
    assert json.loads(out.read_text()) == found == table_results.check(found, "here")
    assert not (tmp_path / "table.json.partial").exists()
    first, second = found["rows"]
    assert {"scale", "family", "task", "parameters", "flops_g", "published", "measured", "machine"} <= first.keys()
    net = network.build(catalog.spec("yolo12n-cls", classes=3), "meta")
    assert first["parameters"] == sum(p.numel() for p in net.parameters())  # of the weights, not of the 1000 classes
    for target in ("ort-fp32", "ov-fp32"):
        measured = first["measured"][target]
        assert measured["accuracy"]["images"] == 6
        assert (measured["accuracy"]["set"], measured["accuracy"]["metric"]) == ("data, val", "top1")
        assert {"min", "p50", "p90", "p99", "n"} <= measured["network_ms"].keys()
        assert (tmp_path / "kept" / f"yolo12n-cls-{target}" / "manifest.json").is_file()
    assert len({first["measured"][t]["accuracy"]["value"] for t in first["measured"]}) == 1  # one function
    assert set(second["measured"]["ov-fp32"]["not_measured"].values()) == {"no yolo12s-cls.pt in weights"}
    assert "not measured: no yolo12s-cls.pt in weights" in err

    def build(*_: Any, **__: Any) -> None:
        raise InputError("it is built again")

    # What was kept is used again, but for other weights or sizes.
    monkeypatch.setattr("edgekit.bundle.build.build", build)
    again = table.Plan(("n",), ("ort-fp32",), task="classify", imgsz=(64, 64), weights=place / "weights", budget_s=1)
    pictures = [np.zeros((64, 64, 3), np.uint8)]
    assert "network_ms" in table.measure(again, pictures, keep=tmp_path / "kept")["rows"][0]["measured"]["ort-fp32"]
    (tmp_path / "others").mkdir()
    made = networks.settled("yolo12n-cls", networks.pictures(), 1e-3, ("a", "b", "c"), seed=1)
    checkpoint.save(made, tmp_path / "others" / "yolo12n-cls.pt")
    for other in (replace(again, weights=tmp_path / "others"), replace(again, imgsz=(96, 96))):
        (row,) = table.measure(other, pictures, keep=tmp_path / "kept")["rows"]
        assert row["measured"]["ort-fp32"]["not_measured"]["latency"] == "it is built again"


@pytest.mark.slow
def test_the_harness_as_with_coco(shared: Path, edgekit: Any, tmp_path: Path) -> None:
    """COCO's file format, ids and crowds; a checkpoint of the authors' own make with COCO's classes; INT8 calibrated on
    another split. What the table says of an artifact is what ``edgekit val`` finds in the very same
    (random weights find nothing; that the figure is the artifact's own is what the classifier's table shows)."""
    coco = shared / "data" / "coco_mix" / "annotations"
    names = [c["name"] for c in json.loads((coco / "instances_val2017.json").read_text())["categories"]]
    (tmp_path / "weights").mkdir()
    renamed(shared / "fixtures" / "yolo12n-turbo.pt", names, tmp_path / "weights" / "yolov12n.pt")
    train = open_dataset(coco / "instances_train2017.json", "detect", "train")
    calibration.write(calibration.choose(train, 16), tmp_path / "calibration.json")
    assert '"path": "../train2017/' in (tmp_path / "calibration.json").read_text()
    words = ("--family", "turbo", "--scales", "ns", "--targets", "ort-fp32,ov-int8,trt-fp16", "--imgsz", 96)
    inputs = ("--weights", tmp_path / "weights", "--data", coco / "instances_val2017.json", "--budget", 1)
    rest = ("--calibration", tmp_path / "calibration.json", "--max-drop", 5, "--work-dir", tmp_path / "kept", "--json")
    code, found, err = edgekit(*words, *inputs, *rest)
    assert code == 0, err
    assert found["set"] == {"name": "coco_mix, instances_val2017", "images": 158}
    first, second = (row["measured"] for row in found["rows"])
    for target in ("ort-fp32", "ov-int8"):
        measured = first[target]["accuracy"]
        assert (measured["set"], measured["images"]) == ("coco_mix, instances_val2017", 158)
        assert measured["metric"] == "map50_95"
        bundled = tmp_path / "kept" / f"yolo12n-turbo-{target}"
        labels = open_dataset(coco / "instances_val2017.json", "detect", names=tuple(names))
        with Predictor(open_session(bundled)) as predictor:
            assert measured["value"] == evaluate(predictor, labels).scores.metrics["map50_95"]
        assert "158 images of coco_mix, instances_val2017" in first[target]["difference"]["accuracy"]["unlike"]
    assert first["ov-int8"]["calibration"]["images"] == 16
    assert set(second["ov-int8"]["not_measured"].values()) == {"no yolo12s-turbo.pt in weights"}
    assert set(first["trt-fp16"]["not_measured"]) == {"latency", "accuracy"}
    assert "158 images of coco_mix" in err


def renamed(published: Path, names: list[str], out: Path) -> None:
    """A published checkpoint with other names of its 80 classes: strings in a pickle stand behind their lengths."""
    with zipfile.ZipFile(published) as source, zipfile.ZipFile(out, "w") as made:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                for i, name in enumerate(names):
                    old, new = f"class{i}".encode(), name.encode()
                    data = data.replace(
                        b"X" + struct.pack("<I", len(old)) + old, b"X" + struct.pack("<I", len(new)) + new
                    )
            made.writestr(entry, data)


def test_an_interrupted_table_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan, state, asked = table.Plan(scales=("n", "s", "m"), targets=("ov-fp16",)), tmp_path / "t.partial", []

    def measured(plan: table.Plan, scale: str, *_: Any) -> dict[str, Any]:
        asked.append(scale)
        if asked == ["n", "s"]:
            raise KeyboardInterrupt
        return row(scale, ov_fp16=figures())

    monkeypatch.setattr(table, "_row", measured)
    with pytest.raises(KeyboardInterrupt):
        table.measure(plan, [0], state=state)
    found = table.measure(plan, [0], state=state)
    assert asked == ["n", "s", "s", "m"]
    assert [r["scale"] for r in found["rows"]] == ["n", "s", "m"]
    other = table.Plan(scales=("n", "s", "m"), targets=("ort-fp32",))
    with pytest.raises(InputError, match="rows of another table"):
        table.measure(other, [0], state=state)
    state.write_text("{")
    with pytest.raises(InputError, match="remove it to start anew"):
        table.measure(plan, [0], state=state)


def test_published_and_measured_have_columns_of_their_own() -> None:
    like = row(trt_fp16=figures(2.0, accuracy=COCO, not_measured={}))
    like["machine"] |= T4
    like["measured"]["trt-fp16"]["difference"] = table_results.differences(
        like, "trt-fp16", like["measured"]["trt-fp16"]
    )
    headings, lines, notes = table_text.cells(document(like))
    assert notes == []  # the same images, the same GPU, the same precision
    assert headings[7:11] == ["mAP 50-95", "published", "network ms", "published"]
    assert lines[0][3:] == [
        "2.60",
        "2.6 (+0.1%)",
        "6.49",
        "6.5 (−0.2%)",
        "41.6",
        "40.6 (+1.0)",
        "2.00",
        "1.64 (+0.36)",
        "4.00 (4.80)",
    ]


def test_what_is_not_like_for_like_is_marked() -> None:
    elsewhere = {**ACCURACY, "set": "coco_mix, instances_val2017", "images": 158}
    doubtful = figures(accuracy=elsewhere, not_measured={}, reliable=False, disturbances=["a hog"])
    found = document(
        row(ov_fp16=doubtful, ort_fp32={"not_measured": {"latency": "no | runtime", "accuracy": "no | runtime"}})
    )
    _, lines, notes = table_text.cells(found)
    assert notes == [
        "not like for like: measured with 158 images of coco_mix, instances_val2017",
        "unreliable: a hog",
        "not like for like: measured with ov-fp16, A CPU",
        "not measured: no | runtime",
    ]
    assert lines[0][7:] == ["41.6", "40.6 (+1.0) [1]", "40.00 [2]", "1.64 (+38.36) [3]", "42.00 (50.40) [2]"]
    assert lines[1][7:] == ["– [4]", "40.6", "– [4]", "1.64", "–"]
    assert table_results.check(found, "x")
    text = table_text.markdown(found)
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len(body) == 4
    assert len({line.count("|") - line.count("\\|") for line in body}) == 1
    assert "1. not like for like" in text
    records = list(csv.DictReader(io.StringIO(table_text.comma_separated(found))))
    assert [r["network_ms_p50"] for r in records] == ["40.0", ""]
    assert (records[0]["accuracy"], records[0]["published_accuracy"]) == ("0.416", "0.406")
    assert records[1]["latency_not_measured"] == "no | runtime"


def test_another_input_size_is_not_like_for_like() -> None:
    small = row(trt_fp16=figures(2.0, accuracy=COCO, not_measured={}))
    small |= {"imgsz": [320, 320], "machine": {**MACHINE, **T4}}
    found = table_results.differences(small, "trt-fp16", small["measured"]["trt-fp16"])
    assert found["latency"]["unlike"] == found["accuracy"]["unlike"] == ["320x320 px"]
    assert table_results.counted_differences(small).keys() == {"parameters"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(kind="rules"), "not a table of results"),
        (lambda d: d.update(schema=2), "table schema 2, this edgekit reads 1"),
        (lambda d: d.update(rows=[]), "it has no rows"),
        (lambda d: d["rows"][0]["published"].update(map50_95=0.9), "what it calls published"),
        (lambda d: d["rows"][0]["measured"]["ov-fp16"].update(reliable=False), "contradict"),
        (lambda d: d["rows"][0]["measured"]["ov-fp16"]["network_ms"].update(p50=-1), "network_ms cannot be -1"),
        (lambda d: d["rows"][0]["measured"]["ov-fp16"]["whole_ms"].update(p90=1e6), "out of order"),
        (
            lambda d: d["rows"][0]["measured"]["ov-fp16"].update(not_measured={}),
            "accuracy must be measured, or say why",
        ),
        (lambda d: d["rows"][0]["measured"]["ov-fp16"].update(accuracy={**COCO, "value": 41.6}), "must be measured"),
        (lambda d: d["rows"][0].pop("machine"), "KeyError: 'machine'"),
        (lambda d: d["source"].update(conditions="my own GPU"), "the source it gives of published figures"),
        (lambda d: d["rows"][0].update(imgsz=[320, 320]), "of another family, task or size"),
        (
            lambda d: d["rows"][0]["measured"]["ov-fp16"]["difference"]["latency"].update(unlike=[]),
            "a difference that is not measured minus published",
        ),
        (lambda d: d["rows"][0]["difference"].update(flops=0.0), "not measured minus published"),
    ],
)
def test_a_file_that_cannot_be_is_refused(change: Callable[[Any], Any], sentence: str, tmp_path: Path) -> None:
    found = document()
    assert table_results.check(found, "x") is found
    change(found)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match=sentence):
        table_results.load(path)


def test_bad_options(place: Path, edgekit: Any, tmp_path: Path) -> None:
    for words, message in (
        (("--scales", "nz"), "--scales z: not known"),
        (("--scales", "nn"), "each once"),
        (("--targets", "ov-fp8"), "--targets ov-fp8: not known"),
        (("--family", "v2"), "--family v2: not known"),
        (("--family", "turbo", "--task", "pose"), "turbo family for detect only"),
        (("--weights", tmp_path / "none"), "not a folder"),
        (("--throughput",), "No such option: --throughput"),
        ((place / "weights",), "unexpected extra argument"),
        (("--out", tmp_path / "t.xml"), ".json, .md, .csv"),
        (("--threads", "1,2"), "--threads"),
        (("--work-dir", place / "weights" / "yolo12n-cls.pt"), "a file; give the folder"),
    ):
        code, _, err = edgekit(*words)
        assert (code, message in err) == (2, True), (words, err)
    with pytest.raises(UsageError):
        table.Plan(targets=())


def test_the_wrong_weights_are_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "yolo12s-cls.pt").write_bytes((place / "weights" / "yolo12n-cls.pt").read_bytes())
    plan = table.Plan(task="classify", weights=tmp_path)
    with pytest.raises(InputError, match="yolo12s-cls.pt holds a yolo12n-cls"):
        table._weights(plan, plan.spec("s"), tmp_path)


def test_names_of_sets_tell_nothing_of_folders_above(tmp_path: Path) -> None:
    for source, expected in (
        ("me/coco/annotations/instances_val2017.json", "coco, instances_val2017"),
        ("me/coco/some.json", "coco, some"),
        ("me/bccd/data.yaml", "bccd, val"),
        ("me/flowers", "flowers, val"),
    ):
        path = tmp_path / source
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True)
        assert table_results.set_name(SimpleNamespace(source=path, split="val")) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/tmp/x_1/random.pt as ov-int8: 0.5 px/side", "random.pt as ov-int8: 0.5 px/side"),
        ("C:\\Users\\me\\n.pt: broken", "n.pt: broken"),
        ("no yolo12s.pt in weights", "no yolo12s.pt in weights"),
        ("weights/n.pt (/home/me/n.pt)", "weights/n.pt (n.pt)"),
    ],
)
def test_reasons_hold_no_folders(said: str, kept: str) -> None:
    assert table._why(InputError(said)) == kept


def test_published_figures_have_one_home() -> None:
    """The published tables, typed in anew from the paper's and the repository's."""
    v1 = {"n": (40.6, 1.64, 2.6, 6.5), "s": (48.0, 2.61, 9.3, 21.4), "m": (52.5, 4.86, 20.2, 67.5)}
    v1 |= {"l": (53.7, 6.77, 26.4, 88.9), "x": (55.2, 11.79, 59.1, 199.0)}
    turbo = {"n": (40.4, 1.60, 2.5, 6.0), "s": (47.6, 2.42, 9.1, 19.4), "m": (52.5, 4.27, 19.6, 59.8)}
    turbo |= {"l": (53.8, 5.83, 26.5, 82.4), "x": (55.4, 10.38, 59.3, 184.6)}
    for family, expected in (("v1.0", v1), ("turbo", turbo)):
        for scale, (accuracy, ms, parameters, flops) in expected.items():
            found = catalog.published(catalog.build_spec(scale, "detect", family))
            assert found == {
                "map50_95": pytest.approx(accuracy / 100), "t4_fp16_ms": ms, "parameters_m": parameters,
                "flops_g": flops,
            }  # fmt: skip
        assert catalog.published_source(catalog.build_spec("n", "detect", family))["source"]
    models = Path(__file__).resolve().parents[1] / "models"
    assert all("published" not in line for path in models.glob("*.toml") for line in path.read_text().splitlines())
