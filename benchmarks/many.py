"""Memory of `edgekit predict --format` as the number of images grows: it must not.

python -m benchmarks.many memory [--counts 1000,10000,100000]

Images are hard links to eight small ones, in folders of a thousand; the network is the tests' own of 64 x 96 pixels, so
that the command around it is what is measured. Peak resident memory is the kernel's, of a process of its own.

python -m benchmarks.many actors --bundle DIR [--images 512] [--kinds plain-2 ray-2] [--out FILE]

Images a second of Ray Data with two actors and with one, of one thread each, and of the plain command on two threads
(one for each of two images; both for each image: ``shared-2``) and on one, by turns, on a machine of two cores: of
640 x 480 pictures from the listing to the finished part, the models' opening included. Sets of two sizes, the smaller a
quarter, tell what a run costs before the first image (``fixed``) from what an image costs (``each``), in seconds and in
CPU seconds; the latter say more where others work, and are given by who spent them: the caller, the actors, other
processes that Ray Data starts, Ray itself. What the first set on a new cluster cost more (Ray Data's own actors) is
``first``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


PLAIN = {"plain-1": (1, 1), "plain-2": (2, 2), "shared-2": (None, 2)}  # streams, threads
ACTORS = {"ray-1": 1, "ray-2": 2}  # of one thread each
KINDS = (*PLAIN, *ACTORS)
PAIRS = (("ray-2", "ray-1"), ("ray-2", "plain-2"), ("plain-2", "shared-2"))


def actors(bundle: Path, images: int, rounds: int, out: Path | None, kinds: Sequence[str] = KINDS) -> None:
    """Times on a warm cluster, without its start but with the models'; see the module."""
    import ray

    from edgekit.bench import machine

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows: list[Row] = []
    sizes = (images // 4, images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {size: links(_made(folder / str(size)), size, (480, 640)) for size in (16, *sizes)}
        first = measured("ray-1", bundle, places[16], _made(folder / "first"))
        for i in range(rounds):
            for size in sizes:
                for kind in kinds:
                    load = others()
                    figures = measured(kind, bundle, places[size], _made(folder / f"{kind}-{size}-{i}"))
                    rows.append({"round": i, "kind": kind, "images": size, "load": load, **figures})
                    print(json.dumps(rows[-1]), flush=True)
                    if kind != "shared-2":  # where the runtime adds up in another order
                        assert_equal(*(folder / f"{other}-{size}-{i}" for other in (kinds[0], kind)))
    rates = {kind: [row["images"] / row["seconds"] for row in _of(rows, kind, images)] for kind in kinds}
    spent = {kind: [row["cpu_s"] / row["images"] for row in _of(rows, kind, images)] for kind in kinds}
    document = {
        "schema": 1,
        "kind": "ray-actors",
        "images": sizes,
        "first": first,
        "rows": rows,
        "split": {kind: split(_of(rows, kind, sizes[0]), _of(rows, kind, sizes[1])) for kind in kinds},
        "images_per_s": {kind: statistics.median(found) for kind, found in rates.items()},
        "cpu_ms_per_image": {kind: 1e3 * statistics.median(found) for kind, found in spent.items()},
        "rates": {f"{a} over {b}": ratios(rates[a], rates[b]) for a, b in PAIRS if {a, b} <= {*kinds}},
        "cpu": {f"{a} over {b}": ratios(spent[a], spent[b]) for a, b in PAIRS if {a, b} <= {*kinds}},
        "machine": machine.describe(),
    }
    text = json.dumps(document, indent=1) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    print(text)


Row = dict[str, Any]


def _of(rows: list[Row], kind: str, images: int) -> list[Row]:
    return [row for row in rows if (row["kind"], row["images"]) == (kind, images)]


def split(small: list[Row], large: list[Row]) -> dict[str, float]:
    """Medians over the rounds of what a run costs and of what an image of it costs more."""
    found: dict[str, float] = {}
    for figure in ("seconds", "cpu_s"):
        each = [(b[figure] - a[figure]) / (b["images"] - a["images"]) for a, b in zip(small, large, strict=True)]
        fixed = [a[figure] - a["images"] * per for a, per in zip(small, each, strict=True)]
        found |= {f"fixed_{figure}": statistics.median(fixed), f"each_{figure}": statistics.median(each)}
    return found


def measured(kind: str, bundle: Path, place: Path, out: Path) -> Row:
    """One run: seconds, CPU seconds in all and by who spent them."""
    start = time.perf_counter()
    with Consumed() as consumed:
        run_one(kind, bundle, place, out)
    seconds = time.perf_counter() - start
    by = consumed.by if kind in ACTORS else {"caller": consumed.by["caller"]}  # the cluster is idle beside it
    return {"seconds": seconds, "cpu_s": sum(by.values()), "by": by}


def run_one(kind: str, bundle: Path, place: Path, out: Path) -> None:
    """The plain command's work, or Ray's."""
    from edgekit.bundle import ray as engine
    from edgekit.bundle.loading import load
    from edgekit.runtime.many import formats
    from edgekit.runtime.many.parts import Parts
    from edgekit.runtime.many.work import Task, work
    from edgekit.runtime.options import OpenOptions, Options

    with Parts(out, formats.get("jsonl"), 500) as parts:
        if kind in ACTORS:
            portable = engine.arguments(bundle, OpenOptions(), Options(), 1, None, 0.2)
            engine.predict(portable, [str(place)], parts, engine.Cluster(actors=ACTORS[kind]))
        else:
            streams, threads = PLAIN[kind]
            with load(bundle, streams=streams, threads=threads) as predictor:
                work(predictor, Task([str(place)]), parts)


Key = tuple[int, float]


class Consumed:
    """CPU seconds of this process and all below it, Ray's own processes and those that end meanwhile included, by who
    they are; of what ends, up to the last look before, twice a second."""

    def __init__(self) -> None:
        self._first: dict[Key, float] = {}
        self._last: dict[Key, float] = {}
        self._who: dict[Key, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.by: dict[str, float] = {}

    def __enter__(self) -> Consumed:
        self._first = dict(self._sample())
        self._last = dict(self._first)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._last |= dict(self._sample())
        for key, spent in self._last.items():
            who = self._who[key]
            self.by[who] = self.by.get(who, 0.0) + spent - self._first.get(key, 0.0)

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._last |= dict(self._sample())

    def _sample(self) -> Iterator[tuple[Key, float]]:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times, key = process.cpu_times(), (process.pid, process.create_time())
                if self._who.get(key) != "actors":  # which Ray may call idle before and after
                    self._who[key] = "caller" if process == me else _role(" ".join(process.cmdline()))
                yield key, times.user + times.system


def _role(command: str) -> str:
    if not command.startswith("ray::"):
        return "ray itself"
    return "actors" if "MapBatches(_Worker" in command else "other workers"


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
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of actors: these alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "memory":
        memory([int(count) for count in args.counts.split(",")])
    else:
        actors(args.bundle, args.images, args.rounds, args.out, args.kinds)


if __name__ == "__main__":
    main()
