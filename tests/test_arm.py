"""What compares answers of two machines: faults that are put into an answer are found, and what is missing is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from edgekit.verify.rounding import ACROSS
from tests import arm

BOXES = [[10.0, 10.0, 50.0, 60.0], [80.0, 20.0, 120.0, 70.0], [30.0, 90.0, 90.0, 140.0]]
ENTRY: dict[str, Any] = {
    "boxes": BOXES, "scores": [0.9, 0.7, 0.2501], "labels": [0, 1, 1],
    "keypoints": [[[20.0, 20.0, 0.9]], [[90.0, 30.0, 0.9]], [[40.0, 99.0, 0.9]]],
    "masks": [{"size": [4, 4], "counts": [2, 10, 4]}] * 3,
}  # fmt: skip


def wrong(change: Any, bound: str = "f32") -> list[str]:
    have = copy.deepcopy(ENTRY)
    change(have)
    return arm.gap(ENTRY, have, ACROSS[bound]).wrong(ACROSS[bound])


def without(entry: dict[str, Any], which: int) -> None:
    for key in ENTRY:
        entry[key].pop(which)


def swapped(entry: dict[str, Any]) -> None:
    for key in ENTRY:
        entry[key][:2] = entry[key][1::-1]


def test_the_same_answer_is_right() -> None:
    found = arm.gap(ENTRY, copy.deepcopy(ENTRY), ACROSS["f32"])
    assert not found.wrong(ACROSS["f32"]) and found.objects == 3 and set(found.sizes.values()) == {0.0}


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
    assert arm.Gap().wrong(ACROSS["int8"])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda tool: "/usr/bin/apt-get" if tool == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(arm.CannotError) as caught:
        arm.install()
    assert all(package in str(caught.value) for package in ("qemu-user-static", *arm.TOOLS.values()))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(arm.CannotError):
        arm.lacking()


def test_what_is_asked_for_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert arm.main(["ov-fp8"]) == arm.main(["--tasks=fly"]) == 2
    assert "ov-fp8" in capsys.readouterr().err


def test_what_is_half_made_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm, "CACHE", tmp_path / "cache")

    def half(place: Path) -> None:
        place.mkdir()
        raise arm.CannotError("no network")

    with pytest.raises(arm.CannotError):
        arm.kept("root", half)
    assert arm.kept("root", Path.mkdir).is_dir()
