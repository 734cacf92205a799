"""Pictures of a video, array to boxes: the rectangle that fits them, the square of the same weights, the peer.

    python benchmarks/shape.py WEIGHTS.pt CLIP.mp4 --target ov-fp16 --imgsz 640 --threads 2 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/shape-n.json

Builds `--source CLIP` and the square, has the peer export the same weights, and lets all of them answer frames from all
over the clip in turns (``calls.py``, which marks a machine that was not quiet). Above 1 the rectangle is faster.
What the shape costs in agreement with the square model is in the bundle's manifest, and is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
FRAMES = 12


def main() -> None:
    import cv2

    from edgekit.bundle import build, fitted
    from edgekit.bundle.options import BuildOptions
    from edgekit.bundle.shapes import read_view

    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        view, sizes = read_view(options.clip), BuildOptions(imgsz=(options.imgsz, options.imgsz))
        square = build.build(Path(options.weights), options.target, folder / "square", sizes)
        fit = fitted.build(Path(options.weights), options.target, folder / "rectangle", sizes, view)
        frames = []
        for number, picture in enumerate(view.pictures(FRAMES)):
            frames.append(str(folder / f"{number:02d}.png"))
            cv2.imwrite(frames[-1], picture)
        words = [sys.executable, str(REPO / "benchmarks/calls.py"), *frames, "--ours", str(fit.path), str(square.path)]
        words += ["--theirs", *(options.theirs or [_export(options, folder)])]
        words += ["--peer-python", options.peer_python, "--peer-scripts", options.peer_scripts]
        words += ["--imgsz", str(options.imgsz), "--rounds", str(options.rounds)]
        words += ["--threads", str(options.threads)] if options.threads else []
        words += ["--out", options.out] if options.out else []
        print(json.dumps({"shape": list(fit.info.imgsz), "source": fit.manifest["source"]}))
        subprocess.run(words, check=True)


def _export(options: argparse.Namespace, folder: Path) -> str:
    """The peer's OpenVINO export of the same weights, in its half precision."""
    script = Path(options.peer_scripts) / "export.py"
    words = [options.peer_python, str(script), options.weights, "--precision", "fp16", "--imgsz", str(options.imgsz)]
    subprocess.run([*words, "--out", str(folder / "peer")], check=True, cwd=folder, stdout=sys.stderr)
    return str(next((folder / "peer").glob("*_openvino_model")))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("clip")
    parser.add_argument("--target", default="ov-fp16")
    parser.add_argument("--theirs", nargs="*", help="exports of the peer's; by default one is made")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-scripts", required=True)
    parser.add_argument("--out")
    options = parser.parse_args()
    options.weights, options.clip = (str(Path(place).resolve()) for place in (options.weights, options.clip))
    options.peer_scripts = str(Path(options.peer_scripts).resolve())
    return options


if __name__ == "__main__":
    main()
