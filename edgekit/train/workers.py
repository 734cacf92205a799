"""Workers that make batches beside the training process, and survive each other.

    pool = start(4, work)                      # work(job) -> reply, in another process
    pool.submit("a", job)
    key, reply = pool.wait()
    pool.close()

On Linux they are forked processes: augmentation holds Python's lock for a tenth of its time, and a training loop that
launches thousands of GPU kernels a second waits at each for threads that do. Elsewhere forking is not safe and they
are threads. A process that dies is replaced and its jobs are done again; when the parent goes, its workers see
their pipe close and end, however it went.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import cv2

from edgekit.errors import EdgekitError

Work = Callable[[Any], Any]
MOST_DEATHS = 3  # of workers over one job, before it is given up
_LOOK = 2.0  # seconds after which an idle worker looks whether its parent is still there


def start(count: int, work: Work, processes: bool = sys.platform == "linux") -> Processes | Threads:
    """``count`` workers that do ``work``."""
    return Processes(count, work) if processes else Threads(count, work)


class Threads:
    """Workers in this process."""

    def __init__(self, count: int, work: Work) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(count)
        self._done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def submit(self, key: Hashable, job: Any) -> None:
        def do() -> None:
            try:
                self._done.put((key, self._work(job)))
            except Exception as error:
                self._done.put((key, error))

        self._pool.submit(do)

    def wait(self) -> tuple[Any, Any]:
        """The next finished job, in any order. Raises what its work raised."""
        key, reply = self._done.get()
        if isinstance(reply, Exception):
            raise reply
        return key, reply

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    jobs: dict[Hashable, Any] = field(default_factory=dict)


class Processes:
    """Forked workers, each with a pipe of its own."""

    def __init__(self, count: int, work: Work) -> None:
        self._work = work
        self._context = multiprocessing.get_context("fork")
        self._owner = os.getpid()
        self._deaths: dict[Hashable, int] = {}
        self._workers: list[_Worker] = []
        for _ in range(count):
            self._workers.append(self._fork())

    def _fork(self) -> _Worker:
        mine, theirs = self._context.Pipe()
        others = [mine, *(worker.pipe for worker in self._workers)]
        process = self._context.Process(target=_serve, args=(theirs, others, self._work), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads: nothing here takes a lock that one of them could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, mine)

    def submit(self, key: Hashable, job: Any) -> None:
        """Gives a job to the worker with the fewest."""
        worker = min(self._workers, key=lambda w: len(w.jobs))
        worker.jobs[key] = job
        with contextlib.suppress(OSError):  # dead: ``wait`` will find out
            worker.pipe.send((key, job))

    def wait(self) -> tuple[Any, Any]:
        """The next finished job, in any order.

        Raises:
            EdgekitError: its work raised one, or workers die over it again and again.
            RuntimeError: its work raised something else; with the worker's traceback.
        """
        while True:
            ready = wait([worker.pipe for worker in self._workers if worker.jobs])
            worker = next(w for w in self._workers if w.pipe in ready)
            try:
                key, reply, error = worker.pipe.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            del worker.jobs[key]
            self._deaths.pop(key, None)
            if isinstance(error, EdgekitError):
                raise error
            if error is not None:
                raise RuntimeError(f"a data worker failed:\n{error}")
            return key, reply

    def _replace(self, dead: _Worker) -> None:
        """A new worker for one that died, with its jobs; the first of them it died over."""
        dead.pipe.close()
        dead.process.join(1.0)
        key = next(iter(dead.jobs))
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= MOST_DEATHS:
            raise EdgekitError(
                f"data workers died {MOST_DEATHS} times over the same images (exit code {dead.process.exitcode}), "
                "which mostly means that memory ran out: use fewer --workers or --cache none"
            )
        place = self._workers.index(dead)
        del self._workers[place]
        worker = self._fork()
        self._workers.insert(place, worker)
        for key, job in dead.jobs.items():
            worker.jobs[key] = job
            with contextlib.suppress(OSError):
                worker.pipe.send((key, job))

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends the workers; what they are doing is lost."""
        workers, self._workers = self._workers, []
        if os.getpid() != self._owner:
            return  # a forked copy of this object: the workers are not its children
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(2.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _serve(pipe: Connection, others: list[Connection], work: Work) -> None:
    """A worker's life."""
    for other in others:
        other.close()  # or the parent's end would stay open in here, and no worker see it close
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    parent = os.getppid()
    while True:
        try:
            while not pipe.poll(_LOOK):
                if os.getppid() != parent:
                    return
            key, job = pipe.recv()
        except (EOFError, OSError):
            return
        reply: Any = None
        error: EdgekitError | str | None = None
        try:
            reply = work(job)
        except EdgekitError as known:
            error = known
        except Exception:
            error = traceback.format_exc()
        try:
            pipe.send((key, reply, error))
        except OSError:
            return
