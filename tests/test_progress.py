"""Long work speaks where there is no terminal: a line every so often, with how far it is and what is left."""

from __future__ import annotations

import re
import threading
import time

import pytest

from edgekit.cli import _progress
from edgekit.cli._common import console
from edgekit.cli._progress import Counted, Phases, clock, track


@pytest.fixture(autouse=True)
def own_console() -> None:
    console.cache_clear()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed next; ten seconds are waited for it."""
    text, end = "", time.monotonic() + 10
    while not text and time.monotonic() < end:
        time.sleep(0.01)
        text = capsys.readouterr().err
    return text


def test_counted_work_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Counted("checking", 40, "images", every_s=0.05) as counter:
        counter.advance(10)
        line = said(capsys).splitlines()[0]
    found = re.fullmatch(r"checking: (\d+) of (\d+) images, ([\d.]+) a second, (\d+:\d\d) left", line)
    assert found is not None, line
    assert found[1] == "10"
    assert found[2] == "40"
    assert float(found[3]) > 0


def test_phases_are_named_with_the_time_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with Phases("exporting", every_s=0.05) as phases:
        phases.update("calibrating [x]")
        assert said(capsys).startswith("calibrating [x] (0:0")


def test_quick_work_says_nothing_and_leaves_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    assert list(track(range(5), "predicting")) == list(range(5))
    assert capsys.readouterr().err == ""
    assert threading.active_count() == before


def test_an_error_ends_it_and_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Counted("checking", 3):
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_unknown_totals_have_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    counter = Counted("reading", None, "frames")
    counter.reach(7, "camera 1")
    assert counter.line().startswith("reading: 7 frames, ")
    assert counter.line().endswith(", camera 1")
    assert "left" not in counter.line()


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00"), (61, "1:01"), (3600 + 3 * 60 + 12, "1:03:12")])
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_the_default_is_a_minute() -> None:
    assert _progress.EVERY_S == 60
