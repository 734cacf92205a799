"""`--tile` on large pictures of small objects: recall against resizing them whole, and beside supervision's slicer.

python -m benchmarks.tiling BUNDLE... [--size 8000,1600] [--rounds 3] [--threads 2] [--out FILE]

The pictures are drawn scenes of models/shapes.pt's kind side by side, so that every box is known; bundles are of that
checkpoint. All have the same threads and the same tiles, by turns: ours as the command opens it; the slicer as its
documentation calls it, with as many workers as we have, and with batches of as many slices.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapeset import draw_scene
from edgekit.bench import machine
from edgekit.bundle.loading import open_session
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.many.tiles import BATCH, Tiled
from edgekit.runtime.options import OpenOptions, Options
from edgekit.runtime.predictor import Predictor

SCENE = 256
KEPT = Options(conf=0.25, iou=0.5, max_det=100_000)
Finder = Callable[[np.ndarray], np.ndarray]  # a picture's boxes


def picture(width: int, height: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 BGR and its boxes ``[N, 4]``."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.uint8)
    boxes: list[Any] = []
    for top in range(0, height - SCENE + 1, SCENE):
        for left in range(0, width - SCENE + 1, SCENE):
            scene = draw_scene(rng, SCENE)
            image[top : top + SCENE, left : left + SCENE] = scene.image
            boxes += [np.array(box) + [left, top, left, top] for box in scene.boxes]
    return image, np.array(boxes, np.float32)


def recall(boxes: np.ndarray, truth: np.ndarray) -> float:
    """Of the true boxes, how many have one that overlaps them by half."""
    found = np.zeros(len(truth), bool)
    if len(boxes):
        for i in range(0, len(truth), 500):
            found[i : i + 500] = (box_iou(truth[i : i + 500], boxes) >= 0.5).any(1)
    return float(found.mean())


def finders(bundle: Path, threads: int) -> dict[str, Finder]:
    """What is compared, by name."""
    import supervision as sv

    tiled = Tiled(open_session(bundle, OpenOptions(threads=threads, streams=threads)), KEPT, tile=SCENE, overlap=0.25)
    session = open_session(bundle, OpenOptions(threads=threads))
    each = replace(KEPT, max_det=session.info.candidates or KEPT.max_det)
    plain = Predictor(session, each)
    batched = Predictor(session, each, session.info.batch or BATCH)

    def slicer(several: bool = False, **settings: Any) -> Finder:
        def one(part: np.ndarray) -> Any:
            return plain.predict(part)[0].to_supervision()

        def many(parts: list[np.ndarray]) -> Any:
            return [result.to_supervision() for result in batched.predict(parts)]

        made = sv.InferenceSlicer(many if several else one, slice_wh=SCENE, overlap_wh=SCENE // 4,
                                  iou_threshold=KEPT.iou, **settings)  # fmt: skip
        return lambda image: np.asarray(made(image).xyxy)

    return {
        "tiles": lambda image: boxes_of(tiled, image),
        "slicer": slicer(),
        "slicer-workers": slicer(thread_workers=1 + threads),
        "slicer-batches": slicer(True, batch_size=BATCH),
        "whole": lambda image: boxes_of(plain, image),
    }


def boxes_of(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    boxes = predictor(image)[0].boxes
    assert boxes is not None
    return boxes


def compare(bundle: Path, size: tuple[int, int], rounds: int, threads: int) -> dict[str, Any]:
    """Seconds, CPU seconds and recall of each, a figure a round, and how many times as long the others took."""
    compared = finders(bundle, threads)
    rows: dict[str, dict[str, list[float]]] = {n: {"s": [], "cpu_s": [], "recall": []} for n in compared}
    small = picture(2 * SCENE, 2 * SCENE, 99)[0]
    for find in compared.values():
        find(small)
    for i in range(rounds):
        image, truth = picture(*size, i)
        for name, find in compared.items():
            start, spent = time.perf_counter(), time.process_time()
            boxes = find(image)
            row = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - spent}
            for key, value in {**row, "recall": recall(boxes, truth)}.items():
                rows[name][key].append(value)
            print(json.dumps({"bundle": bundle.name, "name": name, "boxes": len(boxes), "of": len(truth), **row}),
                  flush=True)  # fmt: skip
    others = [name for name in rows if name.startswith("slicer")]
    longer = {
        name: sorted(theirs / ours for theirs, ours in zip(rows[name]["s"], rows["tiles"]["s"], strict=True))
        for name in others
    }
    return {"bundle": bundle.name, "rows": rows, "times_as_long": longer,
            "median": {name: statistics.median(values) for name, values in longer.items()}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--size", default="8000,1600")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    width, height = map(int, args.size.split(","))
    compared = [compare(bundle, (width, height), args.rounds, args.threads) for bundle in args.bundles]
    document = {"schema": 1, "kind": "tiling", "size": [width, height], "threads": args.threads, "bundles": compared,
                "load": os.getloadavg(), "machine": machine.describe()}  # fmt: skip
    text = json.dumps(document, indent=1) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
