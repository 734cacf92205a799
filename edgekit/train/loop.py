"""Training, as one loop: batches, steps, validation, saving.

    result = train(Path("bccd/data.yaml"), "yolo12n", Path("runs/bccd"), TrainOptions(epochs=30, imgsz=(320, 320)))
    result.metrics["map50_95"]

What a batch holds depends on the seed, the epoch and its place alone, and the state is saved whole, so a run that was
killed anywhere goes on to the very same weights (on the CPU bit for bit; GPUs add in varying order).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgekit import checkpoint
from edgekit.checkpoint import Checkpoint
from edgekit.data.dataset import Dataset
from edgekit.errors import GateError, InputError
from edgekit.nn.session import TorchSession
from edgekit.runtime.predictor import Predictor
from edgekit.train import distributed, optim, qat, report, start
from edgekit.train.loader import Batch
from edgekit.train.options import TrainOptions
from edgekit.train.plots import results_csv
from edgekit.train.setup import Callback, NullCallback, Request, Run, set_up
from edgekit.verify.evaluate import Evaluation, evaluate

HOPELESS = 20  # steps in a row that were not finite
LOOKS = 20  # batches after which a GPU is asked for their losses


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        folder: the run's folder; ``best`` is the checkpoint to use.
        metrics: of the best checkpoint on the validation images.
        evaluation: the same in full, for figures; None in all but the first of several processes.
        dataset, trained_on: the images validated and trained on.
        epochs: finished epochs; ``stopped`` says why when fewer than asked for.
        best_epoch: the epoch (from 1) the best checkpoint is from.
        skipped_steps: optimiser steps left out because something was not finite.
        unread: images that could not be read.
        taken: what came from an older checkpoint.
    """

    folder: Path
    best: Path
    metrics: dict[str, float]
    evaluation: Evaluation | None
    dataset: Dataset
    trained_on: Dataset
    history: list[dict[str, float]]
    epochs: int
    best_epoch: int
    skipped_steps: int
    unread: list[str]
    taken: start.TransferReport
    stopped: str | None = None


def train(
    data: Path,
    model: str | None,
    out: Path,
    options: TrainOptions,
    task: str | None = None,
    images: Sequence[Path | str] | None = None,
    resume: bool = False,
    watch: Callback | None = None,
) -> Result:
    """Train ``model`` on the set at ``data``; everything is written to the folder ``out``.

    Args:
        data: a ``data.yaml``, a COCO JSON or a folder of class folders; where it has no val split, ``options`` say what
            to validate on.
        model: a published name (random start) or a checkpoint (fine-tuning); None: yolo12n, or the resumed run's.
        out: the run's folder; with ``resume`` the folder of the run to go on with.
        task: the task, where ``model`` leaves it open.
        images: folders, files and patterns of a COCO JSON's images.

    Raises:
        InputError, UsageError: the set, the model or an option cannot be used.
        GateError: the loss stopped being finite for good, or another process of the run died.
    """
    with distributed.joined(options.device) as world:
        watch = watch if watch and world.is_main else NullCallback()
        return _train(set_up(Request(data, model, out, task, images, resume), options, watch, world), watch)


def _train(run: Run, watch: Callback) -> Result:
    progress, stopped = run.progress, None
    watch.began(run)
    try:
        saved = time.monotonic()
        while progress.epoch < run.options.epochs and stopped is None:
            _learning(run)
            mosaic = progress.epoch < run.options.epochs - run.options.close_mosaic
            for batch in run.loader.epoch(progress.epoch, progress.step, mosaic):
                if progress.epoch == progress.step == 0 and run.world.is_main:
                    report.begun(run, batch, watch.note)
                _step(run, batch)
                watch.stepped(run, len(batch.images) * run.world.size)
                if progress.since == 0 and time.monotonic() - saved > 60 * run.options.save_minutes:
                    _take_down(run)
                    run.folder.keep_state(run.state())
                    saved = time.monotonic()
            _end_epoch(run, watch)
            stopped = _enough(run)
            saved = time.monotonic()
        return _finish(run, stopped, watch)
    finally:
        run.loader.close()


def _step(run: Run, batch: Batch) -> None:
    """One batch: forward, loss, backward, and an optimiser step when enough gradients have gathered."""
    progress, numbers = run.progress, run.numbers
    number = progress.epoch * run.batches + progress.step
    torch.manual_seed(_seed(run.options.seed, progress.epoch, progress.step))
    optim.schedule(run.optimizer, numbers, number)
    images = batch.images.to(run.device, non_blocking=True).float() / 255
    if run.options.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, run.half) if run.half else contextlib.nullcontext():
        if run.teacher is not None:
            run.teacher.look(images)
        raw = run.forward(images)
    total, terms = run.loss(raw, batch.targets.to(run.device))
    run.scaler.scale(total * run.world.size).backward()  # gradients of several processes are averaged
    progress.since += 1
    last = progress.step + 1 == run.batches
    if progress.since >= optim.accumulation(numbers, number) or last:
        _update(run)
    progress.step += 1
    progress.images += len(batch.images) * run.world.size
    progress.unread += [s for s in run.loader.skipped if s not in progress.unread]
    values = run.world.sum(torch.stack(list(terms.values())))
    run.pending.append(dict(zip(terms, values, strict=True)))
    if run.device.type == "cpu" or len(run.pending) >= LOOKS:
        _take_down(run)


def _take_down(run: Run) -> None:
    """Add what the last batches' losses were; on a GPU this waits for it, so it is not done every time."""
    sums = run.progress.sums
    for terms in run.pending:
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    run.pending.clear()


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
        run.average.update()
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
            f"{progress.epoch + 1}); take a lower `lr`, `amp` off, or a smaller `clip`; the last good state is in "
            "best.pt and resume.pt"
        )


def _mend_statistics(run: Run) -> None:
    """A forward pass that was not finite leaves NaN in BatchNorms: put the average's in their place."""
    kept = dict(run.average.net.named_buffers())
    for name, buffer in run.net.named_buffers():
        if buffer.is_floating_point() and not torch.isfinite(buffer).all():
            buffer.copy_(kept[name])


def _end_epoch(run: Run, watch: Callback) -> None:
    """Validate, note the figures, and save: checkpoints first, the state that vouches for them last."""
    progress, options = run.progress, run.options
    run.folder.failed = None
    _take_down(run)
    for sentences in run.world.gathered(progress.unread):
        progress.unread += [s for s in sentences if s not in progress.unread]
    row: dict[str, float] = {"epoch": progress.epoch + 1, "lr": optim.rate(run.numbers, _done(run))}
    row |= {f"loss_{name}": value / max(progress.step, 1) for name, value in progress.sums.items()}
    final = progress.epoch + 1 == options.epochs
    if final or (progress.epoch + 1) % options.val_every == 0:
        row |= run.world.from_main(lambda: _validate(run, run.average.net, watch).scores.metrics)
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
        run.started.license,
        provenance={
            "origin": "edgekit train",
            "start": str(run.taken),
            "start_sha256": run.taken.sha256,
            "data": str(run.train.source),
            "data_sha256": run.prints,
            "epoch": run.progress.epoch,
            "teacher_sha256": run.teacher.sha256 if run.teacher else None,
            "teacher_license": run.teacher.license if run.teacher else None,
            "options": run.options.to_dict(),
        },
    )
    run.folder.keep(name, lambda path: checkpoint.save(made, path))


def _validate(run: Run, net: torch.nn.Module, watch: Callback) -> Evaluation:
    info = run.started.info(run.started.imgsz, None)
    session = TorchSession(net, info, run.folder.path, str(run.device))
    with Predictor(session, batch=run.loader.batch) as predictor:
        return evaluate(predictor, run.val, progress=lambda done: watch.validating(done, len(run.val)))


def _enough(run: Run) -> str | None:
    """Why to stop early, or None."""
    progress, patience = run.progress, run.options.patience
    waited = progress.epoch - progress.best_epoch
    if patience and progress.best_epoch >= 0 and waited >= patience and progress.epoch < run.options.epochs:
        return f"no better {run.metric} for {waited} epochs (`patience` {patience})"
    return None


def _finish(run: Run, stopped: str | None, watch: Callback) -> Result:
    """Measure the best checkpoint once more, from its file.

    Raises:
        InputError: it could not be written.
    """
    best = run.folder.path / "best.pt"
    if run.folder.failed:
        raise InputError(f"{run.folder.failed}; free some space and run again with `resume`")
    found = None
    if run.world.is_main:
        net = checkpoint.load(best).net
        if run.options.qat:
            qat.attach(net)
        found = _validate(run, net, watch)
    progress = run.progress
    return Result(
        folder=run.folder.path,
        best=best,
        metrics=run.world.from_main(lambda: found.scores.metrics if found else {}),
        evaluation=found,
        dataset=run.val,
        trained_on=run.train,
        history=progress.history,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        skipped_steps=progress.skipped_steps,
        unread=progress.unread,
        taken=run.taken,
        stopped=stopped,
    )


def _learning(run: Run) -> None:
    """Training mode, but frozen layers and norms keep the statistics they have."""
    run.net.train()
    if run.options.freeze_norms:
        for module in run.net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    for layer in list(run.net.get_submodule("model").children())[: run.options.freeze]:
        layer.eval()


def _done(run: Run) -> int:
    return run.progress.epoch * run.batches + run.progress.step


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
