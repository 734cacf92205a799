"""`--tile` on large pictures of small objects: recall against resizing them whole, and beside supervision's slicer.

python -m benchmarks.tiling [--size 8000,1600] [--rounds 3]

The pictures are drawn scenes of models/shapes.pt's kind side by side, so that every box is known. Times are of one
process, tiles and slicer by turns, as a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np

from benchmarks.shapeset import CHECKPOINT, draw_scene
from edgekit.bundle.loading import open_session
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.many.tiles import Tiled
from edgekit.runtime.options import OpenOptions, Options
from edgekit.runtime.predictor import Predictor

SCENE = 256


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


def main() -> None:
    import supervision as sv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="8000,1600")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=str(CHECKPOINT))
    args = parser.parse_args()
    width, height = map(int, args.size.split(","))
    session = open_session(args.model, OpenOptions(threads=1))
    options = Options(conf=0.25, iou=0.5, max_det=100_000)
    plain = Predictor(session, options)
    tiled = Tiled(session, options, tile=SCENE, overlap=0.25)
    slicer = sv.InferenceSlicer(
        lambda part: plain.predict(part)[0].to_supervision(), slice_wh=SCENE, overlap_wh=SCENE // 4, iou_threshold=0.5
    )
    ratios = []
    for i in range(args.rounds):
        image, truth = picture(width, height, i)
        start = time.process_time()
        ours = tiled(image)[0]
        middle = time.process_time()
        theirs = slicer(image)
        end = time.process_time()
        ratios.append((end - middle) / (middle - start))
        row = {"boxes": len(truth), "tiles": len(ours), "slicer": len(theirs),
               "recall_tiles": recall(ours.boxes, truth),
               "recall_slicer": recall(theirs.xyxy, truth), "recall_whole": recall(plain(image)[0].boxes, truth),
               "tiles_s": middle - start, "slicer_s": end - middle}  # fmt: skip
        print(json.dumps(row), flush=True)
    print(json.dumps({"slicer_over_tiles": sorted(ratios), "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
