"""What each graph rewrite is worth: the same network with and without it, interleaved call by call in one process.

    python benchmarks/rules.py --models yolo12n yolo12s --targets ort-fp32 ov-fp32 --out benchmarks/results/rules.json

Random weights, their activations normalised as training would. `--part attention` cuts out the attention stages (layers
6 to 8), where all of the difference is, which shows it two to three times as large. Contestants of one run, all built
as `edgekit build` builds them and timed on the same input:

- `all rules`: the target's recipe; every ratio is against it, so above 1 means slower than what edgekit ships;
- `as exported`: PyTorch's exporter on attention written plainly, constants folded: what one has without the rules;
- `again`: the recipe a second time, which shows how far from 1 chance takes a ratio;
- `without X` for rules of the recipe that fire, `with X` for some others.

`--timer cpu` counts the process's CPU time on one thread instead of the clock on the wall: on a machine that others
use too, it is the only figure worth having. `--file theirs.onnx` times a file from elsewhere before and after.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from onnx_ir.passes import common
from onnxscript import ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.bench.clock import ClockOptions, measure
from edgekit.bench.run import REST_S
from edgekit.checkpoint import catalog
from edgekit.graph import export as exporting
from edgekit.graph.document import describe
from edgekit.graph.files import rewrite_file
from edgekit.graph.rewrite import Recipe, apply, fold, recipe_for
from edgekit.spec import Graph, ModelInfo, Port
from edgekit.targets import Opening

SHIPPED, AGAIN, EXPORTED = "all rules", "again", "as exported"
WITH = ("attention_decomposed", "attention_operator")
STONES = {"selected_convolution": ("channel_selection",)}  # rules of no use but to the one they are left out with


def main() -> None:
    options = _options()
    rows = _earlier(options.out)
    for target in options.targets:
        for name in (*options.models, *options.file):
            with tempfile.TemporaryDirectory() as scratch:
                if isinstance(name, Path):
                    contestants = dict(rewritten(name, target, Path(scratch)))
                else:
                    contestants = dict(variants(name, target, Path(scratch), options.imgsz, options.part))
                rows += race(target, getattr(name, "stem", name), contestants, options)
            document = {"schema": 1, "kind": "rules", "machine": machine.describe(), "rows": rows}
            options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(rows))


def variants(
    name: str, target: str, folder: Path, imgsz: int, part: str
) -> Iterator[tuple[str, tuple[Path, ModelInfo]]]:
    """Contestant -> its ONNX file and ports."""
    cut = _attention_stages if part == "attention" else lambda model, info: info
    loaded = normalised(name)
    info = loaded.info((imgsz, imgsz), 1, "topk")
    with mock.patch("edgekit.nn.attention.area_attention", plain_attention):
        plain = exporting._capture(loaded, info)
    ports = cut(plain, info)
    fold(plain)
    yield EXPORTED, (_save(plain, folder / "exported.onnx"), ports)
    captured = exporting._capture(loaded, info)
    ports = cut(captured, info)
    captured = ir.from_proto(ir.to_proto(captured))
    shipped = {
        report.rule for report in apply(captured.clone(), recipe_for(targets.get(target).recipe)) if report.fired
    }
    for variant, recipe in recipes(target):
        model = captured.clone()
        fired = {report.rule for report in apply(model, recipe) if report.fired}
        if variant in (SHIPPED, AGAIN) or variant.split()[1] in fired ^ shipped:
            yield variant, (_save(model, folder / f"{variant}.onnx"), ports)


def _attention_stages(model: ir.Model, info: ModelInfo) -> ModelInfo:
    """Cut layers 6 to 8 out of a captured detector, in place; returns the ports of what is left."""
    ends = {}
    for node in model.graph:
        path = exporting._scope(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
        ends[path.split(".")[1] if path.startswith("model.") else ""] = node.outputs[0]
    first, last = ends["5"], ends["8"]
    assert first.shape is not None and last.shape is not None
    start = ir.Value(name="start", shape=first.shape, type=first.type)
    first.replace_all_uses_with(start)
    model.graph.inputs[:], model.graph.outputs[:] = [start], [last]
    common.RemoveUnusedNodesPass()(model)
    shapes = [tuple(int(str(d)) for d in value.shape) for value in (first, last)]
    return info.replace(inputs=(Port("start", "", shapes[0]),), outputs=(Port(str(last.name), "", shapes[1]),))


def recipes(target: str) -> Iterator[tuple[str, Recipe]]:
    shipped = recipe_for(targets.get(target).recipe)
    names = [rule.NAME for rule in shipped.rules]
    yield SHIPPED, shipped
    yield AGAIN, shipped
    stones = {stone for of_one in STONES.values() for stone in of_one}
    for rule in names:
        if rule not in stones and not rule.startswith("attention"):
            yield f"without {rule}", recipe_for(targets.get(target).recipe, drop=[rule, *STONES.get(rule, ())])
    for rule in WITH:
        if rule not in names:
            yield f"with {rule}", recipe_for(targets.get(target).recipe, add=[rule])


def rewritten(file: Path, target: str, folder: Path) -> Iterator[tuple[str, tuple[Path, ModelInfo]]]:
    """A file from elsewhere before and after."""
    after = folder / "after.onnx"
    rewrite_file(file, after, recipe_for(targets.get(target).recipe))
    for contestant, path in ((SHIPPED, after), (EXPORTED, file)):
        inputs, outputs, _ = describe(path)
        size = tuple(int(d or 0) for d in inputs[0].shape[2:])
        ports = {"inputs": tuple(inputs), "outputs": tuple(outputs)}
        yield contestant, (path, ModelInfo("detect", (size[0], size[1]), "raw", (), **ports))


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, area: int) -> torch.Tensor:
    """Area attention as one writes it in PyTorch without thinking of export: the scale after the product."""
    B, C, H, W = q.shape

    def cut(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2).reshape(B * area, H * W // area, C // 32, 32).transpose(1, 2)

    weights = ((cut(q) @ cut(k).transpose(2, 3)) * 32**-0.5).softmax(-1)
    return (weights @ cut(v)).transpose(1, 2).reshape(B, H * W, C).transpose(1, 2).reshape(B, C, H, W)


def normalised(name: str) -> checkpoint.Checkpoint:
    """An untrained network whose BatchNorms have seen noise, so that activations are neither zero nor endless."""
    loaded = checkpoint.new(catalog.spec(name), seed=0)
    for module in loaded.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        loaded.net.train()(torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0)))
    loaded.net.eval()
    return loaded


def _save(model: ir.Model, path: Path) -> Path:
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedOpsetsPass()(model)
    ir.save(model, path)
    return path


def race(
    target: str, name: str, contestants: dict[str, tuple[Path, ModelInfo]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time the contestants side by side; a row each."""
    backend = targets.get(target)
    with tempfile.TemporaryDirectory() as scratch:
        calls = {}
        for number, (contestant, (path, info)) in enumerate(contestants.items()):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            backend.build(Graph(path, info, ""), folder)
            calls[contestant] = _call(backend.open(folder, info, Opening(threads=options.threads)))
        batch = np.random.default_rng(0).random(next(iter(contestants.values()))[1].inputs[0].shape, dtype=np.float32)
        clock = ClockOptions(budget_s=options.seconds, min_rounds=options.rounds, rest_s=REST_S, lead_in=1)
        timer = time.process_time if options.timer == "cpu" else time.perf_counter
        found = measure(calls, [batch], clock, baseline=SHIPPED, timer=timer)
    part = options.part if contestants[SHIPPED][1].inputs[0].name == "start" else "whole"
    run = {
        "model": name,
        "part": part,
        "target": target,
        "timer": options.timer,
        "threads": options.threads or "default",
    }
    state = {"rounds": found.rounds, "reliable": found.reliable, "disturbances": found.disturbances}
    rows = []
    for contestant, stages in found.stages.items():
        ratio = found.ratios.get(contestant, {}).get("whole_ms")
        rows.append({**run, "contestant": contestant, "ms": stages["whole_ms"], "ratio": ratio, **state})
    print(table(rows), file=sys.stderr, flush=True)
    return rows


def _call(session: Any) -> Any:
    def call(batch: np.ndarray) -> None:
        session.run(batch)

    return call


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line per model and target, the median of `all rules`, and everybody's ratio to it."""
    columns = list(dict.fromkeys(row["contestant"] for row in rows if row["contestant"] != SHIPPED))
    lines = [
        f"| model | part | target | timed | {SHIPPED}, ms | {' | '.join(columns)} |",
        "|---" * (5 + len(columns)) + "|",
    ]
    keys = ("model", "part", "target", "timer", "threads")
    for run in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        mine = {row["contestant"]: row for row in rows if tuple(row[k] for k in keys) == run}
        cells = [_cell(mine.get(column)) for column in columns]
        timed = f"{run[3]}, {run[4]} thread{'s' if run[4] != 1 else ''}"
        shipped = f"{mine[SHIPPED]['ms']['p50']:.1f}{'' if mine[SHIPPED]['reliable'] else ' ?'}"
        lines.append(f"| {run[0]} | {run[1]} | {run[2]} | {timed} | {shipped} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    ratio = row["ratio"]
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})"


def _earlier(out: Path) -> list[dict[str, Any]]:
    """Rows of an earlier run on this machine, to be added to."""
    if not out.is_file():
        return []
    document = json.loads(out.read_text())
    if machine.same_machine(document["machine"], machine.describe()):
        raise SystemExit(f"{out}: measured on another machine; give another --out")
    return list(document["rows"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cpu = re.sub(r"[^a-z0-9]+", "-", str(machine.cpu()["model"]).lower()).strip("-")
    parser.add_argument("--models", nargs="*", default=["yolo12n"])
    parser.add_argument("--targets", nargs="*", default=["ort-fp32", "ov-fp32", "ov-fp16"])
    parser.add_argument("--file", nargs="*", type=Path, default=[], help="ONNX files from elsewhere")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--part", choices=("whole", "attention"), default="whole")
    parser.add_argument("--timer", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--seconds", type=float, default=60.0, help="budget of a race")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"rules-{cpu}.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
