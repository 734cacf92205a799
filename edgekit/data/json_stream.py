"""A JSON file's lists, an element at a time: of one of COCO's 450 MB neither the text nor its objects fit twice.

    for key, value in members(path, {"images", "annotations"}):
        if isinstance(value, Iterator):         # the list of one of these names
            for element in value: ...

The standard library's parser on a window of the text that moves along.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

WINDOW = 1 << 20  # characters
NUMBER_GOES_ON = len("e-1")  # characters after what looks like a whole number that tell whether it is one

_SPACE = re.compile(r"[ \t\n\r]*")
_PARSER = json.JSONDecoder()


def members(path: Path, lists: Collection[str]) -> Iterator[tuple[str | None, object]]:
    """The names and values of the object in a JSON file, in its order; a list of one of the names ``lists`` is an
    iterator over its elements, which has to be exhausted before the next. A file of something else is one value without
    a name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON.
        RecursionError: something in it is nested too deeply.
    """
    with open(path, "rb") as handle:
        encoding = json.detect_encoding(handle.read(4))  # type: ignore[attr-defined]  # what json.loads asks, too
        handle.seek(0)
        text = _Text(io.TextIOWrapper(handle, encoding, "surrogatepass", newline=""))
        if text.next_is("{"):
            for name in _separated(text, "}"):
                if not isinstance(name, str):
                    raise text.error("expected a name in quotes")
                text.expect(":")
                if name in lists and text.next_is("["):
                    yield name, _separated(text, "]")
                else:
                    yield name, text.value()
        else:
            yield None, text.value()
        if text.peek():
            raise text.error("more than one value")


def _separated(text: _Text, end: str) -> Iterator[object]:
    """Values, or the names of members, separated by commas."""
    if text.next_is(end):
        return
    while True:
        yield text.value()
        if text.next_is(end):
            return
        text.expect(",")


class _Text:
    """A window of a text, and where in it reading has come to."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle, self._window, self._at, self._before, self._ended = handle, "", 0, 0, False

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            match = _SPACE.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._window) or not self._grow():
                return self._window[self._at : self._at + 1]

    def next_is(self, character: str) -> bool:
        """Whether that is the next one, which is passed then."""
        found = self.peek() == character
        self._at += found
        return found

    def expect(self, character: str) -> None:
        if not self.next_is(character):
            raise self.error(f"expected {character!r}")

    def value(self) -> object:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _PARSER.raw_decode(self._window, self._at)
            except ValueError as error:
                if self._grow():
                    continue
                self._at = getattr(error, "pos", self._at)
                raise self.error(getattr(error, "msg", str(error))) from None
            if end + NUMBER_GOES_ON <= len(self._window) or not self._grow():
                self._at = end
                return value

    def error(self, what: str) -> ValueError:
        return ValueError(f"{what} at character {self._before + self._at}")

    def _grow(self) -> bool:
        """Take in more of the text and let go of what was read, if there is more."""
        more = "" if self._ended else self._handle.read(max(WINDOW, len(self._window) - self._at))
        self._ended = not more
        if more:
            self._before, self._window, self._at = self._before + self._at, self._window[self._at :] + more, 0
        return bool(more)
