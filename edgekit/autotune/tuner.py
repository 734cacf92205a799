"""Builds, times and judges candidates as ``select.py`` asks for it.

    with Tuner(job, folder, pictures, wish, say) as contest:
        outcome = choose(entries, contest.clock, contest.judge, limit)
        contest.bundles["ov-int8"]          # the winner's folder, built as `edgekit build --target ov-int8` builds it

INT8 is first built on a few images and judged by nobody, since its speed depends on neither: only what turns out fast
enough to win is calibrated and judged in full.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets
from edgekit.autotune import Candidate, Objective
from edgekit.autotune.select import Judged, Time
from edgekit.bench.clock import WHOLE, ClockOptions, Comparison, measure
from edgekit.bench.run import REST_S
from edgekit.bundle import build as building
from edgekit.bundle import fitted, gates, loading, pruned
from edgekit.bundle.exports import Exports, with_candidates
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import View
from edgekit.errors import EdgekitError, GateError
from edgekit.quantize import QuantizeOptions
from edgekit.quantize.pictures import JUDGED
from edgekit.quantize.sets import Sets, open_sets
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.sources import read_images
from edgekit.spec import ModelInfo, Session
from edgekit.verify import accuracy, operating, parity
from edgekit.verify.images import TIMED_ON, images_for

SHORT_S, LONG_S = 1.5, 6.0  # seconds a candidate gets in a race that prunes, and in the last one
_ABOUT = ("metric", "kind", "on", "images")
PASSES = 2  # of every stream over its batch, in one timed call

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What every candidate is built from and with: as ``bundle.build`` takes them. ``sets`` has what all are judged on,
    where it is settled: what the options' data holds, else their ``images``, else generated ones. ``view`` is what the
    camera shows."""

    source: Path
    options: BuildOptions
    sets: Sets | None = None
    view: View | None = None


class Tuner:
    """Bundles in a scratch folder, the sessions that are open, and what was measured."""

    def __init__(
        self, job: Job, folder: Path, wish: Objective, say: Say = lambda _: None, seconds: float = 1.0
    ) -> None:
        self.job, self.folder, self.wish, self.say, self.seconds = job, folder, wish, say, seconds
        self.bundles: dict[str, Path] = {}  # built in full
        self._exports = Exports(folder)
        self.last: Comparison | None = None
        self.trials: dict[str, Path] = {}  # of every bundle what is timed until it is built in full
        self._open: dict[str, tuple[Path, ExitStack, list[Predictor]]] = {}
        self._entries: dict[str, Candidate] = {}
        self._judge: accuracy.Evaluator | None = None
        self._before = accuracy.Measured(0.0)
        self.variants: dict[str, Path] = {}  # checkpoints that candidates of that variant are built from
        self.left_out: dict[str, pruned.Pruned] = {}  # of those that are pruned
        self._about: dict[str, Any] = {}
        self._sets = job.sets
        self._pictures: list[np.ndarray] = []
        self._reference: str | None = None  # the bundle that is the float model itself

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(())

    def build(self, entries: Sequence[Candidate]) -> dict[str, str]:
        """Something to time of every candidate's bundle: of INT8 a trial, of others the bundle itself.

        Returns:
            Bundle -> why it could not be built.

        Raises:
            InputError: the float model finds nothing on what agreement with it is to be measured on.
        """
        self._entries |= {entry.name: entry for entry in entries}
        refused = {}
        for entry in {entry.bundle: entry for entry in entries}.values():
            try:
                self.trials[entry.bundle] = self._built(entry, trial=targets.get(entry.target).int8)
            except EdgekitError as error:
                refused[entry.bundle] = str(error)
                continue
            if not targets.get(entry.target).int8:
                self.bundles[entry.bundle] = self.trials[entry.bundle]
                self._reference = "ort-fp32" if "ort-fp32" in self.bundles else None
                if self._sets is not None and self._sets.labelled is None:
                    self.judge_of(self.bundles[entry.bundle])  # what proves nothing is said at once
        return refused

    def fitting(self, entries: Sequence[Candidate]) -> list[Candidate]:
        """The same candidates in the input sizes that fit the view; none where there is no view, or nothing smaller."""
        view, job = self.job.view, self.job
        if view is None:
            return []
        base = self.base()[0]
        found = {}
        for name in dict.fromkeys(entry.target for entry in entries):
            fit = fitted.fitting(self._exports, job.source, job.options, view, targets.get(name))
            found[name] = () if fit.shapes == (base,) else fit.shapes
            for note in fit.notes:
                self.say(f"{note} ({name})" if len(fit.shapes) == 1 else note)
        return [dataclasses.replace(entry, shapes=found[entry.target]) for entry in entries if found[entry.target]]

    def base(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The input size of the float model, and its areas of attention."""
        areas = self._exports.checkpoint(self.job.source).spec.areas
        return fitted.size_of(self._exports, self.job.source, self.job.options), areas

    def pruned(self, variant: str, name: str, size: tuple[int, int], limit: float) -> Path:
        """The checkpoint of ``variant`` without what it can do without, called ``name`` (see ``bundle/pruned.py``).

        Raises:
            InputError: there is nothing to rank on, or nothing can be left out.
        """
        loaded = self._exports.checkpoint(self.variants.get(variant, self.job.source))
        made = pruned.prune(loaded, self.folder / f"{name}.pt", size, self._sets or Sets(), limit, self.say)
        self.left_out[name] = made
        return made.path

    def shapes(self, target: str, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """The input sizes that show the view at the scale of ``size``; that itself where there is no view."""
        job = self.job
        if job.view is None:
            return (size,)
        options = dataclasses.replace(job.options, imgsz=size)
        return fitted.fitting(self._exports, job.source, options, job.view, targets.get(target)).shapes

    def _built(self, entry: Candidate, trial: bool, limit: float | None = None) -> Path:
        asked = self.job.options.quantize
        asked = asked if limit is None else dataclasses.replace(asked, max_drop=limit)
        source = self.variants.get(entry.variant, self.job.source)
        narrow = targets.get(entry.target).int8
        quantize = dataclasses.replace(asked, judged=not trial, timing_s=0) if narrow else QuantizeOptions()
        out = self.folder / (entry.bundle.replace(", ", "-").replace(" ", "-") + ("-trial" if trial else ""))
        self.say(f"building {entry.bundle}{' (a trial, to time)' if trial else ''}")
        options = dataclasses.replace(self._options(), batch=entry.batch, quantize=quantize)
        if entry.shapes:
            given = source, entry.target, out, entry.shapes, options
            fitted.assemble(*given, lambda _: None, self._exports, self.job.sets)
        else:
            building.build(source, entry.target, out, options, exports=self._exports, sets=self.job.sets)
        return out

    def _options(self) -> BuildOptions:
        """With candidates of every bundle alike: as many as were asked for, else what the set's crowding needs."""
        job = self.job
        return with_candidates(job.options, None, self._exports.crowding(job.source, job.options, job.sets))

    # ---- time ----------------------------------------------------------------------------------------------------

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> dict[str, Time]:
        """Milliseconds an image of the candidates called ``names``, in turns (see ``choose.Clock``)."""
        self._close(names)
        for name in names:
            self._opened(name)
        images, call = self._work(names)
        calls = {name: call(name) for name in names}
        budget = self.seconds * (LONG_S if last else SHORT_S) * len(names)
        lead = 1 if self.wish.goal == "latency" else 0  # a call of many images leads in by itself
        rounds = 30 if last else 8
        options = ClockOptions(budget_s=budget, min_rounds=rounds, rest_s=REST_S, lead_in=lead)
        self.say(f"timing {len(names)} candidates, {budget:.0f} s at most")
        self.last = found = measure(calls, images, options, baseline=baseline)
        per = self._images_a_call(names)
        times = {}
        for name in names:
            whole, ratio = found.stages[name][WHOLE], found.ratios.get(name, {}).get(WHOLE)
            ratios = (ratio["ratio"], ratio["low"], ratio["high"]) if ratio else (1.0, 1.0, 1.0)
            times[name] = Time(whole["p50"] / per, whole["p50_low"] / per, whole["p50_high"] / per, *ratios)
        return times

    def _opened(self, name: str) -> list[Predictor]:
        """The candidate's predictors: reopened where its full bundle has taken the place of the trial."""
        entry = self._entries[name]
        path = self.bundles.get(entry.bundle, self.trials[entry.bundle])
        if name in self._open and self._open[name][0] != path:
            self._open.pop(name)[1].close()
        if name not in self._open:
            stack = ExitStack()
            if entry.streams == 1:
                sessions = [loading.open_session(path, threads=entry.threads)]
            else:
                each = entry.threads and max(entry.threads // entry.streams, 1)
                sessions = loading.open_streams(path, entry.streams, threads=each)
            predictors = [stack.enter_context(Predictor(session)) for session in sessions]
            self._open[name] = path, stack, predictors
        return self._open[name][2]

    def _close(self, but: Sequence[str]) -> None:
        for name in [name for name in self._open if name not in but]:
            self._open.pop(name)[1].close()

    def _images_a_call(self, names: Sequence[str]) -> int:
        if self.wish.goal == "latency":
            return 1 if all(self._entries[n].batch == 1 for n in names) else self._entries[names[0]].batch
        each = [self._entries[name].streams * self._entries[name].batch for name in names]
        return PASSES * int(np.lcm.reduce(each))

    def _work(self, names: Sequence[str]) -> tuple[list[Any], Callable[[str], Callable[[Any], Any]]]:
        """Items for the clock, and a function from a name to its callable: the same images for everybody."""
        pictures = self.pictures(self._open[names[0]][2][0].info)
        count = self._images_a_call(names)
        items = [[pictures[(i + k) % len(pictures)] for k in range(count)] for i in range(len(pictures))]
        if self.wish.goal == "latency":
            return items, lambda name: self._open[name][2][0].predict
        return items, lambda name: _streaming(self._open[name][2], self._entries[name].batch)

    # ---- accuracy ------------------------------------------------------------------------------------------------

    def judge(self, entry: Candidate, limit: float | None = None) -> Judged:
        """The candidate's bundle in full, and what it loses against the float model.

        Args:
            limit: points that the bundle may lose against the float model in its own input size, where that is not
                ``max_drop``.
        """
        try:
            if entry.bundle not in self.bundles:
                self.bundles[entry.bundle] = self._built(entry, trial=False, limit=limit)
            path = self.bundles[entry.bundle]
            row = read_bundle(path, verify=False).manifest.get("accuracy")
            if row is not None and not entry.shapes:
                self._about |= {key: row[key] for key in _ABOUT} | {"float": row["before"]}
                return Judged(row["after"], row["drop_points"])
            judge = self.judge_of(path)
            if entry.bundle == self._reference:
                return Judged(self._before.value, 0.0)
            session = loading.open_session(path)
            after = judge.measure(session)
            session.close()
            return self._compared(after)
        except GateError as error:
            row = error.evidence.get("accuracy")
            if isinstance(row, dict) and row.get("tried"):
                least = min(row["tried"], key=lambda trial: float(trial["drop_points"]))
                return Judged(least["after"], least["drop_points"], str(error))
            return Judged(None, None, str(error))

    def _compared(self, after: accuracy.Measured) -> Judged:
        """With F1 and the class that loses most, whose limits refuse where they were asked for."""
        before = self._before
        found = operating.compared(before, after, gates.limits_of(self.job.options.quantize))
        return Judged(after.value, 100 * (before.value - after.value), scores=found.row, over=found.beside_metric())

    def judge_of(self, path: Path) -> accuracy.Evaluator:
        """Labels where there are some, else agreement with the float model; the float model is scored once."""
        if self._judge is None:
            info = read_bundle(path, verify=False).info
            own = self.bundles.get(self._reference or "")
            reference = loading.open_session(
                own or self.job.source, imgsz=self._size(info), head=info.head, candidates=info.candidates
            )
            self._judge = self._made(reference, info)
            self.say("judging the float model")
            self._before = self._judge.measure(reference)
            reference.close()
        return self._judge

    def _size(self, info: ModelInfo) -> tuple[int, int]:
        """Of the float model: what is built has others where it fits a view."""
        shaped = any(entry.shapes for entry in self._entries.values())
        return fitted.size_of(self._exports, self.job.source, self.job.options) if shaped else info.imgsz

    def _made(self, reference: Session, info: ModelInfo) -> accuracy.Evaluator:
        sets, images = self._opened_sets(info), self.job.options.images
        if sets is not None and sets.labelled is not None:
            return accuracy.by_labels(sets.labelled)
        if sets is not None:
            return accuracy.check_seen(accuracy.by_agreement(sets.unlabelled, reference, sets.on))
        view = self.job.view
        if view is not None and view.sources is not None:
            return accuracy.check_seen(accuracy.by_agreement(view.pictures(JUDGED), reference, view.given))
        if images:
            return accuracy.check_seen(accuracy.by_agreement(read_images(images, JUDGED), reference, "`images`"))
        return accuracy.by_agreement(parity.generated_images(), reference, "generated images")

    def _opened_sets(self, info: ModelInfo) -> Sets | None:
        asked = self.job.options.quantize
        if self._sets is None and (asked.sources or asked.calibration):
            self._sets = open_sets(asked, info.task, info.names, calibrate=False)
        return self._sets

    def accuracy(self) -> dict[str, Any]:
        """What was judged on what, and the float model's score, for the plan; empty before anything was."""
        if self._judge is None:
            return self._about
        seen = {} if self._judge.seen is None else {"seen": self._judge.seen}
        return {key: getattr(self._judge, key) for key in _ABOUT} | {"float": self._before.value} | seen

    def pictures(self, info: ModelInfo) -> list[np.ndarray]:
        """What is timed on: --images, else those of --data, else generated ones."""
        if not self._pictures:
            view = self.job.view
            sets = None if self.job.options.images else self._opened_sets(info)
            judged = sets.judged if sets is not None else None
            shown = view.pictures(TIMED_ON) if view is not None else []
            self._pictures = shown or images_for(self.job.options.images, judged)
        return self._pictures

    def take(self, entry: Candidate) -> Path:
        """The winner's folder; nothing is open in it any more."""
        self._close(())
        return self.bundles[entry.bundle]

    def discard(self) -> None:
        """Trials that have served."""
        for name, path in self.trials.items():
            if self.bundles.get(name) != path:
                shutil.rmtree(path, ignore_errors=True)


def _streaming(predictors: Sequence[Predictor], batch: int) -> Callable[[Sequence[np.ndarray]], None]:
    """A callable of a list of images that as many threads as there are predictors share, a batch at a time."""
    pool = ThreadPoolExecutor(len(predictors))

    def call(images: Sequence[np.ndarray]) -> None:
        groups = [images[i : i + batch] for i in range(0, len(images), batch)]
        shares = [groups[i :: len(predictors)] for i in range(len(predictors))]
        for done in [pool.submit(_predict_all, p, share) for p, share in zip(predictors, shares, strict=True)]:
            done.result()

    return call


def _predict_all(predictor: Predictor, groups: Sequence[Sequence[np.ndarray]]) -> None:
    for group in groups:
        predictor.predict(group)
