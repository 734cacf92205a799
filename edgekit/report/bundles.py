"""Models held against each other: times, accuracy class by class, images they differ on, and what manifests say.

    found = compare([Path("ov-fp16"), Path("ov-int8")], Request(data=Path("bccd/data.yaml")))
    found["verdict"].headline

The first model is the baseline. Whatever ``predict`` opens will do, models of other tools included; what a build proved
only bundles know. What was measured before (``bench --json``, ``val --json``) is taken from its file instead of being
measured again, for the models it names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import tasks
from edgekit.bench import machine
from edgekit.bench.clock import ClockOptions
from edgekit.bench.gate import load_results
from edgekit.bench.profile import profile
from edgekit.bench.run import bench
from edgekit.bundle.loading import open_session
from edgekit.data.dataset import Dataset
from edgekit.data.open import open_split
from edgekit.errors import EdgekitError, InputError, UsageError, command_line
from edgekit.report.pictures import differences
from edgekit.report.request import Request
from edgekit.report.table_results import set_name
from edgekit.report.table_text import METRICS, machine_name
from edgekit.report.verdict import verdict
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.runtime.options import OpenOptions
from edgekit.runtime.predictor import STAGES, Predictor
from edgekit.spec import Json, ModelInfo, Session
from edgekit.verify.images import images_for

LOOKED_AT = 120  # images that differences are looked for in, at most

Say = Callable[[str], None]
Context = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """One of those compared: its ``manifest`` is empty where it is no bundle, ``session`` None where it cannot run
    here, and ``named`` says whether the class names are its own."""

    path: Path
    target: str
    info: ModelInfo
    manifest: Json
    session: Session | None = None
    named: bool = True

    @property
    def megabytes(self) -> float:
        """Of its files."""
        files = [self.path / name for name in self.manifest.get("files", [])]
        if not files:
            beside = self.path.with_suffix(".bin") if self.path.suffix == ".xml" else self.path
            files = sorted(self.path.iterdir()) if self.path.is_dir() else sorted({self.path, beside})
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def compare(
    paths: Sequence[Path], request: Request, say: Say = lambda _: None, how: OpenOptions | None = None
) -> Context:
    """Everything the page shows about ``paths``, the first being the baseline.

    Args:
        how: how models that are no bundles are opened.

    Raises:
        InputError: a model or a results file cannot be read, or the set does not fit.
        UsageError: a model given twice, or models of different tasks or classes.
    """
    how = replace(how or OpenOptions(), threads=request.threads)
    notes: list[str] = []
    with ExitStack() as stack:
        opened = [_opened(path, how, stack, notes) for path in paths]
        _check_alike(opened)
        models = dict(zip(_names(opened), opened, strict=True))
        predictors = {
            name: stack.enter_context(Predictor(model.session)) for name, model in models.items() if model.session
        }
        info, data = opened[0].info, request.data
        own = next((model.info.names for model in opened if model.named), None)
        dataset = open_split(data, info.task, request.split, request.images, own) if data else None
        records = _times(predictors, models, request, dataset, say, notes)
        profiles = _profiles(predictors, request, dataset, say)
        scores = _accuracies(predictors, models, request, dataset, say, notes)
        pairs = _pairs(list(models), predictors, request, dataset, say)
    entries = [
        _entry(name, model, records.get(name), profiles.get(name), scores.get(name)) for name, model in models.items()
    ]
    _against_first(entries, notes)
    about = next((r["machine"] for r in records.values()), None) or machine.describe()
    kind = "bundles" if all(model.manifest for model in opened) else "models"
    return {
        "title": " and ".join(models) if len(models) < 3 else f"{len(models)} {kind}",
        "task": info.task,
        "entries": entries,
        "verdict": verdict(entries, request.max_drop),
        "max_drop": request.max_drop,
        "pairs": pairs,
        "classes": class_rows(entries),
        "machine": about,
        "machine_name": machine_name(about),
        "notes": notes,
        "licenses": sorted({model.info.license for model in opened if model.info.license}),
    }


def _opened(path: Path, how: OpenOptions, stack: ExitStack, notes: list[str]) -> Model:
    """One model, its session closed with ``stack``; of a bundle that cannot run here what its manifest says."""
    found = read_bundle(path) if is_bundle(path) else None
    try:
        if found is not None:
            session = open_session(path, threads=how.threads)
        else:
            session = open_session(path, how, foreign=True)
    except EdgekitError as error:
        if found is None:
            raise
        notes.append(f"{path.name} cannot run here ({error}); its manifest is all there is.")
        return Model(path, found.target, found.info, found.manifest)
    stack.callback(session.close)
    return Model(path, session.target, session.info, found.manifest if found else {}, session, session.named)


def _check_alike(opened: Sequence[Model]) -> None:
    first = opened[0]
    for place, other in enumerate(opened[1:], 1):
        if any(other.path.resolve() == before.path.resolve() for before in opened[:place]):
            raise UsageError(f"report: {other.path} is given twice")
        if other.info.task != first.info.task:
            tasks_of = f"{first.path} is for {first.info.task}, {other.path} for {other.info.task}"
            raise UsageError(f"report: {tasks_of}; only models of one task compare")
        unnamed = not (first.named and other.named) and len(other.info.names) == len(first.info.names)
        if other.info.names != first.info.names and not unnamed:
            raise UsageError(
                f"report: {first.path} has {_some(first.info.names)}, {other.path} has {_some(other.info.names)}; "
                "only models with the same classes compare"
            )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"


def _names(opened: Sequence[Model]) -> list[str]:
    """Targets where they tell the models apart, else the names of files and folders."""
    for names in ([m.target for m in opened], [m.path.resolve().name for m in opened]):
        if len(set(names)) == len(names):
            return names
    return [str(m.path) for m in opened]


def _pictures(request: Request, dataset: Dataset | None, most: int) -> list[Any]:
    """Paths of real images, spread over the set; generated ones where none were given."""
    if dataset is not None:
        return [sample.path for sample in dataset.spread(most)]
    return list(images_for(request.images, None, most))


def _times(
    predictors: Mapping[str, Predictor],
    opened: Mapping[str, Model],
    request: Request,
    dataset: Dataset | None,
    say: Say,
    notes: list[str],
) -> dict[str, dict[str, Any]]:
    """Name → bench record, measured here or taken from ``request.results``."""
    if request.results is not None:
        records = load_results(request.results)
        places = {str(Path(str(r["artifact"])).resolve()): r for r in records}
        found = {n: dict(places[key]) for n, b in opened.items() if (key := str(b.path.resolve())) in places}
        if not found:
            raise InputError(f"{request.results}: holds times of none of these models, but of {', '.join(places)}")
        notes += [f"{name}: no times in {request.results.name}" for name in opened if name not in found]
        return found
    if request.budget <= 0 or not predictors:
        notes.append("No times were measured (`budget` 0).")
        return {}
    say("timing, side by side")
    images = images_for(None if dataset else request.images, dataset)
    options = ClockOptions(budget_s=request.budget * len(predictors))
    measured = bench(predictors, images, options, progress=lambda share, what: say(f"timing, {share:.0%}: {what}"))
    return {str(record["artifact"]): record for record in measured}


def _profiles(
    predictors: Mapping[str, Predictor], request: Request, dataset: Dataset | None, say: Say
) -> dict[str, dict[str, Any]]:
    found = {}
    [image, *_] = images_for(None if dataset else request.images, dataset, 1)
    for name, predictor in predictors.items():
        if request.budget > 0:
            say(f"profiling {name}")
            with suppress(UsageError):  # its runtime keeps no profile
                found[name] = profile(predictor, [image])
    return found


def _accuracies(
    predictors: Mapping[str, Predictor],
    opened: Mapping[str, Model],
    request: Request,
    dataset: Dataset | None,
    say: Say,
    notes: list[str],
) -> dict[str, dict[str, Any]]:
    """Name → ``metric metric_name value metrics per_class images set protocol``; measured, or from val files."""
    found: dict[str, dict[str, Any]] = {}
    for path in request.val:
        document = _val_document(path)
        place = Path(str(document["model"])).resolve()
        name = next((n for n, b in opened.items() if b.path.resolve() == place), None)
        if name is None:
            raise InputError(f"{path}: accuracy of {document['model']}, which is none of these models")
        found[name] = _scored(document, opened[name].info.task, f"the set of {path.name}")
    if dataset is not None:
        from edgekit.verify.evaluate import evaluate, labels_for

        for name, predictor in predictors.items():
            if name not in found:
                say(f"accuracy of {name}")
                known = labels_for(predictor.session, dataset)
                found[name] = _scored(evaluate(predictor, known).to_dict(), dataset.task, set_name(dataset))
    if not found:
        notes.append(
            "Accuracy was not measured: give a labelled set with `data`, or results of edgekit val with `val`."
        )
    return found


def _val_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["model"], document["metrics"]["per_class"], document["images"], document["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not results of {command_line('val', json=True)} ({error})") from None
    return dict(document)


def _scored(document: Mapping[str, Any], task: str, where: str) -> dict[str, Any]:
    metric = tasks.get(task).metric
    metrics = {k: v for k, v in document["metrics"].items() if isinstance(v, (int, float))}
    if metric not in metrics:
        raise InputError(f"results of edgekit val without {metric}: they are of another task")
    return {
        "metric": metric,
        "metric_name": METRICS.get(metric, metric),
        "value": float(metrics[metric]),
        "metrics": metrics,
        "per_class": document["metrics"]["per_class"],
        "images": document["images"],
        "set": where,
        "protocol": document["protocol"],
    }


def _pairs(
    names: Sequence[str], predictors: Mapping[str, Predictor], request: Request, dataset: Dataset | None, say: Say
) -> list[dict[str, Any]]:
    """For each other model the images it differs on from the first; real images only."""
    if names[0] not in predictors or request.pictures < 1 or (dataset is None and request.images is None):
        return []
    images = _pictures(request, dataset, LOOKED_AT)
    others = [name for name in names[1:] if name in predictors]
    found = []
    for name in others:
        say(f"looking for images where {name} differs")
        most = max(request.pictures // len(others), 1)
        pairs, differ, looked = differences(predictors[names[0]], predictors[name], images, most)
        found.append({"name": name, "pairs": pairs, "differ": differ, "looked": looked})
    return found


def _entry(
    name: str,
    opened: Model,
    record: Mapping[str, Any] | None,
    profiled: Mapping[str, Any] | None,
    scored: Mapping[str, Any] | None,
) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "name": name,
        "target": opened.target,
        "folder": opened.path.resolve().name,
        "imgsz": "x".join(map(str, opened.info.imgsz)),
        "head": opened.info.head,
        "megabytes": opened.megabytes,
        "manifest": manifest,
        "at_build": at_build(manifest),
        "record": record,
        "stages": {stage: record[stage] for stage in STAGES} if record else None,
        "ms": record["whole_ms"]["p50"] if record else None,
        "disturbances": list(record.get("disturbances", [])) if record else [],
        "profile": profiled,
        "accuracy": scored,
        "ratio": None,
        "points": None,
        "where": "",
    }


def at_build(manifest: Mapping[str, Any]) -> list[str]:
    """What a build measured, in sentences: calibration, accuracy, speed; a manifest without them says nothing."""
    said = []
    if isinstance(found := manifest.get("calibration"), Mapping):
        said.append(
            f"Calibrated on {found.get('images', '?')} images of {found.get('set', '?')}"
            f"{', split ' + str(found['split']) if found.get('split') else ''}."
        )
        said += [f"{str(found['warning']).capitalize()}."] if found.get("warning") else []
    if isinstance(found := manifest.get("accuracy"), Mapping) and {"before", "after", "drop_points"} <= found.keys():
        metric, lost = str(found.get("metric")), float(found["drop_points"])
        said.append(
            f"{METRICS.get(metric, metric)} {100 * found['before']:.2f} in floating point, {100 * found['after']:.2f} "
            f"as built: {abs(lost):.2f} points {'lost' if lost >= 0 else 'gained'}, "
            f"{found.get('limit_points', 0):g} may be lost; on {found.get('images', '?')} images "
            f"of {found.get('on', '?')}."
        )
        back = found.get("put_back") or []
        said.append(f"Put back to floating point for that: {', '.join(back)}." if back else "No part was put back.")
    if isinstance(found := manifest.get("speed"), Mapping) and "speedup" in found:
        doubt = "" if found.get("reliable") else "; the machine was not quiet, so this is not reliable"
        said.append(
            f"{found['speedup']:.2f} times as fast as {found['against']} "
            f"({found['low']:.2f} to {found['high']:.2f}){doubt}."
        )
    return said


def _against_first(entries: Sequence[dict[str, Any]], notes: list[str]) -> None:
    """Fill in what compares with the first entry: paired ratios where they were measured, points of accuracy."""
    base = entries[0]
    for entry in entries[1:]:
        record = entry["record"]
        if record and base["record"]:
            paired = record.get("ratio") if record.get("baseline") == base["record"]["artifact"] else None
            entry["ratio"] = paired["whole_ms"] if paired else None
            if not paired:
                notes.append(
                    f"{entry['name']}: its times are not from one run with those of {base['name']}, so no ratio."
                )
        if entry["accuracy"] and base["accuracy"]:
            if entry["accuracy"]["images"] != base["accuracy"]["images"]:
                notes.append(f"{entry['name']} and {base['name']} were scored on different images: no difference.")
            else:
                scored = entry["accuracy"]
                entry["points"] = 100 * (scored["value"] - base["accuracy"]["value"])
                entry["where"] = f"{scored['metric_name']} on {scored['images']} images of {scored['set']}"
        built = entry["manifest"].get("accuracy")
        if entry["points"] is None and isinstance(built, dict) and built.get("kind") == "labels":
            entry["points"] = -float(built["drop_points"])
            entry["where"] = f"{built['metric']} at its build, on {built['images']} images of {built['on']}"


def class_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per class of the set: objects, then each entry's figure; the largest loss first."""
    scored = [e for e in entries if e["accuracy"]]
    if not scored:
        return []
    metric = scored[0]["accuracy"]["metric"]
    by_class = [{row["class"]: row for row in e["accuracy"]["per_class"]} for e in scored]
    rows = []
    for name, first in by_class[0].items():
        values = [table.get(name, {}).get(metric) for table in by_class]
        known = [v for v in values[1:] if v is not None]
        worst = min((v - values[0] for v in known), default=0.0) if values[0] is not None else 0.0
        rows.append({"name": name, "objects": first.get("instances"), "values": values, "worst": worst})
    return sorted(rows, key=lambda row: row["worst"])
