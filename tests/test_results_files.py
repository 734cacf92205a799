"""Every file in ``benchmarks/results``: of a known kind, with figures that can be; tables as the README shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import render
from edgekit.errors import EdgekitError
from edgekit.report import table_results
from edgekit.tasks import ports

REPO = Path(__file__).resolve().parents[1]
FILES = sorted((REPO / "benchmarks" / "results").rglob("*.json"))
LEGACY = {  # files that say what they are in words
    "whether edgekit bench can be believed": "clock-trust",
    "images per second of val, network time aside": "speed",
    "images per second of training and of its loader alone": "speed",
}


def kind_of(document: Any) -> str:
    return str(document.get("kind") or LEGACY.get(document.get("what"), document.get("what")))


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{i}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def check_machine(machine: Any) -> None:
    assert machine["cpu"]["model"] and machine["packages"]


def check_times(ms: Any) -> None:
    assert 0 < ms["min"] <= ms["p50"] <= ms["p99"] <= ms["max"] < 1e7
    assert ms["n"] >= 1


def accuracy(document: Any) -> None:
    for row in document["rows"]:
        assert row["images"] > 0 and row["measured"]
        assert all(0 <= v <= 1 for v in (*row["measured"].values(), *row["recorded"].values()))


def gpu_check(document: Any) -> None:
    check_machine(document["machine"])
    assert document["gpu"]["sm"] >= 75 and document["steps"]
    assert all(step["state"] and step["says"] for step in document["steps"])


def tiling(document: Any) -> None:
    """Tiles find what the slicer finds, and the ratios are those of the seconds."""
    check_machine(document["machine"])
    for each in document["bundles"]:
        rows = each["rows"]
        for name, ratios in each["times_as_long"].items():
            assert rows[name]["recall"] == pytest.approx(rows["tiles"]["recall"], abs=0.005)
            pairs = zip(rows[name]["s"], rows["tiles"]["s"], strict=True)
            assert ratios == pytest.approx(sorted(theirs / ours for theirs, ours in pairs))


def ray_actors(document: Any) -> None:
    """Ratios are those of the rates, and a run's seconds are its start's and its images'."""
    check_machine(document["machine"])
    most = max(document["images"])
    rates = {
        kind: [
            row["images"] / row["seconds"] for row in document["rows"] if (row["kind"], row["images"]) == (kind, most)
        ]
        for kind in document["split"]
    }
    for name, found in document["rates"].items():
        of, to = name.split(" over ")
        assert found == pytest.approx(sorted(a / b for a, b in zip(rates[of], rates[to], strict=True)))
    for kind, parts in document["split"].items():
        whole = parts["fixed_seconds"] + most * parts["each_seconds"]
        assert whole == pytest.approx(most / document["images_per_s"][kind], rel=0.02)


def topk(document: Any) -> None:
    for row in document["rows"]:
        if "metric" in row:
            assert row["difference"] == pytest.approx(row["topk"] - row["raw"])
        else:
            assert 0 <= row["different"] <= row["detections"]


def candidates(document: Any) -> None:
    """More candidates find what the raw head finds, and cost what the interval says."""
    check_machine(document["machine"])
    assert {row["what"] for row in document["rows"]} == {"accuracy", "objects", "time"}
    for row in document["rows"]:
        if row["what"] == "accuracy":
            default = row["metrics"][str(ports.default_candidates((row["imgsz"],) * 2))]
            assert default["map50"] == pytest.approx(row["metrics"]["raw"]["map50"], abs=1e-3)
        elif row["what"] == "objects":
            assert row["kept"][str(ports.default_candidates((row["imgsz"],) * 2))] == row["raw"]
            assert row["an_object"] == pytest.approx(row["candidates"] / row["raw"])
        else:
            assert row["reliable"] == (not row["disturbances"])
            for name, stages in row["ms"].items():
                assert 0 < stages["whole_ms"]["min"] <= stages["whole_ms"]["p50"] <= stages["whole_ms"]["p99"]
                ratio = row["ratio"].get(name, {}).get("whole_ms")
                assert ratio is None or ratio["low"] <= ratio["ratio"] <= ratio["high"]


def rules(document: Any) -> None:
    check_machine(document["machine"])
    for row in document["rows"]:
        check_times(row["ms"])
        assert row["reliable"] == (not row["disturbances"])


def clock_trust(document: Any) -> None:
    check_machine(document["machine"])
    parts = [document[key] for key in ("copies", "repeats", "hog", "neighbour")]
    assert document["pass"] == all(part["pass"] for part in parts)
    trials = document["copies"]["trials"]
    inside = sum(trial["ratios"]["copy"]["low"] <= 1 <= trial["ratios"]["copy"]["high"] for trial in trials)
    assert (document["copies"]["contain_one"], document["copies"]["of"]) == (inside, len(trials))


def speed(document: Any) -> None:
    check_machine(document["machine"])
    assert document["images"] > 0 if isinstance(document.get("images"), int) else True
    assert document["reliable"] == (not document["disturbances"])
    for name, ratio in document.items():
        if name.startswith("ratio") and isinstance(ratio, dict) and "p50" in ratio:
            assert 0 < ratio["min"] <= ratio["p50"] <= ratio["max"]


def training(document: Any) -> None:
    check_machine(document["machine"])
    for row in document["rows"]:
        assert ("peer" in row) != ("against" in row)
        assert 0 <= row.get("peer", 0) <= 1
        for side in (row, row["against"]) if "against" in row else (row,):
            values = [run[row["metric"]] for run in side["runs"]]
            assert all(0 <= v <= 1 for v in values)
            assert side["mean"] == pytest.approx(sum(values) / len(values))
            assert side["spread"] == pytest.approx(max(values) - min(values))


def auto(document: Any) -> None:
    check_machine(document["machine"])
    assert {row["case"] for row in document["rows"]} <= {"latency", "throughput", "tight"}
    for row in document["rows"]:
        fitting = {r["candidate"]: r for r in row["by_hand"] if r["drop_points"] <= row["limit_points"]}
        assert {r["candidate"] for r in row["by_hand"] if r["fits"]} == set(fitting)
        assert row["hand"] == min(fitting, key=lambda name: fitting[name]["ratio_to_auto"]["ratio"])
        assert row["agree"] == (row["hand"] == row["auto"] or row["hand_to_auto"]["high"] >= 1)
        assert row["reliable"] == (not row["disturbances"])


def cold(document: Any) -> None:
    check_machine(document["machine"])
    peer = next(row for row in document["rows"] if row["side"] == "peer")
    for row in document["rows"]:
        assert 0 < row["whole_ms"]["min"] <= row["whole_ms"]["p50"] <= row["whole_ms"]["max"]
        assert row["load_ms"]["min"] + row["call_ms"]["min"] < row["whole_ms"]["max"]
        assert row["boxes"] == pytest.approx(peer["boxes"], abs=3), "the same image and checkpoint"
        ratio = row["times_as_fast_as_the_peer"]
        assert (ratio is None) == (row is peer)
        assert ratio is None or ratio["low"] <= ratio["ratio"] <= ratio["high"]


def build_time(document: Any) -> None:
    check_machine(document["machine"])
    for row in document["rows"]:
        for kind, ratio in row["times_the_peers"].items():
            assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
            for side in ("edgekit", "peer"):
                assert 0 < row[side][kind]["min"] <= row[side][kind]["p50"] <= row[side][kind]["max"]


def folder(document: Any) -> None:
    check_machine(document["machine"])
    rows = {row["side"]: row for row in document["rows"]}
    assert len({row["images"] for row in rows.values()}) == 1
    peers = {name: row["images_per_s"]["p50"] for name, row in rows.items() if name != "edgekit"}
    assert document["best_peer"] == max(peers, key=lambda name: peers[name])
    assert document["reliable"] == (not document["disturbances"])


def roofline(document: Any) -> None:
    check_machine(document["machine"])
    for row in document["rows"]:
        operations = sum(1e3 * f / document["ceilings"][kind]["per_s"] for kind, f in row["flops"].items())
        assert row["floor_operations_ms"] == pytest.approx(operations)
        silu = sum(1e3 * values / document["silu"][kind]["per_s"] for kind, values in row["silu"].items())
        assert row["floor_silu_ms"] == pytest.approx(silu)
        floor = max(row["floor_operations_ms"] + row["floor_silu_ms"], row["floor_bytes_ms"])
        assert row["times_the_floor"]["min"] == pytest.approx(row["network_ms"]["min"] / floor)
        assert row["times_the_floor"]["min"] > 1, "faster than the ceiling that was measured: the ceiling is wrong"


def pruning(document: Any) -> None:
    check_machine(document["machine"])
    whole, *cuts = document["rows"]
    for row in cuts:
        check_times(row["whole_ms"])
        assert row["parameters"] < whole["parameters"]
        assert row["ratio"]["low"] <= row["ratio"]["ratio"] <= row["ratio"]["high"]


def tune(document: Any) -> None:
    check_machine(document["machine"])
    before, after = (document["accuracy"][name][document["metric"]] for name in ("before", "after"))
    assert document["accuracy"]["points"] == pytest.approx(100 * (after - before))
    ratio = document["latency"]["whole_ratio"]
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert document["latency"]["reliable"] == (not document["latency"]["disturbances"])


def beside(document: Any) -> None:
    check_machine(document["machine"])
    ours, theirs = document["frames_per_s"]["edgekit"], document["frames_per_s"]["peer"]
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    assert [document["ratio"][key] for key in ("min", "max")] == [ratios[0], ratios[-1]]
    assert document["pass"] == (document["ratio"]["p50"] >= 1.3)
    assert document["objects"].keys() == {"edgekit", "peer"}


def cameras(document: Any) -> None:
    check_machine(document["machine"])
    rates = document["frames_per_s"]
    ratios = sorted(a / b for a, b in zip(rates["scheduler"], rates["in_turn"], strict=True))
    assert [document["ratio"][key] for key in ("min", "max")] == pytest.approx([ratios[0], ratios[-1]])
    assert document["frames_that_differ"] <= document["frames"]
    assert document["reliable"] == (not document["disturbances"])


def calls(document: Any) -> None:
    check_machine(document["machine"])
    assert {"cpp", "python", "bare"} == document["ms"].keys()
    for stages in document["ms"].values():
        assert 0 < stages["whole_ms"]["min"] <= stages["whole_ms"]["p50"] <= stages["whole_ms"]["p90"]


def peer_calls(document: Any) -> None:
    check_machine(document["machine"])
    assert document["reliable"] == (not document["disturbances"])
    names = {row["contestant"] for row in document["rows"]}
    assert len(names) == len(document["rows"])
    for row in document["rows"]:
        assert 0 < row["whole_ms"]["min"] <= row["whole_ms"]["p50"] <= row["whole_ms"]["p90"]
    for ratio in document["ratios"]:
        assert {ratio["of"], ratio["to"]} <= names and ratio["low"] <= ratio["ratio"] <= ratio["high"]


def ladder(document: Any) -> None:
    peer_calls(document["calls"] | {key: document[key] for key in ("machine", "reliable", "disturbances")})
    steps, found = document["ladder"]["steps"], document["ladder"]
    taken = [row for row in steps if row["taken"]]
    assert steps[0] == taken[0] and taken[-1]["speedup"] == found["speedup"]
    assert found["reached"] == (found["speedup"]["ratio"] >= found["to"])
    for row in taken:
        assert row["speedup"]["low"] <= row["speedup"]["ratio"] <= row["speedup"]["high"]
        lost = 100 * (document["accuracy"]["float"] - row["accuracy"])
        assert row["drop_points"] == pytest.approx(lost) and lost <= document["accuracy"]["limit_points"]
    assert all(0 < value < 1 for value in document["peer_map50_95"].values())


def endurance(document: Any) -> None:
    check_machine(document["machine"])
    assert min(document.get("frames", 1), document.get("answered", 1), document.get("calls", 1)) > 0
    if document["pass"]:
        assert not document.get("wrong")
    if "mb" in document:
        late = document["mb"][len(document["mb"]) // 4 :]
        assert document["growth_mb"] == pytest.approx(max(late) - late[0])


def wheel(document: Any) -> None:
    check_machine(document["machine"])
    assert document["pass"] and document["same_answer"] and not document["installed_that_should_not_be"]
    assert document["mb"]["edgekit"] < 10 and document["import_s"]["all"]["p50"] > 0


def fuzzing(document: Any) -> None:
    for row in document["rows"]:
        assert row["inputs"] > 0 and row["seconds"] >= row["cpu_seconds"] > 0 and row["crashes"] >= 0


def table(document: Any) -> None:
    table_results.check(document, "here")


def tensorrt_rtx(document: Any) -> None:
    check_machine(document["machine"])
    for row in document["rows"]:
        judged = row["accuracy"]
        assert judged["drop_points"] == pytest.approx(100 * (judged["before"] - judged["after"]))
        assert judged["drop_points"] <= judged["limit_points"]
        assert all(0 < e["attention"]["fused"] <= e["attention"]["of"] for e in row["engines"])
    seconds = sum(engine["seconds"] for row in document["rows"] for engine in row["engines"])
    assert document["engine_seconds"] == pytest.approx(seconds, abs=0.01)


def plain(document: Any) -> None:
    """Kinds without figures of their own to hold against each other: they say what they are and where they ran."""
    assert document["rows"]


def pixels(document: Any) -> None:
    """Float and uint8 input of the same model: the stages, and ratios inside their intervals."""
    assert document["machine"] and document["rows"]
    for row in document["rows"]:
        assert row["target"].startswith("ov-") and row["rounds"] > 0
        for stage in ("pre_ms", "network_ms", "whole_ms"):
            ratio = row["ratio"][stage]
            assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
            assert 0 < row["pixels"][stage]["min"] <= row["pixels"][stage]["p50"]


def scale(document: Any) -> None:
    """Large sets: quick scans as fast as asked for, starts within a minute, checks within 1 GB."""
    check_machine(document["machine"])
    for row in document["rows"]:
        assert row["of"] > 0 and row["seconds"] > 0 and row["cpu_s"] > 0
        assert row["a_second"] == pytest.approx(row["of"] / row["seconds"])
        if row["images"] > 100_000:
            assert row["peak_mb"] < 1000 or row["stage"] not in ("quick", "whole", "again", "quick-json")
            assert row["seconds"] < 60 or not row["stage"].startswith("start")


KINDS: dict[str, Callable[[Any], None]] = {
    "gpu-check": gpu_check,
    "accuracy": accuracy,
    "auto": auto,
    "build-time": build_time,
    "clock-trust": clock_trust,
    "cold": cold,
    "folder": folder,
    "frames per second of a video, decoding to results": beside,
    "frames per second of several cameras, decoding to results": cameras,
    "fuzzing": fuzzing,
    "half": plain,
    "input": pixels,
    "int8": plain,
    "int8-methods": plain,
    "memory over frames": endurance,
    "milliseconds a call, interleaved": calls,
    "calls": peer_calls,
    "ladder": ladder,
    "candidates": candidates,
    "int8-placements": plain,
    "pruning": pruning,
    "qat": plain,
    "roofline": roofline,
    "ray-actors": ray_actors,
    "rules": rules,
    "scale": scale,
    "soak": endurance,
    "speed": speed,
    "table": table,
    "the wheel in an empty environment": wheel,
    "threads on one predictor": endurance,
    "tensorrt-rtx": tensorrt_rtx,
    "tiling": tiling,
    "topk": topk,
    "training": training,
    "tune": tune,
}


def test_there_are_results() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_results_file_is_of_a_known_kind_and_sane(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    kind = kind_of(document)
    assert kind in KINDS, f"{path.name}: of the unknown kind {kind!r}; write its checker in {Path(__file__).name}"
    assert document.get("schema", 1) == 1
    KINDS[kind](document)
    assert all(math.isfinite(value) for _, value in numbers(document))
    assert not any(word in text for word in ("/home/", "/Users/", "/tmp/", "/work/", "C:\\\\")), (
        "a path of somebody's machine"
    )


def test_tables_are_named_like_tables() -> None:
    tables = [p for p in FILES if kind_of(json.loads(p.read_text(encoding="utf-8"))) == "table"]
    assert tables == render.tables(REPO / "benchmarks" / "results")


def test_the_documentation_shows_the_tables_as_they_are() -> None:
    text = (REPO / "docs" / "benchmarks" / "table.md").read_text(encoding="utf-8")
    expected = render.replaced(text, render.section(render.tables(REPO / "benchmarks" / "results")))
    assert text == expected, "the page has drifted: run python benchmarks/render.py"


def test_rendering_needs_both_markers() -> None:
    text = f"a\n{render.BEGIN}\nold\n{render.END}\nb\n"
    assert render.replaced(text, "new\n") == f"a\n{render.BEGIN}\n\nnew\n\n{render.END}\nb\n"
    for bad in ("", render.BEGIN, f"{render.END} {render.BEGIN}", text + text):
        with pytest.raises(EdgekitError, match="markers"):
            render.replaced(bad, "new")
