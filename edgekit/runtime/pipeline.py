"""The conveyor between the threads that read, the threads that work and the one that takes the answers.

Items go on in lanes, one a source, and their answers come off in the order in which they were taken to be worked on,
however long each took: within a lane that is the lane's own order. Nothing grows: in a lane at most ``depth`` items
wait, and at most ``window`` are being worked on or waiting to be taken; who is too fast waits. In a ``latest`` lane
nobody waits for a slow consumer: an item that was not begun gives way to a newer one.

A worker takes what is there, an item a lane in turns, as soon as there are as many as it can use, or the one that has
waited longest has waited ``delay`` seconds (0: at once; None: as long as it takes) and fewer than ``runs`` workers are
busy: others would only wait for the runtime, and more items may come meanwhile.

    belt = OrderedPipeline([Lane(1, latest=True) for camera in cameras], window=8, delay=0.005)
    belt.offer(frame, lane)                 # a reader; belt.end(lane) when there are no more
    for number, frame in belt.take(4): ...  # a worker; belt.give(number, answer)
    belt.next()                             # the consumer; StopIteration at the end
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(eq=False)
class Lane(Generic[Item]):
    """One source's part: ``items`` that wait, at most ``depth``, and since when (``since``, seconds) there was one in
    each of their places."""

    depth: int
    latest: bool = False
    items: deque[Item] = field(default_factory=deque)
    since: deque[float] = field(default_factory=deque)
    ended: bool = False

    @property
    def full(self) -> bool:
        return len(self.items) >= self.depth


class OrderedPipeline(Generic[Item, Outcome]):
    """See the module. All methods may be called from any thread; ``stop`` lets go of everybody who waits.

    Args:
        lanes: one a source.
        window: items being worked on or waiting to be taken, at most.
        delay: seconds that an item waits for others at most; None: until there are as many as a worker can use.
        runs: as many as go on at once, whatever the number of workers; None: no limit.
        clock: seconds; replaced by a simulated clock in tests.
    """

    def __init__(
        self,
        lanes: Sequence[Lane[Item]],
        window: int,
        delay: float | None = None,
        runs: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes, self.window, self.delay, self.runs = tuple(lanes), window, delay, runs
        self.dropped = 0
        self._clock = clock
        self._answers: dict[int, Outcome] = {}
        self._taken = self._answered = self._turn = 0
        self._going: set[int] = set()  # the last item of each run
        self._stopped = False
        self._error: BaseException | None = None
        # The lock itself is entered, never the condition: entering that is Python code, and Ctrl-C in the middle of it
        # would leave the lock taken for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def offer(self, item: Item, lane: int = 0) -> bool:
        """Put an item on, waiting for room unless the lane is ``latest``. False once the lane ended."""
        with self._lock:
            own = self.lanes[lane]
            if own.latest and own.full:  # the newer one takes its place, in time too: or nobody's turn would come
                own.items.popleft()
                self.dropped += 1
            else:
                while own.full and not (self._stopped or own.ended):
                    self._changed.wait()
                own.since.append(self._clock())
            own.items.append(item)
            self._changed.notify_all()
            return not (self._stopped or own.ended)

    def end(self, lane: int | None = None, error: BaseException | None = None) -> bool:
        """No more items in a lane, or in any; ``error``, the first of several, is raised to the consumer after the last
        answer. Whether other lanes go on."""
        with self._lock:
            for own in self.lanes if lane is None else (self.lanes[lane],):
                own.ended = True
            self._error = error if self._error is None else self._error
            self._changed.notify_all()
            return not self._ended

    def take(self, most: int) -> list[tuple[int, Item]]:
        """Up to ``most`` items with their numbers, waiting for the first, and for others as long as ``delay`` says.
        Empty when there is nothing left to do."""
        with self._lock:
            wanted = most if self.delay is None else 1
            while not self._stopped:
                room = self._taken - self._answered + wanted <= max(self.window, wanted)
                left = self._due(most) if room else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            taken: list[tuple[int, Item]] = []
            while len(taken) < most and self._waiting and not self._stopped:
                own, self._turn = self.lanes[self._turn], (self._turn + 1) % len(self.lanes)
                if own.items:
                    own.since.popleft()
                    taken.append((self._taken, own.items.popleft()))
                    self._taken += 1
            self._going.update(number for number, _ in taken[-1:])
            self._changed.notify_all()
            return taken

    def give(self, number: int, answer: Outcome) -> None:
        """The answer to item ``number``."""
        with self._lock:
            self._answers[number] = answer
            self._going.discard(number)
            self._changed.notify_all()

    def next(self) -> Outcome:
        """The next answer, in the order of the items.

        Raises:
            StopIteration: there are no more, or the belt was stopped.
        """
        with self._lock:

            def ready() -> bool:
                done = self._ended and not self._waiting and self._taken == self._answered
                return self._stopped or done or self._answered in self._answers

            self._changed.wait_for(ready)
            if self._answered in self._answers and not self._stopped:
                answer = self._answers.pop(self._answered)
                self._answered += 1
                self._changed.notify_all()
                return answer
            if self._error is not None and not self._stopped:
                raise self._error
            raise StopIteration

    def stop(self) -> None:
        """Let go of all who wait and of all items."""
        with self._lock:
            self._stopped = True
            for own in self.lanes:
                own.items.clear()
                own.since.clear()
            self._answers.clear()
            self._changed.notify_all()

    # ---- with the lock taken ------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return sum(len(own.items) for own in self.lanes)

    @property
    def _ended(self) -> bool:
        return all(own.ended for own in self.lanes)

    def _due(self, most: int) -> float | None:
        """Seconds until somebody who can use ``most`` items is to begin; None: not before something changes."""
        waiting = self._waiting
        if waiting >= most or self._ended or all(own.full for own in self.lanes if not own.ended):
            return 0.0  # no more can come
        busy = self.runs is not None and len(self._going) >= self.runs
        if not waiting or self.delay is None or busy:
            return None
        oldest = min(own.since[0] for own in self.lanes if own.items)
        return oldest + self.delay - self._clock() if self.delay else 0.0
