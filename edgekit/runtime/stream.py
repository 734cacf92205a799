"""Sources through a model, with decoding, inference and post-processing overlapped and the order kept.

    for frame, result in model.stream("clips/"):                # files, folders, videos: nothing is left out
        ...
    with model.stream("rtsp://camera/1") as answers:            # live: the newest frame, older ones give way
        for frame, result in answers:
            show(result.plot())
    with model.stream(["rtsp://camera/1", "rtsp://camera/2"]) as answers:       # several at once
        for frame, result in answers:
            show(frame.source, result.plot())

A thread a source reads, ``workers`` threads predict, and whoever iterates takes the answers; between them a few frames
wait (``edgekit.runtime.pipeline``). Leaving the block or the loop by an error, Ctrl-C included, ends the threads.

Several sources at once take turns; frames of all of them that are there anyway go through the model together, as many
as its batch, and each source keeps its own order. A list is that where something in it is live, was opened already or
is an iterator; a list of files and folders is one source, read one after the other.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import as_image, is_array
from edgekit.runtime.live import LiveSource, is_live
from edgekit.runtime.pipeline import Lane, OrderedPipeline
from edgekit.runtime.results import Result
from edgekit.runtime.sources import Sources, open_sources

if TYPE_CHECKING:
    from edgekit.runtime.predictor import Predictor

JOIN_S = 10.0  # threads that do not end in this time (a driver that hangs) are left to the end of the process

Answer = tuple[Frame, Result]
Frames = OrderedPipeline[Frame, tuple[Frame, Result | BaseException]]
Opened = LiveSource | Iterable[object]


class Stream:
    """An iterator of ``(Frame, Result)``; also an asynchronous one, and a context manager of either kind.

    Args:
        predictor: the model.
        source: a file, folder or glob (or several), a camera's number, an address, ``LiveSource``, ``Sources``, or
            anything that can be iterated and gives images or Frames; or a list of those to be read at once.
        workers: threads that predict; by default one more than the runtime takes images at once, to keep it busy.
        depth: frames of a source that wait to be worked on.
        latest: drop waiting frames for newer ones; by default for live sources only.
        patience: seconds without a frame after which a live source is given up.
        max_queue_delay_ms: how long a frame may wait for others to share a run with, beyond what it waits for a worker.
            Default: not at all where a source is live or there are several, else until the batch is full.
        on_error: called with a Frame that cannot be used, instead of raising its error; the stream goes on.
        options: fields of ``Options`` to change for this stream.

    Attributes:
        dropped: frames that gave way to newer ones.
        answered: results taken so far.

    Raises:
        InputError: a source is not there, or a frame of it is no image; when iterating. Where others go on, what is
            wrong with a whole source is a Frame for ``on_error``, else a RuntimeWarning at once and raised at the end.
        UsageError: an option is out of range, or a source is given twice.
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
        max_queue_delay_ms: float | None = None,
        on_error: Callable[[Frame], None] | None = None,
        **options: object,
    ) -> None:
        for name, value in (("workers", workers), ("depth", depth)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"stream: {name} {value} must be a whole number of at least 1")
        if max_queue_delay_ms is not None and not (isinstance(max_queue_delay_ms, Real) and max_queue_delay_ms >= 0):
            raise UsageError(f"`max_queue_delay_ms` {max_queue_delay_ms}: must be a number of at least 0")
        predictor.check(options)
        several = _at_once(source)
        sources = distinct([_open(each, patience) for each in several]) if several else [_open(source, patience)]
        newest = [isinstance(each, LiveSource) if latest is None else latest for each in sources]
        batch = predictor.batch
        workers = workers or 1 + predictor.session.streams
        share = -(-batch // len(sources))
        lanes = [Lane[Frame](max(depth or 0, share) if depth or new else 2 * batch, new) for new in newest]
        delay = _seconds(max_queue_delay_ms, whole=not (several or any(newest)))
        self._belt = belt = Frames(lanes, (workers + (not all(newest))) * batch, delay, predictor.session.streams)
        self._on_error = on_error
        self.answered = 0
        self._process = os.getpid()
        stop = threading.Event()
        jobs: list[tuple[Callable[..., None], tuple[object, ...]]]
        jobs = [(_read, (each, belt, number, stop, on_error is not None)) for number, each in enumerate(sources)]
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


def _seconds(milliseconds: float | None, whole: bool) -> float | None:
    """What the belt takes for a delay; ``whole``: by default for ever."""
    if milliseconds is None:
        return None if whole else 0.0
    return None if math.isinf(milliseconds) else milliseconds / 1e3


def _at_once(source: object) -> Sequence[object]:
    """The sources to be read at once; empty for what is one source.

    Raises:
        InputError: a list without anything in it.
    """
    if not isinstance(source, (list, tuple)):
        return ()
    if not source:
        raise InputError("stream: no sources; give at least one")
    opened = any(isinstance(each, (LiveSource, Sources, Iterator)) or is_live(each) for each in source)
    return source if opened else ()


def distinct(sources: list[Opened]) -> list[Opened]:
    """``sources``, which are to be read at once.

    Raises:
        UsageError: one is given twice.
    """
    known: set[Hashable] = set()
    for source in sources:
        name = _identity(source)
        if name in known:
            raise UsageError(f"stream: {name if isinstance(name, str) else 'a source'} is given twice")
        known.add(name)
    return sources


def _identity(source: Opened) -> Hashable:
    """Equal for two that would read the same."""
    if isinstance(source, LiveSource):
        device = source.name.removeprefix("/dev/video")
        return f"camera {device}" if device.isdecimal() else source.name
    if isinstance(source, Sources):
        names = [path if isinstance(path, str) else str(path.resolve()) for path in source.paths]
        return names[0] if len(names) == 1 else tuple(names)
    return id(source)


def _open(source: object, patience: float) -> Opened:
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


def _read(source: Opened, belt: Frames, lane: int, stop: threading.Event, handed: bool) -> None:
    """A reading thread; ``handed``: there is somebody to be handed what cannot be used."""
    index = 0
    try:
        for index, item in enumerate(source.frames(stop) if isinstance(source, LiveSource) else source, 1):
            frame = item if isinstance(item, Frame) else _frame(item, index - 1)
            if stop.is_set() or not belt.offer(dataclasses.replace(frame, source=lane) if lane else frame, lane):
                return
        belt.end(lane)
    except InputError as error:
        if len(belt.lanes) > 1 and handed:
            name = source.name if isinstance(source, LiveSource) else f"source {lane}"
            belt.offer(Frame(Path(name), index, error=error, name=name, source=lane), lane)
            belt.end(lane)
        elif belt.end(lane, error):  # raised again where the answers are taken, when all have come
            warnings.warn(f"{error}; the other sources go on", RuntimeWarning, stacklevel=1)
    except BaseException as error:  # a fault of the program: nobody goes on
        belt.end(error=error)


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
