"""Pictures of a video, array to boxes: the rectangle that fits them and the square, of edgekit and of the peer.

    python benchmarks/shape.py WEIGHTS.pt CLIP.mp4 --targets ov-fp16 ov-int8 --data SET/data.yaml --threads 2 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/shape-n.json

Builds `--source CLIP` and the square for every target, has the peer export the same weights in the same precisions
for the square and for the same rectangle, and lets all of them answer frames from all over the clip in turns
(``calls.py``, which marks a machine that was not quiet). INT8 is calibrated on a few images of ``--data`` and not
judged here: its speed depends on neither, so that random weights do. ``agreement`` is with the float model in the
square, on frames of the clip; absent where that finds nothing. Random weights of s, as in results/shape-s.json:
``PEER/bin/python -c "from ultralytics import YOLO; YOLO('yolo12s.yaml').save('yolo12s.pt')"``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
FRAMES = 12
PEER = {"ov-fp16": "fp16", "ov-int8": "int8", "ov-fp32": "fp32"}


def main() -> None:
    options = _options()
    if options.worker:
        _export(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        ours, size, agreement = _built(options, folder)
        theirs = [
            _exported(options, folder, PEER[target], s) for target in options.targets for s in (size, _square(options))
        ]
        out = Path(options.out or folder / "calls.json")
        words = [
            sys.executable,
            REPO / "benchmarks/calls.py",
            *_frames(options, folder),
            "--ours",
            *ours,
            "--theirs",
            *theirs,
        ]
        words += ["--peer-python", options.peer_python, "--peer-scripts", options.peer_scripts]
        words += ["--imgsz", options.imgsz, "--rounds", options.rounds, "--out", out]
        words += ["--threads", options.threads] if options.threads else []
        subprocess.run(list(map(str, words)), check=True, stdout=sys.stderr)
    document = json.loads(out.read_text(encoding="utf-8"))
    document |= {"weights": Path(options.weights).name, "clip": Path(options.clip).name, "shape": list(size)}
    document |= {"agreement": agreement}
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps({key: document[key] for key in ("shape", "agreement", "rows", "ratios", "disturbances")}, indent=1)
    )


def _built(options: argparse.Namespace, folder: Path) -> tuple[list[Path], tuple[int, int], dict[str, Any]]:
    """Rectangle and square of every target, the rectangle's size, and how far each agrees with the float square."""
    from edgekit import targets
    from edgekit.bundle import build, fitted
    from edgekit.bundle.exports import Exports
    from edgekit.bundle.loading import open_session
    from edgekit.bundle.options import BuildOptions
    from edgekit.bundle.shapes import read_view
    from edgekit.quantize import QuantizeOptions
    from edgekit.quantize.pictures import JUDGED
    from edgekit.runtime.manifest import read_bundle
    from edgekit.verify.accuracy import by_agreement

    weights, view, places = Path(options.weights), read_view(options.clip), []
    exports = Exports(folder)
    for target in options.targets:
        narrow = QuantizeOptions(Path(options.data), judged=False, timing_s=0, max_drop=100)
        asked = narrow if targets.get(target).int8 else QuantizeOptions()
        sizes = BuildOptions(imgsz=_square(options), quantize=asked)
        fit, square = folder / f"{target}-fit", folder / f"{target}-square"
        if not fit.is_dir():
            shape = fitted.fitting(exports, weights, sizes, view, targets.get(target)).shapes[0]
            build.build(weights, target, fit, dataclasses.replace(sizes, imgsz=shape))
        if not square.is_dir():
            build.build(weights, target, square, sizes)
        places += [fit, square]
    judge = by_agreement(
        view.pictures(JUDGED), open_session(weights, imgsz=_square(options), head="topk"), options.clip
    )
    agreement = {} if not judge.seen else {"frames": judge.images, "seen": judge.seen}
    for place in places if judge.seen else []:
        session = open_session(place)
        agreement[place.name] = judge.score(session)
        session.close()
    return places, read_bundle(places[0], verify=False).info.imgsz, agreement


def _square(options: argparse.Namespace) -> tuple[int, int]:
    return options.imgsz, options.imgsz


def _frames(options: argparse.Namespace, folder: Path) -> list[Path]:
    import cv2

    from edgekit.bundle.shapes import read_view

    places = []
    for number, picture in enumerate(read_view(options.clip).pictures(FRAMES)):
        places.append(folder / f"{number:02d}.png")
        cv2.imwrite(str(places[-1]), picture)
    return places


def _exported(options: argparse.Namespace, folder: Path, precision: str, size: tuple[int, int]) -> Path:
    """The peer's OpenVINO export of the same weights, made by this file in the peer's Python."""
    place = folder / f"{precision}-{size[0]}x{size[1]}"
    if not any(place.glob("*_openvino_model")):
        place.mkdir(exist_ok=True)
        words = [options.peer_python, Path(__file__).resolve(), options.weights, options.clip, "--worker", precision]
        words += ["--size", *size, "--folder", place, "--peer-python", "-", "--peer-scripts", options.peer_scripts]
        words += ["--data", Path(options.data).resolve()] if options.data else []
        subprocess.run(list(map(str, words)), check=True, cwd=place, stdout=sys.stderr)
    return next(place.glob("*_openvino_model"))


def _export(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import shutil

    import cpu_torchvision  # noqa: F401
    from ultralytics import YOLO

    weights = shutil.copy(options.weights, options.folder)
    more: dict[str, Any] = {"fp32": {}, "fp16": {"half": True}, "int8": {"int8": True, "data": options.data}}[
        options.worker
    ]
    YOLO(weights).export(format="openvino", imgsz=options.size, **more)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("clip")
    parser.add_argument("--targets", nargs="+", default=["ov-fp16"], choices=list(PEER))
    parser.add_argument("--data", help="what INT8 is calibrated on")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", help="what is made stays here, and is not made again")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-scripts", required=True)
    parser.add_argument("--out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.weights, options.clip = (str(Path(place).resolve()) for place in (options.weights, options.clip))
    options.peer_scripts = str(Path(options.peer_scripts).resolve())
    return options


if __name__ == "__main__":
    main()
