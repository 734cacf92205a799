"""Everything `edgekit train` can be told, with what each number means and where its default comes from.

    TrainOptions(epochs=30, batch=16, imgsz=(320, 320))

Standard library only, so that the command's help costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.errors import UsageError
from edgekit.spec import parse_activation

OPTIMIZERS = ("auto", "sgd", "adamw")
SCHEDULES = ("linear", "cosine")
AMP = ("auto", "off", "bf16", "fp16")
CACHES = ("auto", "ram", "disk", "none")


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained. Defaults are the published detector's (FACTS: 600 epochs apart).

    Attributes:
        epochs: passes over the training images.
        batch: images per forward pass, of all processes together; 0 chooses the largest that fits memory, at most
            ``nominal``.
        nominal: images per optimiser step that rates and decay are meant for; gradients of smaller batches are
            accumulated. A short run on a small set learns more with fewer.
        imgsz: (height, width) of the input in pixels; None: the model's own.
        seed: of initialisation, order and augmentation.
        optimizer: ``sgd``, ``adamw`` or ``auto``: SGD for more than 10,000 batches, else AdamW with a learning rate of
            0.002 · 5 / (4 + classes).
        lr: learning rate at the start; None: the optimiser's (SGD 0.01, classification 0.2).
        lr_final: the last learning rate as a fraction of the first.
        momentum: of SGD; Adam's first beta. None: 0.937 (SGD), 0.9 (AdamW).
        weight_decay: on weights of convolutions and linear layers, per ``nominal`` images; None: 5e-4, for
            classification 1e-4.
        warmup: epochs (at least 100 batches) during which rate, momentum and accumulation rise.
        schedule: ``linear`` or ``cosine``; None: cosine for classification, else linear.
        clip: largest norm of a step's gradient.
        patience: epochs without a better main metric after which training stops; 0: never.
        close_mosaic: the last epochs without mosaic and mixup.
        freeze: number of first layers that do not learn.
        freeze_norms: BatchNorms keep the statistics they have (their scales and shifts learn on): for batches too
            small to have statistics of their own.
        activation: of every convolution block: ``silu``, ``hardswish``, ``relu`` or ``leaky_relu:SLOPE``; None: the
            checkpoint's, else silu.
        teacher: a checkpoint whose answers are learnt besides the labels; see ``distill.py``.
        qat: convolutions compute as INT8 kernels will round; see ``qat.py``. Of a trained checkpoint only.
        class_weights: ``none`` or ``auto`` (rarer classes count more: one over the square root of the count).
        augment: changes to the augmentation's numbers, e.g. ``{"mosaic": 0.5}``; ``{"none": 1}`` switches it off.
        val: another set to validate on.
        val_fraction: the share of the training images that is set aside to validate on; see ``data/divide.py``.
        classes: names or label numbers of the only classes to learn; None: all.
        single_class: all classes become one, ``object``.
        label_options: what label files leave open, e.g. ``{"angle": "degrees"}``; see ``data/options.py``.
        gains: changes to the weights of the loss's terms, e.g. ``{"box": 5.0}``; a teacher's begin with ``distill_``.
        ema: decay of the average of weights that is validated and kept; ``ema_tau`` its time constant in steps.
        val_every: validate every so many epochs (the last always).
        save_minutes: also save the state inside an epoch when the last save is older.
        device, threads, workers, cache, amp, compile, channels_last: where and how it is computed.
    """

    epochs: int = 100
    batch: int = 16
    nominal: int = 64
    imgsz: tuple[int, int] | None = None
    seed: int = 0
    optimizer: str = "auto"
    lr: float | None = None
    lr_final: float = 0.01
    momentum: float | None = None
    weight_decay: float | None = None
    warmup: float = 3.0
    schedule: str | None = None
    clip: float = 10.0
    patience: int = 100
    close_mosaic: int = 10
    freeze: int = 0
    freeze_norms: bool = False
    activation: str | None = None
    teacher: str | None = None
    qat: bool = False
    class_weights: str = "none"
    augment: Mapping[str, Any] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    val: str | None = None
    val_fraction: float | None = None
    classes: tuple[str, ...] | None = None
    single_class: bool = False
    label_options: Mapping[str, str] = field(default_factory=dict)
    ema: float = 0.9999
    ema_tau: float = 2000.0
    val_every: int = 1
    save_minutes: float = 10.0
    device: str = "cpu"
    threads: int | None = None
    workers: int | None = None
    cache: str = "auto"
    amp: str = "auto"
    compile: bool = False
    channels_last: bool = True

    # What a resumed run may change: nothing of it changes what is learnt on one kind of device.
    WHERE = ("device", "threads", "workers", "cache", "compile", "channels_last", "save_minutes")

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--schedule", self.schedule or "linear", SCHEDULES),
            ("--amp", self.amp, AMP),
            ("--cache", self.cache, CACHES),
            ("--class-weights", self.class_weights, ("none", "auto")),
        ):
            if value not in known:
                raise UsageError(f"{flag} {value}: choose from {', '.join(known)}")
        if self.activation:
            parse_activation(self.activation)
        for flag, number, least in (
            ("--epochs", self.epochs, 1),
            ("--batch", self.batch, 0),
            ("--nominal", self.nominal, 1),
            ("--warmup", self.warmup, 0),
            ("--patience", self.patience, 0),
            ("--close-mosaic", self.close_mosaic, 0),
            ("--freeze", self.freeze, 0),
            ("--val-every", self.val_every, 1),
            ("--workers", self.workers or 0, 0),
        ):
            if number < least:
                raise UsageError(f"{flag} {number}: must be at least {least}")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UsageError(f"--val-fraction {self.val_fraction:g}: must be between 0 and 1")
        if self.val is not None and self.val_fraction is not None:
            raise UsageError("--val-fraction: sets training images aside, and --val gives others; drop one")
        if self.teacher and self.compile:
            raise UsageError("--compile: not together with --teacher, which looks into the network as it runs")
        if not self.teacher and any(name.startswith("distill_") for name in self.gains):
            raise UsageError("--gains distill_…: are a teacher's; give --teacher")
        for flag, amount in (("--lr", self.lr), ("--clip", self.clip), ("--lr-final", self.lr_final)):
            if amount is not None and not 0 < amount < 1e6:
                raise UsageError(f"{flag} {amount:g}: must be above 0")
        if self.momentum is not None and not 0 < self.momentum < 1:
            raise UsageError(f"--momentum {self.momentum:g}: must be between 0 and 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < 1e6:
            raise UsageError(f"--weight-decay {self.weight_decay:g}: must not be negative")

    def replace(self, **changes: Any) -> TrainOptions:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``from_dict`` turns it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["imgsz"] = list(self.imgsz) if self.imgsz else None
        plain["classes"] = list(self.classes) if self.classes is not None else None
        return plain | {name: dict(plain[name]) for name in ("augment", "gains", "label_options")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainOptions:
        known = {f.name for f in dataclasses.fields(cls)}
        values = {k: v for k, v in data.items() if k in known}
        if values.get("imgsz"):
            values["imgsz"] = tuple(values["imgsz"])
        if values.get("classes") is not None:
            values["classes"] = tuple(values["classes"])
        return cls(**values)

    def resumed(self, stored: TrainOptions) -> TrainOptions:
        """The options a resumed run goes on with: those of ``stored``, but computed where ``self`` says.

        Raises:
            UsageError: ``self`` asks for something else that would change what is learnt.
        """
        plain = TrainOptions()
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(stored, f.name)
            automatic = f.name == "batch" and mine == 0
            if f.name not in self.WHERE and not automatic and mine not in (getattr(plain, f.name), theirs):
                flag = "--" + f.name.replace("_", "-")
                raise UsageError(f"{flag} {mine}: the run was started with {theirs}, and --resume changes nothing")
        return stored.replace(**{name: getattr(self, name) for name in self.WHERE})
