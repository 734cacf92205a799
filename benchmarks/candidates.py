"""How many candidates a head should keep: what more of them cost, and what too few lose.

    python benchmarks/candidates.py yolo12n-bccd.pt --data bccd/data.yaml --crowd tile.jpg --threads 2 \\
        --out benchmarks/results/candidates.json

``time``: bundles that differ in the number of candidates alone take turns on the same images; ratios to the fewest
with their intervals (above 1: slower). ``objects``: what is found in the crowded image at confidence 0.25 by the raw
head and with so many candidates, and how many candidates an object has. ``accuracy``: the set's metrics, with the
protocol of ``edgekit val``. INT8 is calibrated on few images and judged by nobody: its speed depends on neither. Rows
that the file has already are kept, so that a run goes on where another stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.bench.clock import ClockOptions
from edgekit.bench.run import bench
from edgekit.bundle import loading
from edgekit.data import open_dataset
from edgekit.errors import TruncatedWarning
from edgekit.graph.export import export
from edgekit.nn.session import TorchSession
from edgekit.quantize import QuantizeOptions
from edgekit.quantize.candidates import Quantizer
from edgekit.quantize.sets import open_sets
from edgekit.runtime.image import read_image
from edgekit.runtime.manifest import manifest_of, write_manifest
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import STAGES, Predictor
from edgekit.runtime.versions import versions
from edgekit.verify.evaluate import evaluate

COUNTS = {320: (300, 500), 640: (300, 1000, 2000), 1280: (300, 2000)}
ALL = 10_000  # objects, more than any image here has


def main() -> None:
    options = _options()
    loaded = checkpoint.load(options.checkpoint)
    dataset = open_dataset(options.data, loaded.spec.task, names=loaded.names)
    crowd = read_image(options.crowd)
    images = [crowd, *(read_image(sample.path) for sample in dataset.samples[:3])]
    jobs: dict[tuple[Any, ...], Callable[[], dict[str, Any]]] = {}
    least = min(options.sizes)
    jobs["accuracy", least, None] = partial(_accuracy, loaded, least, dataset)
    for side in options.sizes:
        jobs["objects", side, None] = partial(_objects, loaded, side, crowd)
    for target in options.targets:
        for side in options.sizes:
            jobs["time", side, target] = partial(_time, loaded, side, target, images, options)
    rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    known = {(row["what"], row["imgsz"], row.get("target")) for row in rows}
    for job in (job for key, job in jobs.items() if key not in known):
        rows.append(job())
        print(json.dumps(rows[-1]), flush=True)
        document = {
            "schema": 1,
            "kind": "candidates",
            "model": loaded.spec.name,
            "threads": options.threads,
            "rows": rows,
            "versions": versions("edgekit", "torch", "onnxruntime", "openvino", "nncf", "numpy"),
            "machine": machine.describe(),
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _predictor(loaded: checkpoint.Checkpoint, side: int, count: int | None, options: Options) -> Predictor:
    info = loaded.info((side, side), 1, "topk" if count else "raw", count)
    return Predictor(TorchSession(loaded.net, info), options)


def _objects(loaded: checkpoint.Checkpoint, side: int, crowd: Any) -> dict[str, Any]:
    options = Options(max_det=ALL)
    raw = _predictor(loaded, side, None, options)
    scores = raw.session.run(raw.preprocess([crowd])[0])["scores"]
    found, above = len(raw(crowd)[0]), int((scores > options.conf).sum())
    kept = {}
    for count in COUNTS[side]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncatedWarning)  # that is what is shown here
            kept[str(count)] = len(_predictor(loaded, side, count, Options())(crowd)[0])
    return {
        "what": "objects",
        "imgsz": side,
        "raw": found,
        "candidates": above,
        "an_object": above / found,
        "kept": kept,
    }


def _accuracy(loaded: checkpoint.Checkpoint, side: int, dataset: Any) -> dict[str, Any]:
    figures = {}
    for count in (None, *COUNTS[side]):
        found = evaluate(_predictor(loaded, side, count, Options()), dataset).scores.metrics
        figures[str(count or "raw")] = {key: found[key] for key in ("map50_95", "map50")}
    return {"what": "accuracy", "imgsz": side, "set": dataset.source.parent.name, "metrics": figures}


def _time(
    loaded: checkpoint.Checkpoint, side: int, target: str, images: list[Any], options: argparse.Namespace
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        predictors, gathered = {}, {}
        for count in COUNTS[side]:
            folder = Path(scratch) / str(count)
            gathered[str(count)] = _built(loaded, side, target, count, folder, options)
            predictors[str(count)] = loading.load(folder / "bundle", threads=options.threads)
        clock = ClockOptions(budget_s=options.budget, min_rounds=40, rest_s=0.1)
        records = bench(predictors, images, clock, baseline=str(COUNTS[side][0]))
        for predictor in predictors.values():
            predictor.close()
    return {
        "what": "time",
        "imgsz": side,
        "target": target,
        "precision_executed": records[0]["precision_executed"],
        "gathered_branches": gathered,
        "ms": {record["artifact"]: {stage: record[stage] for stage in STAGES} for record in records},
        "ratio": {record["artifact"]: record["ratio"] for record in records[1:]},
        "rounds": records[0]["rounds"],
        "reliable": records[0]["reliable"],
        "disturbances": records[0]["disturbances"],
    }


def _built(
    loaded: checkpoint.Checkpoint, side: int, target: str, count: int, folder: Path, options: argparse.Namespace
) -> int:
    """A bundle with so many candidates; how many branches were computed at those cells alone."""
    chosen = targets.get(target)
    graph = export(loaded, folder / "model.onnx", (side, side), 1, None, "topk", chosen.recipe, count)
    fired = {row["rule"]: row["fired"] for row in graph.provenance["rewrites"]}
    if chosen.int8:
        wishes = QuantizeOptions(options.data, judged=False, timing_s=0)
        sets = open_sets(wishes, graph.info.task, graph.info.names)
        graph, _ = Quantizer(graph, chosen, folder, wishes, sets).candidate()
    info = chosen.info(graph.info)
    (folder / "bundle").mkdir()
    chosen.build(dataclasses.replace(graph, info=info), folder / "bundle")
    write_manifest(folder / "bundle", manifest_of(info, target, folder / "bundle"))
    return int(fired.get("gathered_branch", 0))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a set whose images are crowded")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crowd", type=Path, required=True, help="an image more crowded than those of the set")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(COUNTS), choices=list(COUNTS))
    parser.add_argument("--targets", nargs="+", default=["ort-fp32", "ov-fp16", "ov-int8"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a size and target")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
