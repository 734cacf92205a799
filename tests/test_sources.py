"""Finding and reading images and videos, and writing annotated ones."""

from __future__ import annotations

import base64
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.runtime.image import read_image, write_image
from edgekit.runtime.sources import Frame, open_sources
from edgekit.runtime.writer import VideoFile, held_rate, open_writer


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
        ("*.heic", "matches no images"),
        ("shot_%04d.png", "no images"),
        ("labels.txt", "not an image or video"),
    ],
)
def test_what_is_not_there_is_said_at_once(folder: Path, source: str, says: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=says) as caught:
        open_sources([folder / "b.png", folder / source])
    assert source in str(caught.value) and "\n" not in str(caught.value)


def test_a_stream_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rtsp://camera/1") as caught:
        open_sources(["rtsp://me:secret@camera/1"])
    assert "secret" not in str(caught.value)


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
    with pytest.raises(EdgekitError, match="`out`"):
        open_writer(folder / "b.png")
    with pytest.raises(EdgekitError, match="`out`"):
        open_writer(folder / "b.png" / "deeper")


def test_frames_without_a_known_rate_still_make_a_video(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        for i in range(3):
            writer.write(Frame(Path("webcam.mkv"), i, grey(i), frame=i), grey(i, 47, 63))  # odd sides too
    frames = list(open_sources([tmp_path / "webcam.mp4"]))
    assert len(frames) == 3 and frames[0].fps == 25


# ---- what strangers bring ---------------------------------------------------------------------------------------


def test_a_numbered_series_is_taken_by_number_with_its_gaps(tmp_path: Path) -> None:
    for number in ("0002", "0010", "0009", "12345", "7"):
        write_image(tmp_path / f"shot_{number}.png", grey(1))
    write_image(tmp_path / "shot_0003.png.png", grey(1))
    assert names([tmp_path / "shot_%04d.png"]) == ["shot_0002.png", "shot_0009.png", "shot_0010.png", "shot_12345.png"]
    assert names([tmp_path / "shot_%d.png"])[1] == "shot_7.png"


@pytest.mark.parametrize(("suffix", "code"), [(".ts", "mp4v"), (".flv", "FLV1"), (".mkv", "mp4v"), (".mp4", "mp4v")])
@pytest.mark.parametrize("stride", [1, 3])
def test_containers_and_strides(tmp_path: Path, suffix: str, code: str, stride: int) -> None:
    levels = list(range(0, 250, 25))
    writer = cv2.VideoWriter(str(tmp_path / f"a{suffix}"), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
    for level in levels:
        writer.write(grey(level))
    writer.release()
    frames = list(open_sources([tmp_path], stride))
    assert [f.error for f in frames] == [None] * len(frames)
    assert [f.frame for f in frames] == list(range(0, 10, stride))
    assert [round(f.image.mean() / 25) for f in frames] == list(range(0, 10, stride))
    assert {f.fps for f in frames} == {25 / stride}
    with pytest.raises(UsageError, match="`stride` 0"):
        open_sources([tmp_path], 0)


def test_an_animation_is_a_video_and_a_still_is_not(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    pictures = [pil.fromarray(grey(level)) for level in (0, 100, 200)]
    pictures[0].save(tmp_path / "moves.gif", save_all=True, append_images=pictures[1:], duration=100)
    pictures[1].save(tmp_path / "still.gif")
    sources = open_sources([tmp_path])
    assert sources.total == 4
    frames = list(sources)
    assert [f.frame for f in frames] == [0, 1, 2, None]
    assert [round(f.image.mean() / 100) for f in frames] == [0, 1, 2, 1]


@pytest.mark.parametrize("suffix", [".tif", ".webp"])
def test_pages_that_are_not_read_are_counted(tmp_path: Path, suffix: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    pictures = [pil.fromarray(grey(level)) for level in (0, 100, 200)]
    pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:])
    with pytest.warns(RuntimeWarning, match=rf"a\{suffix}: holds 3 images"):
        (frame,) = open_sources([tmp_path])
    assert frame.image.mean() < 5


def test_an_avi_cut_short_gives_its_frames_and_says_how_many(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(20):  # noise, so that the frames and not the header fill the file
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    whole = (tmp_path / "whole.avi").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: len(whole) // 2])
    *good, last = open_sources([path])
    assert 2 < len(good) < 18 and all(f.error is None for f in good)
    assert f"{len(good)} of 20 frames" in str(last.error)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xe4")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_image(tmp_path / "a.png", grey(90))
    make_video(tmp_path / "a.mp4", [0, 100, 200])
    for suffix in (".png", ".mp4"):
        (tmp_path / f"a{suffix}").rename(folder / os.fsdecode(b"bl\xe4" + suffix.encode()))
    with open_writer(folder / os.fsdecode(b"\xf6")) as writer:
        for frame in open_sources([folder]):
            assert frame.error is None
            writer.write(frame, frame.image)
    assert [os.fsencode(p.name) for p in writer.paths] == [b"bl\xe4.mp4", b"bl\xe4.png"]
    assert len(list(open_sources(writer.paths))) == 4


class Files(BaseHTTPRequestHandler):
    """Answers with the files of ``served``, to those who know the password where there is one."""

    served: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        wanted = "Basic " + base64.b64encode(b"me:secret").decode()
        if place.startswith("/private") and self.headers.get("Authorization") != wanted:
            self.send_error(401)
        elif place not in self.served:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.served[place])))
            self.end_headers()
            self.wfile.write(self.served.pop(place) if place.startswith("/once") else self.served[place])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    write_image(tmp_path / "a.png", grey(90))
    picture, video = (tmp_path / "a.png").read_bytes(), make_video(tmp_path / "a.avi", [0, 100, 200]).read_bytes()
    Files.served = {"/a%20b.png": picture, "/private/a.png": picture, "/c.avi": video, "/text.jpg": b"no image"}
    served = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_addresses_of_files_are_read_to_their_end(server: str) -> None:
    wanted = [f"http://{server}/a%20b.png?size=1", f"http://{server}/c.avi", f"http://me:secret@{server}/private/a.png"]
    frames = list(open_sources(wanted))
    assert [f.error for f in frames] == [None] * 5
    assert [f.frame for f in frames] == [None, 0, 1, 2, None]
    assert [round(f.image.mean() / 10) for f in frames] == [9, 0, 10, 20, 9]
    assert frames[0].path.stem == "a b" and frames[0].name == wanted[0]
    assert "secret" not in f"{frames[4].name} {frames[4].path}"


@pytest.mark.parametrize("place", ["absent.png", "text.jpg", "private/a.png", "absent.avi"])
def test_addresses_that_give_nothing_say_so(server: str, place: str) -> None:
    (frame,) = open_sources([f"http://me:wrong@{server}/{place}"])
    assert place in str(frame.error) and "wrong" not in str(frame.error)


@pytest.mark.parametrize("fps", [90.009, 239.763, 12345.678, 1000.0, 29.97, 100 / 3, 0.5, 1e-3, 1e6])
def test_any_rate_can_be_written(tmp_path: Path, fps: float) -> None:
    with VideoFile(tmp_path / "a.mp4", fps) as video:
        for level in (0, 100, 200):
            video.write(grey(level))
    frames = list(open_sources([tmp_path / "a.mp4"]))
    assert len(frames) == 3
    assert held_rate(fps) == pytest.approx(min(max(fps, 0.01), 65535), rel=1e-3)
    if fps <= 1000:
        assert frames[0].fps == pytest.approx(held_rate(fps), rel=1e-3)


def test_frames_of_another_size_are_not_lost(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", 10) as video:
        for height in (48, 64, 48, 20):
            video.write(grey(100, height))
    assert len(list(open_sources([tmp_path / "a.mp4"]))) == 4


def test_videos_as_gif(tmp_path: Path) -> None:
    if not hasattr(cv2, "imwriteanimation"):
        with pytest.raises(UsageError, match="gif"):
            open_writer(tmp_path / "out", "gif")
        return
    make_video(tmp_path / "a.avi", [0, 100, 200], fps=10)
    with open_writer(tmp_path / "out", "gif") as writer:
        for frame in open_sources([tmp_path / "a.avi"]):
            writer.write(frame, frame.image)
    assert [p.name for p in writer.paths] == ["a.gif"]
    frames = list(open_sources(writer.paths))
    assert [round(f.image.mean() / 100) for f in frames] == [0, 1, 2] and frames[0].fps == pytest.approx(10)


def test_encoders_that_are_not_there_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mjpeg"):
        open_writer(tmp_path / "out", "mjpeg")
    try:
        open_writer(tmp_path / "out", "h264")
    except UsageError as error:
        assert "h264" in str(error) and not (tmp_path / "out").exists()
    else:
        make_video(tmp_path / "a.avi", [0, 100])
        with open_writer(tmp_path / "out", "h264") as writer:
            for frame in open_sources([tmp_path / "a.avi"]):
                writer.write(frame, frame.image)
        assert len(list(open_sources(writer.paths))) == 2


FULL = """
import sys, resource, signal, numpy as np
from pathlib import Path
from edgekit.errors import EdgekitError
from edgekit.runtime.writer import VideoFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # writing beyond it fails, as on a full disk
try:
    with VideoFile(Path(sys.argv[1]), 25) as video:
        for i in range(40):
            video.write(np.random.default_rng(i).integers(0, 256, (240, 320, 3)).astype(np.uint8))
except EdgekitError as error:
    sys.exit(f"refused {error}")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no limit for files")
def test_a_video_on_a_full_disk_is_no_video(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    assert done.returncode == 1 and "refused" in done.stderr and "a.mp4" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
