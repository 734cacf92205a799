"""Input sizes for what a camera shows: which they are, one folder with several, and who answers for an image."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit.autotune.sizes import sizes
from edgekit.bundle import build as building
from edgekit.bundle import fitted, loading
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import View, fit, read_view
from edgekit.errors import InputError, UsageError
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.image import letterbox
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.shaped import Shaped
from edgekit.runtime.sources import open_sources
from edgekit.spec import Session
from tests import tiny
from tests.conftest import SHARED, Run

AREAS = (4, 1)
LYING, STANDING = (64, 96), (96, 64)


def view(*sizes: tuple[int, int]) -> View:
    return View("pictures", {size: 1 for size in sizes})


@pytest.mark.parametrize(
    ("pictures", "base", "expected"),
    [
        ([(1080, 1920)], (640, 640), [(384, 640)]),
        ([(720, 1280), (1080, 1920)], (640, 640), [(384, 640)]),
        ([(480, 640)], (320, 320), [(256, 320)]),
        ([(640, 640)], (640, 640), [(640, 640)]),
        ([(432, 768), (768, 432)], (320, 320), [(192, 320), (320, 192)]),
        ([(100, 4000)], (640, 640), [(32, 640)]),
    ],
)
def test_the_smallest_sides_that_hold_the_pictures(pictures: Any, base: Any, expected: Any) -> None:
    assert list(fit(view(*pictures), base, AREAS).shapes) == expected


@pytest.mark.parametrize("size", [(1080, 1920), (333, 501), (1921, 1079), (431, 768), (2, 640), (97, 31)])
def test_a_picture_has_the_very_pixels_that_it_has_in_the_square(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    (height, width) = fit(view(size), (320, 320), AREAS).shapes[0]
    square, rectangle = letterbox(image, (320, 320)), letterbox(image, (height, width))
    found = []
    for canvas, geometry in (square, rectangle):
        rows, columns = round(size[0] * geometry.scale_y), round(size[1] * geometry.scale_x)
        found.append(canvas[int(geometry.top) :][:rows, int(geometry.left) :][:, :columns])
    assert np.array_equal(*found)


def test_where_an_area_does_not_divide_the_next_that_does_is_taken_and_said() -> None:
    made = fit(view((1080, 1920)), (640, 640), (7, 1))  # 24 x 40 tokens do not divide by 7, 28 x 40 do
    assert made.shapes == ((448, 640),) and "384,640" in made.notes[0] and "448,640" in made.notes[0]
    with pytest.raises(UsageError, match="320,320"):
        fit(view((1080, 1920)), (320, 320), (11, 1))


def test_a_target_of_one_size_gets_the_larger_and_it_is_said() -> None:
    made = fit(view((1080, 1920), (1920, 1080)), (640, 640), AREAS, several=False)
    assert made.shapes == ((640, 640),) and "640,640" in made.notes[0]


def test_what_a_folder_shows(tmp_path: Path) -> None:
    for number, size in enumerate([(90, 160), (90, 160), (160, 90)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((*size, 3), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    found = read_view(str(tmp_path))
    assert found.sizes == {(90, 160): 2, (160, 90): 1} and "broken.jpg" in found.unreadable[0]
    assert len(found.pictures(2)) == 2 and len(found.pictures(100)) == 3
    assert read_view("1920x1080").sizes == {(1080, 1920): 1} and read_view("1920x1080").images is None


def test_a_video_s_pictures_come_from_all_over_it() -> None:
    clip = SHARED / "data/video/car-detection.mp4"
    if not clip.is_file():
        pytest.skip(f"needs {clip}")
    found = read_view(str(clip))
    assert found.sizes == {(432, 768): 1}
    first, *_, last = found.pictures(4)
    frames = [frame.image for frame in open_sources([clip], 377 // 4)]
    assert np.array_equal(first, frames[0]) and np.array_equal(last, frames[3])


@pytest.mark.parametrize(
    "given", ["nowhere.mp4", "0x0", "1x500000", "rtsp://camera/1", "notes.txt", "folder", "cut.mp4"]
)
def test_sources_that_cannot_be_opened(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    with pytest.raises((InputError, UsageError)) as caught:
        read_view(given)
    assert given.removeprefix("rtsp://") in str(caught.value)


def test_sizes_of_a_search_divide_and_begin_with_the_full_one() -> None:
    assert sizes((640, 640), AREAS) == [(640, 640), (576, 576), (480, 480), (384, 384), (320, 320)]
    found = sizes((320, 320), AREAS)
    assert found[0] == (320, 320) and found[-1] == (160, 160)
    assert sizes((320, 320), (25, 1)) == [(320, 320), (160, 160)] and sizes((320, 320), (11, 1)) == []


# ---- one bundle, two sizes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """``assembled`` for a target, once."""

    @cache
    def make(target: str) -> dict[str, Path]:
        with pytest.MonkeyPatch.context() as patch:
            return assembled(target, tmp_path_factory.mktemp(target), patch)

    return make


@pytest.fixture(params=["ov-fp16", "ov-fp32", "ov-int8", "ort-fp32"])
def both(request: pytest.FixtureRequest, made: Callable[[str], dict[str, Path]], tmp_path: Path) -> dict[str, Path]:
    """A bundle that was assembled of two tiny ones, and those: copies of one's own."""
    pytest.importorskip("openvino")
    return {name: shutil.copytree(path, tmp_path / name) for name, path in made(request.param).items()}


def assembled(target: str, folder: Path, monkeypatch: pytest.MonkeyPatch, task: str = "detect") -> dict[str, Path]:
    def build(source: Path, target: str, out: Path, options: BuildOptions, *_: Any, **__: Any) -> None:
        monkeypatch.setattr(tiny, "SIZE", options.imgsz)
        tiny.tiny_bundle(out, task, target, pixels=target.startswith("ov-"))

    monkeypatch.setattr(building, "build", build)
    places = {"lying": folder / "lying", "standing": folder / "standing", "both": folder / "both"}
    for name, shapes in (("lying", [LYING]), ("standing", [STANDING]), ("both", [LYING, STANDING])):
        given = Path("model.pt"), target, places[name], shapes, BuildOptions()
        fitted.assemble(*given, lambda _: None, None, None)  # type: ignore[arg-type]
    return places


class AnyBatch(Session):
    """``session`` of batch 1 as one of any batch."""

    def __init__(self, session: Session) -> None:
        port = session.info.inputs[0]
        self.session, self.path, self.target = session, session.path, session.target
        self.info = session.info.replace(inputs=(dataclasses.replace(port, shape=(None, *port.shape[1:])),))

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        each = [{k: np.array(v) for k, v in self.session.run(batch[i : i + 1]).items()} for i in range(len(batch))]
        return {role: np.concatenate([found[role] for found in each]) for role in each[0]}


def test_every_image_is_answered_by_the_input_it_is_largest_in(both: dict[str, Path]) -> None:
    rng = np.random.default_rng(1)
    images = [
        rng.integers(0, 256, (*size, 3), np.uint8) for size in ((50, 90), (90, 50), (70, 70), (200, 100), (9, 16))
    ]
    with (
        loading.load(both["both"], conf=0.05) as model,
        loading.load(both["lying"], conf=0.05) as lying,
        loading.load(both["standing"], conf=0.05) as standing,
    ):
        expected = [(standing if h > w else lying)(image)[0] for image in images for h, w in [image.shape[:2]]]
        one_by_one = [model(image)[0] for image in images]
        streamed = [result for _, result in model.stream(images)]
        batched = Predictor(Shaped([AnyBatch(lying.session), AnyBatch(standing.session)]), model.options, batch=3)
        for found in (one_by_one, streamed, batched(images)):  # of three some lie and some stand
            for result, want in zip(found, expected, strict=True):
                assert result.shape == want.shape and len(want) > 0
                assert np.array_equal(result.boxes, want.boxes) and np.array_equal(result.scores, want.scores)


def test_several_streams_have_every_input_size(both: dict[str, Path]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 50, 3), np.uint8)
    sessions = loading.open_streams(both["both"], 2, threads=1)
    assert [session.fitting(90, 50).info.imgsz for session in sessions] == [STANDING] * 2
    assert loading.load(both["both"])(image)[0].shape == (90, 50)
    for session in sessions:
        session.close()


def test_weights_are_stored_once(both: dict[str, Path]) -> None:
    def weights(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".bin", ".onnx"))

    alone = weights(both["lying"])
    assert weights(both["both"]) < 1.6 * alone, "tiny networks share no more; their places of boxes differ"
    manifest = read_bundle(both["both"]).manifest
    assert [shape["imgsz"] for shape in manifest["shapes"]] == [list(STANDING)]
    assert manifest["shapes"][0]["file"] in manifest["files"]


SPOILT: list[tuple[Any, Any]] = [
    (lambda shapes: {"no": "list"}, "16"),
    (lambda shapes: shapes * 17, "16"),
    (lambda shapes: [shapes[0] | {"file": "../elsewhere.xml"}], "[96, 64]"),
    (lambda shapes: [{k: v for k, v in shapes[0].items() if k != "file"}], "[96, 64]"),
    (lambda shapes: [shapes[0] | {"imgsz": [64, 64]}], "[64, 64]"),
    (lambda shapes: [shapes[0] | {"imgsz": [0, 64]}], "(0, 64)"),
    (lambda shapes: [shapes[0] | {"inputs": [shapes[0]["inputs"][0] | {"shape": [2, 3, 96, 64]}]}], "[96, 64]"),
    (lambda shapes: [shapes[0] | {"outputs": [shapes[0]["outputs"][0] | {"role": "news"}]}], "news"),
]


@pytest.mark.parametrize(("spoil", "datum"), SPOILT)
def test_shapes_that_no_build_writes_are_refused(
    spoil: Any, datum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = assembled("ort-fp32", tmp_path, monkeypatch)["both"]
    rewrite(folder, spoil)
    with pytest.raises(InputError) as caught:
        read_bundle(folder)
    assert datum in str(caught.value)


def rewrite(folder: Path, spoil: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"shapes": spoil(manifest["shapes"])}))


# ---- from end to end ---------------------------------------------------------------------------------------------


def test_a_graph_has_its_size(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("onnx_ir")
    source = tiny.tiny_bundle(tmp_path / "source", "detect", "ort-fp32")
    words = ("build", source, "--target", "ort-fp32", "--out", tmp_path / "out")
    code, _, said = run(*words, "--source", "1920x1080")
    assert code == 2 and "64,96" in said
    code, _, said = run(*words, "--imgsz-search")
    assert code == 2 and "--data" in said
    code, _, said = run(*words, "--source", tmp_path / "nowhere.mp4")
    assert code == 2 and "nowhere.mp4" in said


@pytest.mark.slow
def test_a_rectangle_of_the_fixture_is_judged_beside_the_square(tmp_path: Path) -> None:
    data, source = SHARED / "data/bccd/data.yaml", SHARED / "fixtures/yolo12n-bccd.pt"
    if not data.is_file():
        pytest.skip(f"needs {data}")
    options = BuildOptions(imgsz=(320, 320), quantize=QuantizeOptions(data=data))
    made = fitted.build(source, "ov-fp16", tmp_path / "out", options, read_view("640x480"))
    row = made.manifest["source"]
    assert made.info.imgsz == (256, 320) and row["kind"] == "labels" and row["square"] == [320, 320]
    assert row["before"] == pytest.approx(0.441, abs=0.01) and abs(row["drop_points"]) < 0.5
    assert {"operating_point", "worst_class"} <= row.keys() and row["operating_point"]["f1_before"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ov-int8", "ort-int8"])
def test_eight_bits_for_lying_and_standing_pictures(target: str, tmp_path: Path) -> None:
    """Weights lie there once, both inputs answer, and the labels judge both together."""
    data, source = SHARED / "data/bccd/data.yaml", SHARED / "fixtures/yolo12n-bccd.pt"
    if not data.is_file():
        pytest.skip(f"needs {data}")
    quantize = QuantizeOptions(data=data, max_drop=20, timing_s=0)
    shown = view((480, 640), (640, 480))
    made = fitted.build(source, target, tmp_path / "out", BuildOptions(imgsz=(160, 160), quantize=quantize), shown)
    assert made.info.imgsz == (128, 160) and [shape["imgsz"] for shape in made.manifest["shapes"]] == [[160, 128]]
    assert made.manifest["source"]["drop_points"] < 3
    image = cv2.imread(str(sorted((data.parent / "images/val").iterdir())[0]))
    with loading.load(made.path, conf=0.25) as model:
        answers = [model(turned)[0] for turned in (image, np.ascontiguousarray(image.transpose(1, 0, 2)))]
    assert all(len(result) > 0 for result in answers)
