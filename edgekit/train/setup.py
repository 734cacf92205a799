"""What a training run is made of, and how it is put together: new, or as it was when it was last saved.

run = set_up(Request(data, "yolo12n", out), options, Silence(), World())
run.forward(batch), run.average.net, run.progress.epoch
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from edgekit import checkpoint, tasks
from edgekit.checkpoint import Checkpoint, catalog
from edgekit.data.dataset import Dataset
from edgekit.data.derived import NAME, Derived
from edgekit.data.scan import Scan
from edgekit.errors import InputError, UsageError
from edgekit.runtime.processor import is_cpu, usable_cpus
from edgekit.spec import Json, JsonView, ModelSpec
from edgekit.train import memory, optim, qat, sets, start
from edgekit.train.augment import Augment
from edgekit.train.dataset_warnings import remarks
from edgekit.train.distill import Teacher
from edgekit.train.distributed import DistributedContext
from edgekit.train.loader import Loader, Loading
from edgekit.train.options import TrainOptions
from edgekit.train.run import Folder, check_same, fingerprint, read_state


class Callback(Protocol):
    """Who looks on. Every call may do nothing."""

    def note(self, sentence: str) -> None: ...
    def began(self, run: Run) -> None: ...
    def stepped(self, run: Run, images: int) -> None: ...
    def validating(self, done: int, of: int) -> None: ...
    def ended_epoch(self, run: Run, row: Mapping[str, float]) -> None: ...


class NullCallback:
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

    model: str
    options: TrainOptions
    numbers: optim.Plan
    started: Checkpoint
    taken: start.TransferReport
    train: Dataset
    val: Dataset
    prints: str
    net: torch.nn.Module
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    average: optim.EMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: Any
    teacher: Teacher | None
    world: DistributedContext
    loader: Loader
    device: torch.device
    half: torch.dtype | None
    folder: Folder
    progress: Progress = field(default_factory=Progress)
    pending: list[Mapping[str, torch.Tensor]] = field(default_factory=list)

    @property
    def metric(self) -> str:
        return tasks.get(self.started.spec.task).metric

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def state(self) -> Json:
        """All of it, for ``resume.pt``."""
        return {
            "model": self.model,
            "options": self.options.to_dict(),
            "spec": self.started.spec.to_dict(),
            "names": list(self.started.names),
            "taken": {**vars(self.taken), "source": str(self.taken.source) if self.taken.source else None},
            "source": str(self.train.source),
            "data": self.prints,
            "processes": self.world.size,
            "teacher": self.teacher.sha256 if self.teacher else None,
            "net": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dict(vars(self.progress)),
        }

    def restore(self, state: JsonView) -> None:
        self.net.load_state_dict(state["net"])
        self.average.net.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


@dataclass(frozen=True)
class Request:
    """What is trained on what, and where it goes: as ``train`` takes them."""

    data: Path
    model: str | None
    out: Path
    task: str | None = None
    images: Sequence[Path | str] | None = None
    resume: bool = False


def set_up(request: Request, options: TrainOptions, watch: Callback, world: DistributedContext) -> Run:
    """Open the data, make or restore the network and all that trains it."""
    state = read_state(request.out) if request.resume else None
    model, source, task = _source(request, state)
    if state is not None:
        options = options.resumed(TrainOptions.from_dict(state["options"]))
    scan = Scan.beside(request.data)
    training, validating, part = sets.open_sets(request.data, task, request.images, options, scan)
    prints = fingerprint(training, validating)
    if state is not None:
        check_same(state, prints, request.out, request.data)
        _note_processes(state, world, watch)
    asked = {"`model`": model, "`task`": task, "`resume`": request.resume, "the data": prints}
    world.agree(asked | _told(options))
    for sentence in remarks(training, validating, scan):
        watch.note(sentence)
    if world.is_main:
        scan.save()
    device = _device(options, world)
    started, taken = _begin(source, task, training, options, state)
    teacher = _teacher(started, options, device, state)
    started.imgsz = options.imgsz or started.imgsz
    half = _half(options, device)
    options = options.replace(batch=_batch(options, started, device, half is not None, world), imgsz=started.imgsz)
    loader = _loader(training, started.spec.scale, options, world)
    net = _prepared(started.net, options, device, taken)
    numbers = optim.plan(options, training.classifies, len(training.names), options.batch, len(loader))
    average = optim.EMA(net, options.ema, options.ema_tau)
    together = world.wrap(net, device)
    run = Run(
        model=model,
        options=options,
        numbers=numbers,
        started=started,
        taken=taken,
        train=training,
        val=validating,
        prints=prints,
        net=net,
        forward=torch.compile(together) if options.compile else together,
        average=average,
        optimizer=optim.make_optimizer(net, numbers),
        scaler=torch.amp.GradScaler(device.type, enabled=half == torch.float16),
        loss=_loss(net, training, options, device, teacher, world),
        teacher=teacher,
        world=world,
        loader=loader,
        device=device,
        half=half,
        folder=Folder(request.out, watch.note, world.is_main),
    )
    if state is not None:
        run.restore(state)
    else:
        _write_beginning(run, request, part, watch)
    return run


def _source(request: Request, state: JsonView | None) -> tuple[str, str | Checkpoint, str]:
    """The model's name, what is read of it and the task; of a resumed run nothing is read: the state has its weights.

    Raises:
        UsageError: something else is asked of a resumed run; or the run would replace its own data.
    """
    if state is not None:
        model, task = _of_run(state, request.model, request.task)
        return model, model, task
    model = request.model or "yolo12n"
    source = start.opened(model)
    if isinstance(source, str):
        task = catalog.spec(source, request.task).task
    else:
        task = tasks.get(request.task or source.spec.task).name
    if request.data.exists() and request.data.resolve() == (request.out / NAME).resolve():
        raise UsageError(f"`out` {request.out}: holds {request.data}, which the run would replace; give another folder")
    return model, source, task


def _note_processes(state: JsonView, world: DistributedContext, watch: Callback) -> None:
    before = state.get("processes", 1)
    if before != world.size:
        watch.note(
            f"last saved by {before} processes, going on with {world.size}: the same samples, steps and rates, "
            "but sums are added in another order"
        )


def _write_beginning(run: Run, request: Request, part: Derived, watch: Callback) -> None:
    """What a new run leaves in its folder before it begins."""
    run.folder.keep_json("options.json", {"model": run.model, "data": str(request.data), **run.options.to_dict()})
    sets.write(part, run.folder)
    if part != Derived(part.source, names=part.names):
        watch.note(f"what this run learns from and is measured on: {run.folder.path / NAME}, for val and others")


def _begin(
    model: str | Checkpoint, task: str, training: Dataset, options: TrainOptions, state: JsonView | None
) -> tuple[Checkpoint, start.TransferReport]:
    """The network to train; of a resumed run as it began, its weights follow."""
    if state is None:
        return start.begin(
            model, task, training.names, training.keypoint_shape, options.seed, options.imgsz, options.activation
        )
    spec = ModelSpec.from_dict(state["spec"])
    source = state["taken"]["source"]
    taken = start.TransferReport(**{**state["taken"], "source": Path(source) if source else None})
    fresh = checkpoint.new(spec, tuple(state["names"]), (options.imgsz or (0,))[0] or None)
    fresh.license = taken.license
    return fresh, taken


def _of_run(state: JsonView, model: str | None, task: str | None) -> tuple[str, str]:
    """Model and task of the run to go on with.

    Raises:
        UsageError: something else is asked for.
    """
    for flag, given, stored in (("`model`", model, state["model"]), ("`task`", task, state["spec"]["task"])):
        if given not in (None, stored):
            raise UsageError(f"{flag} {given}: the run was started with {stored}, and `resume` changes nothing")
    return state["model"], state["spec"]["task"]


def _told(options: TrainOptions) -> Json:
    """Options that several processes must have in common, as messages name them."""
    plain = options.to_dict()
    return {f"`{name}`": value for name, value in plain.items() if name not in options.WHERE}


def _device(options: TrainOptions, world: DistributedContext) -> torch.device:
    if options.threads:
        torch.set_num_threads(options.threads)
    name = "cpu" if is_cpu(options.device) else world.device(options.device)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"`device` {name}: cannot be used ({str(error).splitlines()[0]})") from error
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _half(options: TrainOptions, device: torch.device) -> torch.dtype | None:
    """The 16-bit type of autocast: bfloat16 where the hardware has it, else float16 on GPUs, else none."""
    if options.amp == "off":
        return None
    if options.amp == "fp16":
        if device.type != "cuda":
            raise UsageError(f"`amp` fp16: needs a GPU, not {device}; take bf16 or off")
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast or options.amp == "bf16" else None


def _batch(
    options: TrainOptions, started: Checkpoint, device: torch.device, half: bool, world: DistributedContext
) -> int:
    """The batch asked for, if it fits; the largest useful one for 0. Of all processes together.

    Raises:
        UsageError: it does not fit, the sentence names the largest that would; or it cannot be shared evenly.
    """
    size = started.imgsz
    available = memory.free(device) // (1 if device.type == "cuda" else world.here)
    need = memory.needed(started.spec, size, half)
    fits = memory.largest(need, available) * world.size
    if options.batch > fits:
        advice = f"`batch` {fits} would" if fits else "not even one image would: take a smaller `imgsz` or model"
        raise UsageError(
            f"`batch` {options.batch}: {started.spec.name} at {size[0]}x{size[1]} needs about "
            f"{need.bytes(world.share(options.batch)) / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; "
            f"{advice} fit"
        )
    if options.batch:
        return world.share(options.batch) * world.size
    return (
        world.least(max(min(memory.largest(need, available, 0.7), options.nominal_batch // world.size), 1)) * world.size
    )


def _workers(options: TrainOptions, world: DistributedContext) -> int:
    if options.workers is not None:
        return options.workers
    return min(max(usable_cpus() // world.here, 1), 8)


def _loader(training: Dataset, scale: str, options: TrainOptions, world: DistributedContext) -> Loader:
    assert options.imgsz is not None
    loading = Loading(
        seed=options.seed,
        workers=_workers(options, world),
        cache=options.cache,
        rank=world.rank,
        world=world.size,
    )
    return Loader(training, options.imgsz, world.share(options.batch), _augment(options, scale), loading)


def _prepared(
    net: torch.nn.Module, options: TrainOptions, device: torch.device, taken: start.TransferReport
) -> torch.nn.Module:
    """The network where it is trained: layers frozen, convolutions rounding.

    Raises:
        UsageError: more layers are to be frozen than there are, or a random start is to be rounded.
    """
    net = net.to(device)
    if options.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _freeze(net, options.freeze)
    if options.qat:
        if taken.source is None:
            raise UsageError("`qat`: fine-tunes a trained network; give its checkpoint as `model`")
        qat.attach(net)
    return net


def _augment(options: TrainOptions, scale: str) -> Augment:
    """The recipe's augmentation with the user's changes.

    Raises:
        UsageError: a number that is not the augmentation's.
    """
    changes = dict(options.augment)
    base = Augment.none() if changes.pop("none", None) else Augment.recipe(scale)
    known = {f.name for f in dataclasses.fields(base)}
    for name in changes:
        if name not in known:
            raise UsageError(f"`augment` {name}: not known; known: none, {', '.join(sorted(known))}")
    return dataclasses.replace(base, **changes)


def _loss(
    net: torch.nn.Module,
    training: Dataset,
    options: TrainOptions,
    device: torch.device,
    teacher: Teacher | None,
    world: DistributedContext,
) -> Any:
    """The task's loss, a teacher's terms included; sums go over all processes."""
    weights = None
    if options.class_weights == "auto":
        _, counts = training.counts()
        rare = 1 / np.sqrt(np.maximum(counts, 1))
        weights = torch.tensor(rare / rare.mean(), dtype=torch.float32, device=device)
    module = tasks.get(training.task).part("loss")
    gains = {name: value for name, value in options.gains.items() if not name.startswith("distill_")}
    loss = module.loss(net, gains or None, weights)
    loss.reduce = world.sum
    if teacher is None:
        return loss
    teacher.reduce = world.sum
    teacher.watch(net)
    return teacher.joined(loss)


def _teacher(
    started: Checkpoint, options: TrainOptions, device: torch.device, state: JsonView | None
) -> Teacher | None:
    """Who teaches besides the labels, if anybody.

    Raises:
        InputError: a resumed run's teacher is not the one it began with.
    """
    if options.teacher is None:
        return None
    gains = {name: value for name, value in options.gains.items() if name.startswith("distill_")}
    teacher = Teacher(Path(options.teacher), started.spec, started.names, gains, device)
    if state is not None and state["teacher"] != teacher.sha256:
        raise InputError(f"`teacher` {options.teacher}: is not the file the run began with; put that one back")
    started.license = started.license or teacher.license
    return teacher


def _freeze(net: torch.nn.Module, count: int) -> None:
    layers: Sequence[torch.nn.Module] = list(net.get_submodule("model").children())
    if count >= len(layers):
        raise UsageError(f"`freeze` {count}: the network has {len(layers)} layers, and the last must learn")
    for layer in layers[:count]:
        layer.requires_grad_(False)
