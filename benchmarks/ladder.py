"""`edgekit tune --to` beside the peer's exports: the ladder, and then everybody's calls in turns.

    python benchmarks/ladder.py yolo12n-bccd.pt bccd/data.yaml --to 2x --max-drop 0.5 --imgsz 320 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/ladder-bccd.json

Runs the command, builds the checkpoint's own bundle of the reference target, has the peer export the same weights to
OpenVINO (its half precision and its INT8, calibrated on the same set) in the full size, and lets all of them answer
images of the set's val split in turns (``calls.py``). The peer's accuracy is what its own ``val`` says of its exports,
beside what that says of the weights; ours is in the ladder. Where the speed is not reached the command leaves no
bundle: the ladder is its evidence then, and FOLDER/fast, the nearest built by hand, takes part if it is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
IMAGES = 16
PRECISIONS = ("fp16", "int8")


def main() -> None:
    from edgekit.bundle.build import build
    from edgekit.bundle.options import BuildOptions
    from edgekit.data import open_dataset
    from edgekit.runtime.atomic import replacing
    from edgekit.runtime.manifest import read_bundle

    options = _options()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    fast, own = folder / "fast", folder / "own"
    if not fast.is_dir():
        words = [sys.executable, "-m", "edgekit", "tune", options.weights, "--data", options.data, "--out", fast]
        words += ["--to", options.to, "--max-drop", options.max_drop, "--imgsz", options.imgsz, *options.more]
        subprocess.run(list(map(str, words)), check=False, cwd=REPO)
    failed = folder / "fast.failed.json"
    plan = json.loads(failed.read_text())["plan"] if failed.is_file() else read_bundle(fast).manifest["plan"]
    if not own.is_dir():
        reference = plan["ladder"]["reference"].split()[0]
        build(options.weights, reference, own, BuildOptions(imgsz=(options.imgsz, options.imgsz)))
    theirs = {precision: _exported(options, precision) for precision in PRECISIONS}
    images = [str(sample.path) for sample in open_dataset(options.data, "detect", "val").spread(IMAGES)]
    calls = _calls(options, images, [place for place in (fast, own) if place.is_dir()], list(theirs.values()))
    document = {
        "schema": 1,
        "kind": "ladder",
        "command": f"edgekit tune {options.weights.name} --to {options.to} --max-drop {options.max_drop:g} "
        + " ".join(["--data", f"{options.data.parent.name}/{options.data.name}", *options.more]),
        "accuracy": plan["accuracy"] | {"limit_points": plan["max_drop_points"]},
        "ladder": plan["ladder"],
        "ladder_reliable": plan["reliable"],
        "ladder_disturbances": plan["disturbances"],
        "peer_map50_95": {
            name: _scored(options, place) for name, place in {"weights": options.weights, **theirs}.items()
        },
        "calls": {key: calls[key] for key in ("rows", "ratios", "rounds", "images", "threads")},
        **{key: calls[key] for key in ("reliable", "disturbances", "versions", "machine")},
    }
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: document[key] for key in ("peer_map50_95", "calls", "disturbances")}, indent=1))


def _exported(options: argparse.Namespace, precision: str) -> Path:
    place: Path = options.folder / f"peer-{precision}"
    if not place.is_dir():
        words = [options.peer_python, Path(options.peer_scripts) / "export.py", options.weights]
        words += ["--precision", precision, "--imgsz", options.imgsz, "--data", options.data, "--out", place]
        done = subprocess.run(list(map(str, words)), cwd=options.folder, stdout=sys.stderr)
        if done.returncode:
            shutil.rmtree(place, ignore_errors=True)
            raise SystemExit(f"the peer's {precision} export failed")
    return next(place.glob("*_openvino_model"))


def _scored(options: argparse.Namespace, place: Path) -> float:
    """mAP50-95 as the peer itself says it."""
    words = [options.peer_python, Path(options.peer_scripts) / "val.py", place, options.data, "--imgsz", options.imgsz]
    words += ["--task", "detect"]
    done = subprocess.run(list(map(str, words)), check=True, cwd=options.folder, capture_output=True, text=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["metrics/mAP50-95(B)"])


def _calls(options: argparse.Namespace, images: list[str], ours: list[Path], theirs: list[Path]) -> dict[str, Any]:
    out = options.folder / "calls.json"
    words = [sys.executable, REPO / "benchmarks/calls.py", *images, "--ours", *ours, "--theirs", *theirs]
    words += ["--peer-python", options.peer_python, "--peer-scripts", options.peer_scripts]
    words += ["--imgsz", options.imgsz, "--rounds", options.rounds, "--threads", options.threads, "--out", out]
    subprocess.run(list(map(str, words)), check=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--to", default="2x")
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further words for tune, the last here")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="what is made stays here, and is not made again")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-scripts", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name in ("weights", "data", "folder"):
        setattr(options, name, getattr(options, name).resolve())
    options.peer_scripts = str(Path(options.peer_scripts).resolve())
    return options


if __name__ == "__main__":
    main()
