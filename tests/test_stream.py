"""Streams: nothing lost, nothing out of order, nothing that grows, and an end that is one."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtime import live
from edgekit.runtime.image import write_image
from edgekit.runtime.live import LiveSource, is_live
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.sources import open_sources
from tests.test_predictor import FakeSession, scene, square
from tests.test_sources import make_video

REPO = Path(__file__).resolve().parents[1]


class Slow(FakeSession):
    """Takes its time, a different one for each call; with ``concurrent``, answers arrays of its own."""

    def __init__(self, concurrent: bool = False, batch: int | None = None, seconds: float = 0.01) -> None:
        super().__init__(batch)
        self.concurrent, self.seconds = concurrent, seconds
        self.inside = self.most_inside = 0
        self._rng = np.random.default_rng(0)

    def run(self, batch: Any) -> dict[str, Any]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(float(self._rng.random()) * self.seconds)
        try:
            if self.concurrent:
                return {k: v.copy() for k, v in FakeSession().run(batch).items()}
            return super().run(batch)
        finally:
            self.inside -= 1


def no_threads_left() -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not any(t.name == "edgekit" for t in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert no_threads_left()


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (4, 1), (3, 4)])
def test_every_frame_is_answered_in_order(concurrent: bool, workers: int, batch: int) -> None:
    predictor = Predictor(Slow(concurrent), batch=batch)
    answers = list(predictor.stream((scene(i % 9) for i in range(30)), workers=workers))
    assert [frame.index for frame, _ in answers] == list(range(30))
    for frame, result in answers:
        np.testing.assert_allclose(result.boxes, [square(frame.index % 9)], atol=2)
        assert result.shape == frame.image.shape[:2] and result.plot().shape == frame.image.shape
    session: Any = predictor.session
    assert session.most_inside == (1 if not concurrent else session.most_inside) and session.most_inside <= workers


def test_files_folders_and_videos(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / f"{i}.png", scene(i))
    make_video(tmp_path / "clip.mp4", [0, 200, 0, 200, 0])
    predictor = Predictor(FakeSession())
    answers = list(predictor.stream(tmp_path))
    expected = list(open_sources([tmp_path]))
    assert [(f.path, f.frame) for f, _ in answers] == [(f.path, f.frame) for f in expected]
    for (_, result), frame in zip(answers, expected, strict=True):
        alone = predictor(frame.image)[0]
        np.testing.assert_array_equal(result.boxes, alone.boxes)
        assert (result.image, result.frame) == (str(frame.path), frame.frame)
    many = list(predictor.stream([tmp_path / "0.png", tmp_path / "clip.mp4"], conf=0.99))
    assert len(many) == 6 and all(len(r) == 0 for _, r in many)


def test_a_fast_source_waits_for_a_slow_consumer() -> None:
    made = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal made
        for _ in range(40):
            made += 1
            yield scene(0)

    ahead = []
    with Predictor(Slow(seconds=0)).stream(source(), workers=2, depth=3) as answers:
        for taken, _ in enumerate(answers, 1):
            time.sleep(0.005)
            ahead.append(made - taken)
    assert len(ahead) == 40
    assert max(ahead) <= 3 + 3 + 1  # waiting, in work or done, in the reader's hand


def test_latest_drops_what_is_old_and_never_goes_back() -> None:
    def camera() -> Iterator[np.ndarray]:
        for _ in range(300):
            time.sleep(0.001)
            yield scene(1)

    stream = Predictor(Slow(concurrent=True, seconds=0.02)).stream(camera(), latest=True)
    seen = [frame.index for frame, _ in stream]
    assert seen == sorted(set(seen)) and len(seen) == stream.answered
    assert stream.dropped > 0 and stream.answered + stream.dropped == 300
    assert seen[-1] == 299  # the last one is never dropped


def test_bad_frames_raise_or_are_handed_over() -> None:
    def source() -> Iterator[Any]:
        yield scene(0)
        yield np.zeros((0, 0, 3), np.uint8)
        yield np.full((50, 50, 3), -1.0)
        yield scene(2)

    seen = []
    with pytest.raises(InputError, match=r"image 1: 0 x 0 pixels is too small"):
        for frame, _ in Predictor(FakeSession()).stream(source()):
            seen.append(frame.index)
    assert seen == [0]
    bad: list[str] = []
    stream = Predictor(FakeSession()).stream(source(), on_error=lambda frame: bad.append(str(frame.error)))
    assert [f.index for f, _ in stream] == [0, 3]
    assert "too small" in bad[0] and "float64" in bad[1]


@pytest.mark.parametrize("where", ["source", "session"])
def test_an_error_ends_the_threads_and_is_raised_in_its_place(where: str) -> None:
    class Breaking(Slow):
        def run(self, batch: Any) -> dict[str, Any]:
            if where == "session" and len(self.shapes) == 5:
                raise ZeroDivisionError("in the session")
            return super().run(batch)

    def source() -> Iterator[np.ndarray]:
        yield from (scene(0) for _ in range(5))
        if where == "source":
            raise ZeroDivisionError("in the source")
        yield from itertools.repeat(scene(0))

    stream = Predictor(Breaking()).stream(source(), workers=1)
    seen = 0
    with pytest.raises(ZeroDivisionError, match=where):
        for _ in stream:
            seen += 1
    assert seen == 5 and no_threads_left()
    with pytest.raises(StopIteration):
        next(stream)


def test_what_is_wrong_with_the_model_is_no_frames_fault() -> None:
    class Failing(FakeSession):
        def run(self, batch: Any) -> dict[str, Any]:
            raise InputError("the engine failed")

    bad: list[Any] = []
    with pytest.raises(InputError, match="the engine failed"):
        next(Predictor(Failing()).stream([scene(0)], on_error=bad.append))
    assert not bad and no_threads_left()


def test_leaving_early_ends_the_threads() -> None:
    endless = itertools.repeat(scene(0))
    for _ in Predictor(Slow()).stream(endless):
        break  # forgotten without close()
    with Predictor(Slow()).stream(endless) as stream:
        next(stream)
    stream.close()
    assert no_threads_left()


def test_ctrl_c_leaves_at_once() -> None:
    code = """
        import itertools, signal
        from edgekit.runtime.predictor import Predictor
        from tests.test_stream import Slow, scene
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
        print("ready", flush=True)
        for frame, result in Predictor(Slow(seconds=0.05)).stream(itertools.repeat(scene(0))):
            if frame.index == 2:
                print("running", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPO, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "running\n"]
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode != 0 and complaint.strip().endswith("KeyboardInterrupt")


def test_asyncio() -> None:
    async def main() -> tuple[list[int], int]:
        predictor = Predictor(Slow())
        ticks = 0

        async def clock() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        beside = asyncio.create_task(clock())
        async with predictor.stream(scene(i % 5) for i in range(20)) as answers:
            seen = [frame.index async for frame, _ in answers]
        one = await predictor.predict_async(scene(3))
        np.testing.assert_allclose(one[0].boxes, [square(3)], atol=2)
        beside.cancel()
        return seen, ticks

    seen, ticks = asyncio.run(main())
    assert seen == list(range(20)) and ticks > 5


@pytest.mark.parametrize("change", [{"workers": 0}, {"depth": 0}, {"workers": 1.5}, {"conf": 3}, {"classes": (9,)}])
def test_bad_settings_are_refused_at_once(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Predictor(FakeSession()).stream([scene(0)], **change)


@pytest.mark.parametrize("source", ["absent.mp4", None, 3.5, scene(0), object(), [], ()])
def test_what_is_no_source_is_refused_at_once(source: Any) -> None:
    with pytest.raises(InputError):
        Predictor(FakeSession()).stream(source)


# ---- live sources -----------------------------------------------------------------------------------------------


class Capture:
    """A capture that gives the images of ``script`` (None: a read that fails), or does not open at all."""

    def __init__(self, script: list[Any] | None) -> None:
        self.script, self.released = script, False

    def isOpened(self) -> bool:
        return self.script is not None

    def get(self, what: int) -> float:
        return 12.5

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.001)
        if not self.script:
            return False, None
        image = self.script.pop(0)
        return image is not None, image

    def release(self) -> None:
        self.released = True


def test_a_camera_that_dies_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSES", (0.001, 0.01))
    empty = np.zeros((0, 0, 3), np.uint8)
    lives = [Capture(s) for s in ([scene(0), scene(1)], None, [], [scene(2), empty, None, scene(8)], [scene(3)])]
    rest = iter(lives)
    camera = LiveSource("rtsp://me:secret@camera/1", patience=0.2, opened=lambda source: next(rest, Capture(None)))
    bad = []
    seen = []
    with pytest.raises(InputError, match=r"rtsp://camera/1: no frame for 0.2 seconds") as caught:
        stream = Predictor(FakeSession()).stream(camera, latest=False, on_error=lambda f: bad.append(str(f.error)))
        for frame, result in stream:
            seen.append((frame.index, frame.fps, result.shape[0]))
    assert seen == [(0, 12.5, 60), (1, 12.5, 61), (2, 12.5, 62), (4, 12.5, 63)]
    assert len(bad) == 1 and "secret" not in bad[0] + str(caught.value)
    assert all(c.released for c in lives) and camera.reconnects >= 5


def test_what_is_live() -> None:
    assert all(is_live(s) for s in (0, 3, "rtsp://a/b", "http://x", "UDP://1", "/dev/video0"))
    assert not any(is_live(s) for s in ("a.mp4", Path("photos"), True, None, "c:/clips", [0]))


def test_a_camera_that_never_was_is_given_up() -> None:
    with pytest.raises(InputError, match="no frame for 0.3 seconds"):
        list(Predictor(FakeSession()).stream("rtsp://127.0.0.1:9/none", patience=0.3))


# ---- sharing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrent", [False, True])
def test_threads_may_share_a_predictor(concurrent: bool) -> None:
    predictor = Predictor(Slow(concurrent, seconds=0.002))
    wrong: list[int] = []

    def work(first: int) -> None:
        for i in range(20):
            k = (first + i) % 9
            if np.abs(predictor(scene(k))[0].boxes - [square(k)]).max() > 2:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert predictor.session.most_inside == (1 if not concurrent else predictor.session.most_inside)


@pytest.mark.parametrize("target", ["ov-fp32", "ort-fp32"])
def test_threads_share_one_compiled_model(tmp_path: Path, target: str) -> None:
    pytest.importorskip("openvino" if target == "ov-fp32" else "onnxruntime")
    from edgekit.bundle.loading import load
    from tests.tiny import tiny_bundle

    folder = tiny_bundle(tmp_path / "bundle", "classify", target)
    images = [np.full((80, 90, 3), 40 * i, np.uint8) for i in range(6)]
    with load(folder, threads=2, streams=2) as predictor:
        serial = [predictor(image)[0].probs for image in images]
        assert len({p.tobytes() for p in serial}) == 6
        wrong: list[int] = []

        def work(first: int) -> None:
            for i in range(12):
                k = (first + i) % 6
                if np.abs(predictor(images[k])[0].probs - serial[k]).max() > 1e-6:
                    wrong.append(k)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        for (_, result), expected in zip(predictor.stream(images), serial, strict=True):
            np.testing.assert_allclose(result.probs, expected, atol=1e-6)
    for wrong_count in (0, -1, True, 1.5):
        with pytest.raises(UsageError, match="streams"):
            load(folder, streams=wrong_count)


AT_ONCE = """
    import sys, threading
    import numpy as np
    from edgekit.bundle.loading import load

    image, start = np.zeros((64, 64, 3), np.uint8), threading.Barrier(4)
    sys.setswitchinterval(1e-6)
    with load(sys.argv[1], threads=1, streams=2) as predictor:
        def work():
            start.wait()
            predictor(image)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


def test_the_first_calls_of_a_process_may_come_at_once(tmp_path: Path) -> None:
    """OpenVINO alone stopped about every second such process for ever."""
    pytest.importorskip("openvino")
    from tests.tiny import tiny_bundle

    folder = tiny_bundle(tmp_path / "bundle", "classify", "ov-fp32")
    command = [sys.executable, "-c", textwrap.dedent(AT_ONCE), str(folder)]
    runs = [subprocess.Popen(command, cwd=REPO) for _ in range(6)]
    try:
        assert [run.wait(120) for run in runs] == [0] * 6
    finally:
        for run in runs:
            run.kill()
