"""Can the clock be believed? Four claims about `edgekit bench`, tried on real bundles of one checkpoint.

    python benchmarks/clock_trust.py yolo12n-bccd.pt --imgsz 320 --images bccd/images/val \\
        --out benchmarks/results/clock-trust.json

- copies: a bundle against its own copy, loaded anew each time; the ratio's interval must contain 1 in 18 of 20 runs;
- repeats: the same three-way comparison three times; the medians of each ratio lie within 5 %, or the tool itself
  marked one of the runs unreliable;
- hog: a process that burns a core from the middle of a run on; the run must be marked unreliable because of it;
- neighbour: OpenVINO beside ONNX Runtime, whose threads spin on after a call, against OpenVINO beside its own copy; the
  time must not depend on the neighbour by more than 5 %, or again a run is marked unreliable. With rests and lead-ins
  switched off, the same comparison shows what they are for.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from edgekit.bench import clock, machine, run  # noqa: E402
from edgekit.bundle.build import build  # noqa: E402
from edgekit.bundle.loading import load  # noqa: E402
from edgekit.bundle.options import BuildOptions  # noqa: E402
from edgekit.verify.images import images_for  # noqa: E402

COPIES, ENOUGH = 20, 18
REPEATS, WITHIN = 3, 0.05
TARGETS = ("ort-fp32", "ov-fp32", "ov-fp16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--images", type=Path, help="folder of real images")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per model and run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images = images_for(options.images)
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {target: str(Path(scratch) / target) for target in TARGETS}
        for target, place in bundles.items():
            build(options.checkpoint, target, Path(place), BuildOptions(imgsz=(options.imgsz, options.imgsz)))
        copy = shutil.copytree(bundles["ov-fp16"], Path(scratch) / "copy")
        twins = {"bundle": bundles["ov-fp16"], "copy": str(copy)}
        report = {
            "what": "whether edgekit bench can be believed",
            "checkpoint": options.checkpoint.name,
            "imgsz": options.imgsz,
            "copies": _copies(twins, images, options.budget),
            "repeats": _repeats(bundles, images, options.budget),
            "hog": _hog(twins, images, options.budget),
            "neighbour": _neighbour(twins, bundles["ort-fp32"], images, options.budget),
        }
    parts = [part for part in report.values() if isinstance(part, dict)]
    report["pass"] = all(part["pass"] for part in parts)
    report["machine"] = machine.describe()
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if report["pass"] else 1)


def _copies(twins: Mapping[str, str], images: Sequence[Any], budget: float) -> dict[str, Any]:
    trials = [_compare(twins, images, budget, seed) for seed in range(COPIES)]
    hits = sum(trial["ratios"]["copy"]["low"] <= 1 <= trial["ratios"]["copy"]["high"] for trial in trials)
    return {"contain_one": hits, "of": COPIES, "pass": hits >= ENOUGH, "trials": trials}


def _repeats(bundles: Mapping[str, str], images: Sequence[Any], budget: float) -> dict[str, Any]:
    trials = [_compare(bundles, images, budget, seed) for seed in range(REPEATS)]
    spreads = {}
    for name in trials[0]["ratios"]:
        medians = [trial["ratios"][name]["ratio"] for trial in trials]
        spreads[name] = max(medians) / min(medians) - 1
    flagged = [not trial["reliable"] for trial in trials]
    return {
        "spread_of_medians": spreads,
        "unreliable_runs": sum(flagged),
        "pass": max(spreads.values()) <= WITHIN or any(flagged),
        "trials": trials,
    }


def _hog(twins: Mapping[str, str], images: Sequence[Any], budget: float) -> dict[str, Any]:
    seconds = budget * len(twins)
    with _hog_after(seconds / 2):
        trial = _compare(twins, images, budget, 0, width=1e-6)
    named = any(sentence.startswith("other processes used") for sentence in trial["disturbances"])
    return {"pass": not trial["reliable"] and named, "trial": trial}


def _neighbour(twins: Mapping[str, str], ort: str, images: Sequence[Any], budget: float) -> dict[str, Any]:
    beside_ort = {"bundle": twins["bundle"], "ort-fp32": ort}
    calm, busy = (_compare(models, images, budget, 0) for models in (twins, beside_ort))
    growth = busy["p50_ms"]["bundle"] / calm["p50_ms"]["bundle"] - 1
    naive = [_compare(models, images, budget, 0, rest=False) for models in (twins, beside_ort)]
    return {
        "growth": growth,
        "growth_without_rests": naive[1]["p50_ms"]["bundle"] / naive[0]["p50_ms"]["bundle"] - 1,
        "pass": abs(growth) <= WITHIN or not (calm["reliable"] and busy["reliable"]),
        "trials": [calm, busy, *naive],
    }


def _compare(
    models: Mapping[str, str], images: Sequence[Any], budget: float, seed: int, width: float = 0.03, rest: bool = True
) -> dict[str, Any]:
    """One comparison of freshly loaded models, as far as it matters here."""
    options = clock.ClockOptions(width=width, budget_s=budget * len(models), seed=seed)
    with ExitStack() as stack:
        predictors = {name: stack.enter_context(load(path)) for name, path in models.items()}
        if rest:
            records = run.bench(predictors, images, options)
        else:
            calls = {name: lambda image, p=p: p.timed(image)[1] for name, p in predictors.items()}
            found = clock.measure(calls, images, options)
            records = [
                {
                    "artifact": n,
                    "whole_ms": found.stages[n]["whole_ms"],
                    "ratio": found.ratios.get(n),
                    **found.to_dict(),
                }
                for n in models
            ]
    first = records[0]
    trial = {
        "p50_ms": {record["artifact"]: record["whole_ms"]["p50"] for record in records},
        "ratios": {record["artifact"]: record["ratio"]["whole_ms"] for record in records if record["ratio"]},
        **{key: first[key] for key in ("rounds", "stopped", "seconds", "reliable", "disturbances")},
        "other_cores": first["watch"]["other_cores"],
    }
    print(
        json.dumps({k: trial[k] for k in ("p50_ms", "ratios", "reliable", "other_cores")}), file=sys.stderr, flush=True
    )
    return trial


@contextmanager
def _hog_after(seconds: float) -> Iterator[None]:
    """Processes that burn as many cores as count as a disturbance here, from ``seconds`` after now on."""
    hogs: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        count = 1 + math.ceil(0.05 * len(machine.affinity()))
        hogs.extend(subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count))

    timer = threading.Timer(seconds, start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for hog in hogs:
            hog.kill()
            hog.wait()


if __name__ == "__main__":
    main()
