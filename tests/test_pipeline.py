"""The belt between reading, working and taking: who is taken, and when."""

from __future__ import annotations

import threading

import pytest

from edgekit.errors import InputError
from edgekit.runtime.pipeline import Lane, OrderedPipeline

LONG_S = 60.0  # for an event that comes, or the test is over anyway


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def belt(
    lanes: list[Lane[str]], delay: float | None = None, clock: Clock | None = None, runs: int | None = None
) -> OrderedPipeline[str, str]:
    return OrderedPipeline(lanes, 16, delay, runs, clock or Clock())


def taken(line: OrderedPipeline[str, str], most: int) -> list[str]:
    return [item for _, item in line.take(most)]


def test_the_belt_hands_out_by_the_batch() -> None:
    line = belt([Lane(4)])
    for i in range(3):
        line.offer(str(i))
    line.end()
    assert line.take(4) == [(0, "0"), (1, "1"), (2, "2")]  # the end has come: no waiting for a fourth
    for number in (2, 0, 1):
        line.give(number, f"answer {number}")
    assert [line.next() for _ in range(3)] == ["answer 0", "answer 1", "answer 2"]
    with pytest.raises(StopIteration):
        line.next()
    assert line.take(4) == []


def test_lanes_take_turns() -> None:
    line = belt([Lane(9), Lane(9), Lane(9)], delay=0)
    for item in ("a1", "a2", "a3", "a4", "a5"):
        line.offer(item, 0)
    for item in ("b1", "b2", "b3"):
        line.offer(item, 1)
    line.offer("c1", 2)
    assert taken(line, 2) == ["a1", "b1"]
    assert taken(line, 4) == ["c1", "a2", "b2", "a3"], "a turn goes on where the last one ended"
    assert taken(line, 4) == ["b3", "a4", "a5"]


def test_without_a_delay_nobody_waits_and_nobody_asks_the_time() -> None:
    class Silent(Clock):
        asked = 0

        def __call__(self) -> float:
            self.asked += 1
            return 0.0

    clock = Silent()
    line = belt([Lane(9), Lane(9)], delay=0, clock=clock)
    line.offer("a1", 0)
    before = clock.asked
    assert taken(line, 4) == ["a1"] and clock.asked == before


def test_a_batch_waits_as_long_as_the_bound_says() -> None:
    clock = Clock()
    line = belt([Lane(9), Lane(9)], delay=5.0, clock=clock)
    line.offer("a1", 0)
    clock.now = 4.0
    line.offer("b1", 1)
    clock.now = 5.0  # the first has waited as long as it may, the second has not
    assert taken(line, 4) == ["a1", "b1"]
    line.offer("a2", 0)
    answers: list[list[str]] = []
    worker = threading.Thread(target=lambda: answers.append(taken(line, 2)))
    worker.start()
    line.offer("b2", 1)  # the clock stands: only a full batch can end this wait
    worker.join(LONG_S)
    assert answers == [["a2", "b2"]]


def test_what_gives_way_leaves_its_place_in_time_too() -> None:
    clock = Clock()
    line = belt([Lane(1, latest=True), Lane(1, latest=True)], delay=5.0, clock=clock)
    for clock.now in (0.0, 2.0, 4.0, 6.0):  # newer than the bound, each of them
        line.offer(f"at {clock.now:g}", 0)
    assert taken(line, 2) == ["at 6"] and line.dropped == 3


def test_nobody_waits_for_what_cannot_come() -> None:
    clock = Clock()
    line = belt([Lane(1, latest=True), Lane(1, latest=True), Lane(1, latest=True)], delay=5.0, clock=clock)
    line.offer("a1", 0)
    line.offer("b1", 1)
    line.end(2)
    assert taken(line, 8) == ["a1", "b1"], "the lanes that are left are full"
    line.offer("a2", 0)
    line.end(1)
    line.end(0)
    assert taken(line, 8) == ["a2"] and taken(line, 8) == []


def test_while_the_runtime_is_busy_items_gather() -> None:
    line = belt([Lane(9), Lane(9)], delay=0, runs=1)
    line.offer("a1", 0)
    ((number, _),) = line.take(4)
    line.offer("b1", 1)
    answers: list[list[str]] = []
    worker = threading.Thread(target=lambda: answers.append(taken(line, 4)))
    worker.start()
    line.offer("a2", 0)
    line.give(number, "a1")
    worker.join(LONG_S)
    assert answers == [["b1", "a2"]]
    for item in ("a3", "a4"):
        line.offer(item, 0)
    assert taken(line, 2) == ["a3", "a4"], "as many as it can use are nothing to wait with"


def test_the_error_of_a_lane_comes_after_all_answers() -> None:
    line = belt([Lane(9), Lane(9)], delay=0)
    line.offer("a1", 0)
    line.end(0, InputError("gone"))
    line.offer("b1", 1)
    line.end(1, InputError("gone, too"))
    for number, item in line.take(4):
        line.give(number, item)
    assert [line.next(), line.next()] == ["a1", "b1"]
    with pytest.raises(InputError, match="^gone$"):
        line.next()
