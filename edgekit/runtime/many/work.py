"""The loop: what is listed goes through a model and into parts, in order.

One thread lists, ``workers`` read and predict, and the caller's writes; between them a few images wait. Of videos the
caller's thread takes the frames, one video after the other.

    with Parts(folder, form, 500) as parts:
        done = work(predictor, Task(("photos/",)), parts)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgekit.errors import InputError, UsageError
from edgekit.runtime.frames import Frame
from edgekit.runtime.many.crops import save_crops
from edgekit.runtime.many.listing import Item, frames, listed
from edgekit.runtime.many.parts import Done, Parts
from edgekit.runtime.many.shards import Shard
from edgekit.runtime.many.tracks import Tracker
from edgekit.runtime.pipeline import Lane, OrderedPipeline
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result
from edgekit.spec import Json

MARK = 16  # hex digits
EVERYTHING = Shard()


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        sources: as they were named.
        shard: whose images.
        stride: of videos, every so many frames.
        crops: the folder that objects are cut out to.
        track: whether videos' objects are followed.
        strict: whether the first file that cannot be used ends it.
    """

    sources: Sequence[str]
    shard: Shard = EVERYTHING
    stride: int = 1
    crops: Path | None = None
    track: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Job:
    """One image or video on its way: its place in the listing and the mark of the listing up to it."""

    index: int
    item: Item
    mark: str


Rows = Iterable[Json]
Belt = OrderedPipeline[Job, "tuple[Job, Rows | BaseException]"]


class Listing:
    """The listing as it is gone through: ``total`` images so far, and the ``mark`` of their names."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.total, self._digest, self._sources = 0, sha256(), sources

    @property
    def mark(self) -> str:
        return self._digest.copy().hexdigest()[:MARK]

    def jobs(self, shard: Shard) -> Iterator[Job]:
        """The jobs of one shard, in order; everybody else's images are counted."""
        for item in listed(self._sources):
            self._digest.update(item.key.encode("utf-8", "surrogateescape") + b"\0")
            index, self.total = self.total, self.total + 1
            if shard.owns(index):
                yield Job(index, item, self.mark)


def work(
    predictor: Predictor,
    task: Task,
    parts: Parts,
    progress: Callable[[int], None] = lambda done: None,
    workers: int | None = None,
) -> Done:
    """Work through the shard's images that are not done yet.

    Args:
        progress: called with the number of images done.
        workers: threads that read and predict; by default one more than the runtime takes images at once.

    Raises:
        InputError: a file cannot be used and the task is strict, or nothing was listed.
        UsageError: the sources are not those of the parts that are there.
    """
    listing = Listing(task.sources)
    workers = workers or 1 + predictor.session.streams
    belt = Belt([Lane(2 * predictor.batch)], (workers + 1) * predictor.batch)
    threads = [threading.Thread(target=_list, args=(listing, task, parts, belt), daemon=True)]
    threads += [threading.Thread(target=_work, args=(predictor, task, belt), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    progress(parts.done)
    try:
        for job, rows in _answers(belt):
            parts.add(_checked(rows, task.strict), job.mark)
            progress(job.index // task.shard.count + 1)
    finally:
        belt.stop()
        for thread in threads:
            thread.join()
    if not listing.total:
        raise InputError(f"{', '.join(task.sources)}: there are no images or videos")
    return parts.finish(listing.total, listing.mark)


def _answers(belt: Belt) -> Iterator[tuple[Job, Rows]]:
    while True:
        try:
            job, rows = belt.next()
        except StopIteration:
            return
        if isinstance(rows, BaseException):
            raise rows
        yield job, rows


def _checked(rows: Rows, strict: bool) -> Rows:
    for row in rows:
        if strict and "error" in row:
            raise InputError(str(row["error"]))
        yield row


def _list(listing: Listing, task: Task, parts: Parts, belt: Belt) -> None:
    """The listing thread."""
    done, mark = parts.done, parts.mark
    try:
        jobs = listing.jobs(task.shard)
        for ordinal, job in enumerate(jobs):
            if ordinal == done - 1 and job.mark != mark:
                raise UsageError(f"{parts.folder}: the sources have changed since its {done} images were worked on; "
                                 f"go on with the same ones, or begin anew with `force`")  # fmt: skip
            if ordinal >= done and not belt.offer(job):
                return
        if done > task.shard.size(listing.total):
            raise UsageError(f"{parts.folder}: holds {done} images, the sources now have "
                             f"{task.shard.size(listing.total)} for this shard; begin anew with `force`")  # fmt: skip
        belt.end()
    except BaseException as error:  # raised again where the answers are taken
        belt.end(error=error)


def _work(predictor: Predictor, task: Task, belt: Belt) -> None:
    """A working thread."""
    while taken := belt.take(predictor.batch):
        jobs = [job for _, job in taken]
        try:
            answers: Sequence[Rows | BaseException] = answer(predictor, task, jobs)
        except BaseException as error:
            answers = [error] * len(jobs)
        for (number, job), rows in zip(taken, answers, strict=True):
            belt.give(number, (job, rows))


def answer(predictor: Predictor, task: Task, jobs: Sequence[Job]) -> list[Rows]:
    """The rows of each job; of a video they are made when they are taken."""
    read = [None if _moves(job.item) else next(iter(frames(job.item))) for job in jobs]
    good = [frame for frame in read if frame is not None and frame.error is None]
    results = iter(predictor.predict([frame.image for frame in good]) if good else [])
    answers: list[Rows] = []
    for job, frame in zip(jobs, read, strict=True):
        if frame is None:
            answers.append(_video(predictor, task, job))
        elif frame.error is not None:
            answers.append([{"index": job.index, "image": frame.name, "error": str(frame.error)}])
        elif task.track:
            why = f"{frame.name}: a picture has nothing to follow, only videos have; leave `track` out"
            answers.append([{"index": job.index, "image": frame.name, "error": why}])
            next(results)
        else:
            answers.append([_row(task, job.index, frame, next(results))])
    return answers


def _moves(item: Item) -> bool:
    """Whether it may have several frames."""
    return item.is_video or (not item.archive and item.data is None and item.key.lower().endswith(".gif"))


def _row(task: Task, index: int, frame: Frame, result: Result) -> Json:
    result.image, result.frame = frame.name, frame.frame
    if task.crops is not None:
        save_crops(result, frame, task.crops, index)
    document = result.to_dict()
    head: Json = {key: document.pop(key) for key in ("image", "frame") if key in document}
    return {"index": index, **head, "height": result.shape[0], "width": result.shape[1], **document}


def _video(predictor: Predictor, task: Task, job: Job) -> Rows:
    """The rows of a video, as its frames come."""
    errors: list[InputError] = []
    follow: Tracker | None = None

    def on_error(frame: Frame) -> None:
        if frame.error is not None:
            errors.append(frame.error)

    with predictor.stream(frames(job.item, task.stride), on_error=on_error) as stream:
        for frame, result in stream:
            if task.track and frame.frame is not None:
                follow = follow or Tracker(frame.fps)
                follow(result)
            yield _row(task, job.index, frame, result)
    for error in errors:
        yield {"index": job.index, "image": job.item.key, "error": str(error)}
