"""`edgekit calibrate`: choose the images that INT8 is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import CocoImages, Force, Json, Seed, console, emit_json, refuse_existing


def command(
    data: Annotated[Path, typer.Argument(help="A data.yaml, a COCO JSON, or a folder of class folders.")],
    out: Annotated[Path, typer.Option(help="The manifest to write.")],
    count: Annotated[int, typer.Option(min=1, help="Images to choose.")] = 300,
    split: Annotated[str, typer.Option(help="Where to choose from: train, val or test.")] = "train",
    judged: Annotated[str, typer.Option(help="The split accuracy is measured on; its images are not used.")] = "val",
    task: Annotated[str | None, typer.Option(help="How to read the labels, where they leave doubt.")] = None,
    images: CocoImages = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Choose images for calibration, spread over classes, light and object sizes, and write down which and why."""
    refuse_existing(out, force)
    from collections import Counter

    from edgekit.data import open_dataset
    from edgekit.errors import InputError, UsageError
    from edgekit.quantize import calibration

    if split == judged:
        raise UsageError(f"--split {split}: accuracy is judged on that one (--judged); calibrate on another")
    dataset = open_dataset(data, task, split, images)
    judged_on = None
    if data.suffix != ".json":  # a COCO file is one split
        try:
            judged_on = open_dataset(data, dataset.task, judged, images)
        except InputError:
            judged_on = None
    manifest = calibration.choose(dataset, count, seed, judged_on, force)
    calibration.write(manifest, out)
    if json:
        emit_json({"out": out, "sha256": manifest.sha256, "images": len(manifest.images), "warning": manifest.warning})
        return
    console().print(f"{out}: {len(manifest.images)} of {len(dataset)} images, {manifest.sha256[:12]}")
    for why, number in Counter(entry.why for entry in manifest.images).most_common():
        console().print(f"  {number:4} for {why}")
    if manifest.left_out:
        console().print(f"left out: {manifest.left_out}, which are in the split {judged} too")
    if manifest.warning:
        console().print(f"[yellow]warning:[/yellow] {manifest.warning}", soft_wrap=True)
