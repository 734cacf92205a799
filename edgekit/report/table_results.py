"""A table of results as a document: held against the published figures, and checked before anything is printed of it.

    document = load(Path("benchmarks/results/table-cpu.json"))
    document["rows"][0]["measured"]["ov-fp16"]["difference"]["latency"]     # {'ms': 56.6, 'unlike': ['ov-fp16', …]}

| key | holds |
|---|---|
| ``schema kind`` | 1, ``table`` |
| ``family task scales targets imgsz`` | what was asked for |
| ``set source`` | what accuracy was measured on (``name``, ``images``); where the published figures are from |
| ``rows`` | one a scale: ``name parameters flops_g flops_with_attention_g weights machine`` and what follows |
| … ``published`` | as in ``benchmarks/published.toml``, with the ``difference`` of the counts to it |
| … ``measured`` | target → stages (``network_ms``: ``min p50 p90 p99 n``), ``reliable``, ``accuracy``, ``difference`` |
| | and ``not_measured``: ``latency`` and ``accuracy`` → why |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import targets, tasks
from edgekit.checkpoint import catalog
from edgekit.errors import InputError, command_line
from edgekit.runtime.predictor import STAGES
from edgekit.spec import SCALES, ModelSpec

if TYPE_CHECKING:
    from edgekit.data.dataset import Dataset

SCHEMA = 1
KIND = "table"
TABLE = command_line("table", out="FILE.json")

Row = dict[str, Any]

# ---- beside the published figures -------------------------------------------------------------------------------


def counted_differences(row: Row) -> dict[str, float]:
    """Counted minus published, relative: ``{"parameters": 0.0009, "flops": -0.0018}``. FLOPs are published for one size
    only; at others there is no difference to tell."""
    published = row["published"] or {}
    found = {}
    if "parameters_m" in published:
        found["parameters"] = row["parameters"] / 1e6 / published["parameters_m"] - 1
    if "flops_g" in published and row["imgsz"] == [tasks.get(row["task"]).imgsz] * 2:
        found["flops"] = row["flops_g"] / published["flops_g"] - 1
    return found


def differences(row: Row, target: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Measured minus published, each with what forbids calling the two comparable (``unlike``; empty: nothing).

    ``accuracy``: ``value``, a fraction; ``latency``: ``ms`` of the network, which is what was published. What was not
    measured or not published has no entry.
    """
    spec = catalog.build_spec(row["scale"], row["task"], row["family"])
    source, published = catalog.published_source(spec), row["published"] or {}
    side = tasks.get(row["task"]).imgsz
    sized = [] if row["imgsz"] == [side, side] else [f"{row['imgsz'][0]}x{row['imgsz'][1]} px"]
    found: dict[str, Any] = {}
    accuracy = figures.get("accuracy")
    if accuracy and accuracy["metric"] in published:
        unlike = list(sized)
        if accuracy["images"] != source["images"] or source["set"] not in accuracy["set"]:
            unlike.append(f"{accuracy['images']} images of {accuracy['set']}")
        found["accuracy"] = {"value": accuracy["value"] - published[accuracy["metric"]], "unlike": unlike}
    if "network_ms" in figures and "t4_fp16_ms" in published:
        gpus = [str(gpu.get("model")) for gpu in row["machine"].get("gpus") or []]
        unlike = list(sized)
        if target != source["target"]:
            unlike.append(target)
        on_gpu = target in targets.names() and targets.get(target).gpu
        if not any(source["hardware"] in gpu.split() for gpu in gpus) or not on_gpu:
            cpu = row["machine"]["cpu"].get("model") or "a CPU"
            unlike.append(gpus[0] if gpus and on_gpu else cpu)
        found["latency"] = {"ms": figures["network_ms"]["p50"] - published["t4_fp16_ms"], "unlike": unlike}
    return found


def published_source(spec: ModelSpec) -> dict[str, Any]:
    """Where the published figures of such models are from and what they were measured on; empty: nothing is."""
    return {k: v for k, v in catalog.published_source(spec).items() if k not in SCALES}


def set_name(dataset: Dataset) -> str:
    """A set's name without the folders it lies in: ``bccd, val``; ``coco_mix, instances_val2017``."""
    source = dataset.source
    if source.suffix == ".json":
        folder = source.resolve().parent
        folder = folder.parent if folder.name == "annotations" else folder
        return f"{folder.name}, {source.stem}"
    place = source.resolve().parent if source.is_file() else source.resolve()
    return f"{place.name}, {dataset.split}"


# ---- reading it again -------------------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Any]:
    """A table's document from its file, checked.

    Raises:
        InputError: unreadable, or not a table of this schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable results file ({error}); write one with {TABLE}") from None
    return check(document, str(path))


def check(document: Any, source: str) -> dict[str, Any]:
    """``document`` after looking at everything that is printed from it; ``source`` names it in errors.

    Raises:
        InputError: not a table, another schema, or figures that cannot be.
    """
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{source}: not a table of results; write one with {TABLE}")
    if document.get("schema") != SCHEMA:
        raise InputError(f"{source}: table schema {document.get('schema')!r}, this edgekit reads {SCHEMA}")
    try:
        _check_rows(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{source}: not a sane table ({type(error).__name__}: {error}); measure it again") from error
    return document


def _check_rows(document: Mapping[str, Any]) -> None:
    if not document["rows"]:
        raise ValueError("it has no rows")
    known = catalog.build_spec("n", document["task"], document["family"])
    if document["source"] != published_source(known):
        raise ValueError("the source it gives of published figures is not that of benchmarks/published.toml")
    for row in document["rows"]:
        if any(row[key] != document[key] for key in ("family", "task", "imgsz")):
            raise ValueError(f"{row['name']}: of another family, task or size than the table")
        spec = catalog.build_spec(row["scale"], row["task"], row["family"])
        if row["published"] != catalog.published(spec):
            raise ValueError(f"{spec.name}: what it calls published is not what benchmarks/published.toml says")
        _sane(row["parameters"], 1e5, 1e9, f"{spec.name}: parameters")
        _sane(row["flops_g"], 1e-3, 1e5, f"{spec.name}: FLOPs")
        for path in (("cpu", "model"), ("packages",), ("os", "system")):
            value = row["machine"]
            for key in path:
                value = value[key]
        if set(row["measured"]) != set(document["targets"]):
            raise ValueError(f"{spec.name}: measured {sorted(row['measured'])} of {document['targets']}")
        for target, figures in row["measured"].items():
            _check_figures(figures, f"{spec.name} {target}")
            scored = figures.get("accuracy")
            if scored and scored["set"] != document["set"]["name"]:
                raise ValueError(f"{spec.name} {target}: scored on {scored['set']}, the table on another set")
            _check_difference(figures["difference"], differences(row, target, figures), f"{spec.name} {target}")
        _check_difference(row["difference"], counted_differences(row), spec.name)


def _check_figures(figures: Mapping[str, Any], what: str) -> None:
    missing = figures["not_measured"]
    for key, has in (("latency", "network_ms" in figures), ("accuracy", bool(figures.get("accuracy")))):
        if has == bool(missing.get(key)):
            raise ValueError(f"{what}: {key} must be measured, or say why not")
    if "network_ms" in figures:
        for stage in STAGES:
            times = figures[stage]
            _sane(times["p50"], 0, 1e7, f"{what}: {stage}")
            if not times["min"] <= times["p50"] <= times["p90"] <= times["p99"] or times["n"] < 1:
                raise ValueError(f"{what}: the percentiles of {stage} are out of order")
        if figures["reliable"] != (not figures["disturbances"]):
            raise ValueError(f"{what}: reliable and its disturbances contradict each other")
        _sane(figures["network_ms"]["p50"], 1e-3, figures["whole_ms"]["max"] * 1.01, f"{what}: network_ms")
    if figures.get("accuracy"):
        _sane(figures["accuracy"]["value"], 0, 1, f"{what}: accuracy")
        _sane(figures["accuracy"]["images"], 1, 1e9, f"{what}: images")


def _check_difference(said: Any, computed: Any, what: str) -> None:
    """The same words, and the same numbers within rounding."""
    alike = isinstance(said, type(computed))
    if isinstance(computed, dict):
        alike = alike and said.keys() == computed.keys()
        for key in computed if alike else ():
            _check_difference(said[key], computed[key], what)
    elif isinstance(computed, float):
        alike = alike and abs(said - computed) < 1e-6
    elif said != computed:
        alike = False
    if not alike:
        raise ValueError(f"{what}: a difference that is not measured minus published")


def _sane(value: Any, low: float, high: float, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{what} cannot be {value!r}")
