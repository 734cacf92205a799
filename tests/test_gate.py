"""The speed gate on bench documents that are right, slower, of another machine, of another schema, or no documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.bench.gate import against, check_results, load_results
from edgekit.errors import InputError, UsageError


def record(p50: float = 10.0, artifact: str = "street", **changes: Any) -> dict[str, Any]:
    whole = {"min": p50 * 0.9, "p50": p50, "p90": p50 * 1.1, "p99": p50 * 1.3, "n": 200}
    machine = {"cpu": {"model": "M"}, "packages": {"openvino": "2026.3"}, "python": {"version": "3.11.7"}}
    return {
        "artifact": artifact,
        "target": "ov-int8",
        "whole_ms": whole,
        "reliable": True,
        "machine": machine,
        **changes,
    }


@pytest.mark.parametrize(("now", "passed"), [(9.0, True), (10.0, True), (11.0, True), (11.01, False), (20.0, False)])
def test_the_limit_is_on_the_median(now: float, passed: bool) -> None:
    verdict = against([record(10.0)], [record(now)], 0.10)
    assert verdict.passed is passed
    assert json.loads(json.dumps(verdict.to_dict()))["passed"] is passed


def test_sentences() -> None:
    verdict = against([record(10.0), record(5.0, "b")], [record(12.5), record(4.0, "b")], 0.10)
    assert verdict.failures == ["street (ov-int8): 12.5 ms where it was 10 ms, 25.0% slower; 10.0% are allowed"]
    assert verdict.notes == ["b (ov-int8): 4 ms where it was 5 ms, 20.0% faster"]


def test_unreliable_figures_are_said_to_be() -> None:
    verdict = against([record()], [record(20.0, reliable=False)], 0.1)
    assert "the new run is marked unreliable: measure again" in verdict.failures[0]
    verdict = against([record(reliable=False)], [record(reliable=False)], 0.1)
    assert "the old and the new run is marked unreliable" in verdict.notes[0]


def test_what_only_one_side_has_is_noted() -> None:
    verdict = against([record(), record(artifact="old")], [record(), record(artifact="new")], 0.1)
    assert verdict.passed
    assert "new (ov-int8): not in the old results, not judged" in verdict.notes
    assert "old (ov-int8): in the old results only, not judged" in verdict.notes


def test_nothing_in_common() -> None:
    with pytest.raises(InputError, match=r"none of what was measured now \(b \(ov-int8\)\); they hold street"):
        against([record()], [record(artifact="b")], 0.1)


def test_another_machine_is_refused_unless_asked_for() -> None:
    other = record(machine={"cpu": {"model": "N"}})
    with pytest.raises(InputError, match=r"another machine \(CPU model: 'M' then, 'N' now\)"):
        against([record()], [other], 0.1)
    verdict = against([record()], [other], 0.1, any_machine=True)
    assert "compared across machines: CPU model: 'M' then, 'N' now" in verdict.notes


def test_new_software_is_noted_not_refused() -> None:
    newer = record()
    newer["machine"] = {**newer["machine"], "packages": {"openvino": "2026.4"}}
    verdict = against([record()], [newer], 0.1)
    assert verdict.passed
    assert "software changed: openvino 2026.3 then, 2026.4 now" in verdict.notes


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"rows": []}, "not bench results"),
        ([], "not bench results"),
        ("text", "not bench results"),
        ([1], "record 0 is not a bench record"),
        ([record(schema=2)], "record 0 has schema 2, this edgekit reads 1"),
        ([record(), record(whole_ms=None)], "record 1 has no median"),
        ([record(whole_ms={"p50": "fast"})], "no median"),
        ([record(whole_ms={"p50": float("nan")})], "no median"),
        ([record(whole_ms={"p50": 0})], "no median"),
        ([record(whole_ms={"p50": True})], "no median"),
        ([record(machine="mine")], "no 'machine'"),
        ([record(artifact=None)], "no 'artifact'"),
    ],
)
def test_hostile_documents(document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_results(document)


def test_duplicates_and_bad_limits() -> None:
    with pytest.raises(InputError, match="listed twice"):
        against([record(), record()], [record()], 0.1)
    for limit in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="`max_slowdown`"):
            against([record()], [record()], limit)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([record(schema=1)]))
    assert load_results(path)[0]["whole_ms"]["p50"] == 10.0
    with pytest.raises(InputError, match=r"absent\.json"):
        load_results(tmp_path / "absent.json")
    for broken in (b"{", b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"results\.json"):
            load_results(path)
