"""A source through a model, with decoding, inference and post-processing overlapped and the order kept.

    for frame, result in model.stream("clips/"):                # files, folders, videos: nothing is left out
        ...
    with model.stream("rtsp://camera/1") as answers:            # live: the newest frame, older ones give way
        for frame, result in answers:
            show(result.plot())

One thread reads, ``workers`` threads predict, and whoever iterates takes the answers; between them a few frames wait
(``edgekit.runtime.pipeline``). Leaving the block or the loop by an error, Ctrl-C included, ends the threads.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import as_image, is_array
from edgekit.runtime.live import LiveSource, is_live
from edgekit.runtime.pipeline import OrderedPipeline
from edgekit.runtime.results import Result
from edgekit.runtime.sources import Sources, open_sources

if TYPE_CHECKING:
    from edgekit.runtime.predictor import Predictor

JOIN_S = 10.0  # threads that do not end in this time (a driver that hangs) are left to the end of the process

Answer = tuple[Frame, Result]
Frames = OrderedPipeline[Frame, tuple[Frame, Result | BaseException]]


class Stream:
    """An iterator of ``(Frame, Result)``; also an asynchronous one, and a context manager of either kind.

    Args:
        predictor: the model.
        source: a file, folder or glob (or several), a camera's number, an address, ``LiveSource``, ``Sources``, or
            anything that can be iterated and gives images or Frames.
        workers: threads that predict; by default one more than the runtime takes images at once, to keep it busy.
        depth: frames that wait to be worked on.
        latest: drop waiting frames for newer ones; by default for live sources only.
        patience: seconds without a frame after which a live source is given up.
        on_error: called with a Frame that cannot be used, instead of raising its error; the stream goes on.
        options: fields of ``Options`` to change for this stream.

    Attributes:
        dropped: frames that gave way to newer ones.
        answered: results taken so far.

    Raises:
        InputError: the source is not there, or a frame of it is no image; when iterating.
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: object,
        *,
        workers: int | None = None,
        depth: int | None = None,
        latest: bool | None = None,
        patience: float = 30.0,
        on_error: Callable[[Frame], None] | None = None,
        **options: object,
    ) -> None:
        for name, value in (("workers", workers), ("depth", depth)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"stream: {name} {value} must be a whole number of at least 1")
        predictor.check(options)
        opened = _open(source, patience)
        live = isinstance(opened, LiveSource)
        newest = live if latest is None else latest
        batch = predictor.batch
        workers = workers or 1 + predictor.session.streams
        waiting = max(depth or 0, batch) if depth or newest else 2 * batch
        self._belt = belt = Frames(waiting, (workers + (not newest)) * batch, newest)
        self._on_error = on_error
        self.answered = 0
        self._process = os.getpid()
        stop = threading.Event()
        jobs: list[tuple[Callable[..., None], tuple[object, ...]]] = [(_read, (opened, belt, stop))]
        jobs += [(_work, (predictor, belt, options))] * workers
        threads = [threading.Thread(target=job, args=args, daemon=True, name="edgekit") for job, args in jobs]
        # The threads know the belt and not the stream, so a forgotten stream is collected and ends them; so does exit.
        self._end = weakref.finalize(self, _finish, belt, stop, threads)
        for thread in threads:
            thread.start()

    @property
    def dropped(self) -> int:
        return self._belt.dropped

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        if os.getpid() != self._process:  # its threads are not in a forked process
            raise UsageError("stream: was begun before this process was forked; begin it in the process that takes it")
        try:
            while True:
                frame, outcome = self._belt.next()
                if isinstance(outcome, Result):
                    self.answered += 1
                    return frame, outcome
                if self._on_error is None or frame.error is None:  # of the model, not of the frame
                    raise outcome
                self._on_error(frame)
        except BaseException:  # the end, an error or Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """End the threads and let go of the frames; can be called again."""
        self._end()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # ---- asyncio ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Answer:
        import asyncio  # 40 ms that few programs need

        answer = await asyncio.to_thread(next, self, None)  # StopIteration cannot leave a coroutine
        if answer is None:
            raise StopAsyncIteration
        return answer

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *reason: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)


def _open(source: object, patience: float) -> LiveSource | Iterable[object]:
    if isinstance(source, (LiveSource, Sources)):
        return source
    if is_live(source):
        return LiveSource(source, patience)
    if isinstance(source, (str, Path)):
        return open_sources([source])
    if isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, Path)) for s in source):
        return open_sources(source)
    if (is_array(source) and getattr(source, "ndim", 0) != 4) or not isinstance(source, Iterable):
        raise InputError(f"stream: a {type(source).__name__} is no source; give a path, a camera, an address or images")
    return source


def _read(source: LiveSource | Iterable[object], belt: Frames, stop: threading.Event) -> None:
    """The reading thread."""
    try:
        for index, item in enumerate(source.frames(stop) if isinstance(source, LiveSource) else source):
            if stop.is_set() or not belt.offer(item if isinstance(item, Frame) else _frame(item, index)):
                return
        belt.end()
    except BaseException as error:  # raised again where the answers are taken
        belt.end(error)


def _frame(item: object, index: int) -> Frame:
    path = Path(f"image {index}")
    try:
        return Frame(path, index, as_image(item, str(path)))
    except InputError as error:
        return Frame(path, index, error=error)


def _work(predictor: Predictor, belt: Frames, options: dict[str, object]) -> None:
    """A working thread."""
    while taken := belt.take(predictor.batch):
        good = [(number, frame) for number, frame in taken if frame.error is None]
        for number, frame in taken:
            if frame.error is not None:
                belt.give(number, (frame, frame.error))
        try:
            results = predictor.predict([frame.image for _, frame in good], **options)
        except BaseException as error:
            for number, frame in good:
                belt.give(number, (frame, error))
            continue
        for (number, frame), result in zip(good, results, strict=True):
            result.image, result.frame = frame.name, frame.frame
            belt.give(number, (frame, result))


def _finish(belt: Frames, stop: threading.Event, threads: list[threading.Thread]) -> None:
    stop.set()
    belt.stop()
    end = time.monotonic() + JOIN_S
    for thread in threads:
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(max(end - time.monotonic(), 0.0))
