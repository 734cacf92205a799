"""`edgekit calibrate`: choose the images that INT8 is calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import CocoImages, Force, Json, Seed, console, emit_json, refuse_existing
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.fields import check, option


@dataclass(frozen=True)
class CalibrateOptions:
    """How many images are chosen, and of what."""

    count: int = option(QuantizeOptions.count, least=1)
    """Images to choose."""
    split: str = "train"
    """Where to choose from: train, val or test."""
    eval_split: str = option("val", was=("judged",))
    """The split accuracy is measured on; its images are not used. Where there is none, a third of the images is kept
    for it."""
    task: str | None = None
    """How to read the labels, where they leave doubt."""

    def __post_init__(self) -> None:
        check(self)


def command(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="A data.yaml, a COCO JSON, or a folder of class folders; or pictures without labels: folders, globs, "
            ".txt lists."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The manifest to write.")],
    wanted: CalibrateOptions,
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

    split, eval_split = wanted.split, wanted.eval_split
    if split == eval_split:
        raise UsageError(f"`split` {split}: accuracy is judged on that one (`eval_split`); calibrate on another")
    preflight.check_folder(out)
    dataset, judged_on, notes = sets.to_choose_from(data, wanted.task, split, eval_split, images, seed, force)
    manifest = calibration.choose(dataset, wanted.count, seed, judged_on, force, data)
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
        console().print(f"left out: {manifest.left_out}, which are in the split {eval_split} too")
    if manifest.warning:
        console().print(f"[yellow]warning:[/yellow] {manifest.warning}", soft_wrap=True)
