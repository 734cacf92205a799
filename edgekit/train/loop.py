"""Training, as one loop: batches, steps, validation, saving.

    result = train(Path("bccd/data.yaml"), "yolo12n", Path("runs/bccd"), TrainOptions(epochs=30, imgsz=(320, 320)))
    result.metrics["map50_95"]

What a batch holds depends on the seed, the epoch and its place alone, and the state is saved whole, so a run that was
killed anywhere goes on to the very same weights (on the CPU bit for bit; GPUs add in varying order).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from edgekit import catalog, checkpoint, tasks
from edgekit.checkpoint import Checkpoint
from edgekit.data import open_dataset
from edgekit.data.dataset import Dataset, shorten
from edgekit.errors import GateError, InputError, UsageError
from edgekit.evaluate import Evaluation, evaluate
from edgekit.nn.session import TorchSession
from edgekit.runtime.predictor import Predictor
from edgekit.train import memory, optim, report, start
from edgekit.train.augment import Augment
from edgekit.train.figures import results_csv
from edgekit.train.loader import Batch, Loader
from edgekit.train.options import TrainOptions
from edgekit.train.run import Folder, check_same, fingerprint, read_state

HOPELESS = 20  # steps in a row that were not finite


class Watcher(Protocol):
    """Who looks on. Every call may do nothing."""

    def note(self, sentence: str) -> None: ...
    def began(self, run: Run) -> None: ...
    def stepped(self, run: Run, terms: Mapping[str, float], images: int) -> None: ...
    def validating(self, done: int, of: int) -> None: ...
    def ended_epoch(self, run: Run, row: Mapping[str, float]) -> None: ...


class Silence:
    """A watcher that looks away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@dataclass
class Progress:
    """Where a run is; with the weights and the optimiser, all there is to resume.

    Attributes:
        epoch, step: the next batch: its epoch and its number in it.
        since: batches whose gradients wait for the next optimiser step (0 whenever the state is saved).
        sums, images: of the running epoch's loss terms, and images seen in it.
        history: a row per finished epoch.
        best, best_epoch: of the main metric.
        skipped_steps: optimiser steps left out because something was not finite; ``in_a_row`` of them just now.
        unread: sentences about images that could not be read.
    """

    epoch: int = 0
    step: int = 0
    since: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = -1
    skipped_steps: int = 0
    in_a_row: int = 0
    unread: list[str] = field(default_factory=list)


@dataclass
class Run:
    """Everything a run works with."""

    options: TrainOptions
    numbers: optim.Plan
    started: Checkpoint
    taken: start.Taken
    train: Dataset
    val: Dataset
    net: torch.nn.Module
    average: optim.Average
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: Any
    loader: Loader
    device: torch.device
    half: torch.dtype | None
    folder: Folder
    progress: Progress = field(default_factory=Progress)

    @property
    def metric(self) -> str:
        return tasks.get(self.started.spec.task).metric

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def state(self) -> dict[str, Any]:
        """All of it, for ``resume.pt``."""
        return {
            "options": self.options.to_dict(),
            "spec": self.started.spec.to_dict(),
            "names": list(self.started.names),
            "taken": {**vars(self.taken), "source": str(self.taken.source) if self.taken.source else None},
            "source": str(self.train.source),
            "data": fingerprint(self.train, self.val),
            "net": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dict(vars(self.progress)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.average.net.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        folder: the run's folder; ``best`` is the checkpoint to use.
        metrics: of the best checkpoint on the validation images.
        evaluation: the same in full, for figures.
        epochs: finished epochs; ``stopped`` says why when fewer than asked for.
        best_epoch: the epoch (from 1) the best checkpoint is from.
        skipped_steps: optimiser steps left out because something was not finite.
        unread: images that could not be read.
        taken: what came from an older checkpoint.
    """

    folder: Path
    best: Path
    metrics: dict[str, float]
    evaluation: Evaluation
    dataset: Dataset
    history: list[dict[str, float]]
    epochs: int
    best_epoch: int
    skipped_steps: int
    unread: list[str]
    taken: start.Taken
    stopped: str | None = None


def train(
    data: Path,
    model: str,
    out: Path,
    options: TrainOptions,
    task: str | None = None,
    images: Path | None = None,
    resume: bool = False,
    watch: Watcher | None = None,
) -> Result:
    """Train ``model`` on the set at ``data``; everything is written to the folder ``out``.

    Args:
        data: a ``data.yaml``, a COCO JSON or a folder of class folders, with train and val splits.
        model: a published name (random start) or a checkpoint (fine-tuning).
        out: the run's folder; with ``resume`` the folder of the run to go on with.
        task: the task, where ``model`` leaves it open.
        images: folder of a COCO JSON's images.

    Raises:
        InputError, UsageError: the set, the model or an option cannot be used.
        GateError: the loss stopped being finite for good.
    """
    watch = watch or Silence()
    run = _set_up(data, model, out, options, task, images, resume, watch)
    progress, stopped = run.progress, None
    watch.began(run)
    try:
        saved = time.monotonic()
        while progress.epoch < run.options.epochs and stopped is None:
            _learning(run)
            mosaic = progress.epoch < run.options.epochs - run.options.close_mosaic
            for batch in run.loader.epoch(progress.epoch, progress.step, mosaic):
                if progress.epoch == progress.step == 0:
                    report.begun(run, batch, watch.note)
                terms = _step(run, batch)
                watch.stepped(run, terms, len(batch.images))
                if progress.since == 0 and time.monotonic() - saved > 60 * run.options.save_minutes:
                    run.folder.keep_state(run.state())
                    saved = time.monotonic()
            _end_epoch(run, watch)
            stopped = _enough(run)
            saved = time.monotonic()
        return _finish(run, stopped, watch)
    finally:
        run.loader.close()


def _set_up(
    data: Path,
    model: str,
    out: Path,
    options: TrainOptions,
    task: str | None,
    images: Path | None,
    resume: bool,
    watch: Watcher,
) -> Run:
    """Open the data, make or restore the network and all that trains it."""
    state = read_state(out) if resume else None
    if state is not None:
        task = task or state["spec"]["task"]
    task = _task_of(model, task)
    training = open_dataset(data, task, "train", images)
    validating = open_dataset(data, task, "val", images, training.names)
    if state is not None:
        options = options.resumed(check_same(state, fingerprint(training, validating), out, data))
    for sentence in _remarks(training, validating):
        watch.note(sentence)
    device = _device(options)
    started, taken = _begin(model, task, training, options, state)
    size = options.imgsz or started.imgsz
    started.imgsz = size
    half = _half(options, device)
    batch = _batch(options, started, size, device, half is not None)
    options = options.replace(batch=batch, imgsz=size)
    loader = Loader(
        training,
        size,
        batch,
        _augment(options, started.spec.scale, task),
        seed=options.seed,
        workers=_workers(options),
        cache=options.cache,
    )
    net = started.net.to(device)
    if options.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _freeze(net, options.freeze)
    numbers = optim.plan(options, task == "classify", len(training.names), batch, len(loader))
    folder = Folder(out, watch.note)
    folder.path.mkdir(parents=True, exist_ok=True)
    run = Run(
        options=options,
        numbers=numbers,
        started=started,
        taken=taken,
        train=training,
        val=validating,
        net=net,
        average=optim.Average(net, options.ema, options.ema_tau),
        optimizer=optim.make_optimizer(net, numbers),
        scaler=torch.amp.GradScaler(device.type, enabled=half == torch.float16),
        loss=_loss(net, training, options, device),
        loader=loader,
        device=device,
        half=half,
        folder=folder,
    )
    if state is not None:
        run.restore(state)
    else:
        folder.keep_json("options.json", {"model": model, "data": str(data), **options.to_dict()})
    return run


def _step(run: Run, batch: Batch) -> dict[str, float]:
    """One batch: forward, loss, backward, and an optimiser step when enough gradients have gathered."""
    progress, numbers = run.progress, run.numbers
    number = progress.epoch * run.batches + progress.step
    torch.manual_seed(_seed(run.options.seed, progress.epoch, progress.step))
    optim.schedule(run.optimizer, numbers, number)
    images = batch.images.to(run.device, non_blocking=True).float() / 255
    if run.options.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, run.half) if run.half else contextlib.nullcontext():
        raw = _forward(run)(images)
    total, terms = run.loss(raw, batch.targets.to(run.device))
    run.scaler.scale(total).backward()
    progress.since += 1
    last = progress.step + 1 == run.batches
    if progress.since >= optim.accumulation(numbers, number) or last:
        _update(run)
    progress.step += 1
    progress.images += len(batch.images)
    progress.unread += [s for s in run.loader.skipped if s not in progress.unread]
    values = {name: float(value) for name, value in terms.items()}
    for name, value in values.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value
    return values


def _update(run: Run) -> None:
    """Let the gathered gradients act, unless they are not finite: then they are dropped and counted.

    Raises:
        GateError: too many times in a row.
    """
    progress = run.progress
    progress.since = 0
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), run.options.clip)
    if torch.isfinite(norm):
        run.scaler.step(run.optimizer)
        run.average.update(run.net)
        progress.in_a_row = 0
    else:
        progress.skipped_steps += 1
        progress.in_a_row += 1
        _mend_statistics(run)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if progress.in_a_row >= HOPELESS:
        raise GateError(
            f"{run.folder.path}: {HOPELESS} steps in a row gave gradients that are not finite (epoch "
            f"{progress.epoch + 1}); take a lower --lr, --amp off, or a smaller --clip; the last good state is in "
            "best.pt and resume.pt"
        )


def _mend_statistics(run: Run) -> None:
    """A forward pass that was not finite leaves NaN in BatchNorms: put the average's in their place."""
    kept = dict(run.average.net.named_buffers())
    for name, buffer in run.net.named_buffers():
        if buffer.is_floating_point() and not torch.isfinite(buffer).all():
            buffer.copy_(kept[name])


def _end_epoch(run: Run, watch: Watcher) -> None:
    """Validate, note the figures, and save: checkpoints first, the state that vouches for them last."""
    progress, options = run.progress, run.options
    run.folder.failed = None
    row: dict[str, float] = {"epoch": progress.epoch + 1, "lr": optim.rate(run.numbers, _done(run))}
    row |= {f"loss_{name}": value / max(progress.step, 1) for name, value in progress.sums.items()}
    final = progress.epoch + 1 == options.epochs
    if final or (progress.epoch + 1) % options.val_every == 0:
        row |= _validate(run, run.average.net, watch).scores.metrics
    progress.history.append(row)
    progress.epoch, progress.step, progress.sums, progress.images = progress.epoch + 1, 0, {}, 0
    if row.get(run.metric, -1.0) > progress.best:
        progress.best, progress.best_epoch = row[run.metric], progress.epoch
        _save_weights(run, "best.pt")
    _save_weights(run, "last.pt")
    run.folder.keep("results.csv", lambda path: results_csv(progress.history, path))
    run.folder.keep_state(run.state())
    watch.ended_epoch(run, row)


def _save_weights(run: Run, name: str) -> None:
    made = Checkpoint(
        run.average.net,  # type: ignore[arg-type]
        run.started.names,
        run.started.imgsz,
        run.started.licence,
        provenance={
            "origin": "edgekit train",
            "start": str(run.taken),
            "start_sha256": run.taken.sha256,
            "data": str(run.train.source),
            "data_sha256": fingerprint(run.train, run.val),
            "epoch": run.progress.epoch,
            "options": run.options.to_dict(),
        },
    )
    run.folder.keep(name, lambda path: checkpoint.save(made, path))


def _validate(run: Run, net: torch.nn.Module, watch: Watcher) -> Evaluation:
    info = run.started.info(run.started.imgsz, None)
    session = TorchSession(net, info, run.folder.path, str(run.device))
    with Predictor(session, batch=run.options.batch) as predictor:
        return evaluate(predictor, run.val, progress=lambda done: watch.validating(done, len(run.val)))


def _enough(run: Run) -> str | None:
    """Why to stop early, or None."""
    progress, patience = run.progress, run.options.patience
    waited = progress.epoch - progress.best_epoch
    if patience and progress.best_epoch >= 0 and waited >= patience and progress.epoch < run.options.epochs:
        return f"no better {run.metric} for {waited} epochs (--patience {patience})"
    return None


def _finish(run: Run, stopped: str | None, watch: Watcher) -> Result:
    """Measure the best checkpoint once more, from its file.

    Raises:
        InputError: it could not be written.
    """
    best = run.folder.path / "best.pt"
    if run.folder.failed:
        raise InputError(f"{run.folder.failed}; free some space and run again with --resume")
    loaded = checkpoint.load(best)
    found = _validate(run, loaded.net, watch)
    progress = run.progress
    return Result(
        folder=run.folder.path,
        best=best,
        metrics=found.scores.metrics,
        evaluation=found,
        dataset=run.val,
        history=progress.history,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        skipped_steps=progress.skipped_steps,
        unread=progress.unread,
        taken=run.taken,
        stopped=stopped,
    )


def _begin(
    model: str, task: str | None, training: Dataset, options: TrainOptions, state: Mapping[str, Any] | None
) -> tuple[Checkpoint, start.Taken]:
    """The network to train; of a resumed run as it began, its weights follow."""
    if state is None:
        return start.begin(model, task, training.names, training.keypoint_shape, options.seed, options.imgsz)
    spec = checkpoint.ModelSpec.from_dict(state["spec"])
    source = state["taken"]["source"]
    taken = start.Taken(**{**state["taken"], "source": Path(source) if source else None})
    fresh = checkpoint.new(spec, tuple(state["names"]), (options.imgsz or (0,))[0] or None)
    fresh.licence = taken.licence
    return fresh, taken


def _task_of(model: str, task: str | None) -> str:
    """The task: as asked for, else as the model's name or file has it.

    Raises:
        UsageError: the name says another task than was asked for.
    """
    path = Path(model)
    if path.suffix == ".pt" or path.exists():
        return tasks.get(task or checkpoint.load(path).spec.task).name
    return catalog.spec(model, task).task


def _remarks(training: Dataset, validating: Dataset) -> list[str]:
    """What a user should know about the set before hours are spent on it."""
    said = []
    for dataset in (training, validating):
        bad = [issue for issue in dataset.problems() if issue.severity == "error"]
        if bad:
            said.append(
                f"{dataset.source}: {len(bad)} rows or images of {dataset.split} are left out, the first is "
                f"{bad[0]}; `edgekit data check` lists them all"
            )
    _, counts = training.counts()
    missing = [name for name, count in zip(training.names, counts, strict=True) if not count]
    if missing:
        said.append(f"{training.source}: no object of {shorten(missing)} in train, so it cannot be learnt")
    return said


def _device(options: TrainOptions) -> torch.device:
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {options.device}: cannot be used ({str(error).splitlines()[0]})") from error
    return device


def _half(options: TrainOptions, device: torch.device) -> torch.dtype | None:
    """The 16-bit type of autocast: bfloat16 where the hardware has it, else float16 on GPUs, else none."""
    if options.amp == "off":
        return None
    if options.amp == "fp16":
        if device.type != "cuda":
            raise UsageError(f"--amp fp16: needs a GPU, not {device}; take bf16 or off")
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast or options.amp == "bf16" else None


def _batch(options: TrainOptions, started: Checkpoint, size: tuple[int, int], device: torch.device, half: bool) -> int:
    """The batch asked for, if it fits; the largest useful one for 0.

    Raises:
        UsageError: it does not fit; the sentence names the largest that would.
    """
    need, available = memory.needed(started.spec, size, half), memory.free(device)
    fits = memory.largest(need, available)
    if options.batch > fits:
        advice = f"--batch {fits} would" if fits else "not even one image would: take a smaller --imgsz or model"
        raise UsageError(
            f"--batch {options.batch}: {started.spec.name} at {size[0]}x{size[1]} needs about "
            f"{need.bytes(options.batch) / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; {advice} fit"
        )
    return options.batch or max(min(memory.largest(need, available, 0.7), optim.NOMINAL), 1)


def _workers(options: TrainOptions) -> int:
    if options.workers is not None:
        return options.workers
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def _augment(options: TrainOptions, scale: str, task: str) -> Augment:
    """The recipe's augmentation with the user's changes.

    Raises:
        UsageError: a number that is not the augmentation's.
    """
    import dataclasses

    changes = dict(options.augment)
    base = Augment.none() if changes.pop("none", None) else Augment.recipe(scale)
    known = {f.name for f in dataclasses.fields(base)}
    for name in changes:
        if name not in known:
            raise UsageError(f"--augment {name}: not known; known: none, {', '.join(sorted(known))}")
    return dataclasses.replace(base, **changes)


def _loss(net: torch.nn.Module, training: Dataset, options: TrainOptions, device: torch.device) -> Any:
    import importlib

    weights = None
    if options.class_weights == "auto":
        _, counts = training.counts()
        rare = 1 / np.sqrt(np.maximum(counts, 1))
        weights = torch.tensor(rare / rare.mean(), dtype=torch.float32, device=device)
    module = importlib.import_module(f"edgekit.tasks.{training.task}.loss")
    return module.loss(net, dict(options.gains) or None, weights)


def _freeze(net: torch.nn.Module, count: int) -> None:
    layers: Sequence[torch.nn.Module] = list(net.get_submodule("model").children())
    if count >= len(layers):
        raise UsageError(f"--freeze {count}: the network has {len(layers)} layers, and the last must learn")
    for layer in layers[:count]:
        layer.requires_grad_(False)


def _learning(run: Run) -> None:
    """Training mode, but frozen layers keep the statistics they have."""
    run.net.train()
    for layer in list(run.net.get_submodule("model").children())[: run.options.freeze]:
        layer.eval()


def _forward(run: Run) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    if not run.options.compile:
        return run.net
    if not hasattr(run, "_compiled"):
        run._compiled = torch.compile(run.net)  # type: ignore[attr-defined]
    compiled: Callable[[torch.Tensor], dict[str, torch.Tensor]] = run._compiled  # type: ignore[attr-defined]
    return compiled


def _done(run: Run) -> int:
    return run.progress.epoch * run.batches + run.progress.step


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
