"""The model-scale table, measured on the machine at hand: scales x targets, each figure beside the published one.

    plan = Plan(scales=("n", "s"), targets=("ort-fp32", "ov-fp16"), weights=Path("weights"))
    document = measure(plan, pictures, dataset, state=Path("table.json.partial"))
    document["rows"][0]["measured"]["ov-fp16"]["network_ms"]["p50"]

A row is one scale: its checkpoint is built for every target, the bundles are timed side by side, and those very bundles
are scored. What cannot be measured is left out with the reason (``not_measured``), and the rest goes on. Each finished
row is kept in ``state``, so that a run of hours goes on where it stopped. ``table_results.py`` holds it against the
published figures and checks files of others; ``table_text.py`` writes it down for people.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets, tasks
from edgekit.bench import machine
from edgekit.bench.clock import ClockOptions
from edgekit.bench.run import Progress, bench
from edgekit.checkpoint import catalog
from edgekit.data.dataset import Dataset
from edgekit.errors import EdgekitError, InputError, MissingPackageError, UsageError, optional
from edgekit.quantize import QuantizeOptions, calibration
from edgekit.report.table_results import KIND, SCHEMA, Row, counted_differences, differences, published_source, set_name
from edgekit.runtime.atomic import replacing
from edgekit.runtime.image import prepare
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.runtime.predictor import STAGES, Predictor
from edgekit.spec import FAMILIES, SCALES, ModelSpec, sha256_file
from edgekit.verify import parity

NO_WEIGHTS = "no weights were given: the network is random, which serves for times only"
NO_DATA = "no labelled set was given"
CALM = 1.25  # of a random network, see checkpoint.recalibrate: its answers must survive the parity check

_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][^\\/\s:;,'\"()]+)+[\\/](?=[^\s])")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        scales: rows, in order.
        targets: the first is what ratios of times are against.
        family, task: which published table.
        imgsz: (height, width) in pixels; the published side by default.
        weights: folder of checkpoints named like the models (``yolo12n.pt``, ``yolo12s-seg.pt``); None: random ones.
        wishes: data, limits and calibration of INT8, as ``edgekit.bundle.build`` takes them.
        budget_s: of the clock, per target.
        width: of the intervals to reach, see ``clock.ClockOptions``.
        threads: of the CPU runtimes; None: their choice.
    """

    scales: tuple[str, ...] = SCALES
    targets: tuple[str, ...] = ("ort-fp32", "ov-fp32", "ov-fp16")
    family: str = "v1.0"
    task: str = "detect"
    imgsz: tuple[int, int] | None = None
    weights: Path | None = None
    wishes: QuantizeOptions | None = None
    budget_s: float = 20.0
    width: float = 0.03
    threads: int | None = None

    def __post_init__(self) -> None:
        for flag, given, known in (
            ("`scales`", self.scales, SCALES),
            ("`targets`", self.targets, targets.names()),
            ("`family`", (self.family,), FAMILIES),
        ):
            if not given or len(set(given)) < len(given):
                raise UsageError(f"{flag}: give at least one, each once; known: {', '.join(known)}")
            wrong = [g for g in given if g not in known]
            if wrong:
                raise UsageError(f"{flag} {wrong[0]}: not known; known: {', '.join(known)}")
        if self.family == "turbo" and self.task != "detect":
            raise UsageError(f"`family` turbo `task` {self.task}: edgekit has the turbo family for detect only")
        if self.weights is not None and not self.weights.is_dir():
            raise UsageError(f"`weights` {self.weights}: not a folder; give the one that holds the checkpoints")

    def spec(self, scale: str) -> ModelSpec:
        """The published architecture of one row."""
        return catalog.build_spec(scale, self.task, self.family)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        side = tasks.get(self.task).imgsz
        return self.imgsz or (side, side)


# ---- measuring --------------------------------------------------------------------------------------------------


def measure(
    plan: Plan,
    pictures: Sequence[Any],
    dataset: Dataset | None = None,
    state: Path | None = None,
    keep: Path | None = None,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every row of the plan that ``state`` does not hold yet; the JSON-ready document.

    Args:
        pictures: uint8 BGR arrays to time on.
        dataset: labelled images for accuracy; needs real weights.
        state: file that finished rows are kept in. It is left there: remove it when the document is safe.
        keep: folder to leave the bundles in, named ``yolo12n-ov-fp16``. Those it holds already are used again if they
            were made of the same weights, in the same size and with the same calibration.
        say: called with a line at each step.
        progress: of the clock.

    Raises:
        InputError: ``state`` is of another plan, or no image to time on.
        MissingPackageError: torch or onnx, which building needs, is not installed.
    """
    _checkpoints()
    identity = _identity(plan, pictures, dataset)
    rows = _kept_rows(state, identity)
    for scale in plan.scales:
        if any(row["scale"] == scale for row in rows):
            say(f"{plan.spec(scale).name}: kept from the interrupted run")
            continue
        rows.append(_row(plan, scale, pictures, dataset, keep, say, progress))
        if state is not None:
            with replacing(state) as partial:
                partial.write_text(json.dumps({"identity": identity, "rows": rows}) + "\n", encoding="utf-8")
    rows.sort(key=lambda row: plan.scales.index(row["scale"]))
    return {"schema": SCHEMA, "kind": KIND, **{k: v for k, v in identity.items() if k != "files"}, "rows": rows}


def _identity(plan: Plan, pictures: Sequence[Any], dataset: Dataset | None) -> dict[str, Any]:
    """What must agree for kept rows to be of use, and what a reader of the table wants to know; no paths."""
    files = [plan.wishes.calibration if plan.wishes else None]
    files += sorted(plan.weights.glob("*.pt")) if plan.weights else []
    return {
        "family": plan.family,
        "task": plan.task,
        "scales": list(plan.scales),
        "targets": list(plan.targets),
        "imgsz": list(plan.size),
        "budget_s": plan.budget_s,
        "threads": plan.threads,
        "timed_on": f"{len(pictures)} images",
        "set": None if dataset is None else {"name": set_name(dataset), "images": len(dataset)},
        "source": published_source(plan.spec("n")),
        "files": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f is not None and f.is_file()],
    }


def _kept_rows(state: Path | None, identity: Mapping[str, Any]) -> list[Row]:
    if state is None or not state.exists():
        return []
    try:
        kept = json.loads(state.read_text(encoding="utf-8"))
        rows: list[Row] = kept["rows"]
        same = kept["identity"] == identity
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{state}: not the rows of an interrupted table; remove it to start anew") from error
    if not same:
        raise InputError(f"{state}: rows of another table (options, weights or data differ); remove it to start anew")
    return rows


def _row(
    plan: Plan,
    scale: str,
    pictures: Sequence[Any],
    dataset: Dataset | None,
    keep: Path | None,
    say: Say,
    progress: Progress | None,
) -> Row:
    """One scale on every target."""
    spec = plan.spec(scale)
    row: Row = {"name": spec.name, "scale": scale, "family": plan.family, "task": plan.task, "imgsz": list(plan.size)}
    row |= _counts(spec, plan.size) | {"published": catalog.published(spec), "weights": None}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        try:
            source, row["weights"] = _weights(plan, spec, keep or scratch)
            row |= _counts(_checkpoints().load(source).spec, plan.size)
        except MissingPackageError:
            raise
        except EdgekitError as error:
            row["measured"] = {target: _nothing(error) for target in plan.targets}
        else:
            places = {t: scratch / t if keep is None else keep / f"{spec.name}-{t}" for t in plan.targets}
            row["measured"] = _measured(plan, spec.name, source, places, pictures, dataset, say, progress)
    row |= {"machine": machine.describe(), "difference": counted_differences(row)}
    for target, figures in row["measured"].items():
        figures["difference"] = differences(row, target, figures)
    return row


def _measured(
    plan: Plan,
    name: str,
    source: Path,
    places: Mapping[str, Path],
    pictures: Sequence[Any],
    dataset: Dataset | None,
    say: Say,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:
    """Target → figures of one checkpoint, whose bundles lie in ``places`` (target → folder) or are put there."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        predictors: dict[str, Predictor] = {}
        for target, place in places.items():
            try:
                predictors[target] = stack.enter_context(_open(plan, name, source, target, place, say))
            except EdgekitError as error:
                found[target] = _nothing(error)
        if predictors:
            say(f"{name}: timing")
            options = ClockOptions(width=plan.width, budget_s=plan.budget_s * len(predictors))
            found |= {r["target"]: _times(r) for r in bench(predictors, pictures, options, progress=progress)}
        for target, predictor in predictors.items():
            say(f"{name}: accuracy of {target}")
            found[target] |= _accuracy(predictor, dataset, plan.weights is not None) | _artifact(places[target])
    return {target: found[target] for target in plan.targets}


def _counts(spec: ModelSpec, size: tuple[int, int]) -> Row:
    """Parameters and FLOPs: from the data files for the published architecture, else counted from the network."""
    known = catalog.counted(spec)
    if spec == catalog.build_spec(spec.scale, spec.task, spec.family) and size == (known.get("imgsz"),) * 2:
        parameters, convolutions, attention = (known[k] for k in ("parameters", "convolution_flops", "attention_flops"))
    else:
        from edgekit.tasks import network

        flops = network.flops(spec, size)
        parameters = network.parameters(network.build(spec, "meta"))
        convolutions, attention = flops.convolutions, flops.attention
    return {
        "parameters": parameters,
        "flops_g": round(convolutions / 1e9, 3),
        "flops_with_attention_g": round((convolutions + attention) / 1e9, 3),
    }


def _checkpoints() -> Any:
    """The module that reads and makes checkpoints."""
    with optional("building from checkpoints", "train"):
        from edgekit import checkpoint
    return checkpoint


def _weights(plan: Plan, spec: ModelSpec, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The row's checkpoint and what it is; a random one is put into ``folder``.

    Raises:
        InputError: ``--weights`` has none for this scale, or one of another model.
    """
    if plan.weights is None:
        return random_checkpoint(spec, plan.size, folder / f"{spec.name}-random.pt"), {
            "file": None,
            "origin": "random, seed 0",
        }
    names = [f"{spec.name}.pt", f"{spec.name.replace('yolo12', 'yolov12')}.pt"]
    if spec.family == "turbo":  # as the authors' repository calls them
        names.append(f"yolov12{spec.scale}.pt")
    found = [plan.weights / name for name in names if (plan.weights / name).is_file()]
    if not found:
        raise InputError(f"no {names[0]} in {plan.weights.name}")
    own = _checkpoints().load(found[0])
    if (own.spec.scale, own.spec.task, own.spec.family) != (spec.scale, spec.task, spec.family):
        raise InputError(f"{found[0].name} holds a {own.spec.name} ({own.spec.family}), not a {spec.name}")
    return found[0], {"file": found[0].name, "sha256": sha256_file(found[0]), "license": own.license}


def random_checkpoint(spec: ModelSpec, size: tuple[int, int], path: Path) -> Path:
    """An untrained network whose answers depend on the image, as those of a trained one do. One that is at ``path``
    already stays: what was built from it is known by its hash."""
    checkpoint = _checkpoints()
    import torch

    if path.is_file() and checkpoint.load(path).spec == spec:
        return path
    made = checkpoint.new(spec, imgsz=size[0])
    batch, _ = prepare(parity.generated_images(), size, made.info().preprocess, 0)
    checkpoint.recalibrate(made, [torch.from_numpy(np.ascontiguousarray(batch))], damping=CALM)
    checkpoint.save(made, path)
    return path


def _open(plan: Plan, name: str, source: Path, target: str, place: Path, say: Say) -> Predictor:
    """The checkpoint built for ``target`` into the folder ``place``, unless that holds it already, and loaded.

    Raises:
        EdgekitError: why it could not be; a row's cell says so.
    """
    from edgekit.bundle.build import build
    from edgekit.bundle.loading import open_session
    from edgekit.bundle.options import BuildOptions

    reason = targets.get(target).missing()
    if reason:
        raise InputError(reason)
    narrow = bool(targets.get(target).narrowing) and plan.wishes is not None
    # Times are taken here, together; a random network has no accuracy to judge.
    wishes = replace(plan.wishes, timing_s=0.0, judged=plan.weights is not None) if narrow and plan.wishes else None
    if _is_of(place, source, target, plan.size, wishes):
        say(f"{name}: {target} is in {place} already")
    else:
        say(f"{name}: building {target}")
        build(source, target, place, BuildOptions(imgsz=plan.size, quantize=wishes or QuantizeOptions()))
    return Predictor(open_session(place, threads=plan.threads))


def _is_of(place: Path, source: Path, target: str, size: tuple[int, int], wishes: QuantizeOptions | None) -> bool:
    """Whether ``place`` is a bundle of this very checkpoint for this target, size and calibration."""
    if not is_bundle(place):
        return False
    made = read_bundle(place)
    calibrated = made.manifest.get("calibration", {}).get("sha256")
    wanted = calibrated
    if wishes and wishes.calibration and wishes.judged:  # what is not judged is calibrated on a part of the manifest
        wanted = calibration.read(wishes.calibration).sha256
    return (
        made.target == target
        and made.info.imgsz == size
        and made.manifest.get("provenance", {}).get("checkpoint_sha256") == sha256_file(source)
        and (not targets.get(target).int8 or calibrated == wanted)
    )


def _times(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("precision_executed", "precision_by_type", "ratio", "baseline", "rounds", "reliable", "disturbances")
    return {**{stage: record[stage] for stage in STAGES}, **{key: record[key] for key in kept}, "not_measured": {}}


def _accuracy(predictor: Predictor, dataset: Dataset | None, real: bool) -> dict[str, Any]:
    """``accuracy`` of this very session, or the reason it is ``not_measured``."""
    from edgekit.verify.evaluate import evaluate

    why = NO_WEIGHTS if not real else NO_DATA if dataset is None else None
    if why is None and dataset is not None:
        try:
            found = evaluate(predictor, dataset.with_names(predictor.info.names))
        except EdgekitError as error:
            why = _why(error)
        else:
            metric = tasks.get(dataset.task).metric
            figures = {"metric": metric, "value": found.scores.metrics[metric], "set": set_name(dataset)}
            more = {"images": found.images, "skipped": len(found.skipped), "protocol": found.protocol}
            return {"accuracy": figures | more}
    return {"not_measured": {"accuracy": why}}


def _artifact(folder: Path) -> dict[str, Any]:
    """What ties the figures to the artifact, and its size."""
    made = read_bundle(folder, verify=False)
    kept: dict[str, Any] = {k: made.manifest[k] for k in ("calibration", "evaluated") if k in made.manifest}
    provenance = made.manifest.get("provenance", {})
    size = sum((made.path / name).stat().st_size for name in made.manifest["files"])
    return {"bytes": size, "head": made.info.head, "versions": provenance.get("versions", {}), **kept}


def _nothing(error: EdgekitError) -> dict[str, Any]:
    return {"not_measured": dict.fromkeys(("latency", "accuracy"), _why(error)), "difference": {}}


def _why(error: EdgekitError) -> str:
    """The error's sentence without the folders of its paths: results are published."""
    return _FOLDERS.sub("", str(error))
