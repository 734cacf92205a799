"""Frames a second of several cameras on one model: `model.stream` of all of them, beside a predictor a camera in turn.

    edgekit bench BUNDLE --cameras 4 --store                  # the fastest setting here, once
    python benchmarks/cameras.py BUNDLE CLIP … --cameras 4 --out benchmarks/results/cameras.json

Clips stand for cameras, over and over where there are fewer: frames are there as soon as they are decoded. Either side
decodes, predicts and takes every frame's result. In turn: a loop reads a frame of the first camera and predicts it,
then of the second, each camera with a predictor of its own, opened as `edgekit.load` does without a plan. The other:
one predictor, opened as the bundle's plan says (or `--streams`, `--batch`, `--threads`), `model.stream` of all sources.
Both run in this process, round by round, the first to go changing; a ratio is of one round. The results of both sides
are held against each other: what differs is counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
NEEDED = 1.0  # times the rate in turn
SAME = 0.5  # pixels that boxes of one frame may differ: batches compute in another order

Found = dict[tuple[int, int], Any]  # (camera, frame) -> Result


def main() -> None:
    options = _options()
    sys.path.insert(0, str(REPO))
    import numpy as np

    from edgekit.bench import machine
    from edgekit.bench.clock import rest
    from edgekit.bench.intervals import median_interval
    from edgekit.bench.noise import NoiseMonitor
    from edgekit.bench.run import REST_S

    rates: dict[str, list[float]] = {"in_turn": [], "scheduler": []}
    differing = 0
    with ExitStack() as stack:
        sides, how = _sides(options, stack)
        for run in sides.values():
            run()
        with NoiseMonitor() as watch:
            for number in range(options.rounds):
                found: dict[str, Found] = {}
                for name in sorted(sides, reverse=bool(number % 2)):
                    rest(REST_S)
                    start = time.perf_counter()
                    found[name] = sides[name]()
                    rates[name].append(len(found[name]) / (time.perf_counter() - start))
                    watch.tick()
                differing += sum(_differ(found["in_turn"][key], found["scheduler"][key]) for key in found["in_turn"])
                print(f"round {number + 1}: " + ", ".join(f"{n} {r[-1]:.1f} frames/s" for n, r in rates.items()),
                      file=sys.stderr, flush=True)  # fmt: skip
    ratio = np.array(rates["scheduler"]) / np.array(rates["in_turn"])
    low, high = median_interval(ratio)
    report = {
        "what": "frames per second of several cameras, decoding to results",
        "bundle": Path(options.bundle).name,
        "clips": [Path(clip).name for clip in options.clips],
        "cameras": options.cameras,
        "frames_of_each": options.frames,
        "scheduler": how,
        "ratio": {
            "p50": float(np.median(ratio)), "low": low, "high": high, "min": float(ratio.min()),
            "max": float(ratio.max()), "n": len(ratio),
        },
        "frames_per_s": rates,
        "frames": options.rounds * options.cameras * options.frames,
        "frames_that_differ": differing,
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "pass": float(np.median(ratio)) >= NEEDED,
        "machine": machine.describe(),
    }  # fmt: skip
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if report["pass"] else 1)


def _sides(options: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, Callable[[], Found]], dict[str, Any]]:
    """What either side does in a round, and how the scheduler's model is opened."""
    import edgekit

    one_each = [stack.enter_context(edgekit.load(options.bundle, plan=False)) for _ in range(options.cameras)]
    told = {name: getattr(options, name) for name in ("streams", "batch", "threads")}
    model = stack.enter_context(edgekit.load(options.bundle, **told))

    def in_turn() -> Found:
        found: Found = {}
        for frames in zip(*_cameras(options), strict=True):
            for camera, frame in enumerate(frames):
                found[camera, frame.index] = _kept(one_each[camera](frame.image)[0])
        return found

    def scheduler() -> Found:
        with model.stream(_cameras(options), max_queue_delay_ms=options.delay) as answers:
            return {(frame.source, frame.index): _kept(result) for frame, result in answers}

    planned = all(value is None for value in told.values())
    how = {"streams": model.session.streams, "batch": model.batch, "told": told, "max_queue_delay_ms": options.delay}
    return {"in_turn": in_turn, "scheduler": scheduler}, {**how, "plan": _plan(options.bundle) if planned else None}


def _kept(result: Any) -> Any:
    result.pixels = None  # a round's images would be hundreds of megabytes
    return result


def _plan(bundle: str) -> dict[str, Any] | None:
    """What the bundle's plan is loaded with; None: it has none."""
    from edgekit.runtime.manifest import read_bundle

    found: dict[str, Any] | None = (read_bundle(Path(bundle), verify=False).manifest.get("plan") or {}).get("load")
    return found


def _cameras(options: argparse.Namespace) -> list[Iterator[Any]]:
    from edgekit.runtime.sources import open_sources

    clips = itertools.islice(itertools.cycle(options.clips), options.cameras)
    return [itertools.islice(iter(open_sources([clip])), options.frames) for clip in clips]


def _differ(one: Any, other: Any) -> bool:
    import numpy as np

    if len(one) != len(other) or one.boxes is None:
        return len(one) != len(other)
    return not np.array_equal(one.labels, other.labels) or not np.allclose(one.boxes, other.boxes, atol=SAME)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--frames", type=int, default=25, help="of each camera in a round")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--delay", type=float, help="max_queue_delay_ms")
    parser.add_argument("--streams", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
