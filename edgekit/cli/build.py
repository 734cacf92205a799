"""`edgekit build`: from a checkpoint to a bundle an application can load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.bundle.options import BuildOptions
from edgekit.cli import _plan_table
from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.errors import UsageError
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.fields import check, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.runtime.manifest import Bundle

NOTE = "note: "


@dataclass(frozen=True)
class GoalOptions:
    """What is built for, or who says so."""

    target: str | None = None
    """What to build for; `edgekit doctor` lists the targets. auto measures which."""
    objective: str | None = option(None, was=("wish",))
    """Of --target auto: latency, throughput; with a bound, latency:20 (ms) or throughput:60."""
    plan: Path | None = None
    """A plan.json of --target auto: build its choice here, timing nothing."""
    rebuild: Path | None = option(None, was=("from",))
    """A trt-* bundle whose graph to build anew for this machine."""
    dynamic_batch: bool = False
    """Let any batch through."""
    source: str | None = option(None, metavar="WxH|PATH")
    """What the camera shows, 1920x1080 or a video, an image or a folder of them: build for its shape."""
    imgsz_search: bool = False
    """Try smaller input sizes, and build the smallest that loses at most --max-drop."""


@dataclass(frozen=True)
class TargetWords:
    """What targets have of their own, as it is typed."""

    sm: str | None = option(None, metavar="A,B", section="Of the target")
    """GPU architectures to build for: trt-rtx-* takes 75,86,89,120."""
    workspace: int | None = option(None, least=1)
    """Most MB of scratch a layer may use: trt-*."""
    timing_cache: Path | None = None
    """Experimental: folder that keeps kernels' times between builds: trt-*."""
    no_engine: bool = False
    """Pack the graph alone, for --rebuild on the machine it is for: trt-*."""
    option: tuple[str, ...] = option((), metavar="NAME=VALUE")
    """Another option of the target, as often as needed."""

    def __post_init__(self) -> None:
        check(self)

    def texts(self) -> dict[str, str]:
        """The target's own options by name, as ``BuildOptions.target`` takes them.

        Raises:
            UsageError: an ``--option`` that is no ``NAME=VALUE``, or given twice.
        """
        engine = "no" if self.no_engine else None
        found = {"sm": self.sm, "workspace": self.workspace, "timing-cache": self.timing_cache, "engine": engine}
        texts = {name: str(value) for name, value in found.items() if value is not None}
        for pair in self.option:
            name, equals, value = pair.partition("=")
            if not equals or name in texts:
                raise UsageError(f"`option` {pair}: give NAME=VALUE, each name once")
            texts[name] = value
        return texts


def command(
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    goal: GoalOptions,
    options: Annotated[BuildOptions, Only("imgsz", "batch", "images", "head", "candidates", "self_test", "layout")],
    narrow: Annotated[
        QuantizeOptions,
        Only(
            *("data", "calibration", "max_drop", "max_f1_drop", "max_class_drop", "recalibrate_scores"),
            *("require_speedup", "weight_bits", "seed"),
        ),
    ],
    own: TargetWords,
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint, an exported ONNX file, or a bundle that holds one.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build a bundle and prove that it computes what the checkpoint does; fails when it does not."""
    from edgekit.runtime.processor import wait_asleep

    refuse_existing(out, force)
    wait_asleep()
    narrow = replace(narrow, images=options.images, force=force)
    wanted = replace(options, batch=None if goal.dynamic_batch else options.batch, target=own.texts(), quantize=narrow)
    planned = goal.plan is not None or goal.target == "auto" or goal.objective is not None
    bundle = (_planned if planned else _built)(model, out, goal, wanted)
    if json:
        emit_json({"out": out, **bundle.manifest})
    else:
        _print(out, bundle.manifest)


def _built(model: Path | None, out: Path, goal: GoalOptions, options: BuildOptions) -> Bundle:
    from edgekit.bundle import build as building

    with Phases("") as status:
        if goal.rebuild is not None:
            given = (model, goal.source, goal.imgsz_search or None, options.imgsz, options.candidates)
            if any(each is not None for each in given):
                raise UsageError(
                    "`rebuild` takes no MODEL, `imgsz`, `source` or `candidates`: a bundle's graph is built as it is"
                )
            return building.rebuild(
                goal.rebuild, out, goal.target, options.target, options.layout, lambda step: status.update(step)
            )
        if model is None or goal.target is None:
            raise UsageError("give MODEL and `target`, or `rebuild`, a bundle")
        if goal.source is not None or goal.imgsz_search:
            return _shaped(model, out, goal, options, partial(_say, status))
        return building.build(model, goal.target, out, options, partial(_say, status))


def _shaped(model: Path, out: Path, goal: GoalOptions, options: BuildOptions, say: Callable[[str], None]) -> Bundle:
    """In other input sizes than the square: for a camera, or as small as accuracy allows."""
    from edgekit.autotune import sizes
    from edgekit.bundle import fitted, shapes

    assert goal.target is not None
    view = None if goal.source is None else shapes.read_view(goal.source)
    if goal.imgsz_search:
        return sizes.search(model, goal.target, out, options, say, view=view)
    assert view is not None
    return fitted.build(model, goal.target, out, options, view, say)


def _planned(model: Path | None, out: Path, goal: GoalOptions, options: BuildOptions) -> Bundle:
    """``--target auto``, or a plan of it replayed."""
    from edgekit.autotune import Objective, auto
    from edgekit.bundle import shapes

    mode = "`target` auto" if goal.plan is None else "`plan`"
    _check_settled(mode, goal, options)
    if goal.plan is None and goal.target != "auto":
        raise UsageError("`objective` goes with `target` auto")
    if model is None:
        raise UsageError(f"{mode}: give MODEL, a checkpoint or an exported ONNX file")
    with Phases("") as status:

        def say(line: str) -> None:
            _say(status, line)
            if not line.startswith(NOTE) and (
                not console().is_terminal or " is out: " in line or line.startswith("unlike")
            ):
                console().print(line, markup=False, soft_wrap=True)

        if goal.plan is not None:
            return auto.replay(model, goal.plan, out, options.quantize, options.images, say)
        view = None if goal.source is None else shapes.read_view(goal.source)
        return auto.auto(model, out, Objective.parse(goal.objective or "latency"), options, say, view=view)


def _check_settled(mode: str, goal: GoalOptions, options: BuildOptions) -> None:
    """Refuse what the plan settles itself.

    Raises:
        UsageError: it was given.
    """
    given = [f"`{name}`" for name in ("rebuild", "dynamic_batch", "imgsz_search") if getattr(goal, name)]
    given += ["`layout`"] if options.layout else []
    given += [f"`{name}`" for name in ("require_speedup", "recalibrate_scores") if getattr(options.quantize, name)]
    names = {"sm": "`sm`", "workspace": "`workspace`", "timing-cache": "`timing_cache`", "engine": "`no_engine`"}
    given += [names.get(name, f"`option` {name}") for name in options.target]
    if goal.plan is not None:
        given += [f"`{name}`" for name in ("target", "objective", "source") if getattr(goal, name)]
        given += [f"`{name}`" for name in ("imgsz", "candidates") if getattr(options, name)]
    if given:
        raise UsageError(f"{mode} settles that itself: drop {' and '.join(given)}")


def _say(status: Any, line: str) -> None:
    """Show what is being done; what the user must not miss stays on the screen."""
    if line.startswith(NOTE):
        console().print(line, markup=False, soft_wrap=True)
    else:
        status.update(line)


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
    _print_source(manifest)
    if manifest.get("license"):
        console().print(f"license of the weights: {manifest['license']}")
    _print_quantization(manifest)
    _print_engines(manifest)
    if "plan" in manifest:
        _plan_table.show(out, manifest["plan"])


def _print_source(manifest: dict[str, Any]) -> None:
    """The shapes that were built, and what they are beside the square model."""
    for shape in manifest.get("shapes", []):
        console().print(f"also {shape['imgsz'][0]}x{shape['imgsz'][1]}, for pictures that are larger there")
    row = manifest.get("source")
    if not row:
        return
    height, width = row["square"]
    sizes = [manifest["imgsz"], *(shape["imgsz"] for shape in manifest.get("shapes", []))]
    shares = " and ".join(f"{100 * h * w / (height * width):.0f} %" for h, w in sizes)
    console().print(f"fits {row['given']}: {shares} of the pixels of {height}x{width}")
    if "metric" in row:
        what = "agreement with the square model" if row["kind"] == "agreement" else row["metric"]
        limit = f", {row['limit_points']:g} allowed" if "limit_points" in row else ""
        console().print(
            f"{what}: {row['after']:.4f}, {row['before']:.4f} of the square model ({row['drop_points']:.2f} points lost"
            f"{limit}), on {row['images']} images of {row['on']}"
        )
        _print_scores(row)
        if "warning" in row:
            console().print(f"[bold yellow]WARNING: {row['warning']}[/bold yellow]", soft_wrap=True)


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


def _print_scores(accuracy: dict[str, Any]) -> None:
    """What has become of F1 at the float model's threshold, and of the class that lost most."""
    from rich.markup import escape

    point, worst = accuracy.get("operating_point"), accuracy.get("worst_class")
    if point:
        kept = [
            f"{point[key]:.3f} keeps {what}"
            for key, what in (("keeps_precision", "precision"), ("keeps_recall", "recall"))
            if point[key] is not None
        ]
        console().print(
            f"F1 at the float model's threshold {point['threshold']:.3f}: {point['f1_after']:.4f}, "
            f"{point['f1_before']:.4f} before; {', '.join(kept)}",
            highlight=False,
        )
    if worst and worst["drop_points"] > 0:
        console().print(f"class {worst['class']} loses most: {worst['drop_points']:.2f} points", markup=False)
    moved = accuracy.get("recalibration")
    if moved:
        logits = ", ".join(f"{name} {shift:+.2f}" for name, shift in moved.get("logits", {}).items())
        told = f"added to logits: {logits}" if moved["kept"] else f"left as they are: {moved['why']}"
        console().print(f"scores, {told}", markup=False, highlight=False, soft_wrap=True)
    for sentence in accuracy.get("exceeds", []):
        console().print(f"[bold yellow]WARNING: {escape(sentence)}[/bold yellow]", soft_wrap=True)


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
        _print_scores(accuracy)
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
