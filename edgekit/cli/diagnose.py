"""`edgekit diagnose`: what is the first wrong thing in a model, or in a program's detections?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Images, Json, console, emit_json
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.runtime.options import OpenOptions


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model in doubt, of any tool, or detections that a program made: a .json in COCO's results form."
        ),
    ],
    how: Annotated[OpenOptions, Only("task", "outputs", "imgsz")],
    reference: Annotated[Path, typer.Option(help="The checkpoint that it was made of.")],
    images: Images = None,
    most: Annotated[int, typer.Option(min=1, help="Use at most this many images.")] = 8,
    json: Json = False,
) -> None:
    """Say what is wrong with a model that should do what a checkpoint does; exits 1 when something is.

    Looked for are channel order, normalisation, letterbox, box format, class order, sigmoid, threshold, NMS, one stage
    of the network, and precision."""
    from edgekit.bundle import preflight
    from edgekit.errors import GateError, UsageError
    from edgekit.runtime.sources import named_images
    from edgekit.spec import parse_imgsz
    from edgekit.verify.parity import generated_images

    size = parse_imgsz(how.imgsz) if how.imgsz else None
    preflight.check_models([model, reference])
    if images is None and model.suffix == ".json":
        raise UsageError(f"`images`: give the pictures that the detections in {model} were made of")
    pictures = named_images(images, most) if images else [(str(i), p) for i, p in enumerate(generated_images())]
    from edgekit.bundle.external.referee import diagnose, report

    with Phases("looking for what is wrong"):
        found = diagnose(model, reference, pictures, size, how.task, how.outputs)
    if json:
        emit_json(report(found))
    elif found.same:
        console().print(
            f"the same as {reference}: on {found.images} images its {found.measure} differ by {found.error:.2g}"
        )
    for each in found.findings if not json else ():
        said = f"[bold]{each.word}[/bold]: it {each.says}. What to do: {each.advice}."
        console().print(f"{said} (error {each.before:.2g}, with that explained {each.after:.2g})")
    if not found.same:
        raise GateError(f"{model}: not the same function as {reference}: {found.findings[0].word}")
