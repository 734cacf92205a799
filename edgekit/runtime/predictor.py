"""Images in, Results out: the one loop that every command and every application runs. Numpy and cv2.

``Predictor`` puts images into the shape the session wants, runs it, and turns its outputs into Results. The session
may be a PyTorch checkpoint, an ONNX file or a vendor's engine: here they look the same (``edgekit.spec.Session``).

    with Predictor(session, Options(conf=0.4)) as predictor:
        result = predictor("street.jpg")[0]
        results, times = predictor.timed(image)
        for frame, result in predictor.stream("street.mp4"):
            ...

Threads may share a predictor: what a session does not say to be ``concurrent`` runs in one of them at a time. A process
forked afterwards may use it where the session says to be ``forkable``; others refuse, as their threads stayed behind.

Where an image may hold more objects than its Result (``Result.truncated``), a predictor warns of it once
(``edgekit.errors.TruncatedWarning``); of ``max_det`` only where nobody chose it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from edgekit.errors import TruncatedWarning, UsageError
from edgekit.runtime.image import Geometry, as_image, canvases, is_array, prepare, read_image
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess, truncation
from edgekit.runtime.results import Result
from edgekit.runtime.sources import is_address, read_address, shown
from edgekit.runtime.stream import Stream
from edgekit.spec import MAX_DET, ModelInfo, Session

Array = np.ndarray

Loaded = tuple[str | None, Array]  # the path an image came from, if any, and its pixels

STAGES = ("pre_ms", "network_ms", "post_ms", "whole_ms")


class Predictor:
    """Runs one session on images.

    Args:
        session: a loaded model; closed with the predictor if it can be.
        options: what to keep of what it finds.
        batch: images per run where the session takes any number; a fixed batch wins.

    Raises:
        UsageError: the options ask for classes the model has not, or the batch is not the session's.

    Attributes:
        chosen: of an index, which bundle this is and why (``edgekit.bundle.fleet.Choice``); None of all else.
    """

    chosen: object = None

    def __init__(self, session: Session, options: Options | None = None, batch: int | None = None) -> None:
        fixed = session.info.batch
        whole = isinstance(batch, int) and not isinstance(batch, bool)
        if batch is not None and (not whole or batch < 1 or fixed not in (None, batch)):
            takes = "a whole number of at least 1" if fixed is None else f"{fixed}, as the model was built"
            raise UsageError(f"`batch` {batch}: must be {takes}")
        self.session = session
        self.options = options or Options()
        self.options.check(session.info)
        self.batch = fixed or batch or 1
        # A session that is not made for it may use its output arrays again in the next call: one call at a time then.
        self._warned: set[str] = set()
        self._turn = self._new_turn()
        self._opened_in = self._process = os.getpid()

    @property
    def info(self) -> ModelInfo:
        """What the model takes and gives."""
        return self.session.info

    def preprocess(self, images: Sequence[Array]) -> tuple[Array, list[Geometry]]:
        """uint8 BGR images -> what the session takes, padded to its batch, and where each one lies: float32
        ``[B, 3, H, W]``, or uint8 ``[B, H, W, 3]`` where it takes pixels. Of several input sizes the one that suits the
        first image."""
        return self._preprocess(images, self.session.fitting(*images[0].shape[:2]).info, None)

    def _preprocess(
        self, images: Sequence[Array], info: ModelInfo, memory: Array | None
    ) -> tuple[Array, list[Geometry]]:
        if info.takes_uint8:
            return canvases(images, info.imgsz, info.preprocess, info.batch or 0, memory)
        return prepare(images, info.imgsz, info.preprocess, info.batch or 0)

    def predict(self, images: object, **options: object) -> list[Result]:
        """Results of one or many images, in their order.

        Args:
            images: a path, an image's ``http`` address, whatever ``runtime.image.as_image`` takes (a uint8 BGR array
                ``[h, w, 3]``, other numbers, a tensor ``[3, h, w]`` RGB, a PIL image), an array or tensor of several
                with the batch first, or an iterable of those. Read a batch at a time, so many paths do not fill the
                memory.
            **options: fields of ``Options`` to change for this call.

        Raises:
            InputError: an image cannot be used.
            UsageError: an option is out of range.
        """
        chosen = self._options(options)
        results, waiting = [], []
        for each in loaded(images):
            waiting.append(each)
            if len(waiting) == self.batch:
                results += self._run(waiting, chosen)[0]
                waiting = []
        return results + self._run(waiting, chosen)[0] if waiting else results

    __call__ = predict

    async def predict_async(self, images: object, **options: object) -> list[Result]:
        """``predict`` in a thread of asyncio's, so that the event loop goes on meanwhile."""
        import asyncio  # 40 ms that few programs need

        return await asyncio.to_thread(self.predict, images, **options)

    def stream(self, source: object, **settings: Any) -> Stream:
        """Frames of files, folders, videos, cameras or anything that can be iterated, or of several of those at once,
        each with its Result, in order; decoding, inference and post-processing overlap. ``edgekit.runtime.stream`` has
        the settings."""
        return Stream(self, source, **settings)

    def timed(self, images: object, **options: object) -> tuple[list[Result], dict[str, float]]:
        """``predict`` with the milliseconds of each stage: ``pre_ms``, ``network_ms``, ``post_ms`` and ``whole_ms``.

        Reading files is not timed. One or as many images as one batch takes.

        Raises:
            UsageError: more images than a batch.
        """
        given = list(loaded(images))
        if not 1 <= len(given) <= self.batch:
            raise UsageError(f"timed() got {len(given)} images; one run takes 1 to {self.batch}")
        return self._run(given, self._options(options))

    def check(self, options: dict[str, object]) -> None:
        """Whether ``predict`` would take these options.

        Raises:
            UsageError: it would not.
        """
        self._options(options)

    def close(self) -> None:
        """Let go of the session; the predictor cannot be used afterwards. Does nothing in a forked process, where a
        runtime would wait for threads that only the first one has."""
        if os.getpid() == self._opened_in:
            self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _options(self, changes: dict[str, Any]) -> Options:
        if not changes:
            return self.options
        chosen = self.options.changed(changes)
        chosen.check(self.info)
        return chosen

    def _new_turn(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.session.concurrent else threading.Lock()

    def _check_process(self) -> None:
        """Refuse in a forked process what would wait there for threads that only the first one has."""
        if os.getpid() == self._process:
            return
        if not self.session.forkable:
            raise UsageError(
                f"{self.session.path}: was loaded before this process was forked, and its threads stayed behind; load "
                "it in every process (gunicorn: without --preload, or in post_fork; multiprocessing: spawn)"
            )
        self._turn, self._process = self._new_turn(), os.getpid()  # another thread may have held the lock

    def _run(self, given: Sequence[Loaded], options: Options) -> tuple[list[Result], dict[str, float]]:
        """At most a batch of images: one run, or one of every input size that they go to."""
        self._check_process()
        sessions = [self.session.fitting(*image.shape[:2]) for _, image in given]
        if all(session is sessions[0] for session in sessions):
            return self._run_in(sessions[0], given, options)
        results: list[Result | None] = [None] * len(given)
        times = dict.fromkeys(STAGES, 0.0)
        for session in {id(each): each for each in sessions}.values():
            places = [i for i, each in enumerate(sessions) if each is session]
            found, spent = self._run_in(session, [given[i] for i in places], options)
            times = {stage: times[stage] + spent[stage] for stage in STAGES}
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return [result for result in results if result is not None], times

    def _run_in(
        self, session: Session, given: Sequence[Loaded], options: Options
    ) -> tuple[list[Result], dict[str, float]]:
        """One run of ``session`` on at most a batch of images."""
        start = perf_counter()
        batch, geometries = self._preprocess([image for _, image in given], session.info, session.memory())
        with self._turn:
            ready = perf_counter()
            outputs = session.run(batch)
            answered = perf_counter()
            results = postprocess(outputs, session.info, geometries, options)
        end = perf_counter()
        for result, (path, image) in zip(results, given, strict=True):
            result.image = path
            result.pixels = image if path is None else None
            if result.truncated:
                self._warn(result.truncated, options)
        moments = (ready - start, answered - ready, end - answered, end - start)
        return results, {stage: seconds * 1e3 for stage, seconds in zip(STAGES, moments, strict=True)}

    def _warn(self, reasons: Sequence[str], options: Options) -> None:
        for reason in reasons:
            if reason not in self._warned and (reason != "max_det" or options.max_det == MAX_DET):
                self._warned.add(reason)
                sentence = f"{self.session.path}: {truncation(reason, self.info, options)}"
                warnings.warn(sentence, TruncatedWarning, stacklevel=5)


def _each(images: object) -> Iterable[object]:
    """One image as well as many: things that hold pixels or name a file are one."""
    one = getattr(images, "ndim", 0) != 4 if is_array(images) else isinstance(images, (str, bytes, Path))
    return [images] if one or not isinstance(images, Iterable) else images


def loaded(images: object) -> Iterator[Loaded]:
    """One image as well as many, read one after the other: the path each came from, if any, and its pixels.

    Raises:
        InputError: an image cannot be used.
    """
    return (_load(image) for image in _each(images))


def _load(image: object) -> Loaded:
    """Whatever the user calls an image, read and checked."""
    if isinstance(image, str) and is_address(image):
        return shown(image), read_address(image)
    if isinstance(image, (str, Path)):
        return str(image), read_image(image)
    return None, as_image(image)
