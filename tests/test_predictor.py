"""The predictor, with a session that answers by rule instead of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtime.image import letterbox, read_image, to_input, write_image
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.spec import ModelInfo, Port, Preprocess, Session

SIZE = (64, 96)


class FakeSession(Session):
    """Finds one object an image: the bounding box of what is brighter than the padding, scored by its brightness.

    Reuses its output arrays, as real sessions may, and notes what it was given.
    """

    target = "fake"
    path = Path("fake")

    def __init__(self, batch: int | None = None, mode: str = "letterbox") -> None:
        size = (batch, 3, *SIZE)
        self.info = ModelInfo("detect", SIZE, "raw", ("dark", "bright"), (Port("images", "image", size),), (),
                              Preprocess(mode=mode))  # fmt: skip
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False
        self._boxes = np.zeros((16, 1, 4), np.float32)
        self._scores = np.zeros((16, 2, 1), np.float32)

    def run(self, batch: Any) -> dict[str, Any]:
        assert batch.dtype == np.float32 and batch.flags.c_contiguous
        assert self.info.batch in (None, len(batch))
        self.shapes.append(batch.shape)
        self._boxes[:] = self._scores[:] = 0
        for i, planes in enumerate(batch):
            bright = np.argwhere(planes[0] > 0.6)  # red
            if len(bright):
                (y1, x1), (y2, x2) = bright.min(0), bright.max(0) + 1
                self._boxes[i, 0] = [x1, y1, x2, y2]
                self._scores[i, 1, 0] = planes[0].max()
        return {"boxes": self._boxes[: len(batch)], "scores": self._scores[: len(batch)]}

    def precision_by_type(self) -> dict[str, int]:
        return {"f32": 1}

    def close(self) -> None:
        self.closed = True


def scene(i: int) -> np.ndarray:
    """A dark image with a red square that says which one it is."""
    image = np.full((60 + i, 100, 3), 20, np.uint8)
    image[10:30, 5 + 8 * i : 25 + 8 * i, 2] = 200 + i
    return image


def square(i: int) -> list[int]:
    return [5 + 8 * i, 10, 25 + 8 * i, 30]


@pytest.mark.parametrize(("fixed", "batch"), [(None, None), (None, 3), (1, None), (4, None), (5, 5), (8, None)])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_image_gets_its_own_answer_in_order(fixed: int | None, batch: int | None, count: int) -> None:
    session = FakeSession(fixed)
    results = Predictor(session, batch=batch).predict([scene(i) for i in range(count)])
    assert len(results) == count
    for i, result in enumerate(results):
        assert result.shape == (60 + i, 100) and result.class_names == ["bright"]
        np.testing.assert_allclose(result.boxes, [square(i)], atol=2)
        assert result.scores[0] == pytest.approx((200 + i) / 255)
    size = fixed or batch or 1
    assert len(session.shapes) == -(-count // size)
    if fixed:
        assert {shape[0] for shape in session.shapes} <= {fixed}


def test_one_or_many_of_every_kind_of_image(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    write_image(path, scene(1))
    array = scene(1)
    picture = pil.fromarray(array[:, :, ::-1])
    predictor = Predictor(FakeSession())
    for one in (path, str(path), array, picture, [path], (array,), (p for p in [picture])):
        results = predictor(one)
        assert len(results) == 1
        np.testing.assert_allclose(results[0].boxes, [square(1)], atol=2)
    mixed = predictor([path, array, picture])
    assert [r.image for r in mixed] == [str(path), None, None]
    assert mixed[0].pixels is None and np.shares_memory(mixed[1].pixels, array)
    for result in mixed:  # whatever it came from, it can be drawn
        assert (result.plot() != array).any()


def test_preprocess_is_what_the_session_receives() -> None:
    images = [scene(0), scene(1)]
    batch, geometries = Predictor(FakeSession(4)).preprocess(images)
    fitted = [letterbox(image, SIZE) for image in images]
    np.testing.assert_array_equal(batch, to_input([canvas for canvas, _ in fitted], batch=4))
    assert geometries == [g for _, g in fitted]


def test_options_can_change_for_one_call() -> None:
    predictor = Predictor(FakeSession(), Options(conf=0.99))
    assert len(predictor(scene(0))[0]) == 0
    assert len(predictor(scene(0), conf=0.5)[0]) == 1
    assert len(predictor(scene(0), conf=0.5, classes=[0])[0]) == 0
    assert predictor.options == Options(conf=0.99)
    assert len(Predictor(FakeSession(), Options(conf=0.3))(scene(0))[0]) == 1


def test_bad_options_are_refused() -> None:
    predictor = Predictor(FakeSession(4))
    for change, flag in (({"conf": 2}, "`conf`"), ({"classes": (2,)}, "`classes`"), ({"max_det": 0}, "`max_det`")):
        with pytest.raises(UsageError, match=flag):
            predictor(scene(0), **change)
    with pytest.raises(UsageError, match="`classes` 9"):
        Predictor(FakeSession(), Options(classes=(9,)))
    for session, batch in ((FakeSession(4), 2), (FakeSession(), 0)):
        with pytest.raises(UsageError, match="`batch`"):
            Predictor(session, batch=batch)


@pytest.mark.parametrize("image", ["absent.jpg", None, 7, np.full((5, 5, 3), -1.0), [np.zeros((1, 1, 3), np.uint8)]])
def test_bad_images_are_refused(image: object) -> None:
    with pytest.raises(InputError):
        Predictor(FakeSession())(image)


def test_images_are_read_a_batch_at_a_time(tmp_path: Path) -> None:
    session = FakeSession(2)
    seen = []

    def images() -> Any:
        for i in range(5):
            seen.append(len(session.shapes))
            yield scene(i)

    Predictor(session)(images())
    assert seen == [0, 0, 1, 1, 2]


def test_timed_gives_the_result_and_the_stages(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene(2))
    predictor = Predictor(FakeSession(2))
    results, times = predictor.timed(tmp_path / "a.png")
    assert results[0].to_dict() == predictor(tmp_path / "a.png")[0].to_dict()
    assert set(times) == {"pre_ms", "network_ms", "post_ms", "whole_ms"}
    assert all(value > 0 for value in times.values())
    assert times["whole_ms"] == pytest.approx(times["pre_ms"] + times["network_ms"] + times["post_ms"])
    assert len(predictor.timed([scene(0), scene(1)])[0]) == 2
    for wrong in ([], [scene(0)] * 3):
        with pytest.raises(UsageError, match="1 to 2"):
            predictor.timed(wrong)


def test_the_session_is_closed_with_the_predictor() -> None:
    session = FakeSession()
    with Predictor(session) as predictor:
        assert not session.closed and predictor.info is session.info
    assert session.closed


def test_centre_crop_models_are_served() -> None:
    session = FakeSession(mode="centre_crop")
    image = np.full((200, 90, 3), 20, np.uint8)
    image[90:110, 30:60, 2] = 255
    np.testing.assert_allclose(Predictor(session)(image)[0].boxes, [[30, 90, 60, 110]], atol=2)


def test_a_real_photo_goes_through(shared: Path) -> None:
    path = sorted((shared / "data/bccd/images/val").iterdir())[0]
    result = Predictor(FakeSession())(path)[0]
    assert result.shape == read_image(path).shape[:2]
