"""Frames a second of a video through `stream()`, beside a loop over the peer's predict: one interleaved run.

    python benchmarks/stream.py BUNDLE VIDEO --peer-model PEER_MODEL --peer-python PEER/bin/python \\
        --peer-scripts ../shared/peer --threads 2 --streams 2 --clip 100 --out benchmarks/results/stream.json
    python benchmarks/stream.py BUNDLE VIDEO --frames 20000           # alone: the memory after every 500 frames
    python benchmarks/stream.py BUNDLE VIDEO --soak 900               # bad frames, sources that die and return
    python benchmarks/stream.py BUNDLE VIDEO --share 60               # 8 threads on one predictor

Each side is a process of its own that stays alive with its model loaded and reads the video (or the first ``--clip``
frames of it), decoding included, when told to; they take turns. The peer is given the same weights (PEER_MODEL: its own
export, for the same runtime) and cores; it is run, never imported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _sides import serve, side

REPO = Path(__file__).resolve().parents[1]
NEEDED = 1.3  # times the peer's rate
GROWTH_MB = 30.0  # of memory after the first quarter: more is a leak


def main() -> None:
    options = _options()
    if options.worker:
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    if options.frames:
        report = _memory(options)
    elif options.soak:
        report = _soak(options)
    elif options.share:
        report = _share(options)
    else:
        report = _race(options)
    from edgekit.bench import machine

    text = json.dumps({**report, "machine": machine.describe()}, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if report["pass"] else 1)


# ---- beside the peer ---------------------------------------------------------------------------------------------


def _race(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from edgekit.bench.noise import NoiseMonitor

    rates: dict[str, list[float]] = {"edgekit": [], "peer": []}
    objects: dict[str, int] = {}
    with (
        side(__file__, "edgekit", sys.executable) as edgekit,
        side(__file__, "peer", options.peer_python) as peer,
    ):
        sides = {"edgekit": edgekit, "peer": peer}
        for work in sides.values():
            work()
        with NoiseMonitor(helpers=[edgekit.pid, peer.pid]) as watch:
            for number in range(options.rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    answer = sides[name]()
                    rates[name].append(answer["frames"] / answer["seconds"])
                    objects[name] = answer["objects"]
                    watch.tick()
                _say(f"round {number + 1}: " + ", ".join(f"{n} {r[-1]:.1f} frames/s" for n, r in rates.items()))
    ratio = np.array(rates["edgekit"]) / np.array(rates["peer"])
    found = {"min": float(ratio.min()), "p50": float(np.median(ratio)), "max": float(ratio.max())}
    return {
        "what": "frames per second of a video, decoding to results",
        "clip": options.clip,
        "bundle": Path(options.bundle).name,
        "peer_model": Path(options.peer_model).name,
        "threads": options.threads,
        "streams": options.streams,
        "workers": options.workers,
        "ratio": found,
        "frames_per_s": rates,
        "objects": objects,
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "pass": found["p50"] >= NEEDED,
    }


def _edgekit(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(REPO))
    model = _load(options)

    def run() -> dict[str, Any]:
        start, objects, frames = time.perf_counter(), 0, 0
        with model.stream(options.video, workers=options.workers) as answers:
            for _, result in itertools.islice(answers, options.clip):
                objects += len(result)
                frames += 1
        return {"frames": frames, "objects": objects, "seconds": time.perf_counter() - start}

    serve(run)


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import cv2
    import torch
    from ultralytics import YOLO

    if options.threads:
        torch.set_num_threads(options.threads)
    model = YOLO(options.peer_model, task=options.task)

    def run() -> dict[str, Any]:
        start, objects, frames = time.perf_counter(), 0, 0
        video = cv2.VideoCapture(options.video)
        while frames != options.clip:
            read, frame = video.read()
            if not read:
                break
            result = model.predict(frame, imgsz=options.imgsz, conf=0.25, iou=0.7, verbose=False)[0]
            objects += len(result)
            frames += 1
        video.release()
        return {"frames": frames, "objects": objects, "seconds": time.perf_counter() - start}

    serve(run)


# ---- alone -------------------------------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> Any:
    import edgekit

    return edgekit.load(options.bundle, threads=options.threads, streams=options.streams, conf=0.25, iou=0.7)


def _resident_mb() -> float:
    """Memory of this process that is in RAM (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    """The video again and again until so many frames were answered."""
    done, levels = 0, []
    with _load(options) as model:
        while done < options.frames:
            for _ in model.stream(options.video, workers=options.workers):
                done += 1
                if done % 500 == 0:
                    levels.append(round(_resident_mb(), 1))
                    _say(f"{done} frames, {levels[-1]} MB")
                if done == options.frames:
                    break
    settled = levels[len(levels) // 4] if levels else 0.0
    growth = max(levels[len(levels) // 4 :], default=0.0) - settled
    return {"what": "memory over frames", "frames": done, "mb": levels, "growth_mb": growth, "pass": growth < GROWTH_MB}


class _Dying:
    """A capture that gives frames of the video, some of them bad, and now and then dies or does not open."""

    def __init__(self, frames: list[Any], chance: random.Random) -> None:
        self.frames, self.chance, self.open = frames, chance, chance.random() > 0.3

    def isOpened(self) -> bool:
        return self.open

    def get(self, what: int) -> float:
        return 25.0

    def read(self) -> tuple[bool, Any]:
        import numpy as np

        if self.chance.random() < 0.02:
            return False, None
        good = self.chance.choice(self.frames)
        bad = [np.zeros((0, 0, 3), np.uint8), good.astype(np.float32) * np.nan, good.astype(np.float64), good[:1], None]
        huge = np.zeros((5000, 7000, 3), np.uint8)
        odd = self.chance.random()
        return True, self.chance.choice(bad) if odd < 0.1 else huge if odd < 0.102 else good

    def release(self) -> None:
        self.open = False


def _soak(options: argparse.Namespace) -> dict[str, Any]:
    """Bad frames and dying sources for so many seconds: every good frame answered as it is answered alone."""
    from edgekit.runtime import live
    from edgekit.runtime.sources import open_sources

    live.PAUSES = (0.01, 0.05)
    chance = random.Random(0)
    frames = [f.image for f in itertools.islice(open_sources([options.video]), 20) if f.image is not None]
    bad = good = wrong = 0
    levels: list[float] = []

    def skip(frame: Any) -> None:
        nonlocal bad
        bad += 1

    with _load(options) as model:
        expected = {frame.tobytes()[:4096]: len(model(frame)[0]) for frame in frames}
        camera = live.LiveSource("rtsp://soak", patience=60, opened=lambda source: _Dying(frames, chance))
        end = time.monotonic() + options.soak
        with model.stream(camera, latest=False, workers=options.workers, on_error=skip) as answers:
            for number, (frame, result) in enumerate(answers):
                good += 1
                if frame.image.shape == frames[0].shape:
                    wrong += len(result) != expected.get(frame.image.tobytes()[:4096], len(result))
                if frame.index != good + bad - 1:
                    wrong += 1  # a frame that was neither answered nor refused
                if number % 500 == 0:
                    levels.append(round(_resident_mb(), 1))
                    _say(f"{good} answered, {bad} refused, {camera.reconnects} reconnects, {levels[-1]} MB")
                if time.monotonic() > end:
                    break
    growth = max(levels[len(levels) // 4 :], default=0.0) - levels[len(levels) // 4]
    left = [t.name for t in threading.enumerate() if t.name == "edgekit"]
    return {
        "what": "soak",
        "seconds": options.soak,
        "answered": good,
        "refused": bad,
        "wrong": wrong,
        "reconnects": camera.reconnects,
        "mb": levels,
        "growth_mb": growth,
        "pass": not wrong and not left and growth < 2 * GROWTH_MB,
    }


def _share(options: argparse.Namespace) -> dict[str, Any]:
    """Eight threads on one predictor for so many seconds: every answer is the serial one."""
    import numpy as np

    from edgekit.runtime.sources import open_sources

    frames = [f.image for f in itertools.islice(open_sources([options.video]), 0, 300, 20)]
    with _load(options) as model:
        serial = [model(frame)[0] for frame in frames]
        end = time.monotonic() + options.share
        calls, wrong = [0] * 8, [0] * 8

        def work(thread: int) -> None:
            for i in _shuffled(len(frames), thread):
                result = model(frames[i])[0]
                same = all(
                    np.array_equal(getattr(result, key), getattr(serial[i], key))
                    for key in ("boxes", "scores", "labels", "rotated_boxes", "keypoints", "probs")
                    if getattr(serial[i], key) is not None
                )
                calls[thread] += 1
                wrong[thread] += not same
                if time.monotonic() > end:
                    return

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"what": "threads on one predictor", "calls": sum(calls), "wrong": sum(wrong), "pass": not sum(wrong)}


def _shuffled(count: int, seed: int) -> Iterator[int]:
    chance = random.Random(seed)
    while True:
        yield chance.randrange(count)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("video")
    parser.add_argument("--peer-model")
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-scripts")
    parser.add_argument("--task", default="detect")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clip", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--soak", type=float, default=0)
    parser.add_argument("--share", type=float, default=0)
    parser.add_argument("--out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("bundle", "video", "peer_model", "peer_scripts"):
        value = getattr(options, name)
        setattr(options, name, str(Path(value).resolve()) if value else value)  # workers start elsewhere
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
