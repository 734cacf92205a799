"""`edgekit tune --to`: which lever is taken when, by simulated clocks and accuracies; what is refused before work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import shapeset
from edgekit.autotune import Candidate, Objective, parse_speedup, reach
from edgekit.autotune.ladder import Ladder, Move, climb
from edgekit.autotune.select import Judged, Time
from edgekit.autotune.tuner import Job, Tuner
from edgekit.bundle import loading
from edgekit.bundle.options import BuildOptions
from edgekit.errors import InputError
from tests.conftest import Run
from tests.networks import noise, settled

START = Candidate("ov-fp16")
MS = 10.0  # what the start takes
Effects = dict[str, tuple[float, float | None]]  # lever -> factor of the time, points lost (None: cannot be built)


class Simulated:
    """Levers that can be pulled once each; factors of time multiply, points add. ``stand_ins``: levers whose trial is
    so much faster than what is judged."""

    def __init__(
        self, levers: Effects, narrows: Sequence[str] = (), slow: Sequence[str] = (), stand_ins: Effects | None = None
    ) -> None:
        self.levers, self.narrows, self.slow, self.stand_ins = levers, narrows, slow, stand_ins or {}
        self.judged: list[tuple[str, float | None]] = []
        self.built: list[str] = []

    def moves(self, candidate: Candidate) -> list[Move]:
        pulled = candidate.variant.split("+") if candidate.variant else []
        return [
            Move(
                name,
                Candidate("ov-fp16", variant="+".join([*pulled, name])),
                name,
                name in self.narrows,
                name in self.slow,
            )
            for name in self.levers
            if name not in pulled
        ]

    def _of(self, name: str) -> tuple[float, float | None]:
        ms, drop = MS, 0.0
        for lever in name.removeprefix("ov-fp16").strip().split("+") if name != "ov-fp16" else []:
            factor, lost = self.levers[lever]
            if name not in [bundle for bundle, _ in self.judged]:
                factor *= self.stand_ins.get(lever, (1.0, 0.0))[0]
            ms *= factor
            if lost is None:
                return ms, None
            drop += lost
        return ms, drop

    def build(self, candidate: Candidate) -> str | None:
        self.built.append(candidate.variant)
        return "parity is off" if self._of(candidate.name)[1] is None else None

    def stands_in(self, candidate: Candidate) -> bool:
        return candidate.variant.split("+")[-1] in self.stand_ins

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        first = self._of(baseline)[0]
        ratios = {name: self._of(name)[0] / first for name in names}
        return {name: Time(first * r, first * r, first * r, r, 0.99 * r, 1.01 * r) for name, r in ratios.items()}

    def judge(self, candidate: Candidate, limit: float | None) -> Judged:
        self.judged.append((candidate.name, limit))
        drop = self._of(candidate.name)[1]
        assert drop is not None
        return Judged(0.5 - drop / 100, drop)


def taken(ladder: Ladder) -> list[str]:
    return [rung.lever for rung in ladder.taken[1:]]


def test_the_best_exchange_first_and_no_further_than_asked_for() -> None:
    # size: 0.1 points for 1 ms; int8: 0.2 for 4 ms, which is less a millisecond though more in all
    world = Simulated({"size": (0.9, 0.1), "int8": (0.6, 0.2), "half": (0.5, 0.3)}, narrows=["int8"])
    ladder = climb(START, world, 1.6, 0.5)
    assert taken(ladder) == ["int8"] and ladder.reached and ladder.last.speedup == pytest.approx(1 / 0.6)
    exchanges = {rung.lever: rung.exchange for rung in ladder.rungs[1:]}
    assert exchanges == pytest.approx({"size": 0.1, "int8": 0.05, "half": 0.06})


def test_what_costs_nothing_is_taken_before_the_rest_is_built() -> None:
    world = Simulated({"shape": (0.8, -0.1), "int8": (0.6, 0.3)}, narrows=["int8"])
    ladder = climb(START, world, 2.0, 0.5)
    assert taken(ladder) == ["shape", "int8"] and ladder.reached
    assert "int8" not in world.built
    name, limit = world.judged[-1]
    assert name == "ov-fp16 shape+int8" and limit == pytest.approx(0.6), "its gate may lose what the limit has left"


def test_what_is_fast_enough_is_taken_before_what_costs_less_and_is_not() -> None:
    world = Simulated({"runtime": (0.4, 0.1), "int8": (0.8, -0.1)}, narrows=["int8"])
    ladder = climb(START, world, 2.0, 0.5)
    assert taken(ladder) == ["runtime"] and ladder.reached


def test_what_saves_nothing_is_not_judged_and_what_loses_too_much_is_not_tried_again() -> None:
    world = Simulated({"other": (0.99, 0.0), "size": (0.7, 0.9), "int8": (0.8, 0.2), "broken": (0.5, None)})
    ladder = climb(START, world, 2.0, 0.5)
    assert not ladder.reached and taken(ladder) == ["int8"]
    assert [name for name, _ in world.judged] == ["ov-fp16", "ov-fp16 size", "ov-fp16 int8"]
    assert world.built == ["", "other", "size", "int8", "broken"]
    assert [rung.verdict for rung in ladder.rungs if rung.lever == "broken"] == ["parity is off"]


def test_where_nothing_reaches_it_the_lossy_one_that_would_is_known() -> None:
    ladder = climb(START, Simulated({"int8": (0.7, 0.2), "size": (0.4, 0.9), "tiny": (0.3, 3.0)}), 2.0, 0.5)
    beyond = ladder.beyond()
    assert not ladder.reached and taken(ladder) == ["int8"]
    assert beyond is not None and beyond.lever == "size" and beyond.speedup == pytest.approx(2.5)


def test_speed_is_of_what_was_judged_and_not_of_its_stand_in() -> None:
    world = Simulated({"int8": (0.8, 0.2)}, narrows=["int8"], stand_ins={"int8": (0.5, 0.0)})
    ladder = climb(START, world, 2.0, 0.5)
    assert not ladder.reached and ladder.last.speedup == pytest.approx(1.25)


def test_a_training_comes_when_nothing_else_is_left() -> None:
    levers: Effects = {"int8": (0.7, 0.2), "size": (0.8, 0.2), "activation": (0.8, -2.0)}
    world = Simulated(levers, narrows=["int8"], slow=["activation"])
    assert taken(climb(START, world, 1.7, 0.5)) == ["int8", "size"] and "activation" not in "".join(world.built)
    assert taken(climb(START, world, 2.2, 0.5)) == ["int8", "size", "activation"]


def test_after_a_training_what_lost_too_much_is_tried_again() -> None:
    world = Simulated({"size": (0.5, 0.9), "other": (1.1, 0.0), "activation": (0.9, -1.0)}, slow=["activation"])
    ladder = climb(START, world, 2.0, 0.5)
    assert ladder.reached and taken(ladder) == ["activation", "size"]
    assert world.built == ["", "size", "other", "activation", "activation+size"]


class Learning(Tuner):
    """Time goes with the area; a smaller input loses 3 points, but for a network that learnt in it, which loses as much
    in the full one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Job(folder / "a.pt", BuildOptions()), folder, Objective())
        self.learnt: list[tuple[int, int]] = []

    def learn(self, size: tuple[int, int]) -> Path:
        self.learnt.append(size)
        return self.folder / "learnt.pt"

    def base(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (320, 320), (4, 1)

    def pruned(self, variant: str, name: str, size: tuple[int, int], limit: float) -> Path:
        raise InputError("nothing can be left out")

    def build(self, entries: Sequence[Candidate]) -> dict[str, str]:
        return {}

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        shares = {name: _pixels(name) / _pixels(baseline) for name in names}
        return {name: Time(MS * r, MS * r, MS * r, r, r, r) for name, r in shares.items()}

    def judge(self, entry: Candidate, limit: float | None = None) -> Judged:
        drop = 0.0 if (entry.shapes[0] in self.learnt if entry.variant else entry.shapes[0] == (320, 320)) else 3.0
        return Judged(0.5 - drop / 100, drop)


@pytest.mark.parametrize(("to", "size"), [(1.2, (288, 288)), (1.5, (256, 256)), (2.0, (192, 192)), (9.0, (288, 288))])
def test_what_is_learnt_is_the_largest_input_that_would_do(to: float, size: tuple[int, int], tmp_path: Path) -> None:
    contest = Learning(tmp_path)
    world = reach.Levers(contest, reach.Wanted(to, "ov-fp16", learn=contest.learn, activation="relu"), ["ov-fp16"])
    ladder = climb(world.start(), world, to, 0.5)
    assert contest.learnt == [size] and ladder.last.candidate == Candidate("ov-fp16", shapes=(size,), variant="relu")
    assert ladder.reached == (to < 9) and taken(ladder) == ["activation"]


def test_a_training_that_is_gone_on_with_keeps_its_input(tmp_path: Path) -> None:
    contest = Learning(tmp_path)
    wanted = reach.Wanted(1.2, "ov-fp16", learn=contest.learn, activation="relu", size=(192, 192))
    world = reach.Levers(contest, wanted, ["ov-fp16"])
    assert climb(world.start(), world, 1.2, 0.5).reached and contest.learnt == [(192, 192)]


def test_a_start_that_loses_too_much_or_cannot_be_built() -> None:
    class Lossy(Simulated):
        def judge(self, candidate: Candidate, limit: float | None) -> Judged:
            return Judged(0.4, 10.0)

    ladder = climb(START, Lossy({"int8": (0.5, 0.0)}), 2.0, 0.5)
    assert not ladder.reached and len(ladder.rungs) == 1 and "10.00" in ladder.last.verdict

    class Broken(Simulated):
        def build(self, candidate: Candidate) -> str | None:
            return "no compiler"

    with pytest.raises(InputError, match="no compiler"):
        climb(START, Broken({}), 2.0, 0.5)


@given(
    st.lists(st.tuples(st.floats(0.3, 1.2), st.floats(-0.5, 1.5)), min_size=1, max_size=5),
    st.floats(1.05, 5),
    st.floats(0, 1),
)
def test_the_limit_holds_and_every_step_is_faster(effects: list[tuple[float, float]], to: float, limit: float) -> None:
    levers = {f"l{number}": effect for number, effect in enumerate(effects)}
    ladder = climb(START, Simulated(levers), to, limit)
    assert all(rung.drop <= limit for rung in ladder.taken[1:])
    speeds = [rung.speedup for rung in ladder.taken if rung.time is not None]
    assert all(b > a for a, b in itertools.pairwise(speeds))
    assert ladder.reached == (ladder.last.speedup >= to)
    if ladder.reached:
        assert all(rung.speedup < to for rung in ladder.taken[1:-1])
    else:  # no lever is left that could be taken
        left = set(levers) - set(taken(ladder))
        now = ladder.last.drop
        assert all(
            levers[name][0] > 0.96 or now + levers[name][1] > limit - 1e-9 or _failed(ladder, name) for name in left
        )


def _failed(ladder: Ladder, name: str) -> bool:
    """Whether a lever was refused at an earlier rung, from which it is out for good."""
    return any(
        rung.lever == name and not rung.verdict.startswith(("costs more", "is not fast")) for rung in ladder.rungs
    )


@pytest.mark.parametrize(("text", "times"), [("2x", 2.0), ("1.5", 1.5), ("1.05x", 1.05)])
def test_how_a_speed_is_written(text: str, times: float) -> None:
    assert parse_speedup(text) == times


@pytest.mark.parametrize("text", ["1x", "0.5x", "-2", "fast", "nan", "inf", "101x", ""])
def test_speeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="2x"):
        parse_speedup(text)


@pytest.mark.parametrize(
    ("words", "datum"),
    [
        (["--to", "0.5x"], "--to 0.5x"),
        (["--to", "2x", "--max-drop", "-1"], "--max-drop"),
        (["--to", "2x", "--source", "nowhere.mp4"], "nowhere.mp4"),
        (["--to", "2x", "--resume"], "--resume"),
        (["--to", "2x", "--val", "other.yaml"], "--val"),
        (["--to", "2x", "--target", "ort-fp8"], "ort-fp8"),
        (["--to", "2x"], "absent.pt"),
        (["--to", "2x", "--activation", "relu"], "--activation"),
        (["--source", "640x480"], "--to"),
        (["--max-drop", "1"], "--to"),
        (["--train", "runs/here"], "--to"),
    ],
)
def test_what_is_refused_before_the_work(words: list[str], datum: str, tmp_path: Path, run: Run) -> None:
    code, _, said = run("tune", tmp_path / "absent.pt", "--data", tmp_path, "--out", tmp_path / "out", *words)
    assert code == 2 and datum in said and not (tmp_path / "out").exists()


# ---- from end to end ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bundle_is_the_last_rung_and_an_unreached_speed_leaves_the_ladder(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is taken to be as the pixels; what the random network finds is nothing, which no shape makes less."""
    pytest.importorskip("openvino")
    from edgekit import checkpoint

    def clock(self: Tuner, names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        pixels = {name: _pixels(name) for name in (*names, baseline)}
        return {n: Time(p, p, p, *[p / pixels[baseline]] * 3) for n, p in pixels.items()}

    monkeypatch.setattr(Tuner, "clock", clock)
    monkeypatch.setattr(reach, "candidates", lambda *_: ([Candidate("ov-fp16")], {"ov-int8": "left out"}))
    data = shapeset.make_set(tmp_path / "set", train=4, val=2, size=96)
    for file in (tmp_path / "set" / "labels" / "val").iterdir():
        file.write_text("0 0.5 0.5 0.02 0.02\n")  # two pixels, which no large box at random overlaps by half
    model = checkpoint.save(settled("yolo12n", noise(4, 3, 96, 96), 1e-3, shapeset.NAMES, seed=1), tmp_path / "a.pt")
    words = ["tune", model, "--data", data, "--imgsz", 96, "--source", "96x64", "--target", "ov-fp16", "--json"]
    code, document, _ = run(*words, "--out", tmp_path / "fast", "--to", "2x")
    assert code == 0
    found = json.loads(document)
    steps = found["plan"]["ladder"]["steps"]
    assert [(row["lever"], row["taken"]) for row in steps] == [("start", True), ("shape", True), ("size", True)]
    assert found["plan"]["ladder"]["speedup"]["ratio"] == pytest.approx(2.25) and found["imgsz"] == [64, 64]
    assert "16" in found["plan"]["left_out"]["ov-int8"]  # images to calibrate on, of which the set has 4
    with loading.load(tmp_path / "fast", verify=True) as fast:
        assert len(fast(np.zeros((64, 96, 3), np.uint8))) == 1

    code, document, said = run(*words, "--out", tmp_path / "none", "--to", "3x")
    assert code == 1 and "--to 3x" in said and "64x64" in said and not (tmp_path / "none").exists()
    evidence = json.loads((tmp_path / "none.failed.json").read_text())["plan"]["ladder"]
    assert not evidence["reached"]
    steps = [(row["lever"], row["taken"]) for row in evidence["steps"]]
    assert steps == [("start", True), ("shape", True), ("size", True), ("pruning", False)], "no pixels are saved by it"


def _pixels(name: str) -> int:
    height, width = name.split()[1].split("x")
    return int(height) * int(width)
