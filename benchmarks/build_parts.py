"""Where the processor's time of an `edgekit build` goes: the steps of the build by what is done in them.

    python benchmarks/build_parts.py yolo12n-bccd.pt --target ov-fp16 --imgsz 640 --out made

Takes the words of `edgekit build`. A thread looks every ten milliseconds at what the build is doing and books the
processor's seconds since its last look, of all threads, on that; nothing is slowed down or counted twice.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

REPO = Path(__file__).resolve().parents[1]
EVERY_S = 0.01

Place = tuple[str, str]  # the end of a file's path and a function's name, "" for any

# The outermost that is on the stack says which step it is, the innermost what is done.
STEPS: dict[Place, str] = {
    ("bundle/preflight.py", "of_build"): "looking at the request",
    ("bundle/exports.py", "crowding"): "crowding of the set",
    ("bundle/exports.py", "get"): "exporting",
    ("verify/proof.py", "of_graph"): "graph against checkpoint",
    ("bundle/gates.py", "of"): "judging the float model",
    ("quantize/candidates.py", "candidate"): "quantizing",
    ("verify/accuracy.py", "measure"): "judging",
    ("bundle/build.py", "_opened"): "building and opening",
    ("verify/proof.py", "of_weights"): "stored weights",
    ("verify/proof.py", "of"): "artifact against checkpoint",
    ("verify/proof.py", "detections"): "detections",
    ("bundle/build.py", "_speed"): "timing",
    ("verify/golden.py", "make"): "self-test",
}
DONE: dict[Place, str] = {
    ("importlib._bootstrap>", "_find_and_load"): "imports",
    ("nn/session.py", "run"): "reference network",
    ("nn/session.py", "rounded"): "rounded networks",
    ("checkpoint/files.py", "load"): "reading the checkpoint",
    ("graph/export.py", "_capture"): "capturing",
    ("graph/rewrite.py", "apply"): "rewriting",
    ("openvino/_ov_api.py", "compile_model"): "compiling",
    ("targets/openvino.py", "run"): "artifact",
    ("targets/onnxruntime.py", "run"): "ONNX Runtime",
    ("tensor_statistics/aggregator.py", "collect_statistics"): "statistics of values",
    ("fast_bias_correction/algorithm.py", "apply"): "correcting biases",
    ("bench/clock.py", "measure"): "timed calls",
    ("verify/parity.py", "distances"): "pairing candidates",
}


def main() -> None:
    sys.path.insert(0, str(REPO))
    from edgekit.cli import main as edgekit

    booked: Counter[tuple[str, str]] = Counter()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(threading.get_ident(), booked, done), daemon=True)
    watcher.start()
    try:
        edgekit(["build", *sys.argv[1:]])
    except SystemExit as end:
        if end.code:
            raise
    done.set()
    watcher.join()
    steps = [*STEPS.values(), "else"]
    for step in sorted({s for s, _ in booked}, key=steps.index):
        rows = Counter({what: spent for (at, what), spent in booked.items() if at == step})
        parts = ", ".join(f"{what} {spent:.2f}" for what, spent in rows.most_common() if spent >= 0.05)
        print(f"{sum(rows.values()):7.2f} s  {step}: {parts}")
    print(f"{time.process_time():7.2f} s  in all")


def _watch(thread: int, booked: Counter[tuple[str, str]], done: threading.Event) -> None:
    last = 0.0
    while not done.wait(EVERY_S):
        now = time.process_time()
        frames = _stack(sys._current_frames().get(thread))
        step = next((STEPS[p] for frame in frames for p in STEPS if _is(frame, p)), "else")
        what = next((DONE[p] for frame in reversed(frames) for p in DONE if _is(frame, p)), "else")
        booked[step, what] += now - last
        last = now


def _stack(frame: FrameType | None) -> list[tuple[str, str]]:
    """File and function of every frame, outermost first."""
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


def _is(frame: tuple[str, str], place: Place) -> bool:
    return frame[0].endswith(place[0]) and frame[1] == place[1]


if __name__ == "__main__":
    main()
