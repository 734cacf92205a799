"""Finding and reading images and videos, and writing annotated ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.image import read_image, write_image
from edgekit.runtime.sources import Frame, open_sources
from edgekit.runtime.writer import open_writer


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def make_video(path: Path, levels: list[int], fps: float = 12.5) -> Path:
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), fourcc, fps, (64, 48))
    for level in levels:
        writer.write(grey(level))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, a video, and things that are neither."""
    made = tmp_path / "in"
    (made / "below").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "below/c.png"):
        write_image(made / name, grey(100))
    make_video(made / "clip.mp4", [0, 80, 160])
    (made / "labels.txt").write_text("0 0.5 0.5 0.1 0.1")
    (made / "._b.png").write_bytes(b"a companion another system made")
    return made


def names(sources: list[str | Path]) -> list[str]:
    return [p.name for p in open_sources(sources).paths]


# ---- finding ----------------------------------------------------------------------------------------------------


def test_folders_files_and_globs(folder: Path) -> None:
    assert names([folder]) == ["a.JPG", "b.png", "clip.mp4"]
    assert names([str(folder / "b.png")]) == ["b.png"]
    assert names([folder / "*.png"]) == ["b.png"]
    assert names([folder / "*"]) == ["a.JPG", "b.png", "clip.mp4"]
    assert names([folder / "**" / "*.png"]) == ["b.png", "c.png"]
    assert names([folder / "clip.mp4", folder / "below", folder / "b.png"]) == ["clip.mp4", "c.png", "b.png"]


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    write_image(tmp_path / "photo[1].png", grey(1))
    assert names([tmp_path / "photo[1].png"]) == ["photo[1].png"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("absent.jpg", "no such file or folder"),
        ("empty", "holds no images"),
        ("*.gif", "matches no images"),
        ("labels.txt", "not an image or video"),
    ],
)
def test_what_is_not_there_is_said_at_once(folder: Path, source: str, says: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=says) as caught:
        open_sources([folder / "b.png", folder / source])
    assert source in str(caught.value) and "\n" not in str(caught.value)


def test_no_sources_at_all() -> None:
    with pytest.raises(InputError, match="no images given"):
        open_sources([])


# ---- reading ----------------------------------------------------------------------------------------------------


def test_frames_of_images_and_videos(folder: Path) -> None:
    sources = open_sources([folder])
    assert len(sources) == 3 and sources.total == 5
    for _ in range(2):  # as often as wanted
        frames = list(sources)
        assert [f.path.name for f in frames] == ["a.JPG", "b.png", "clip.mp4", "clip.mp4", "clip.mp4"]
        assert [f.index for f in frames] == [0, 1, 2, 3, 4]
        assert [f.frame for f in frames] == [None, None, 0, 1, 2]
        assert [f.total for f in frames] == [None, None, 3, 3, 3]
        assert [f.fps for f in frames] == [None, None, 12.5, 12.5, 12.5]
        for frame, level in zip(frames, [100, 100, 0, 80, 160], strict=True):
            assert frame.error is None
            assert frame.image.shape == (48, 64, 3) and np.abs(frame.image.astype(int) - level).max() < 12


def test_bad_files_do_not_stop_the_good_ones(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "aa.png").write_bytes((folder / "b.png").read_bytes()[:50])
    (folder / "bad.mp4").write_bytes(b"not a video")
    write_image(folder / "dot.bmp", grey(1, 1, 1))
    frames = list(open_sources([folder]))
    assert [f.index for f in frames] == list(range(8))
    bad = {f.path.name: str(f.error) for f in frames if f.error}
    assert set(bad) == {"aa.png", "bad.mp4", "dot.bmp"}
    assert all(f.image is None for f in frames if f.error)
    assert all(name in text for name, text in bad.items())
    assert sum(f.image is not None for f in frames) == 5
    assert capfd.readouterr() == ("", "")


def test_a_video_cut_short_gives_its_frames_and_an_error(shared: Path, tmp_path: Path) -> None:
    whole = (shared / "data/video/car-detection.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 4])
    frames = list(open_sources([path]))
    assert len(frames) > 5 and all(f.image is not None for f in frames[:-1])
    assert "cut short" in str(frames[-1].error) and frames[-1].image is None


def test_a_real_video(shared: Path) -> None:
    sources = open_sources([shared / "data/video/car-detection.mp4"])
    assert sources.total == 377
    first = next(iter(sources))
    assert first.image.shape == (432, 768, 3) and first.total == 377


# ---- writing ----------------------------------------------------------------------------------------------------


def test_pictures_keep_their_names_and_clashes_are_told_apart(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "below" / "B.png", grey(5))
    with open_writer(tmp_path / "out" / "deep") as writer:
        for frame in open_sources([folder, folder / "below", folder / "b.png"]):
            if frame.frame is None:
                writer.write(frame, frame.image)
    assert [p.name for p in writer.paths] == ["a.JPG", "b.png", "B-2.png", "c.png", "b-3.png"]
    assert sorted(p.name for p in (tmp_path / "out" / "deep").iterdir()) == sorted(p.name for p in writer.paths)
    np.testing.assert_array_equal(read_image(tmp_path / "out/deep/B-2.png"), grey(5))


def test_grey_only_formats_become_png(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 4 4 255\n" + bytes(range(16)))
    with open_writer(tmp_path / "out") as writer:
        for frame in open_sources([tmp_path / "a.pgm"]):
            writer.write(frame, frame.image)
    assert [p.name for p in writer.paths] == ["a.png"]


def test_videos_are_written_as_mp4_when_complete(folder: Path, tmp_path: Path) -> None:
    make_video(folder / "clip.avi", [200, 210], fps=10)
    out = tmp_path / "out"
    with open_writer(out) as writer:
        for frame in open_sources([folder / "clip.mp4", folder / "clip.avi", folder / "b.png"]):
            writer.write(frame, frame.image)
            if frame.index == 1:
                assert not (out / "clip.mp4").exists()
    assert [p.name for p in writer.paths] == ["clip.mp4", "clip-2.mp4", "b.png"]
    assert sorted(p.name for p in out.iterdir()) == ["b.png", "clip-2.mp4", "clip.mp4"]
    for name, levels, fps in (("clip.mp4", [0, 80, 160], 12.5), ("clip-2.mp4", [200, 210], 10)):
        frames = list(open_sources([out / name]))
        assert [f.fps for f in frames] == [fps] * len(levels)
        for frame, level in zip(frames, levels, strict=True):
            assert abs(frame.image.mean() - level) < 12


def test_an_error_leaves_no_half_video(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on the way"), open_writer(out) as writer:
        for frame in open_sources([folder]):
            if frame.frame == 2:
                raise RuntimeError("on the way")
            writer.write(frame, frame.image)
    assert sorted(p.name for p in out.iterdir()) == ["a.JPG", "b.png"]
    assert [p.name for p in writer.paths] == ["a.JPG", "b.png"]


def test_sources_are_never_overwritten(folder: Path) -> None:
    before = (folder / "b.png").read_bytes()
    with open_writer(folder) as writer:
        for name in ("b.png", "clip.mp4"):
            frame = next(iter(open_sources([folder / name])))
            with pytest.raises(UsageError, match=name):
                writer.write(frame, grey(0))
    assert (folder / "b.png").read_bytes() == before


def test_a_folder_that_cannot_be_is_refused(folder: Path) -> None:
    with pytest.raises(EdgekitError, match="--out"):
        open_writer(folder / "b.png")
    with pytest.raises(EdgekitError, match="--out"):
        open_writer(folder / "b.png" / "deeper")


def test_frames_without_a_known_rate_still_make_a_video(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        for i in range(3):
            writer.write(Frame(Path("webcam.mkv"), i, grey(i), frame=i), grey(i, 47, 63))  # odd sides too
    frames = list(open_sources([tmp_path / "webcam.mp4"]))
    assert len(frames) == 3 and frames[0].fps == 25
