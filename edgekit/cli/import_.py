"""`edgekit import`: a published checkpoint becomes edgekit's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing
from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.checkpoint import Checkpoint


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published .pt file, a state dict (.pt, .safetensors) or an edgekit checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write: .pt or .safetensors.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What a state dict is of, e.g. yolo12n-seg.", show_default=False),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of a state dict: class names in label order. Default: numbered."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(help="Of a state dict: silu, hardswish, relu, leaky_relu:SLOPE. Default: the model's."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Turn a published checkpoint into edgekit's own format, running no code from it."""
    refuse_existing(out, force)
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist; make it first")
    loaded = _loaded(checkpoint, model, names, activation)
    from edgekit import checkpoint as checkpoints

    checkpoints.save(loaded, out)
    if json:
        emit_json(
            {
                "model": loaded.spec.name,
                "task": loaded.spec.task,
                "family": loaded.spec.family,
                "activation": loaded.spec.activation,
                "provenance": loaded.provenance,
                "classes": loaded.spec.classes,
                "names": loaded.names,
                "imgsz": loaded.imgsz,
                "license": loaded.license,
                "checkpoint_sha256": loaded.sha256,
                "out": out,
            }
        )
    else:
        license = f"; license of the weights: {loaded.license}" if loaded.license else ""
        console().print(
            f"{out}: {loaded.spec.name} ({loaded.spec.family}, {loaded.spec.activation}), {loaded.spec.classes} "
            f"classes{_origin(loaded)}{license}"
        )


def _loaded(path: Path, model: str | None, names: str | None, activation: str | None) -> Checkpoint:
    from edgekit import checkpoint as checkpoints
    from edgekit.checkpoint import catalog
    from edgekit.spec import parse_activation

    if activation is not None:
        parse_activation(activation)
    if _tensors_alone(path):
        if model is None:
            raise UsageError(f"{path}: holds tensors alone (a state dict); say what of: --model yolo12n")
        listed = tuple(name.strip() for name in names.split(",")) if names else ()
        loaded = checkpoints.load_state_dict(path, model, listed, activation)
        _note_assumed(loaded)
        return loaded
    for option, value in (("--names", names), ("--activation", activation)):
        if value is not None:
            raise UsageError(f"{option} {value}: for state dicts, which do not say; {path} holds a whole model")
    loaded = checkpoints.load(path)
    if model is not None and loaded.spec.name != catalog.spec(model).name:
        raise UsageError(f"--model {model}: {path} holds {loaded.spec.name}")
    return loaded


def _tensors_alone(path: Path) -> bool:
    from edgekit.checkpoint import published, tensors

    return tensors.described(path) is None if path.suffix == tensors.SUFFIX else published.is_state_dict(path)


def _note_assumed(loaded: Checkpoint) -> None:
    spec = loaded.spec
    console().print(
        f"[yellow]note:[/yellow] a state dict has tensors alone: activation ({spec.activation}), strides, routes, "
        f"areas {spec.areas} and BatchNorm's epsilon ({spec.norm_eps:g}) are taken as published for {spec.name}",
        soft_wrap=True,
    )


def _origin(loaded: Checkpoint) -> str:
    """Which of a file's weights these are, and whether they were folded."""
    where = loaded.provenance.get("weights")
    which = {"ema": "; the averaged weights (ema)", "model": "; the weights under 'model'"}.get(str(where), "")
    return which + ("; its BatchNorms had been folded" if loaded.provenance.get("fused") else "")
