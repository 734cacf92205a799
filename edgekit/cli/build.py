"""`edgekit build`: from a checkpoint to a bundle an application can load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import _plan_table
from edgekit.cli._common import (
    Batch,
    Candidates,
    Force,
    Head,
    ImgSz,
    Json,
    Seed,
    check_head,
    console,
    emit_json,
    refuse_existing,
)
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.quantize import QuantizeOptions
    from edgekit.runtime.manifest import Bundle

NOTE = "note: "


def command(
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint, an exported ONNX file, or a bundle that holds one.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What to build for; `edgekit doctor` lists the targets. auto measures which.")
    ] = None,
    wish: Annotated[
        str | None,
        typer.Option(help="Of --target auto: latency, throughput; with a bound, latency:20 (ms) or throughput:60."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan.json of --target auto: build its choice here, timing nothing.")
    ] = None,
    imgsz: ImgSz = None,
    batch: Batch = 1,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Let any batch through.")] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Files, a folder or a glob of images for the parity check, as often as needed; INT8 without labels is "
            "judged on them. Default: generated ones.",
            show_default=False,
        ),
    ] = None,
    head: Head = "topk",
    candidates: Candidates = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A trt-* bundle whose graph to build anew for this machine.")
    ] = None,
    sm: Annotated[
        str | None, typer.Option(metavar="A,B", help="GPU architectures to build for: trt-rtx-* takes 75,86,89,120.")
    ] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="Most MB of scratch a layer may use: trt-*.")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps kernels' times between builds: trt-*.")
    ] = None,
    no_engine: Annotated[
        bool, typer.Option("--no-engine", help="Pack the graph alone, for --from on the machine it is for: trt-*.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another option of the target, as often as needed.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Also write what a server reads: triton (trt-*, ort-*) or ovms (ov-*, ort-*).")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="What INT8 is calibrated and judged on: a labelled set (train, val), or pictures without labels: a "
            "folder with all below it, a glob, a .txt list; as often as needed.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A manifest of `edgekit calibrate`, which knows its set. Default: images chosen on the fly."),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop", min=0, help="Points of the metric or agreement that INT8, or auto's choice, may lose."
        ),
    ] = 0.5,
    require_speedup: Annotated[
        float | None, typer.Option("--require-speedup", min=0, help="Fail unless INT8 is so many times as fast.")
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option("--weight-bits", min=7, max=8, help="Of INT8. Default: 8, on CPUs without VNNI 7."),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build a bundle and prove that it computes what the checkpoint does; fails when it does not."""
    refuse_existing(out, force)
    check_head(head, candidates)
    from edgekit.quantize import QuantizeOptions
    from edgekit.spec import parse_imgsz

    size = parse_imgsz(imgsz) if imgsz else None
    wishes = QuantizeOptions(
        data or None,
        calibration,
        images,
        seed=seed,
        max_drop=max_drop,
        require_speedup=require_speedup,
        force=force,
        weight_bits=weight_bits,
    )
    own = target_options(sm, workspace, timing_cache, no_engine, option)
    same = None if dynamic_batch else batch
    if plan is not None or target == "auto" or wish is not None:
        others = {
            "--from": source,
            "--layout": layout,
            "--dynamic-batch": dynamic_batch,
            "--require-speedup": require_speedup,
        }
        form = head, candidates
        bundle = _planned(model, out, target, wish, plan, size, batch, images, form, wishes, {**others, **own})
    else:
        bundle = _built(model, target, source, out, size, same, images, (head, candidates), own, layout, wishes)
    if json:
        emit_json({"out": out, **bundle.manifest})
    else:
        _print(out, bundle.manifest)


def _built(
    model: Path | None,
    target: str | None,
    source: Path | None,
    out: Path,
    size: tuple[int, int] | None,
    batch: int | None,
    images: list[str] | None,
    form: tuple[str, int | None],
    own: dict[str, str],
    layout: str | None,
    wishes: QuantizeOptions,
) -> Bundle:
    from edgekit.bundle import build as building
    from edgekit.bundle.options import BuildOptions

    with console().status("") as status:
        if source is not None:
            if model is not None or size is not None or form[1] is not None:
                raise UsageError(
                    "--from takes neither MODEL nor --imgsz nor --candidates: a bundle's graph is built as it is"
                )
            return building.rebuild(source, out, target, own, layout, lambda step: status.update(step))
        if model is None or target is None:
            raise UsageError("give MODEL and --target, or --from BUNDLE")
        options = BuildOptions(size, batch, images, *form, layout, own, wishes)
        return building.build(model, target, out, options, partial(_say, status))


def _planned(
    model: Path | None,
    out: Path,
    target: str | None,
    wish: str | None,
    plan: Path | None,
    size: tuple[int, int] | None,
    batch: int,
    images: list[str] | None,
    form: tuple[str, int | None],
    wishes: QuantizeOptions,
    others: dict[str, Any],
) -> Bundle:
    """``--target auto``, or a plan of it replayed."""
    from edgekit.bundle.options import BuildOptions
    from edgekit.plan import Wish, auto

    mode = "--target auto" if plan is None else "--plan"
    flags = {name: f"--{name}" for name in ("sm", "workspace", "timing-cache")} | {"engine": "--no-engine"}
    given = [flags.get(name, name if name[:2] == "--" else f"--option {name}") for name, v in others.items() if v]
    if plan is not None:
        plans = {"--target": target, "--wish": wish, "--imgsz": size, "--candidates": form[1]}
        given += [name for name, value in plans.items() if value]
    if given:
        raise UsageError(f"{mode} settles that itself: drop {' and '.join(given)}")
    if plan is None and target != "auto":
        raise UsageError("--wish goes with --target auto")
    if model is None:
        raise UsageError(f"{mode}: give MODEL, a checkpoint or an exported ONNX file")
    with console().status("") as status:

        def say(line: str) -> None:
            _say(status, line)
            if not line.startswith(NOTE) and (
                not console().is_terminal or " is out: " in line or line.startswith("unlike")
            ):
                console().print(line, markup=False, soft_wrap=True)

        if plan is not None:
            return auto.replay(model, plan, out, wishes, images, say)
        wanted = Wish.parse(wish or "latency")
        return auto.auto(model, out, wanted, BuildOptions(size, batch, images, *form, quantize=wishes), say)


def _say(status: Any, line: str) -> None:
    """Show what is being done; what the user must not miss stays on the screen."""
    if line.startswith(NOTE):
        console().print(line, markup=False, soft_wrap=True)
    else:
        status.update(line)


def target_options(
    sm: str | None, workspace: int | None, timing_cache: Path | None, no_engine: bool, option: list[str] | None
) -> dict[str, str]:
    """The target's own options by name, as ``edgekit.bundle.build`` takes them.

    Raises:
        UsageError: an ``--option`` that is no ``NAME=VALUE``, or given twice.
    """
    found = {"sm": sm, "workspace": workspace, "timing-cache": timing_cache, "engine": "no" if no_engine else None}
    texts = {name: str(value) for name, value in found.items() if value is not None}
    for pair in option or []:
        name, equals, value = pair.partition("=")
        if not equals or name in texts:
            raise UsageError(f"--option {pair}: give NAME=VALUE, each name once")
        texts[name] = value
    return texts


def _print(out: Path, manifest: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{out}: {manifest['target']}, {manifest['imgsz'][0]}x{manifest['imgsz'][1]}, parity")
    for heading in ("role", "largest difference", "mean", "tolerance", ""):
        table.add_column(heading, justify="left" if heading in ("role", "") else "right")
    for role, row in manifest["parity"].items():
        table.add_row(
            role,
            f"{row['max_abs']:.2g}",
            f"{row['mean_abs']:.2g}",
            f"{row['tolerance']:.2g}",
            "ok" if row["pass"] else "FAILED",
        )
    console().print(table)
    for row in manifest["rewrites"]:
        expected = f" of {row['expected']}" if row["expected"] is not None else ""  # of a file's graph none is known
        console().print(f"rewrite {row['rule']}: fired {row['fired']}{expected}")
    if manifest.get("candidates"):
        crowding = manifest.get("crowding")
        why = f", for {crowding['objects']} objects of {crowding['an_object']:.1f} candidates each" if crowding else ""
        console().print(f"candidates an image: {manifest['candidates']}{why}")
    if manifest.get("licence"):
        console().print(f"licence of the weights: {manifest['licence']}")
    _print_quantization(manifest)
    _print_engines(manifest)
    if "plan" in manifest:
        _plan_table.show(out, manifest["plan"])


def _print_engines(manifest: dict[str, Any]) -> None:
    """Engines built, and what is known of them without running them."""
    for row in manifest.get("engines", []):
        attention = row["attention"]
        fused = "not checked" if attention["fused"] is None else f"{attention['fused']} of {attention['of']} fused"
        console().print(
            f"{row['file']}: {row['bytes'] / 1e6:.1f} MB in {row['seconds']:.1f} s with {row['sdk']} "
            f"{row['sdk_version']}, attention {fused} ({attention['source']})"
        )
        for each in attention["apart"]:
            console().print(f"  [yellow]not one kernel: {each['node']}: {', '.join(each['layers'])}[/yellow]")
        if row.get("dla_fallback"):
            console().print(f"  on the GPU, not the DLA: {', '.join(row['dla_fallback'])}")
    if manifest.get("evaluated"):
        console().print(manifest["evaluated"])


def _print_quantization(manifest: dict[str, Any]) -> None:
    """What eight bits cost and gained, with warnings that are hard to overlook."""
    accuracy, speed = manifest.get("accuracy"), manifest.get("speed")
    if accuracy:
        agreement = "agreement with the float model, for want of labels"
        metric = agreement if accuracy["kind"] == "agreement" else accuracy["metric"]
        console().print(
            f"{metric}: {accuracy['after']:.4f}, {accuracy['before']:.4f} before: "
            f"{accuracy['drop_points']:.2f} points lost, {accuracy['limit_points']:g} allowed, "
            f"on {accuracy['images']} images of {accuracy['on']}"
        )
        for group in accuracy["put_back"]:
            console().print(f"  in floating point again: {group}")
    if speed:
        console().print(
            f"{speed['speedup']:.2f} times as fast as {speed['against']} ({speed['low']:.2f} to {speed['high']:.2f})"
            + ("" if speed["reliable"] else ", on a machine that was not quiet")
        )
    for part in (accuracy, manifest.get("calibration"), speed, manifest.get("detections")):
        if part and "warning" in part:
            console().print(f"[bold yellow]WARNING: {part['warning']}[/bold yellow]", soft_wrap=True)
