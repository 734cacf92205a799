"""The example programs run, and stay short enough to be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.runtime.image import read_image, write_image
from edgekit.runtime.sources import open_sources
from tests.test_sources import make_video

pytest.importorskip("openvino")
HERE = Path(__file__).resolve().parents[1] / "edgekit/runtime"
PROGRAMS = sorted([*HERE.glob("examples/*.py"), *HERE.glob("cpp/examples/*.cpp")])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.tiny import tiny_bundle

    return str(tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", "detect", "ov-fp32"))


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    return [str(make_video(tmp_path / name, [40 * i for i in range(6)])) for name in ("a.mp4", "b.mp4")]


def test_both_languages_have_them_and_none_is_long() -> None:
    stems = {suffix: {p.stem for p in PROGRAMS if p.suffix == suffix} for suffix in (".py", ".cpp")}
    assert {"detect", "camera", "many"} <= stems[".py"] & stems[".cpp"]
    listed = (HERE / "cpp/examples/CMakeLists.txt").read_text()
    assert all(stem in listed for stem in stems[".cpp"])
    for path in PROGRAMS:
        assert len(path.read_text().splitlines()) < 100, path.name


def test_detect(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.runtime.examples import detect

    image = np.full((64, 96, 3), 200, np.uint8)
    write_image(tmp_path / "in.png", image)
    detect.main(bundle, str(tmp_path / "in.png"), str(tmp_path / "out.png"))
    assert (read_image(tmp_path / "out.png") != image).any()
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} <= {"ant", "bee", "cat"}


def test_camera_writes_a_video(
    bundle: str, videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.runtime.examples import camera

    camera.main(bundle, videos[0], str(tmp_path / "seen.mp4"))
    assert capsys.readouterr().out == "6 frames, 0 dropped\n"
    assert len(list(open_sources([tmp_path / "seen.mp4"]))) == 6


def test_many_sources_do_not_hinder_each_other(
    bundle: str, videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.runtime.examples import many

    many.main(bundle, *videos, str(tmp_path / "absent.mp4"))
    out, errors = capsys.readouterr()
    assert sorted(line.split(":")[0] for line in out.splitlines()) == videos and out.count("6 frames") == 2
    assert "absent.mp4: no such file or folder" in errors


def test_track(bundle: str, videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(pytest.importorskip("supervision"), "ByteTrack"):
        pytest.importorskip("trackers")
    from edgekit.runtime.examples import track

    track.main(bundle, videos[0], str(tmp_path / "out"))
    assert capsys.readouterr().out.endswith("objects followed\n")
    video = cv2.VideoCapture(str(tmp_path / "out/a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    video.release()
