"""Sessions around sessions: everything that is not changed is the inner one's, devices that move included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.selftested import Watched
from edgekit.runtime.around import Around
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.shaped import Shaped
from edgekit.spec import ModelInfo, Port, Session

OWN = {"run", "fitting", "rounded"}  # what a class around another decides about


class Plain(Session):
    """Finds nothing, at one size, on whatever ``here`` says."""

    def __init__(self, size: tuple[int, int], here: list[str]) -> None:
        ports = (Port("boxes", "boxes", (1, 0, 4)), Port("scores", "scores", (1, 2, 0)))
        self.info = ModelInfo("detect", size, "raw", ("a", "b"), (Port("images", "images", (1, 3, *size)),), ports)
        self.target, self.path, self.streams, self.concurrent, self.gpu = "plain", Path("plain"), 3, True, True
        self.forkable, self.weights, self.named, self.moves = True, "f16", False, True
        self._here, self.ran = here, 0

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        assert batch.shape[2:] == self.info.imgsz
        self.ran += 1
        return {"boxes": np.zeros((1, 0, 4), np.float32), "scores": np.zeros((1, 2, 0), np.float32)}

    def devices(self) -> tuple[str, ...]:
        return tuple(self._here)


def answering(name: str) -> Callable[..., Any]:
    return lambda *given: (name, *given)


def test_every_ability_is_the_inner_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Plain((64, 64), ["CPU"])
    around = Around(inner)
    names = {name for name, _ in inspect.getmembers(Session, inspect.isfunction) if not name.startswith("_")} - OWN
    for name in names:
        monkeypatch.setattr(inner, name, answering(name))
        given = [object()] * (len(inspect.signature(getattr(Session, name)).parameters) - 1)
        answer = getattr(around, name)(*given)
        assert answer == (None if name == "close" else (name, *given)), name
    for name in Session.__annotations__:
        assert getattr(around, name) == getattr(inner, name), name


def test_several_sizes_are_checked_where_they_move_to() -> None:
    """Each picture goes to its size, and none is answered on a device that was not checked."""
    here = ["CPU"]
    checked: list[tuple[Session, tuple[str, ...]]] = []
    lying, standing = Plain((32, 64), here), Plain((64, 32), here)
    whole = Shaped([lying, standing])
    assert whole.moves
    predictor = Predictor(Watched(whole, lambda session: checked.append((session, session.devices()))))
    pictures: Sequence[np.ndarray] = [np.zeros((*size, 3), np.uint8) for size in ((30, 60), (60, 30))]
    for picture in pictures:
        predictor(picture)
    assert (lying.ran, standing.ran, checked) == (1, 1, [])
    here[:] = ["GPU.0"]
    for picture in reversed(pictures):
        predictor(picture)
    assert (lying.ran, standing.ran) == (2, 2)
    assert checked == [(whole, ("GPU.0",))]
