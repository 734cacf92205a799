"""What compares answers of two machines: faults that are put into an answer are found, and what is missing is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import arm, arm_gaps, arm_machine, arm_table
from tests.arm_table import MARGIN, MOST, PROMISED, bounds

BOXES = [[10.0, 10.0, 50.0, 60.0], [80.0, 20.0, 120.0, 70.0], [30.0, 90.0, 90.0, 140.0]]
ENTRY: dict[str, Any] = {
    "boxes": BOXES, "scores": [0.9, 0.7, 0.2501], "labels": [0, 1, 1],
    "keypoints": [[[20.0, 20.0, 0.9]], [[90.0, 30.0, 0.9]], [[40.0, 99.0, 0.9]]],
    "masks": [{"size": [4, 4], "counts": [2, 10, 4]}] * 3,
}  # fmt: skip


def wrong(change: Any, bound: str = "f32") -> list[str]:
    have = copy.deepcopy(ENTRY)
    change(have)
    return arm_gaps.gap(ENTRY, have, bounds(bound)).wrong(bounds(bound))


def without(entry: dict[str, Any], which: int) -> None:
    for key in ENTRY:
        entry[key].pop(which)


def swapped(entry: dict[str, Any]) -> None:
    for key in ENTRY:
        entry[key][:2] = entry[key][1::-1]


def test_the_same_answer_is_right() -> None:
    found = arm_gaps.gap(ENTRY, copy.deepcopy(ENTRY), bounds("f32"))
    assert not found.wrong(bounds("f32")) and found.objects == 3 and set(found.sizes.values()) == {0.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e["boxes"].__setitem__(0, [10.6, 10, 50, 60]), "boxes"),
        (lambda e: e["scores"].__setitem__(1, 0.702), "scores"),
        (lambda e: e["keypoints"][2][0].__setitem__(1, 99.6), "keypoints"),
        (lambda e: e["masks"].__setitem__(1, {"size": [4, 4], "counts": [2, 9, 5]}), "masks"),
        (lambda e: e["labels"].__setitem__(0, 2), "partner"),
        (lambda e: without(e, 1), "partner"),
        (swapped, "order"),
        (lambda e: e["boxes"].__setitem__(0, [float("nan")] * 4), "partner"),
    ],
)
def test_what_is_wrong_is_found(change: Any, says: str) -> None:
    assert any(says in sentence for sentence in wrong(change))


def test_one_at_the_threshold_may_be_missing_and_order_is_free_below_float32() -> None:
    assert not wrong(lambda e: without(e, 2))
    assert not wrong(swapped, "f16")


def test_nothing_compared_is_not_right() -> None:
    assert arm_gaps.Gap().wrong(bounds("int8"))


def rotated(*rows: tuple[float, ...]) -> dict[str, Any]:
    """Objects of one class with falling scores, from (x, y, w, h, angle)."""
    return {
        "rotated_boxes": [list(row) for row in rows],
        "scores": [0.9, 0.5][: len(rows)],
        "labels": [1, 1][: len(rows)],
    }


@pytest.mark.parametrize(("aside", "missing"), [(5.0, 0), (2.0, 1), (9.0, 1)])
def test_one_that_overlaps_by_what_suppression_allows_may_be_missing(aside: float, missing: int) -> None:
    """Upright boxes 31 wide and 5 apart overlap by 0.72; 2 apart by 0.88, 9 apart by 0.55, of which both are clear."""
    boxes = [[10.0, 10.0, 41.0, 60.0], [10.0 + aside, 10.0, 41.0 + aside, 60.0]]
    want = {"boxes": boxes, "scores": [0.9, 0.5], "labels": [1, 1]}
    have = {key: value[:1] for key, value in want.items()}
    for one, other in ((want, have), (have, want)):
        found = arm_gaps.gap(one, other, bounds("f16"))
        assert (found.alone, found.limits) == (missing, 1 - missing)
    assert arm_gaps.gap(want, {**have, "scores": [0.4]}, bounds("f16")).alone >= missing, "suppressed by a worse one"


def test_rotated_boxes_are_suppressed_by_their_own_overlap_and_a_turned_square_is_the_same() -> None:
    from edgekit.runtime.boxes import probiou

    one, other = (100.0, 100.0, 80.0, 60.0, 0.1), (120.0, 100.0, 80.0, 60.0, 0.1)
    assert float(probiou(np.array([one]), np.array([other]))[0, 0]) == pytest.approx(0.7, abs=0.05)
    found = arm_gaps.gap(rotated(one, other), rotated(one), bounds("f16"))
    assert (found.alone, found.limits) == (0, 1)
    turned = arm_gaps.gap(rotated((50, 50, 60.2, 60, 0.8)), rotated((50, 50, 60.1, 60, 0.8 - np.pi / 2)), bounds("f32"))
    assert not turned.wrong(bounds("f32")) and turned.sizes["boxes"] < 0.3


# ---- the table and what follows from it -------------------------------------------------------------------------


def outcome(target: str, **sizes: float) -> arm_table.Outcome:
    row = next(row for row in arm_table.ROWS if row.target == target)
    native = arm_gaps.Gap({name: 3 * size for name, size in sizes.items()}, 7) if row.native else None
    return arm_table.Outcome(row, "f16", arm_gaps.Gap(sizes, 7), native)


def test_bounds_follow_from_the_table_that_a_run_prints(tmp_path: Path) -> None:
    page = tmp_path / "arm.md"
    page.write_text(f"# ARM\n{arm_table.BEGIN}\nas it was\n{arm_table.END}\nmore\n", encoding="utf-8")
    assert bounds("f16", page.read_text(encoding="utf-8")) == MOST["f16"] | {"order": False}, "nothing is known"
    found = [
        outcome("ov-fp16", boxes=0.1, scores=0.004, angles=0.5),
        outcome("ncnn-fp16", boxes=0.4, scores=1e-5, masks=0.03),
        outcome("ov-int8", boxes=3.0, keypoints=1.2),
    ]
    arm_table.document(found, page)
    text = page.read_text(encoding="utf-8")
    assert "as it was" not in text and text.startswith("# ARM\n") and text.endswith("-->\nmore\n")
    half = bounds("f16", text)
    assert half["boxes"] == pytest.approx(MARGIN * 0.4), "of two rows the larger"
    assert half["scores"] == pytest.approx(MARGIN * 0.012), "of Python and C++ the larger"
    assert half["masks"] == pytest.approx(MARGIN * 0.03) and half["keypoints"] == PROMISED["keypoints"]
    assert half["angles"] == MOST["f16"]["angles"], "however far the table's is off"
    assert bounds("int8", text)["boxes"] == MOST["int8"]["boxes"]
    assert bounds("f32", text) == PROMISED | {"order": True}
    arm_table.document(found, page)
    assert page.read_text(encoding="utf-8") == text


def test_the_page_holds_to_its_own_bounds() -> None:
    page = arm_table.PAGE.read_text(encoding="utf-8")
    for target, sizes in arm_table.printed(page).items():
        bound = bounds(next(row.bound for row in arm_table.ROWS if row.target == target), page)
        assert all(size <= bound[name] for name, size in sizes.items()), target
    assert arm_table.BEGIN in page and page.index(arm_table.BEGIN) < page.index(arm_table.END)


def test_the_pages_commands_are_read_as_they_stand_there() -> None:
    packages, commands = arm.typed(arm_table.PAGE.read_text(encoding="utf-8"))
    assert packages[0] == "edgekit" and {*packages[1:]} <= {*arm_machine.RUNTIMES} and len(packages) == 2
    assert {words[0] for words in commands} >= {"doctor", "verify", "predict", "bench"}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda tool: "/usr/bin/apt-get" if tool == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(arm_machine.CannotError) as caught:
        arm_machine.install()
    assert all(package in str(caught.value) for package in ("qemu-user-static", *arm_machine.TOOLS.values()))
    assert arm.main(["ort-fp32"]) == 2
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(arm_machine.CannotError):
        arm_machine.lacking()


def test_what_is_asked_for_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert arm.main(["ov-fp8"]) == arm.main(["--tasks=fly"]) == arm.main(["ov-fp16", "--docs"]) == 2
    assert "ov-fp8" in capsys.readouterr().err


def test_what_is_half_made_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm_machine, "CACHE", tmp_path / "cache")

    def half(place: Path) -> None:
        place.mkdir()
        raise arm_machine.CannotError("no network")

    with pytest.raises(arm_machine.CannotError):
        arm_machine.kept("root", half)
    assert arm_machine.kept("root", Path.mkdir).is_dir()
