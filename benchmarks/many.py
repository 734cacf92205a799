"""Memory of `edgekit predict --format` as the number of images grows: it must not.

python -m benchmarks.many memory [--counts 1000,10000,100000]

Images are hard links to eight small ones, in folders of a thousand; the network is the tests' own of 64 x 96 pixels, so
that the command around it is what is measured. Peak resident memory is the kernel's, of a process of its own.

python -m benchmarks.many actors --bundle DIR [--images 512] [--out FILE]

Images a second of Ray Data with two actors and with one, of one thread each, and of the plain command on two threads,
by turns, on a machine of two cores: of 640 x 480 pictures from the listing to the finished part, the models' opening
included. CPU time an image says more where others work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

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


KINDS = ("plain", "one", "two")


def actors(bundle: Path, images: int, rounds: int, out: Path | None) -> None:
    """Rates of a warm cluster, without its start but with the models'; see the module."""
    import ray

    from edgekit.bench import machine

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    loads = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = links(folder, images, (480, 640))
        for i in range(rounds):
            for kind in KINDS:
                loads.append(others())
                start = time.perf_counter()
                with Consumed() as consumed:
                    run_one(kind, bundle, place, _made(folder / f"{kind}-{i}"))
                found[kind].append(images / (time.perf_counter() - start))
                cpu[kind].append(consumed.seconds / images * 1e3)
                row = {"round": i, "kind": kind, "images_per_s": found[kind][-1], "cpu_ms": cpu[kind][-1]}
                print(json.dumps({**row, "load": loads[-1]}), flush=True)
                assert_equal(folder / f"plain-{i}", folder / f"{kind}-{i}")
    document = {
        "schema": 1,
        "kind": "ray-actors",
        "images": images,
        "images_per_s": found,
        "cpu_ms_per_image": cpu,
        "median": {kind: statistics.median(rates) for kind, rates in found.items()},
        "two_over_one": ratios(found["two"], found["one"]),
        "two_over_plain": ratios(found["two"], found["plain"]),
        "cpu_two_over_plain": ratios(cpu["two"], cpu["plain"]),
        "load_before": loads,
        "machine": machine.describe(),
    }
    text = json.dumps(document, indent=1) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    print(text)


def run_one(kind: str, bundle: Path, place: Path, out: Path) -> None:
    """The plain command's work on two cores, or Ray's with one or two actors."""
    from edgekit.bundle import ray as engine
    from edgekit.bundle.loading import load
    from edgekit.runtime.many import formats
    from edgekit.runtime.many.parts import Parts
    from edgekit.runtime.many.work import Task, work
    from edgekit.runtime.options import OpenOptions, Options

    with Parts(out, formats.get("jsonl"), 500) as parts:
        if kind == "plain":
            with load(bundle, threads=2) as predictor:
                work(predictor, Task([str(place)]), parts)
        else:
            portable = engine.arguments(bundle, OpenOptions(), Options(), 1, None, 0.2)
            engine.predict(portable, [str(place)], parts, engine.Cluster(actors=2 if kind == "two" else 1))


class Consumed:
    """CPU seconds of this process and all below it, Ray's own processes and those that end meanwhile included."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, float], float] = {}
        self._last: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seconds = 0.0

    def __enter__(self) -> Consumed:
        self._first = self._last = dict(self._sample())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._last |= dict(self._sample())
        self.seconds = sum(spent - self._first.get(key, 0.0) for key, spent in self._last.items())

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._last = {**self._last, **dict(self._sample())}

    def _sample(self) -> Iterator[tuple[tuple[int, float], float]]:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                yield (process.pid, process.create_time()), times.user + times.system


def ratios(of: list[float], to: list[float]) -> list[float]:
    return sorted(a / b for a, b in zip(of, to, strict=True))


def assert_equal(*folders: Path) -> None:
    """The parts of all folders are the same, byte for byte."""
    first, *others = ([p.read_bytes() for p in sorted(folder.glob("*.jsonl"))] for folder in folders)
    assert all(other == first for other in others)


def others() -> float:
    return round(os.getloadavg()[0], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "actors"))
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "memory":
        memory([int(count) for count in args.counts.split(",")])
    else:
        actors(args.bundle, args.images, args.rounds, args.out)


if __name__ == "__main__":
    main()
