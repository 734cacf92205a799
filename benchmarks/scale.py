"""What grows with a set: its scan, the start of a first epoch, and scoring, on generated sets of 80 classes.

    python benchmarks/scale.py --images 1000 10000 100000 --out benchmarks/results/scale.json

A set is small JPEGs (160 x 120) that differ in a comment, 24 of 25 in train, with up to 14 objects each, as YOLO text
files and as one COCO JSON a split, with outlines as long as COCO's. Every stage is a process of its own, whose peak
memory is its own, too:

- quick, whole, again: `edgekit data check` of headers and labels; of every pixel; the same once more, with what the
  second kept. The JSONs are scanned quickly, too.
- start: from the command to the first batch that was learnt from (yolo12n at 64 px, batch 16), after the check's scan
  and without one.
- read, kept: what a start reads of a set: both splits' labels; and the least that a start would do which had kept
  them: list the pictures, ask whether any label file changed, and make every image's record from arrays.
- score: COCO metrics of the val split, 100 predictions an image.

Pictures of COCO's size take longer to decode (some 3 ms each), which `whole` alone does. CPU seconds say more than
seconds where the machine is busy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
CLASSES, POOL, MOST_OBJECTS, PREDICTIONS = 80, 200, 15, 100
NUMBERS = 46  # of an outline: COCO's files are mostly those
STAGES = ("quick", "whole", "again", "quick-json", "start", "start-unscanned", "start-json", "read", "kept", "score")


def main() -> None:
    options = _options()
    if options.stage:
        print(json.dumps(_stage(options.stage, options.folder)))
        return
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.noise import NoiseMonitor

    rows = []
    with NoiseMonitor() as watch:
        for count in options.images:
            with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
                folder = Path(scratch)
                generate(folder, count)
                for stage in options.stages:
                    rows.append({"images": count, "stage": stage, **_run(stage, folder)})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    watch.tick()
    document = {
        "schema": 1,
        "kind": "scale",
        "rows": rows,
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "machine": machine.describe(),
    }
    text = json.dumps(document, indent=1) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


def generate(folder: Path, count: int) -> None:
    """The set; see the module."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    noise = [cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (160, 120)) for _ in range(POOL)]
    pool = [cv2.imencode(".jpg", image)[1].tobytes() for image in noise]
    outlines = [[rng.uniform(0, 120, NUMBERS).round(2).tolist()] for _ in range(POOL)]
    documents: dict[str, Any] = {}
    for split in ("train", "val"):
        categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
        documents[split] = {"images": [], "annotations": [], "categories": categories}
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for i in range(count):
        split = "val" if i % 25 == 0 else "train"
        comment = f"{i:08}".encode()
        jpeg = pool[i % POOL]
        (folder / "images" / split / f"{i:07}.jpg").write_bytes(jpeg[:2] + b"\xff\xfe\x00\x0a" + comment + jpeg[2:])
        number = rng.integers(0, MOST_OBJECTS)
        labels = rng.integers(0, CLASSES, number).tolist()
        boxes = np.hstack([rng.uniform(0.3, 0.6, (number, 2)), rng.uniform(0.02, 0.3, (number, 2))])
        rows = [f"{label} " + " ".join(f"{v:.6f}" for v in box) for label, box in zip(labels, boxes, strict=True)]
        (folder / "labels" / split / f"{i:07}.txt").write_text("\n".join(rows))
        document = documents[split]
        document["images"].append({"id": i, "file_name": f"{i:07}.jpg", "width": 160, "height": 120})
        for label, (x, y, w, h) in zip(labels, (boxes * [160, 120, 160, 120]).round(2).tolist(), strict=True):
            bbox = [round(x - w / 2, 2), round(y - h / 2, 2), w, h]
            own = {"id": len(document["annotations"]), "image_id": i, "category_id": label + 1, "bbox": bbox}
            own["segmentation"] = outlines[len(document["annotations"]) % POOL]
            document["annotations"].append({**own, "area": w * h, "iscrowd": 0})
    for split, document in documents.items():
        (folder / f"{split}.json").write_text(json.dumps(document))
    names = ", ".join(f"class {i}" for i in range(CLASSES))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    (folder / "coco").mkdir()
    places = "images: [../images/train, ../images/val]"
    (folder / "coco" / "data.yaml").write_text(f"train: ../train.json\nval: ../val.json\n{places}\n")


def _run(stage: str, folder: Path) -> dict[str, Any]:
    """A stage in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _stage(stage: str, folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(REPO))
    kind, _, way = stage.partition("-")
    data = folder / "coco" / "data.yaml" if way == "json" else folder / "data.yaml"
    work: dict[str, Callable[[], int]] = {
        "quick": lambda: _check(data, quick=True),
        "whole": lambda: _check(data, quick=False, fresh=True),
        "again": lambda: _check(data, quick=False),
        "start": lambda: _start(data, folder, way == "unscanned"),
        "read": lambda: sum(len(dataset) for dataset in _both(data)),
        "kept": lambda: _kept(data, folder / "kept.npz"),
        "score": lambda: _score(data),
    }
    if kind == "kept":
        _keep(data, folder / "kept.npz")
    began, before = time.perf_counter(), _cpu()
    count = work[kind]()
    seconds, cpu = time.perf_counter() - began, _cpu() - (before if kind == "kept" else 0.0)
    status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss would begin with the parent's
    peak = int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024
    return {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak, "of": count, "a_second": count / seconds}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _both(data: Path) -> list[Any]:
    from edgekit.data import open_dataset

    return [open_dataset(data, "detect", split) for split in ("train", "val")]


def _keep(data: Path, file: Path) -> None:
    """What ``_kept`` reads; a figure of what there is to gain, not a cache of edgekit's."""
    import numpy as np

    from edgekit.data.text import label_path

    labels = [sample.labels for dataset in _both(data) for sample in dataset.samples]
    found = [label_path(sample.path).stat() for dataset in _both(data) for sample in dataset.samples]
    np.savez(
        file,
        ends=np.cumsum([len(each) for each in labels]),
        stats=np.array([(each.st_size, each.st_mtime_ns) for each in found]),
        classes=np.concatenate([each.classes for each in labels]),
        boxes=np.concatenate([each.boxes for each in labels]),
    )


def _kept(data: Path, file: Path) -> int:
    import numpy as np

    from edgekit.data.dataset import Sample
    from edgekit.data.text import label_path, pictures
    from edgekit.metrics.labels import Labels

    with np.load(file) as arrays:
        ends, stats, classes, boxes = (arrays[name] for name in ("ends", "stats", "classes", "boxes"))
    crowd, area = np.zeros(len(classes), bool), np.full(len(classes), np.nan)
    images = [image for split in ("train", "val") for image in pictures(data, split)[0]]
    samples, first = [], 0
    for number, (image, end, (size, changed)) in enumerate(zip(images, ends.tolist(), stats.tolist(), strict=True), 1):
        found = label_path(image).stat()
        if (found.st_size, found.st_mtime_ns) != (size, changed):
            raise SystemExit(f"{image}: its labels changed")
        labels = Labels(classes[first:end], boxes[first:end], crowd[first:end], area[first:end])
        samples.append(Sample(image, number, labels))
        first = end
    return len(samples)


def _check(data: Path, quick: bool, fresh: bool = False) -> int:
    from edgekit.data.check import cores, examine, open_splits
    from edgekit.data.scan import Scan

    scan = Scan.beside(data)
    if fresh and scan.file is not None:
        scan.file.unlink(missing_ok=True)
        scan = Scan(scan.file)
    if quick:
        scan = Scan()  # what an earlier stage found would help
    datasets = open_splits([data], "detect", scan=scan)
    report = examine(datasets, cores(), scan=scan, quick=quick)
    if not report.ok:
        raise SystemExit(f"{data}: {report.issues[0]}")
    return sum(map(len, datasets))


def _start(data: Path, folder: Path, unscanned: bool) -> int:
    from edgekit.data.scan import Scan
    from edgekit.train.loop import train
    from edgekit.train.options import TrainOptions
    from edgekit.train.setup import NullCallback

    file = Scan.beside(data).file
    if unscanned and file is not None:
        file.unlink(missing_ok=True)

    class Done(BaseException):
        count = 0

    class First(NullCallback):
        def began(self, run: Any) -> None:
            Done.count = len(run.train) + len(run.val)

        def stepped(self, run: Any, images: int) -> None:
            raise Done

    wanted = TrainOptions(epochs=1, imgsz=(64, 64), batch=16, workers=1, cache="none", device="cpu", threads=1)
    with tempfile.TemporaryDirectory(dir=folder) as out, contextlib.suppress(Done):
        train(data, "yolo12n", Path(out) / "run", wanted, watch=First(), task="detect")
    return Done.count


def _score(data: Path) -> int:
    import numpy as np

    from edgekit import metrics
    from edgekit.data import open_dataset
    from edgekit.verify.evaluate import score

    dataset = open_dataset(data, "detect", "val")
    rng = np.random.default_rng(1)
    predictions = []
    for sample in dataset.samples:
        boxes = np.hstack([rng.uniform(0, 100, (PREDICTIONS, 2)), rng.uniform(5, 50, (PREDICTIONS, 2))])
        labels, scores = rng.integers(0, CLASSES, PREDICTIONS).tolist(), rng.uniform(0, 1, PREDICTIONS).tolist()
        predictions += [
            {"image_id": sample.image_id, "category_id": label, "bbox": box, "score": value}
            for label, box, value in zip(labels, boxes.tolist(), scores, strict=True)
        ]
    score(dataset, predictions, metrics.Options())
    return len(dataset)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path, help="where the sets are made; default: the temporary folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
