"""`--target auto`: who is timed, judged, dropped and chosen, by simulated clocks and accuracies; foreign plans."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekit.autotune import Candidate, Objective, document, picture
from edgekit.autotune import candidates as candidates_module
from edgekit.autotune.candidates import candidates, order
from edgekit.autotune.select import CLEAR, Judged, Outcome, Time, choose, nearest, unmet
from edgekit.cli import _plan_table
from edgekit.errors import EdgekitError, InputError, UsageError
from tests.records import change_targets

FIVE = ("ort-fp32", "ov-fp32", "ov-fp16", "ort-int8", "ov-int8")


class DistributedContext:
    """Candidates with true times (ms) and drops (points), a clock with an error, and a note of who was asked what."""

    def __init__(self, truth: dict[str, tuple[float, float | None]], error: float = 0.01, seed: int = 0) -> None:
        self.truth, self.error, self.rng = truth, error, np.random.default_rng(seed)
        self.timed: list[tuple[list[str], bool]] = []
        self.judged: list[str] = []

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        self.timed.append((list(names), last))
        seen = {n: self.truth[n][0] * (1 + self.error * self.rng.uniform(-0.5, 0.5)) for n in names}
        found = {}
        for name in names:
            ratio = seen[name] / seen[baseline]
            low, high = (1.0, 1.0) if name == baseline else (ratio * (1 - self.error), ratio * (1 + self.error))
            ms = seen[name]
            found[name] = Time(ms, ms * (1 - self.error), ms * (1 + self.error), ratio, low, high)
        return found

    def judge(self, entry: Candidate) -> Judged:
        self.judged.append(entry.bundle)
        drop = next(d for name, (_, d) in self.truth.items() if re.sub(", [0-9]+ streams", "", name) == entry.bundle)
        return Judged(None, None, "parity is off") if drop is None else Judged(0.5 - drop / 100, drop)

    def choose(self, entries: Sequence[Candidate], limit: float = 0.5) -> Outcome:
        return choose(entries, self.clock, self.judge, limit, order())


def plain(*names: str) -> list[Candidate]:
    return [Candidate(name) for name in names]


def test_the_fastest_within_the_limit_wins_and_only_what_could_win_is_judged() -> None:
    world = DistributedContext(
        {"ort-fp32": (30, 0), "ov-fp32": (20, 0), "ov-fp16": (19, 0.01), "ort-int8": (25, 0.2), "ov-int8": (10, 0.1)}
    )
    outcome = world.choose(plain(*FIVE))
    assert outcome.winner == "ov-int8"
    assert world.judged == ["ov-int8"]
    assert outcome.rows["ort-fp32"].judged is None and outcome.rows["ort-fp32"].against == "ov-int8"
    assert outcome.rows["ov-int8"].verdict == "chosen" and outcome.rows["ov-int8"].front
    assert world.timed[0] == (list(FIVE), False)


def test_one_that_loses_too_much_gives_way_to_the_next() -> None:
    world = DistributedContext(
        {"ort-fp32": (30, 0), "ov-fp32": (20, 0), "ov-fp16": (15, 0.3), "ort-int8": (25, 0.2), "ov-int8": (10, 0.9)}
    )
    outcome = world.choose(plain(*FIVE))
    assert (outcome.winner, world.judged) == ("ov-fp16", ["ov-int8", "ov-fp16"])
    assert outcome.rows["ov-int8"].verdict == "loses 0.90 points, 0.5 allowed"
    assert outcome.rows["ov-int8"].front and outcome.rows["ov-fp16"].front
    tight = DistributedContext(world.truth)
    assert tight.choose(plain(*FIVE), 0.0).winner == "ov-fp32"
    assert tight.judged == ["ov-int8", "ov-fp16", "ov-fp32"]


@pytest.mark.parametrize("seed", range(5))
def test_what_the_clock_cannot_tell_apart_is_decided_by_accuracy_then_precision(seed: int) -> None:
    truth: dict[str, tuple[float, float | None]] = {
        "ov-fp32": (10.02, 0),
        "ov-fp16": (10, 0.2),
        "ov-int8": (10.01, 0.2),
    }
    world = DistributedContext(truth, 0.02, seed)
    outcome = world.choose(plain(*truth))
    assert outcome.winner == "ov-fp32"
    assert sorted(world.judged) == sorted(truth), "as fast as the best: each could have won"
    assert world.timed[-1][1], "those left are timed once more, for longer"
    assert "within the clock's error of ov-fp32, which loses less" in outcome.rows["ov-int8"].verdict
    even = DistributedContext({"ov-fp32": (10, 0), "ov-fp16": (10, 0.01), "ov-int8": (10, 0.02)}, 0.02, seed)
    assert even.choose(plain(*truth)).winner == "ov-fp32"


def test_a_difference_the_clock_can_tell_wins_over_accuracy() -> None:
    world = DistributedContext({"ov-fp32": (10.5, 0), "ov-int8": (10, 0.4)}, 0.005)
    outcome = world.choose(plain("ov-fp32", "ov-int8"))
    assert outcome.winner == "ov-int8"
    assert outcome.rows["ov-fp32"].verdict.endswith("times as long as ov-int8")


def test_streams_of_one_target_drop_each_other_before_anything_is_judged() -> None:
    entries = [Candidate("ov-fp32"), Candidate("ov-fp32", 1, 2, 2), Candidate("ov-int8"), Candidate("ov-int8", 1, 2, 2)]
    truth = dict(zip([e.name for e in entries], [(20, 0), (14, 0), (12, 2), (9, 2)], strict=True))
    world = DistributedContext(truth)
    outcome = world.choose(entries)
    assert outcome.winner == "ov-fp32, 2 streams"
    assert world.judged == ["ov-int8", "ov-fp32"], "forms of a bundle share its accuracy: judged once"
    assert outcome.rows["ov-fp32"].against == "ov-fp32, 2 streams"
    assert outcome.rows["ov-int8"].against == "ov-int8, 2 streams"


def test_a_batch_that_loses_too_much_gives_way_to_the_same_target_without() -> None:
    """Another batch is another bundle, calibrated by itself."""
    world = DistributedContext({"ov-fp16": (14, 0), "ov-int8": (12, 0.4), "ov-int8, batch 4": (9, 0.6)})
    entries = [Candidate("ov-fp16"), Candidate("ov-int8"), Candidate("ov-int8", 4)]
    assert world.choose(entries).winner == "ov-int8"
    assert world.judged == ["ov-int8, batch 4", "ov-int8"]


def test_a_bundle_that_got_slower_when_it_was_built_in_full_may_lose() -> None:
    """INT8 with groups put back is slower than its trial was: it is timed again as it is."""
    world = DistributedContext({"ov-fp16": (12, 0), "ov-int8": (10, 0.1)}, 0.005)
    judge = world.judge

    def full(entry: Candidate) -> Judged:
        world.truth[entry.name] = (14, 0.1) if entry.target == "ov-int8" else world.truth[entry.name]
        return judge(entry)

    assert choose(plain("ov-fp16", "ov-int8"), world.clock, full, 0.5, order()).winner == "ov-fp16"


def test_figures_of_those_dropped_early_are_as_if_of_the_last_race() -> None:
    """The machine becomes three times slower after the first race; what was slower by half stays slower by half."""
    world = DistributedContext({"ort-fp32": (15, 0), "ov-fp16": (10.1, 0.01), "ov-int8": (10, 0.1)}, 0.001)
    clock = world.clock

    def slowing(names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        found = clock(names, baseline, last)
        world.truth = {name: (ms * (3 if len(names) == 3 else 1), drop) for name, (ms, drop) in world.truth.items()}
        return found

    rows = choose(plain(*world.truth), slowing, world.judge, 0.5, order()).rows
    slow, best = rows["ort-fp32"].time, rows["ov-int8"].time
    assert slow is not None and best is not None and rows["ort-fp32"].judged is None
    assert len(world.timed) >= 3 and best.ms == pytest.approx(90, rel=0.01), "timed at 30 when the slow one was dropped"
    assert slow.ms / best.ms == pytest.approx(1.5, rel=0.01)
    assert slow.ratio / best.ratio == pytest.approx(1.5, rel=0.01)


def test_without_a_winner_the_nearest_is_known() -> None:
    world = DistributedContext({"ov-fp16": (12, 0.7), "ov-int8": (10, 3.0), "ort-int8": (30, None)})
    outcome = world.choose(plain("ov-fp16", "ov-int8", "ort-int8"))
    assert outcome.winner is None and sorted(world.judged) == sorted(["ov-fp16", "ov-int8", "ort-int8"])
    near = nearest(outcome)
    assert near is not None and near.candidate.name == "ov-fp16"
    assert outcome.rows["ort-int8"].verdict == "parity is off"
    nobody = DistributedContext({"ov-fp16": (12, None)}).choose(plain("ov-fp16"))
    assert nobody.winner is None and nearest(nobody) is None


def test_clearly_slower_means_further_apart_than_both_intervals() -> None:
    slower = 1 + CLEAR
    near = DistributedContext({"ov-fp32": (10, 0), "ov-fp16": (10 * (slower + 0.01), 0)}, 0.03)
    near.choose(plain("ov-fp32", "ov-fp16"))
    assert len(near.judged) == 2
    far = DistributedContext({"ov-fp32": (10, 0), "ov-fp16": (10 * (slower + 0.08), 0)}, 0.02)
    far.choose(plain("ov-fp32", "ov-fp16"))
    assert len(far.judged) == 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limit", [0.0, 0.3, 1.0])
def test_pruning_never_changes_who_wins(seed: int, limit: float) -> None:
    """Held against trying everything, where times lie further apart than the clock's error."""
    rng = np.random.default_rng(seed)
    times = 10 * 1.1 ** rng.permutation(len(FIVE))
    truth: dict[str, tuple[float, float | None]] = {
        name: (float(ms), float(drop))
        for name, ms, drop in zip(FIVE, times, rng.choice([0, 0.2, 0.5, 2], 5), strict=True)
    }
    outcome = DistributedContext(truth, 0.01, seed).choose(plain(*FIVE), limit)
    fitting = {name: ms for name, (ms, drop) in truth.items() if drop is not None and drop <= limit}
    assert outcome.winner == (min(fitting, key=lambda name: fitting[name]) if fitting else None)


# ---- wishes and candidates --------------------------------------------------------------------------------------


def test_wishes() -> None:
    assert Objective.parse("latency") == Objective("latency") and Objective.parse("throughput:60") == Objective(
        "throughput", 60
    )
    assert Objective.parse("latency:20").holds(20) and not Objective.parse("latency:20").holds(20.1)
    assert Objective.parse("throughput:50").holds(20) and not Objective.parse("throughput:50").holds(20.1)
    assert Objective("throughput").text(20) == "50 images/s"
    for text in ("", "speed", "latency:", "latency:-3", "latency:x", "throughput:nan", "latency:0"):
        with pytest.raises(UsageError, match="`objective`"):
            Objective.parse(text)
    outcome = DistributedContext({"ov-fp32": (12, 0)}).choose(plain("ov-fp32"))
    assert unmet(Objective("latency", 5), outcome) and not unmet(Objective("latency", 50), outcome)


def test_what_can_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module.machine, "gpus", lambda: [])
    change_targets(monkeypatch, missing=lambda: None, missing_to_build=lambda: None)
    found, left_out = candidates(Objective("latency"), data=True)
    assert [c.name for c in found if not c.name.startswith("ncnn")] == [
        "ort-fp32",
        "ov-fp32",
        "ov-fp16",
        "ort-int8",
        "ov-int8",
    ]
    assert {t for t in left_out if t.startswith("trt")} == set(left_out)
    assert "NVIDIA" in left_out["trt-fp16"]
    found, left_out = candidates(Objective("latency"), data=False)
    assert "`data`" in left_out["ov-int8"]
    assert [c.target for c in found if not c.name.startswith("ncnn")] == ["ort-fp32", "ov-fp32", "ov-fp16"]
    found, _ = candidates(Objective("throughput"), data=False, cores=4)
    forms = [(1, None), (2, 4), (4, 4)]
    assert [(c.streams, c.threads) for c in found if c.target == "ort-fp32"] == forms
    assert [(c.batch, c.streams, c.threads) for c in found if c.target == "ov-fp32"] == [
        (batch, *form) for batch in (1, 4) for form in forms
    ]
    monkeypatch.setattr(candidates_module.machine, "gpus", lambda: [{"model": "a GPU"}])
    found, left_out = candidates(Objective("throughput"), data=True, cores=2)
    assert not left_out and {c.batch for c in found if c.target == "trt-fp16"} == {1, 8}


def test_on_arm_what_openvino_would_compute_in_fp16_is_left_out_of_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are small runtimes and ONNX Runtime's INT8 instead; a plan of another machine is told the same."""
    monkeypatch.setattr(candidates_module.machine, "gpus", lambda: [])
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    change_targets(monkeypatch, missing=lambda: None, missing_to_build=lambda: None)
    found, left_out = candidates(Objective("latency"), data=True)
    assert [c.target for c in found] == ["ncnn-fp32", "ort-fp32", "ov-fp32", "ncnn-fp16", "ov-fp16", "ort-int8"]
    assert "FP16" in left_out["ov-int8"] and "ort-int8" in left_out["ov-int8"]
    change_targets(monkeypatch, "ncnn-fp16", missing_to_build=lambda: "pip install pnnx")
    assert candidates(Objective("latency"), data=True)[1]["ncnn-fp16"] == "pip install pnnx"


def test_a_missing_quantizer_leaves_one_target_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    assert "edgekit[int8]" in str(candidates_module.missing("ov-int8", data=True))


# ---- the document -----------------------------------------------------------------------------------------------


LATENCY = Objective("latency")


def made(wish: Objective = LATENCY, **more: Any) -> dict[str, Any]:
    world = DistributedContext({"ov-fp32": (20, 0), "ov-fp16": (15, 0.3), "ov-int8": (10, 0.9)})
    outcome = world.choose(plain("ov-fp32", "ov-fp16", "ov-int8"))
    about = {"metric": "map50_95", "kind": "labels", "on": "data.yaml, split val", "images": 8, "float": 0.5}
    race = {"reliable": True, "disturbances": [], "rounds": 30}
    plan = document.document(wish, 0.5, outcome, {"trt-fp16": "no GPU"}, about, race)
    plan["why"] = document.why(wish, outcome)
    plan["choice"] = {"target": "ov-fp16", "batch": 1, "streams": 1, "threads": None, "imgsz": [64, 64], "head": "topk"}
    return plan | more


def test_a_plan_survives_its_file_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made()))
    plan = document.read(path)
    assert plan == made() | {"machine": plan["machine"], "rows": plan["rows"]}
    assert document.candidate(plan) == Candidate("ov-fp16")
    assert plan["why"].startswith("ov-fp16: 1") and plan["why"].endswith("faster but not within the limit: ov-int8")
    rows = {row["candidate"]: row for row in plan["rows"]}
    assert rows["ov-fp32"]["accuracy"] is None and not rows["ov-fp32"]["front"]
    assert document.differences(plan) == []
    plan["machine"]["cpu"]["usable"] = 96
    assert any("96" in sentence for sentence in document.differences(plan))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "table"}, "not a plan"),
        ({"schema": 2}, "upgrade edgekit"),
        ({"schema": "1"}, "not a plan"),
        ({"choice": None}, "chose nothing"),
        ({"choice": {"target": "tpu"}}, "target 'tpu'"),
        ({"choice": {**made()["choice"], "batch": 0}}, "batch 0"),
        ({"choice": {**made()["choice"], "batch": True}}, "batch True"),
        ({"choice": {**made()["choice"], "streams": 10**9}}, "streams 1000000000"),
        ({"choice": {**made()["choice"], "threads": "2"}}, "threads '2'"),
        ({"choice": {**made()["choice"], "head": "neck"}}, "head 'neck'"),
        ({"choice": {**made()["choice"], "imgsz": [64]}}, "imgsz"),
        ({"choice": {**made()["choice"], "imgsz": [64, 65]}}, "multiples of 32"),
        ({"max_drop_points": -1}, "max_drop_points"),
        ({"max_drop_points": None}, "max_drop_points"),
    ],
)
def test_a_plan_that_is_none_is_refused_in_a_sentence(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made(**change)))
    with pytest.raises(InputError, match=words):
        document.read(path)


def test_files_that_hold_no_plan(tmp_path: Path) -> None:
    for name, text in {"a": "[]", "b": "{", "c": "null", "d": "[" * 100_000}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="not a plan"):
            document.read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        document.read(tmp_path / "absent")


def test_what_a_plan_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path = made(), Path("plan.json")
    document.check_needs(plan, path, data=False)
    plan["choice"]["target"] = "ort-int8"
    with pytest.raises(UsageError, match=r"needs ort-int8.*`data`.*`target` auto"):
        document.check_needs(plan, path, data=False)
    change_targets(monkeypatch, "trt-fp16", missing=lambda: None)
    monkeypatch.setattr(candidates_module.machine, "gpus", lambda: [])
    plan["choice"]["target"] = "trt-fp16"
    with pytest.raises(UsageError, match="NVIDIA") as error:
        document.check_needs(plan, path, data=True)
    assert isinstance(error.value, EdgekitError) and error.value.exit_code == 2


def test_the_front_is_drawn_in_both_ways(tmp_path: Path) -> None:
    for wish in (Objective("latency"), Objective("throughput")):
        plan = made(wish)
        picture.draw(plan, tmp_path / "plan.svg")
        drawn = ElementTree.parse(tmp_path / "plan.svg").getroot()
        assert drawn.tag.endswith("svg") and len(drawn.findall(".//*[@class='label']")) == 2
        assert len(drawn.findall(".//*[@class='chosen']")) == len(drawn.findall(".//*[@class='other']")) == 1
        rows = sorted(plan["rows"], key=lambda row: row["ms_per_image"]["p50"])
        lines = _plan_table.sketch(rows, wish.goal == "throughput")
        field = lines[: _plan_table.HEIGHT]
        assert "A" in field[-1] and field[-1].rstrip().endswith("A"), "the fastest is lowest and furthest right"
        assert field[0].split("|")[1].startswith("B"), "the most accurate judged one is highest"
        assert not any("C" in line for line in field), "what was not judged has no height"
    assert _plan_table.sketch(rows[:1], False) == []
