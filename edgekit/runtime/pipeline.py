"""The conveyor between the thread that reads, the threads that work and the one that takes the answers.

Items go on at one end and their answers come off at the other in the same order, however long each took. Nothing grows:
at most ``depth`` items wait, and at most ``window`` are being worked on or waiting to be taken; who is too fast waits.
With ``latest`` nobody waits for a slow consumer: an item that was not begun gives way to a newer one.

    belt.offer(frame)                       # the reader; belt.end() when there are no more
    for number, frame in belt.take(4): ...  # a worker; belt.give(number, answer)
    belt.next()                             # the consumer; StopIteration at the end
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class OrderedPipeline(Generic[Item, Outcome]):
    """See the module. All methods may be called from any thread; ``stop`` lets go of everybody who waits."""

    def __init__(self, depth: int, window: int, latest: bool) -> None:
        self.depth, self.window, self.latest = depth, window, latest
        self.dropped = 0
        self._waiting: deque[Item] = deque()
        self._answers: dict[int, Outcome] = {}
        self._taken = self._answered = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        # The lock itself is entered, never the condition: entering that is Python code, and Ctrl-C in the middle of it
        # would leave the lock taken for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def offer(self, item: Item) -> bool:
        """Put an item on, waiting for room unless ``latest``. False once the belt was stopped."""
        with self._lock:
            if self.latest:
                while len(self._waiting) >= self.depth:
                    self._waiting.popleft()
                    self.dropped += 1
            while len(self._waiting) >= self.depth and not self._stopped:
                self._changed.wait()
            self._waiting.append(item)
            self._changed.notify_all()
            return not self._stopped

    def end(self, error: BaseException | None = None) -> None:
        """No more items; ``error`` is raised to the consumer after the last answer."""
        with self._lock:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self, most: int) -> list[tuple[int, Item]]:
        """Up to ``most`` items with their numbers, waiting for the first (for all of them unless ``latest`` or the end
        has come). Empty when there is nothing left to do."""
        with self._lock:
            wanted = 1 if self.latest else most

            def ready() -> bool:
                room = self._taken - self._answered + wanted <= max(self.window, wanted)
                return self._stopped or (room and (self._ended or len(self._waiting) >= wanted))

            self._changed.wait_for(ready)
            if self._stopped:
                return []
            taken: list[tuple[int, Item]] = []
            while self._waiting and len(taken) < most:
                taken.append((self._taken, self._waiting.popleft()))
                self._taken += 1
            self._changed.notify_all()
            return taken

    def give(self, number: int, answer: Outcome) -> None:
        """The answer to item ``number``."""
        with self._lock:
            self._answers[number] = answer
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
            self._waiting.clear()
            self._answers.clear()
            self._changed.notify_all()
