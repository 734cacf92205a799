"""Images a second of training and of its loader alone: edgekit beside the peer, in one interleaved run.

    python benchmarks/train_speed.py data.yaml --imgsz 320 --threads 2 --workers 2 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/train-speed-bccd.json
    python benchmarks/train_speed.py balloon/data.yaml --task segment --images 48 --measure whole …    # a minute or two

Each side is a process of its own that stays alive; they take turns, with the same number of threads and of image
readers. ``--images`` takes that many images of the set, evenly, and a quarter as many to validate on. Of classification
only the whole is timed. What is timed:

- whole: training yolo12n from its first batch to the end of the last epoch, validation after each included, each side
  with its own default precision (the peer's on a CPU is float32; with ``--amp off`` edgekit's is too);
- loader: augmented batches (mosaic on) and nothing else, workers running already, without a cache of images;
- loader_cached: the same with decoded images kept in memory;
- loader_large: without a cache, the set's images REPEATS times under other names, so that neither side can remember
  those of the epoch before and each is decoded once an epoch.

The peer is run, never imported: this file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _sides import serve, side

REPO = Path(__file__).resolve().parents[1]
NEEDED = {"whole": 1.0, "loader": 1.5, "loader_cached": 1.5, "loader_large": 1.5}
REPEATS = 4
SUFFIX = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}
SEEN: dict[str, Any] = {}


def main() -> None:
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.worker:
        if options.images:
            options.data = str(_some(Path(options.data), options.images))
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.noise import NoiseMonitor

    rounds: dict[str, list[dict[str, float]]] = {"edgekit": [], "peer": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        side(__file__, "edgekit", sys.executable, *_large(options, Path(folder))) as edgekit,
        side(__file__, "peer", options.peer_python, *_large(options, Path(folder))) as peer,
    ):
        sides = {"edgekit": edgekit, "peer": peer}
        with NoiseMonitor(helpers=[edgekit.pid, peer.pid]) as watch:
            for number in range(options.rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    rounds[name].append(sides[name]())
                    print(f"round {number + 1}: {name} {rounds[name][-1]}", file=sys.stderr, flush=True)
                    watch.tick()
    report = {
        "what": "images per second of training and of its loader alone",
        "data": _root(Path(options.data)).name,
        "settings": {
            k: getattr(options, k)
            for k in ("task", "images", "imgsz", "batch", "epochs", "loader_epochs", "threads", "workers", "amp")
        },
        **_summary(rounds, options.measure),
        "rounds": rounds,
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "machine": machine.describe(),
    }
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if all(report["ratio"][k]["p50"] >= NEEDED[k] for k in options.measure) else 1)


def _root(data: Path) -> Path:
    return data.parent if data.is_file() else data


def _some(data: Path, count: int) -> Path:
    """A part of the set in the working folder: ``count`` images to train on, a quarter as many to validate on."""
    root, place = _root(data), Path("some").resolve()
    found = [path.relative_to(root) for path in sorted(root.rglob("*.*")) if path.suffix in (".jpg", ".png")]
    for split, wanted in (("train", count), ("val", max(count // 4, 1))):
        images = [image for image in found if split in image.parts]
        wanted = min(wanted, len(images))
        for image in (images[i * len(images) // wanted] for i in range(wanted)):
            for file in (image, Path("labels", *image.parts[1:]).with_suffix(".txt")):
                if (root / file).is_file():
                    (place / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(root / file, place / file)
    return Path(shutil.copy(data, place)) if data.is_file() else place


def _large(options: argparse.Namespace, folder: Path) -> list[str]:
    return ["--large", _repeated(options, folder)] if "loader_large" in options.measure else []


def _repeated(options: argparse.Namespace, folder: Path) -> str:
    """A data.yaml of the set with every training image REPEATS times, by links with names of their own."""
    import yaml

    from edgekit.data import open_dataset
    from edgekit.data.text import label_path

    written = folder / "data.yaml"
    if written.exists():
        return str(written)
    dataset = open_dataset(options.data, options.task, "train")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for sample in dataset.samples:
        for number in range(REPEATS):
            for kind, file in (("images", sample.path), ("labels", label_path(sample.path))):
                if file.exists():
                    (folder / kind / f"{number}-{file.name}").symlink_to(file)
    told = yaml.safe_load(Path(options.data).read_text())
    settings = {k: told[k] for k in ("kpt_shape", "flip_idx") if k in told}
    settings |= {"path": str(folder), "train": "images", "val": "images", "names": dict(enumerate(dataset.names))}
    written.write_text(yaml.safe_dump(settings))
    return str(written)


def _summary(rounds: dict[str, list[dict[str, float]]], kinds: list[str]) -> dict[str, Any]:
    import numpy as np

    def figures(values: Any) -> dict[str, float]:
        return {"min": float(values.min()), "p50": float(np.median(values)), "max": float(values.max())}

    rates = {name: {k: np.array([r[k] for r in runs]) for k in kinds} for name, runs in rounds.items()}
    return {
        "ratio": {k: figures(rates["edgekit"][k] / rates["peer"][k]) for k in kinds},
        "images_per_s": {name: {k: figures(v) for k, v in found.items()} for name, found in rates.items()},
    }


def _edgekit(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(REPO))
    from edgekit.data import open_dataset
    from edgekit.train.augment import Augment
    from edgekit.train.loader import Loader, Loading
    from edgekit.train.loop import train
    from edgekit.train.options import TrainOptions
    from edgekit.train.setup import NullCallback

    size = (options.imgsz, options.imgsz)
    common = {"batch": options.batch, "workers": options.workers}

    class Clock(NullCallback):
        def began(self, run: Any) -> None:
            self.start = time.perf_counter()

        def ended_epoch(self, run: Any, row: Any) -> None:
            self.end = time.perf_counter()

    def load(data: str, cache: str) -> float:
        if (data, cache) not in SEEN:
            dataset = open_dataset(data, options.task, "train")
            loading = Loading(workers=options.workers, cache=cache)
            SEEN[data, cache] = [Loader(dataset, size, options.batch, Augment(), loading), 0]
        loader, epoch = SEEN[data, cache]
        SEEN[data, cache][1] += options.loader_epochs + 1
        epochs = (sum(len(batch.images) for batch in loader.epoch(epoch + n)) for n in range(options.loader_epochs + 1))
        rate = _rate(epochs)
        loader.close()
        return rate

    def whole() -> float:
        clock = Clock()
        wanted = TrainOptions(
            epochs=options.epochs, imgsz=size, close_mosaic=0, threads=options.threads, amp=options.amp, **common
        )
        with tempfile.TemporaryDirectory() as folder:
            train(Path(options.data), f"yolo12n{SUFFIX[options.task]}", Path(folder), wanted, watch=clock)
        return options.epochs * len(open_dataset(options.data, options.task, "train")) / (clock.end - clock.start)

    _serve(
        options,
        whole=whole,
        loader=lambda: load(options.data, "none"),
        loader_cached=lambda: load(options.data, "ram"),
        loader_large=lambda: load(options.large, "none"),
    )


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import torch
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    torch.set_num_threads(options.threads)
    common = {"imgsz": options.imgsz, "task": options.task, "workers": options.workers}

    def load(data: str, cache: str | bool) -> float:
        if (data, cache) not in SEEN:
            found = check_det_dataset(data)
            settings = get_cfg(overrides={**common, "data": data, "cache": cache})
            dataset = build_yolo_dataset(settings, found["train"], options.batch, found, mode="train", stride=32)
            SEEN[data, cache] = build_dataloader(dataset, options.batch, options.workers, shuffle=True)
        loader = SEEN[data, cache]
        return _rate(sum(len(batch["img"]) for batch in loader) for _ in range(options.loader_epochs + 1))

    def whole() -> float:
        model, times = YOLO(f"yolo12n{SUFFIX[options.task]}.yaml"), []
        model.add_callback("on_train_start", lambda trainer: times.append(time.perf_counter()))
        model.add_callback("on_fit_epoch_end", lambda trainer: times.append(time.perf_counter()))
        model.train(
            **common, data=options.data, epochs=options.epochs, batch=options.batch, device="cpu", close_mosaic=0,
            plots=False, verbose=False, project="runs", exist_ok=True,
        )  # fmt: skip
        return options.epochs * len(model.trainer.train_loader.dataset) / (times[options.epochs] - times[0])

    _serve(
        options,
        whole=whole,
        loader=lambda: load(options.data, False),
        loader_cached=lambda: load(options.data, "ram"),
        loader_large=lambda: load(options.large, False),
    )


def _rate(epochs: Iterator[int]) -> float:
    """Images a second, the first epoch aside: it starts the workers and fills what there is to fill."""
    next(epochs)
    start = time.perf_counter()
    images = sum(epochs)
    return images / (time.perf_counter() - start)


def _serve(options: argparse.Namespace, **measures: Callable[[], float]) -> None:
    serve(lambda: {kind: measures[kind]() for kind in options.measure})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--task", default="detect", choices=SUFFIX)
    parser.add_argument("--images", type=int, help="so many of the set's; default: all")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--loader-epochs", type=int, default=3, help="timed in a round; one before them is not")
    parser.add_argument("--measure", nargs="+", choices=NEEDED, help="default: all there is")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--amp", default="auto", choices=("auto", "off"), help="edgekit's precision")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-scripts", required=True)
    parser.add_argument("--out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--large", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.measure = options.measure or (["whole"] if options.task == "classify" else list(NEEDED))
    options.data = str(Path(options.data).resolve())
    options.peer_scripts = str(Path(options.peer_scripts).resolve())
    if options.out:
        options.out = str(Path(options.out).resolve())
    return options


if __name__ == "__main__":
    main()
