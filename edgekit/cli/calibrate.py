"""`edgekit calibrate`: choose the images that INT8 is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import CocoImages, Force, Json, Seed, console, emit_json, refuse_existing


def command(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="A data.yaml, a COCO JSON, or a folder of class folders; or pictures without labels: folders, globs, "
            ".txt lists."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The manifest to write.")],
    count: Annotated[int, typer.Option(min=1, help="Images to choose.")] = 300,
    split: Annotated[str, typer.Option(help="Where to choose from: train, val or test.")] = "train",
    judged: Annotated[
        str,
        typer.Option(
            help="The split accuracy is measured on; its images are not used. Where there is none, a third of the "
            "images is kept for it."
        ),
    ] = "val",
    task: Annotated[str | None, typer.Option(help="How to read the labels, where they leave doubt.")] = None,
    images: CocoImages = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Choose images for calibration, spread over classes, light and object sizes, and write down which and why."""
    refuse_existing(out, force)
    from collections import Counter

    from edgekit.bundle import preflight
    from edgekit.errors import UsageError
    from edgekit.quantize import calibration, sets

    if split == judged:
        raise UsageError(f"--split {split}: accuracy is judged on that one (--judged); calibrate on another")
    preflight.check_folder(out)
    dataset, judged_on, notes = sets.to_choose_from(data, task, split, judged, images, seed, force)
    manifest = calibration.choose(dataset, count, seed, judged_on, force, data)
    calibration.write(manifest, out)
    for note in [*notes, *sets.unreadable(manifest)]:
        console().print(f"note: {note}", markup=False, soft_wrap=True)
    if json:
        emit_json(
            {
                "out": out,
                "sha256": manifest.sha256,
                "images": len(manifest.images),
                "unreadable": list(manifest.unreadable),
                "warning": manifest.warning,
            }
        )
        return
    console().print(f"{out}: {len(manifest.images)} of {len(dataset)} images, {manifest.sha256[:12]}")
    for why, number in Counter(entry.why for entry in manifest.images).most_common():
        console().print(f"  {number:4} for {why}")
    if manifest.left_out:
        console().print(f"left out: {manifest.left_out}, which are in the split {judged} too")
    if manifest.warning:
        console().print(f"[yellow]warning:[/yellow] {manifest.warning}", soft_wrap=True)
