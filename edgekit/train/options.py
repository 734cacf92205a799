"""Everything `edgekit train` can be told, with what each number means and where its default comes from.

    TrainOptions(epochs=30, batch=16, imgsz=(320, 320))

Standard library only, so that the command's help costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.errors import UsageError
from edgekit.runtime.fields import check, current, numbers, option, pairs, words
from edgekit.spec import parse_activation, parse_imgsz

OPTIMIZERS = ("auto", "sgd", "adamw")
SCHEDULES = ("linear", "cosine")
AMP = ("auto", "off", "bf16", "fp16")
CACHES = ("auto", "ram", "disk", "none")


def _batch(text: str) -> int:
    if text != "auto" and not text.isdigit():
        raise ValueError("give a number of images, or auto")
    return 0 if text == "auto" else int(text)


def _augment(text: str) -> dict[str, float]:
    return {"none": 1} if text == "none" else numbers(text)


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained. Defaults are the published detector's (FACTS: 600 epochs apart)."""

    val: str | None = option(None, metavar="DATA", section="Labels")
    """Validate on this set instead of DATA's val split."""
    val_fraction: float | None = option(None, above=0, below=1)
    """Where DATA has no val split: set this share of every class's images aside, chosen by their hash.

    See ``data/divide.py``.
    """
    classes: tuple[str, ...] | None = option(None, parse=words, metavar="A,B")
    """Keep these classes only: names or numbers, by commas."""
    single_class: bool = False
    """Learn all classes as one, ``object``."""
    label_options: Mapping[str, str] = option(factory=dict, parse=pairs, metavar="NAME=VALUE,…")
    """What labels leave open: crowd=objects, exif=stored, angle=degrees or radians."""

    epochs: int = option(100, least=1, section="Schedule")
    """Passes over the training images."""
    batch: int = option(16, least=0, parse=_batch, metavar="N|auto")
    """Images per run. Of all processes together; auto: what fits, at most `nominal_batch`.

    0 stands for auto.
    """
    nominal_batch: int = option(64, least=1, was=("nominal",))
    """Images per optimizer step; smaller batches are accumulated.

    Rates and decay are meant for so many. A short run on a small set learns more with fewer.
    """
    imgsz: tuple[int, int] | None = option(None, parse=parse_imgsz, metavar="N|H,W")
    """Input size in pixels, multiples of 32. Default: the model's own."""
    patience: int = option(100, least=0)
    """Stop after so many epochs without gain; 0: never."""
    val_every: int = option(1, least=1)
    """Validate every so many epochs.

    The last always.
    """
    seed: int = option(0, least=0)
    """Seed of everything random."""

    optimizer: str = option("auto", choices=OPTIMIZERS, section="Optimizer")
    """Auto: SGD for more than 10,000 batches, else AdamW.

    With a learning rate of 0.002 · 5 / (4 + classes).
    """
    lr: float | None = option(None, above=0, below=1e6)
    """Learning rate. Default: the optimizer's.

    SGD 0.01, classification 0.2.
    """
    lr_final: float = option(0.01, above=0, below=1e6)
    """Last learning rate over the first."""
    momentum: float | None = option(None, above=0, below=1)
    """SGD's, or Adam's beta 1. Default: .937 or .9."""
    weight_decay: float | None = option(None, least=0, below=1e6)
    """Default: 5e-4 (classification with SGD 1e-4).

    On weights of convolutions and linear layers, per ``nominal_batch`` images.
    """
    warmup: float = option(3.0, least=0)
    """Epochs in which rate and momentum rise (100 batches at least)."""
    schedule: str | None = option(None, choices=SCHEDULES)
    """Of the learning rate. Default: the task's.

    Cosine for classification, else linear.
    """
    clip: float = option(10.0, above=0, below=1e6)
    """Largest norm of a step's gradient."""
    ema: float = 0.9999
    """Decay of the average of weights that is validated and kept."""
    ema_tau: float = 2000.0
    """Time constant of ``ema`` in steps."""

    freeze: int = option(0, least=0, section="What learns")
    """First layers that do not learn."""
    freeze_norms: bool = False
    """BatchNorms keep their statistics.

    Their scales and shifts learn on: for batches too small to have statistics of their own.
    """
    activation: str | None = None
    """silu; hardswish, relu, leaky_relu:SLOPE (faster on CPUs). Default: the model's."""
    teacher: str | None = option(None, metavar="CKPT")
    """Also learn this model's answers.

    See ``distill.py``.
    """
    qat: bool = False
    """Of a trained model: learn on while convolutions round as INT8 will.

    See ``qat.py``.
    """
    class_weights: str = option("none", choices=("none", "auto"))
    """auto: rare classes count more.

    One over the square root of the count.
    """
    gains: Mapping[str, float] = option(factory=dict, parse=numbers, metavar="NAME=VALUE,…")
    """Weights of the loss's terms.

    A teacher's begin with ``distill_``.
    """
    augment: Mapping[str, Any] = option(factory=dict, parse=_augment, metavar="NAME=VALUE,…")
    """Changes to the augmentation, or none.

    E.g. ``{"mosaic": 0.5}``; ``{"none": 1}`` switches it off.
    """
    close_mosaic: int = option(10, least=0)
    """Last epochs without mosaic and mixup."""

    device: str = option("cpu", section="Machine")
    """cpu, cuda:0, GPU, NPU: as the target knows it."""
    threads: int | None = option(None, least=1)
    """CPU threads. Default: the runtime's choice."""
    workers: int | None = option(None, least=0)
    """Image readers. Default: one a core."""
    cache: str = option("auto", choices=CACHES)
    """Where decoded images are kept."""
    amp: str = option("auto", choices=AMP)
    """16-bit arithmetic."""
    compile: bool = False
    """Let torch.compile optimise the network."""
    channels_last: bool = True
    """Weights and images lie channels last in memory."""
    save_minutes: float = 10.0
    """Also save the state inside an epoch when the last save is older."""

    # What a resumed run may change: nothing of it changes what is learnt on one kind of device.
    WHERE = ("device", "threads", "workers", "cache", "compile", "channels_last", "save_minutes")

    def __post_init__(self) -> None:
        check(self)
        if self.activation:
            parse_activation(self.activation)
        if self.val is not None and self.val_fraction is not None:
            raise UsageError("`val_fraction`: sets training images aside, and `val` gives others; drop one")
        if self.teacher and self.compile:
            raise UsageError("`compile`: not together with `teacher`, which looks into the network as it runs")
        if not self.teacher and any(name.startswith("distill_") for name in self.gains):
            raise UsageError("`gains` distill_…: are a teacher's; give `teacher`")

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
        values = current(cls, data)
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
                raise UsageError(f"`{f.name}` {mine}: the run was started with {theirs}, and `resume` changes nothing")
        return stored.replace(**{name: getattr(self, name) for name in self.WHERE})
