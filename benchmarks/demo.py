"""``make demo``: edgekit on a small model, as a user would, in two minutes.

The model comes with the repository (``models/shapes.pt``, trained by ``python -m benchmarks.shapeset`` on a set that is
drawn). Every step is a command a user could type, and is printed: it predicts, builds and proves two bundles, times
them, writes the report, then learns on for half a minute to show training. It ends with the seconds of every part.
``--full`` trains from scratch instead.

    python -m benchmarks.demo demo-out
    python -m benchmarks.demo demo-out --full        # make demo FULL=1
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import shapeset
from edgekit.bench.doctor import target_states
from edgekit.errors import EdgekitError, InputError

QUICK = ("ov-fp16", "ov-int8")  # the bundles of two minutes, those of them that can be built here
HERE = ("ort-", "ov-")  # targets that run on any machine
CONFIDENCE = 0.85  # of what the pictures show: on 32 of them no label is wrong from 0.79 on
SIZE = 256  # side of the pictures in pixels; the model was trained at it
# Many small steps: a short run. Of 8000 images seen, batches of 16 leave an mAP50-95 of 0.48, of 8 0.58.
FULL = ("--batch", 8, "--nominal-batch", 8, "--lr", 0.002, "--close-mosaic", 8, "--val-every", 5)
FINE = ("--batch", 8, "--nominal-batch", 8, "--lr", 0.0005, "--close-mosaic", 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="edgekit on a small model")
    parser.add_argument("out", type=Path, help="folder for everything the demo makes; what an earlier demo made goes")
    parser.add_argument("--full", action="store_true", help="train from scratch, build every target: ten minutes")
    parser.add_argument("--train", type=_count, help="training images (default: 64, with --full 256)")
    parser.add_argument("--epochs", type=_count, help="default: 2, with --full 30")
    options = parser.parse_args(arguments)
    parts = Parts()
    try:
        bundles = _run(options.out, options.full, options.train, options.epochs, parts)
    except EdgekitError as error:
        _fail(str(error), 2)
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror or error
        _fail(f"{options.out}: {reason}; give a folder that can be written, on a disk with 200 MB free", 2)
    except KeyboardInterrupt:
        _fail(f"interrupted; the next demo in {options.out} starts again from an empty folder", 130)
    _closing(options.out, bundles, parts.ended())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


class Parts:
    """The parts of the demo: says which one begins, keeps how long each took."""

    def __init__(self) -> None:
        self._begun: list[tuple[str, float]] = []

    def __call__(self, text: str) -> None:
        """A part called ``text`` begins."""
        self._begun.append((text, time.monotonic()))
        print(f"\n== {text}", file=sys.stderr, flush=True)

    def ended(self) -> list[tuple[str, float]]:
        """Every part and its seconds."""
        ends = [begun for _, begun in self._begun[1:]] + [time.monotonic()]
        return [(text, end - begun) for (text, begun), end in zip(self._begun, ends, strict=True)]


def _run(out: Path, full: bool, train: int | None, epochs: int | None, say: Parts) -> list[Path]:
    """Every step; the bundles made."""
    _empty(out)
    say("A generated set and a video")
    data = shapeset.make_set(out / "set", train=train or (256 if full else 64), val=32, size=SIZE)
    video = shapeset.make_video(out / "shapes.mp4", frames=30, size=SIZE)
    photos = out / "set" / "images" / "val"
    _edgekit("data", "check", data, "--sheet", out / "set.png")
    if full:
        say("A YOLO12-n learns the shapes from scratch: some minutes")
        run = ["--epochs", epochs or 30, "--imgsz", SIZE, *FULL]
        _edgekit("train", data, "--model", "yolo12n", "--out", out / "run", *run)
        model = out / "run" / "best.pt"
    else:
        model = shapeset.CHECKPOINT
    bundles = []
    for target in _targets(full):
        say(f"A bundle for {target}, held against the checkpoint")
        bundles.append(out / target)
        checked = ["--data", data, "--max-drop", 2] if target.endswith("int8") else ["--images", photos]
        _edgekit("build", model, "--target", target, "--imgsz", SIZE, "--out", bundles[-1], *checked)
    say("Predictions on a picture and a video")
    picture = photos / "0000.jpg"
    _edgekit("predict", bundles[-1], picture, video, "--conf", CONFIDENCE, "--out", out / "seen")
    say("Accuracy and times, side by side, on one page")
    _edgekit("report", *bundles, "--data", data, "--budget", 5, "--out", out / "report.html")
    if not full:
        say("It learns on: half a minute of training")
        run = ["--epochs", epochs or 2, "--imgsz", SIZE, *FINE]
        _edgekit("train", data, "--model", model, "--out", out / "run", *run)
    return bundles


def _targets(full: bool) -> list[str]:
    ready = [t["name"] for t in target_states() if t["ready"] and t["name"].startswith(HERE)]
    return [name for name in ready if full or name in QUICK]


def _empty(out: Path) -> None:
    """Make ``out`` an empty folder; only what an earlier demo left, finished or interrupted, is taken away.

    Raises:
        InputError: something else is in it.
    """
    mark = out / ".demo"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    left = [path for path in out.iterdir() if path != mark]
    if left and not mark.is_file():
        raise InputError(f"{out}: holds something that no demo made; give another folder")
    mark.touch()  # stays until the last, so that what is left of a demo is known as that
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _closing(out: Path, bundles: Sequence[Path], parts: Sequence[tuple[str, float]]) -> None:
    """How long everything took and what was proved, on one screen."""
    seconds = sum(taken for _, taken in parts)
    lines = [f"== Done in {seconds / 60:.1f} minutes, in seconds:"]
    lines += [f"   {taken:5.1f}  {text}" for text, taken in parts]
    lines += ["== What was proved:"]
    for path in bundles:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        lines.append(f"   {path.name:9} {_proof(manifest)}")
    lines += [
        f"   report    {out / 'report.html'}",
        f"   picture   {out / 'seen' / '0000.jpg'}",
        f"   training  {out / 'run'}",
    ]
    print("\n" + "\n".join(lines), file=sys.stderr, flush=True)


def _proof(manifest: dict[str, Any]) -> str:
    """How far a bundle is from PyTorch, and for INT8 what it costs and brings."""
    parity, accuracy, speed = manifest["parity"], manifest.get("accuracy"), manifest.get("speed")
    said = ", ".join(f"{role} within {p['max_abs']:.2g} (allowed {p['tolerance']:.2g})" for role, p in parity.items())
    if accuracy:
        said = f"{accuracy['metric']} {accuracy['after']:.3f}, of the float model {accuracy['before']:.3f}"
    if speed:
        said += f"; {speed['speedup']:.2f} times as fast as {speed['against']}"
    return said


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _edgekit(*arguments: object) -> None:
    """Run ``edgekit <arguments>`` in a process of its own and stop the demo where it fails."""
    words = [str(a) for a in arguments]
    print("$ edgekit " + " ".join(words), file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, "-m", "edgekit", *words], check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
