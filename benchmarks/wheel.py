"""The wheel in an empty environment: a bundle runs there without torch or onnx; what it takes in MB and in seconds.

    python benchmarks/wheel.py BUNDLE IMAGE --out benchmarks/results/wheel.json
    python benchmarks/wheel.py BUNDLE IMAGE --wheel edgekit.whl --python ENVIRONMENT/bin/python   both there already

Builds the wheel, installs ``edgekit[openvino]`` of it into a new virtual environment and lets that answer the image;
the answer must be the one given here. Imports are timed in fresh processes that take turns: the runtime alone
(``import openvino``), and everything a bundle needs, the runtime among it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
BEYOND_S = 0.3  # seconds that importing may take beyond the runtime's own import

ABSENT = "torch", "onnx", "onnxruntime", "nncf", "scipy", "matplotlib", "pandas"
ANSWER = """
import importlib.util, json, sys
import edgekit
bundle, image, absent = json.loads(sys.argv[1])
result = edgekit.load(bundle, threads=1).predict(image, conf=0.25)[0]
print(json.dumps({"installed": [n for n in absent if importlib.util.find_spec(n)], "answer": result.to_dict()}))
"""
SIZES = """
import importlib.metadata, json
sizes = {d.name: sum(f.locate().stat().st_size for f in d.files or () if f.locate().is_file()) / 2**20
         for d in importlib.metadata.distributions() if d.name not in ("pip", "setuptools")}
print(json.dumps(sizes))
"""
TIMED = """
import time
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""
RUNTIME = "import openvino"
ALL = "import openvino, edgekit, edgekit.bundle.loading, edgekit.runtime.predictor, edgekit.targets.openvino"


def main() -> None:
    options = _options()
    sys.path.insert(0, str(REPO))
    import edgekit
    from edgekit.bench import machine

    with tempfile.TemporaryDirectory() as scratch:
        python, wheel = (options.python, options.wheel) if options.python else _made(Path(scratch))
        wheel_kb = Path(wheel).stat().st_size // 1024
        told = json.dumps([str(Path(options.bundle).resolve()), str(Path(options.image).resolve()), ABSENT])
        found = json.loads(_run(python, ANSWER, told))
        sizes = json.loads(_run(python, SIZES))
        times: dict[str, list[float]] = {"runtime": [], "all": []}
        for _ in range(options.rounds):
            for name, code in (("runtime", RUNTIME), ("all", ALL)):
                times[name].append(float(_run(python, TIMED.format(code))))
    expected = edgekit.load(options.bundle, threads=1).predict(options.image, conf=0.25)[0].to_dict()
    beyond = float(np.median(np.array(times["all"]) - np.array(times["runtime"])))
    report: dict[str, Any] = {
        "what": "the wheel in an empty environment",
        "installed_that_should_not_be": found["installed"],
        "objects": len(expected.get("labels", ())),
        "same_answer": found["answer"] == expected,
        "wheel_kb": wheel_kb,
        "mb": {
            k: round(v, 1) for k, v in sorted(sizes.items(), key=lambda kv: -kv[1]) if k not in ("pip", "setuptools")
        },
        "import_s": {name: {"min": min(row), "p50": float(np.median(row))} for name, row in times.items()},
        "import_beyond_runtime_s": beyond,
        "rounds": options.rounds,
        "machine": machine.describe(),
    }
    report["pass"] = not found["installed"] and report["same_answer"] and beyond < BEYOND_S
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if report["pass"] else 1)


def _made(folder: Path) -> tuple[str, Path]:
    """(the Python of a new environment with the wheel's ``openvino`` extra, the wheel)."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, REPO], check=True, stdout=2)
    wheel = next(folder.glob("edgekit-*.whl"))
    venv.create(folder / "empty", with_pip=True)
    python = folder / "empty" / "bin" / "python"
    pinned = ["-c", REPO / "constraints.txt"]
    subprocess.run([python, "-m", "pip", "install", "-q", *pinned, f"{wheel}[openvino]"], check=True, stdout=2)
    return str(python), wheel


def _run(python: str, code: str, *words: str) -> str:
    """What the code prints, run away from the repository."""
    command = [str(Path(python).absolute()), "-c", code, *words]
    with tempfile.TemporaryDirectory() as away:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=away).stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("image")
    parser.add_argument("--python")
    parser.add_argument("--wheel")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
