"""Several sources at once: each in its own order and with its own end, and batches of what is there anyway."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtime import live
from edgekit.runtime.frames import Frame
from edgekit.runtime.live import LiveSource
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.sources import open_sources
from edgekit.runtime.writer import open_writer
from tests.test_predictor import FakeSession, scene, square
from tests.test_sources import make_video

LONG_S = 60.0  # for an event that comes, or the test is over anyway


class Held(FakeSession):
    """Answers when it is let go; ``begun`` tells of every run, ``filled`` how many images each of them had."""

    def __init__(self, batch: int | None = None) -> None:
        super().__init__(batch)
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.filled: list[int] = []

    def run(self, batch: Any) -> dict[str, Any]:
        self.filled.append(len(batch))
        self.begun.release()
        assert self.go.acquire(timeout=LONG_S)
        return super().run(batch)


class Capture:
    """A capture that gives what ``script`` gives and then fails, or waits for an event first."""

    def __init__(self, script: Iterator[Any], after: threading.Event | None = None) -> None:
        self.script, self.after, self.open = script, after, True

    def isOpened(self) -> bool:
        return self.open

    def get(self, what: int) -> float:
        return 25.0

    def read(self) -> tuple[bool, Any]:
        if self.after is not None:
            self.after.wait(LONG_S)
        image = next(self.script, None)
        return image is not None, image

    def release(self) -> None:
        self.open = False


def scenes(count: int, first: int = 0) -> Iterator[np.ndarray]:
    return (scene((first + i) % 9) for i in range(count))


def camera(name: str, count: int, after: threading.Event | None = None) -> LiveSource:
    """One that gives so many scenes and is then gone for good."""
    lives = iter([Capture(scenes(count), after)])

    def opened(source: Any) -> Any:
        capture = next(lives, None)
        if capture is None:
            gone = Capture(iter(()))
            gone.open = False
            return gone
        return capture

    return LiveSource(f"rtsp://{name}/1", patience=0.0, opened=opened)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(live, "PAUSES", (0.001, 0.002))
    yield
    end = time.monotonic() + 20
    while any(t.name == "edgekit" for t in threading.enumerate()):
        assert time.monotonic() < end, "a thread of a stream is left"
        time.sleep(0.01)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (4, 3), (4, None)])
def test_every_source_has_its_own_order_and_says_which_it_is(batch: int, workers: int | None) -> None:
    counts = (7, 1, 12)
    sources = [scenes(count, first=3 * source) for source, count in enumerate(counts)]
    answers = list(Predictor(FakeSession(), batch=batch).stream(sources, workers=workers))
    for source, count in enumerate(counts):
        own = [(frame, result) for frame, result in answers if frame.source == source]
        assert [frame.index for frame, _ in own] == list(range(count))
        for frame, result in own:
            np.testing.assert_allclose(result.boxes, [square((3 * source + frame.index) % 9)], atol=2)
    assert len(answers) == sum(counts)


def test_clips_and_cameras_carry_their_names(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", [0, 200, 0])
    bad: list[Frame] = []
    sources = [str(tmp_path / "clip.mp4"), camera("yard", 5)]
    with Predictor(FakeSession()).stream(sources, latest=False, on_error=bad.append) as answers:
        seen = [(frame.source, result.image, result.frame) for frame, result in answers]
    clip = [(0, str(tmp_path / "clip.mp4"), i) for i in range(3)]
    assert sorted(seen) == clip + [(1, "rtsp://yard/1", i) for i in range(5)]
    assert [(frame.source, frame.index) for frame in bad] == [(1, 5)], "the camera that went, after its frames"


@pytest.mark.parametrize("workers", [1, None])
def test_what_is_there_anyway_is_one_run(workers: int | None) -> None:
    """Four cameras, of which all have a frame while the model is busy with the first one's."""
    session, busy, ready = Held(), threading.Event(), [threading.Event() for _ in range(4)]

    def source(number: int) -> Iterator[np.ndarray]:
        if number:
            assert busy.wait(LONG_S)
        yield scene(number)
        ready[number].set()

    with Predictor(session, batch=4).stream([source(i) for i in range(4)], workers=workers) as answers:
        assert session.begun.acquire(timeout=LONG_S)
        busy.set()
        assert all(event.wait(LONG_S) for event in ready)
        session.go.release(2)
        assert [frame.source for frame, _ in answers] == [0, 1, 2, 3]
    assert session.filled == [1, 3]


def test_with_a_bound_a_batch_waits_to_be_full() -> None:
    session, second = Held(), threading.Event()

    def source(number: int) -> Iterator[np.ndarray]:
        if number:
            assert second.wait(LONG_S)
        yield scene(number)
        second.set()

    sources = [source(0), source(1)]
    with Predictor(session, batch=2).stream(sources, workers=1, max_queue_delay_ms=1e3 * LONG_S) as answers:
        session.go.release()
        assert {frame.source for frame, _ in answers} == {0, 1}
    assert session.filled == [2]


def test_a_slow_source_does_not_hold_up_another() -> None:
    never = threading.Event()
    slow = camera("slow", 1, after=never)
    with (
        pytest.warns(RuntimeWarning) as said,
        Predictor(FakeSession(), batch=4).stream([slow, camera("quick", 50)], latest=False) as answers,
    ):
        assert [next(answers)[0].source for _ in range(50)] == [1] * 50
        never.set()
        assert next(answers)[0].source == 0
        with pytest.raises(InputError, match="rtsp://quick/1"):  # the first to go, when all have
            next(answers)
    (warning,) = said  # of the last to go the error is enough
    assert "rtsp://quick/1" in str(warning.message)


def test_a_dead_source_is_said_at_once_and_the_others_go_on() -> None:
    gone = threading.Event()

    def heard(frame: Frame) -> None:
        assert frame.source == 0 and isinstance(frame.error, InputError)
        gone.set()

    sources = [camera("dead", 0), camera("alive", 8, after=gone)]
    errors: list[Frame] = []

    def on_error(frame: Frame) -> None:
        errors.append(frame)
        if len(errors) == 1:
            heard(frame)

    with Predictor(FakeSession()).stream(sources, latest=False, on_error=on_error) as answers:
        assert [frame.index for frame, _ in answers] == list(range(8))
    assert [frame.source for frame in errors] == [0, 1]


def test_live_sources_give_their_newest_frame() -> None:
    """While the model is held, both cameras go on to their last frames; nothing older waits."""
    session, first = Held(), threading.Event()
    ends = [threading.Event(), threading.Event()]

    def frames(number: int) -> Iterator[np.ndarray]:
        yield scene(0)
        assert first.wait(LONG_S)
        yield from (scene(i % 4) for i in range(20))
        ends[number].set()

    def source(number: int) -> LiveSource:
        lives = iter([Capture(frames(number))])
        return LiveSource(f"rtsp://{number}/1", 60.0, opened=lambda _: next(lives, Capture(iter(()))))

    with Predictor(session).stream([source(0), source(1)], workers=1) as answers:
        assert session.begun.acquire(timeout=LONG_S)
        first.set()
        assert all(event.wait(LONG_S) for event in ends)
        session.go.release(3)
        seen = [next(answers)[0] for _ in range(3)]
        assert {(frame.source, frame.index) for frame in seen[1:]} == {(0, 20), (1, 20)}
        assert answers.dropped >= 2 * 19


def test_a_fault_of_the_program_ends_all() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield scene(0)
        raise ZeroDivisionError("in the source")

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield scene(1)

    with pytest.raises(ZeroDivisionError):
        for _ in Predictor(FakeSession()).stream([endless(), broken()]):
            pass


@pytest.mark.parametrize("delay", [-1, float("nan"), "soon"])
def test_a_delay_is_a_number_of_milliseconds(delay: Any) -> None:
    with pytest.raises(UsageError):
        Predictor(FakeSession()).stream(["rtsp://a/1", "rtsp://b/1"], max_queue_delay_ms=delay)


@pytest.mark.parametrize(
    "twice",
    [
        ["rtsp://me:secret@a/1", "rtsp://a/1"],
        [0, "/dev/video0"],
        [LiveSource("rtsp://a/1"), "rtsp://b/1", "rtsp://a/1"],
    ],
)
def test_a_source_is_given_once(twice: list[Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Predictor(FakeSession()).stream(twice)
    assert "secret" not in str(caught.value)


def test_a_clip_is_given_once(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", [0, 200])
    (tmp_path / "x").mkdir()
    clips = [open_sources([tmp_path / "clip.mp4"]), open_sources([tmp_path / "x" / ".." / "clip.mp4"])]
    with pytest.raises(UsageError):
        Predictor(FakeSession()).stream(clips)


@pytest.mark.parametrize(("fixed", "batch"), [(1, 4), (4, 2), (None, 0), (None, 1.5), (None, True)])
def test_a_batch_that_the_bundle_cannot_take(fixed: int | None, batch: Any) -> None:
    with pytest.raises(UsageError):
        Predictor(FakeSession(fixed), batch=batch)


def test_a_bundle_is_loaded_with_its_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from edgekit.bundle.loading import load
    from tests.tiny import tiny_bundle

    folder = tiny_bundle(tmp_path / "bundle", "detect", "ort-fp32")
    with load(folder, batch=1) as model:
        assert model.batch == 1
    with pytest.raises(UsageError):
        load(folder, batch=2)


@pytest.mark.parametrize("second", [None, 3.5, "absent.mp4"])
def test_what_is_no_source_is_refused_among_others(second: Any) -> None:
    with pytest.raises(InputError):
        Predictor(FakeSession()).stream(["rtsp://a/1", second])


def test_a_list_of_files_is_one_source(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_video(tmp_path / f"{name}.mp4", [0, 200])
    answers = list(Predictor(FakeSession()).stream([tmp_path / "a.mp4", tmp_path / "b.mp4"]))
    assert [(frame.source, frame.path.stem, frame.frame) for frame, _ in answers] == [
        (0, "a", 0), (0, "a", 1), (0, "b", 0), (0, "b", 1),
    ]  # fmt: skip


def test_each_source_has_a_video_of_its_own(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out") as writer:
        for i in range(6):
            name = f"rtsp://{'ab'[i % 2]}/1"
            writer.write(Frame(Path(name), i // 2, scene(i), i // 2, fps=25.0, name=name, source=i % 2), scene(i))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = {path.name: len(list(open_sources([path]))) for path in writer.paths}
    assert frames == {"1.mp4": 3, "1-2.mp4": 3}
