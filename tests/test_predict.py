"""`edgekit predict` on what people point it at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.bundle.loading import load
from edgekit.runtime.image import write_image
from edgekit.runtime.sources import open_sources
from tests.conftest import Run
from tests.test_predictor import FakeSession, Predictor, scene, square
from tests.test_sources import grey, make_video
from tests.test_sources import server as server
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("predict") / "bundle", "detect", "ort-fp32")


def test_a_stride_leaves_out_frames_and_slows_the_video_down(run: Run, bundle: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", list(range(0, 250, 25)), fps=20)
    code, out, _ = run("predict", bundle, video, "--stride", 4, "--json", "--out", tmp_path / "out")
    assert code == 0 and [row["frame"] for row in json.loads(out)] == [0, 4, 8]
    frames = list(open_sources([tmp_path / "out" / "a.mp4"]))
    assert len(frames) == 3 and frames[0].fps == 5


def test_a_folder_is_answered_in_order_as_one_image_after_the_other(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(18):
        write_image(folder / f"{i:02}.png", rng.integers(0, 256, (40 + i, 64, 3), dtype=np.uint8))
    for i in (3, 11):
        (folder / f"{i:02}.png").write_bytes(b"torn")
    code, out, error = run("predict", bundle, folder, "--conf", "0.01", "--json", "--out", tmp_path / "out")
    good = [f"{i:02}.png" for i in range(18) if i not in (3, 11)]
    rows = json.loads(out)
    assert code == 2 and [Path(row["image"]).name for row in rows] == good
    assert error.index("03.png") < error.index("11.png") and "2 of 18 sources" in error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == good
    with load(bundle, conf=0.01) as alone:
        for row in rows:
            expected = alone(row["image"])[0].to_dict()
            assert row["labels"] == expected["labels"] and row["labels"]
            np.testing.assert_allclose(row["boxes"], expected["boxes"], atol=1e-2)


def test_so_many_frames_and_no_more(run: Run, bundle: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", list(range(0, 250, 25)))
    code, out, _ = run("predict", bundle, video, "--frames", 3, "--json", "--out", tmp_path / "out")
    assert code == 0 and len(json.loads(out)) == 3
    assert len(list(open_sources([tmp_path / "out" / "a.mp4"]))) == 3


def test_a_stream_goes_on_where_it_breaks_off_and_ends_when_told(run: Run, bundle: Path, server: str) -> None:
    from tests.test_sources import Files

    Files.served["/live"] = Files.served["/c.avi"]
    code, out, error = run("predict", bundle, f"http://me:secret@{server}/live", "--frames", 5, "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 5 and {row["image"] for row in rows} == {f"http://{server}/live"}
    assert "5 frames" in error and "secret" not in out + error


def test_ctrl_c_ends_a_stream_and_keeps_what_was_seen(bundle: Path, server: str, tmp_path: Path) -> None:
    from tests.test_sources import Files

    Files.served["/live"] = Files.served["/c.avi"]
    words = ["predict", str(bundle), f"http://{server}/live", "--json", "--out", str(tmp_path / "out")]
    command = subprocess.Popen(
        [sys.executable, "-m", "edgekit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(tmp_path.rglob("*.partial.mp4")):
        time.sleep(0.05)
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    out, error = command.communicate(timeout=60)
    assert command.returncode == 0, error.decode()
    (video,) = (tmp_path / "out").iterdir()
    assert len(json.loads(out)) == len(list(open_sources([video]))) > 0


def test_a_source_that_dies_leaves_what_was_seen(run: Run, bundle: Path, server: str, tmp_path: Path) -> None:
    from tests.test_sources import Files

    writer = cv2.VideoWriter(str(tmp_path / "a.ts"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for level in range(0, 250, 10):
        writer.write(grey(level))
    writer.release()
    Files.served["/once"] = (tmp_path / "a.ts").read_bytes()
    words = (f"http://{server}/once", "--patience", 0.5, "--json", "--out", tmp_path / "out")
    code, out, error = run("predict", bundle, *words)
    assert code == 2 and "no frame for 0.5 seconds" in error and len(json.loads(out)) > 0
    assert len(list(open_sources([tmp_path / "out" / "once.mp4"]))) == len(json.loads(out))


def test_several_streams_at_once(run: Run, bundle: Path, server: str, tmp_path: Path) -> None:
    from tests.test_sources import Files

    writer = cv2.VideoWriter(str(tmp_path / "a.ts"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for level in range(0, 250, 10):
        writer.write(grey(level))
    writer.release()
    names = ("once-yard", "once-gate")
    streams = [f"http://{server}/{name}" for name in names]
    for name in names:
        Files.served[f"/{name}"] = (tmp_path / "a.ts").read_bytes()
    words = (*streams, "--patience", 0.5, "--max-queue-delay-ms", 0, "--json", "--out", tmp_path / "out")
    code, out, error = run("predict", bundle, *words)
    rows = json.loads(out)
    assert code == 2 and all(name in error for name in streams) and {row["image"] for row in rows} == set(streams)
    for name, stream in zip(names, streams, strict=True):
        frames = [row["frame"] for row in rows if row["image"] == stream]
        assert frames == sorted(set(frames))
        assert len(list(open_sources([tmp_path / "out" / f"{name}.mp4"]))) == len(frames)


def test_what_is_refused_at_once(run: Run, bundle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", grey(1))
    for words, says in (
        (("rtsp://me:secret@127.0.0.1:1/x", "rtsp://127.0.0.1:1/x"), "rtsp://127.0.0.1:1/x"),
        (("rtsp://127.0.0.1:1/x", tmp_path / "absent.mp4"), "absent.mp4"),
        (("rtsp://127.0.0.1:1/x", "--max-queue-delay-ms", -1), "max-queue-delay-ms"),
        ((tmp_path / "a.png", "--max-queue-delay-ms", 5, "--format", "jsonl", "--out", tmp_path / "out"), "format"),
        ((250,), "camera 250"),
        ((tmp_path / "shot_%03d.png",), "shot_%03d.png"),
        ((tmp_path / "a.png", "--video", "mkv", "--out", tmp_path / "out"), "mkv"),
        ((tmp_path / "a.png", "--stride", 0), "stride"),
    ):
        code, out, error = run("predict", bundle, *words, "--json")
        assert code == 2 and out in ("", "[]\n") and says in error and "secret" not in error, error
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf8_are_printed(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bl\xe4.png")
    try:
        write_image(path, grey(90))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    words = ["predict", str(bundle), path, "--json", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-m", "edgekit", *words], capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert os.fsencode(json.loads(done.stdout)[0]["image"]) == os.fsencode(path)


def test_a_model_of_another_tool(tmp_path: Path) -> None:
    from tests.test_foreign import NAMES, finished, save

    model = save(tmp_path / "m.onnx", finished(), metadata={"task": "detect", "names": NAMES})
    write_image(tmp_path / "a.png", grey(90, 64, 64))
    words = [sys.executable, "-m", "edgekit", "predict", str(model), str(tmp_path / "a.png"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["scores"] == pytest.approx([0.9, 0.6, 0.3], abs=1e-5)
    assert done.stderr.count("suppresses by itself") == 1 and ".py:" not in done.stderr


# ---- in Python --------------------------------------------------------------------------------------------------


def test_arrays_and_tensors_of_one_and_of_many() -> None:
    torch = pytest.importorskip("torch")
    predictor = Predictor(FakeSession())
    batch = np.stack([np.resize(scene(0), (60, 100, 3))] * 2)
    batch[1] = np.roll(batch[1], 16, 1)
    planes = torch.from_numpy(batch[..., ::-1].copy()).permute(0, 3, 1, 2)
    for several in (batch, batch / 255, batch.astype(np.float32), planes, planes / 255):
        found = predictor(several)
        assert len(found) == 2
        np.testing.assert_allclose(found[0].boxes, [square(0)], atol=2)
        np.testing.assert_allclose(found[1].boxes, [square(2)], atol=2)
        assert [len(r) for _, r in predictor.stream(several)] == [1, 1]
        (alone,) = predictor(several[1])
        np.testing.assert_array_equal(alone.boxes, found[1].boxes)


def test_an_address_is_an_image(server: str) -> None:
    (found,) = Predictor(FakeSession())(f"http://me:secret@{server}/private/a.png")
    assert found.image == f"http://{server}/private/a.png" and found.shape == (48, 64)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_thresholds_of_numpy(kind: type) -> None:
    found = Predictor(FakeSession())(scene(0), conf=kind(0.5), iou=kind(0.5))
    assert len(found[0]) == 1
