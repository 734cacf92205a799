"""`--target auto` from end to end on bundles written out by hand: what it leaves behind, replays, and sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit.autotune import Candidate, Objective, auto
from edgekit.bundle import build as building
from edgekit.bundle import loading
from edgekit.bundle.options import BuildOptions
from edgekit.cli import main
from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.manifest import Bundle, read_bundle, write_manifest
from tests.tiny import tiny_bundle

pytest.importorskip("openvino")
QUICK = 0.02  # of the seconds that races get


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Builds become tiny bundles; a target called in ``lossy`` gets other weights, so that it sees other objects."""
    offered = [Candidate("ort-fp32"), Candidate("ov-fp32"), Candidate("ov-fp16")]
    state: dict[str, Any] = {"offered": offered, "lossy": set(), "refused": set(), "built": [], "wishes": []}

    def build(source: Path, target: str, out: Path, options: BuildOptions, *_: Any, **__: Any) -> None:
        state["built"].append(target)
        state["wishes"].append(options.quantize)
        if target in state["refused"]:
            raise GateError(f"{target}: parity is off")
        tiny_bundle(out, "detect", target, seed=int(target in state["lossy"]))

    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(auto, "candidates", lambda *_: (state["offered"], {"trt-fp16": "no GPU"}))
    state["source"] = tiny_bundle(tmp_path / "source", "detect", "ort-fp32")
    return state


def run(world: Any, out: Path, limit: float = 0.5, wish: str = "latency") -> Bundle:
    options = BuildOptions(quantize=QuantizeOptions(max_drop=limit))
    return auto.auto(world["source"], out, Objective.parse(wish), options, seconds=QUICK)


def test_the_folder_is_the_winner_s_bundle_and_the_plan(world: Any, tmp_path: Path) -> None:
    made = run(world, tmp_path / "out")
    plan = made.manifest["plan"]
    assert "load" not in plan, "of one image at a time there is nothing to choose"
    assert plan["choice"]["target"] == made.target and plan["choice"]["head"] == "raw"
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == plan
    own = tiny_bundle(tmp_path / "again", "detect", made.target)
    again = read_bundle(own).manifest["files"]
    kept = {name: digest for name, digest in read_bundle(tmp_path / "out").manifest["files"].items() if name in again}
    assert kept == again and set(made.manifest["files"]) - set(again) == {"plan.json", "plan.svg"}
    assert {row["candidate"] for row in plan["rows"]} == {"ort-fp32", "ov-fp32", "ov-fp16"}
    assert [row["verdict"] for row in plan["rows"]].count("chosen") == 1
    assert plan["left_out"] == {"trt-fp16": "no GPU"} and plan["accuracy"]["metric"] == "agreement"
    assert world["built"].count(made.target) == 1, "what was timed is what was judged and kept"
    with loading.load(tmp_path / "out") as model:
        assert model(np.zeros((64, 96, 3), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_throughput_is_timed_in_streams_and_the_line_that_loads_says_so(world: Any, tmp_path: Path) -> None:
    world["offered"] = [Candidate("ov-fp32", 1, 2, 2)]
    plan = run(world, tmp_path / "out", wish="throughput").manifest["plan"]
    assert (plan["choice"]["streams"], plan["choice"]["threads"]) == (2, 2)
    line = auto.how_to_load(tmp_path / "out", Candidate("ov-fp32", 1, 2, 2))
    assert line == f'edgekit.load("{tmp_path / "out"}", streams=2, threads=2)'
    assert "images/s" in plan["why"]
    assert {key: plan["load"][key] for key in ("streams", "batch", "threads")} == {
        "streams": 2,
        "batch": 1,
        "threads": 2,
    }
    with loading.load(tmp_path / "out") as model, loading.load(tmp_path / "out", plan=False) as plain:
        assert (model.session.streams, plain.session.streams) == (2, 1)


def test_what_sees_other_objects_is_not_chosen_and_the_nearest_is_named(world: Any, tmp_path: Path) -> None:
    world["lossy"] = {"ov-fp32", "ov-fp16"}
    assert run(world, tmp_path / "out").target == "ort-fp32"
    world["offered"] = [Candidate("ov-fp32"), Candidate("ov-fp16")]
    with pytest.raises(
        GateError, match=r"`max_drop` 0\.5: no candidate.*the nearest is ov-fp(32|16), .* would take it"
    ):
        run(world, tmp_path / "none")
    evidence = json.loads((tmp_path / "none.failed.json").read_text())
    assert evidence["plan"]["rows"] and "choice" not in evidence["plan"] and not (tmp_path / "none").exists()


def test_int8_brings_the_accuracy_its_build_measured(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "metric": "map50_95",
        "kind": "labels",
        "on": "set",
        "images": 8,
        "before": 0.5,
        "after": 0.4,
        "drop_points": 10,
    }
    plain = building.build

    def build(source: Path, target: str, out: Path, options: BuildOptions, *words: Any, **more: Any) -> None:
        plain(source, target, out, options, *words, **more)
        manifest = json.loads((out / "manifest.json").read_text())
        write_manifest(out, manifest | ({} if not options.quantize.judged else {"accuracy": row}))

    monkeypatch.setattr(building, "build", build)
    world["offered"] = [Candidate("ort-int8")]
    with pytest.raises(GateError, match=r"the nearest is ort-int8, .* loses 10\.00 points \(`max_drop` 10 would"):
        run(world, tmp_path / "none")
    plan = run(world, tmp_path / "out", limit=10).manifest["plan"]
    assert plan["accuracy"] == {"metric": "map50_95", "kind": "labels", "on": "set", "images": 8, "float": 0.5}
    assert [w.judged for w in world["wishes"]] == [False, True] * 2 and all(w.timing_s == 0 for w in world["wishes"])


def test_a_bound_that_nobody_reaches(world: Any, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"`objective` latency:1e-06: no candidate is so fast here; the nearest is o"):
        run(world, tmp_path / "out", wish="latency:0.000001")
    assert run(world, tmp_path / "out", wish="latency:100000").path == tmp_path / "out"
    assert not (tmp_path / "out.failed.json").exists()


def test_one_that_cannot_be_built_is_left_out_and_none_at_all_is_an_error(world: Any, tmp_path: Path) -> None:
    world["refused"] = {"ov-fp16"}
    plan = run(world, tmp_path / "out").manifest["plan"]
    assert plan["left_out"]["ov-fp16"] == "ov-fp16: parity is off"
    world["refused"] = {"ort-fp32", "ov-fp32", "ov-fp16"}
    with pytest.raises(InputError, match="no target could be built .ort-fp32: parity is off; ov-fp32"):
        run(world, tmp_path / "none")


def test_a_model_that_is_not_there_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")  # without which it is another sentence
    offered = [Candidate("ort-fp32"), Candidate("ov-fp32"), Candidate("ov-fp16")]
    monkeypatch.setattr(auto, "candidates", lambda *_: (offered, {}))
    with pytest.raises(SystemExit) as end:
        main(["build", str(tmp_path / "absent.pt"), "--target", "auto", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("error:") == 1 and said.rstrip().count("absent.pt: no such file") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_data_ends_it_before_more_is_built(world: Any, tmp_path: Path) -> None:
    wishes = QuantizeOptions(data=tmp_path / "absent" / "data.yaml")
    with pytest.raises(InputError, match=r"absent"):
        auto.auto(world["source"], tmp_path / "out", Objective(), BuildOptions(quantize=wishes), seconds=QUICK)
    assert world["built"] == []


def test_photographs_without_labels_are_calibrated_and_judged_on(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(30):
        coarse = np.random.default_rng(i).integers(0, 256, (4, 6, 3), np.uint8)
        cv2.imwrite(str(photos / f"{i}.png"), cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC))
    offered: list[Any] = []
    monkeypatch.setattr(auto, "candidates", lambda *words: (offered.append(words), (world["offered"], {}))[1])
    wishes = QuantizeOptions(data=photos)
    asked = BuildOptions(quantize=wishes)
    plan = auto.auto(world["source"], tmp_path / "out", Objective(), asked, seconds=QUICK).manifest["plan"]
    about = plan["accuracy"]
    assert (about["metric"], about["kind"], about["images"], about["float"]) == ("agreement", "agreement", 10, 1.0)
    assert "photos" in about["on"] and [words[1] for words in offered] == [True]  # so INT8 may take part
    for path in list(photos.iterdir())[:10]:
        path.unlink()
    world["built"].clear()
    plan = auto.auto(
        world["source"],
        tmp_path / "few",
        Objective(),
        BuildOptions(quantize=QuantizeOptions(photos, force=True)),
        seconds=QUICK,
    ).manifest
    assert plan["plan"]["accuracy"]["images"] == 6
    world["built"].clear()
    with pytest.raises(InputError, match="20; at least 24 are needed"):
        auto.auto(world["source"], tmp_path / "none", Objective(), BuildOptions(quantize=wishes), seconds=QUICK)
    assert world["built"] == []


def test_a_plan_is_replayed_without_a_clock(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(world, tmp_path / "out")
    monkeypatch.setattr("edgekit.autotune.tuner.measure", None)
    monkeypatch.setattr("edgekit.bench.clock.measure", None)
    world["built"].clear()
    again = auto.replay(world["source"], tmp_path / "out" / "plan.json", tmp_path / "there", QuantizeOptions())
    assert world["built"] == [first.target] and again.target == first.target
    assert again.manifest["plan"] == first.manifest["plan"] | {"replayed": True}
    model = {name for name in first.manifest["files"] if not name.startswith("plan.")}
    assert {n: again.manifest["files"][n] for n in model} == {n: first.manifest["files"][n] for n in model}


def test_a_plan_of_another_activation_is_not_replayed_on_this_one(world: Any, tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "models/shapes.pt"
    run(world, tmp_path / "out")
    path = tmp_path / "out" / "plan.json"
    plan = json.loads(path.read_text())
    for variant in ("hardswish", "silu"):
        plan["choice"]["variant"] = variant
        path.write_text(json.dumps(plan))
        world["built"].clear()
        if variant == "silu":
            assert auto.replay(model, path, tmp_path / "there", QuantizeOptions()).target == world["built"][0]
            continue
        with pytest.raises(UsageError, match=variant):
            auto.replay(model, path, tmp_path / "there", QuantizeOptions())
        assert not world["built"]


def test_a_replayed_int8_keeps_the_plan_s_limit_and_is_not_timed(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    run(world, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    plan["choice"]["target"], plan["max_drop_points"] = "ort-int8", 0.25
    path.write_text(json.dumps(plan))
    auto.replay(world["source"], path, tmp_path / "there", QuantizeOptions(data=tmp_path, max_drop=9))
    last = world["wishes"][-1]
    assert (last.max_drop, last.timing_s, last.judged) == (0.25, 0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "ov-fp32", "--objective", "latency"], "--objective goes with --target auto"),
        (["--target", "auto", "--wish", "fast"], "--objective fast: give latency or throughput"),
        (["--target", "auto", "--layout", "triton"], "drop --layout"),
        (["--target", "auto", "--sm", "86"], "drop --sm"),
        (["--target", "auto", "--require-speedup", "2"], "drop --require-speedup"),
        (["--plan", "absent.json"], "no such file"),
        (["--plan", "absent.json", "--target", "ov-fp32"], "--plan settles that itself: drop --target"),
    ],
)
def test_requests_that_contradict_themselves(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["build", "model.pt", "--out", str(tmp_path / "out"), *words])
    assert end.value.code == 2 and sentence in capsys.readouterr().err
