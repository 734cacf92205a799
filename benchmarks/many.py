"""Memory of `edgekit predict --format` as the number of images grows: it must not.

python -m benchmarks.many memory [--counts 1000,10000,100000]

Images are hard links to eight small ones, in folders of a thousand; the network is the tests' own of 64 x 96 pixels, so
that the command around it is what is measured. Peak resident memory is the kernel's, of a process of its own.

python -m benchmarks.many actors --bundle DIR [--images 512]

Images a second of Ray Data with two actors and with one, of one thread each, and of the plain command. Interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekit.runtime.image import write_image


def links(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """``count`` names of eight images."""
    rng = np.random.default_rng(0)
    originals = [folder / f"{i}.jpg" for i in range(8)]
    for path in originals:
        write_image(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    place = folder / f"links-{count}"
    for i in range(count):
        below = place / f"{i // 1000:05}"
        if i % 1000 == 0:
            below.mkdir(parents=True)
        os.link(originals[i % 8], below / f"{i:07}.jpg")
    return place


CODE = """
import resource, sys
from edgekit.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(words: list[str]) -> float:
    """Peak memory of a command."""
    done = subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def memory(counts: list[int]) -> None:
    from tests.tiny import tiny_bundle

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = tiny_bundle(folder / "bundle", "detect", "ort-fp32")
        for count in counts:
            start = time.perf_counter()
            place = links(_made(folder / str(count)), count, (32, 48))
            made = time.perf_counter()
            out = folder / f"out-{count}"
            peak = peak_mb(
                ["predict", str(bundle), str(place), "--conf", "0.5", "--format", "jsonl", "--out", str(out)]
            )
            seconds = time.perf_counter() - made
            row = {"images": count, "peak_mb": round(peak, 1), "seconds": round(seconds, 1),
                   "linking_s": round(made - start, 1)}  # fmt: skip
            print(json.dumps(row), flush=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def actors(bundle: Path, images: int, rounds: int) -> None:
    """Seconds of a warm cluster, without its start."""
    import ray

    from edgekit.bundle import ray as engine
    from edgekit.bundle.loading import load
    from edgekit.runtime.many import formats
    from edgekit.runtime.many.parts import Parts
    from edgekit.runtime.many.work import Task, work
    from edgekit.runtime.options import OpenOptions, Options

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    found: dict[str, list[float]] = {"plain": [], "one": [], "two": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = links(folder, images, (480, 640))
        for i in range(rounds + 1):
            for kind in found:
                out = _made(folder / f"{kind}-{i}")
                start = time.perf_counter()
                with Parts(out, formats.get("jsonl"), 500) as parts:
                    if kind == "plain":
                        with load(bundle, threads=1) as predictor:
                            work(predictor, Task([str(place)]), parts, workers=2)
                    else:
                        portable = engine.arguments(bundle, OpenOptions(threads=1), Options(), 1, None, 0.2)
                        cluster = engine.Cluster(actors=2 if kind == "two" else 1)
                        engine.predict(portable, [str(place)], parts, cluster)
                if i:
                    found[kind].append(images / (time.perf_counter() - start))
                    print(json.dumps({"round": i, kind: round(found[kind][-1], 2)}), flush=True)
    middle = {kind: statistics.median(rates) for kind, rates in found.items()}
    ratios = [two / one for one, two in zip(found["one"], found["two"], strict=True)]
    print(json.dumps({"images_per_s": middle, "two_over_one": ratios, "load": os.getloadavg()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "actors"))
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "memory":
        memory([int(count) for count in args.counts.split(",")])
    else:
        actors(args.bundle, args.images, args.rounds)


if __name__ == "__main__":
    main()
