"""Learning from another network's answers besides the labels (G. Hinton et al., arXiv 1503.02531).

    teacher = Teacher(Path("yolo12s.pt"), student.spec, names, {"distill_cls": 0.5}, device)
    teacher.watch(student)                  # its features, whenever it is called
    loss = teacher.joined(loss)
    teacher.look(images)                    # before loss(raw, targets)

Any network of the same task, classes and keypoints teaches: a larger scale, or the same with another activation. The
terms, each with its gain (``--gains distill_cls=…``), are all 0 where student and teacher agree:

- ``distill_cls``: the binary divergence of class scores at every cell; of classifiers that of softened probabilities.
- ``distill_box``: the divergence of the four sides' distributions, where the teacher sees something.
- ``distill_task``: squared difference of coefficients and prototypes, keypoints, angle, where the teacher sees
  something.
- ``distill_feature``: the maps the head reads; of equal widths channel by channel (1 - Pearson's correlation, arXiv
  2207.02039), else where they are strong (attention maps, arXiv 1612.03928). Neither has weights that must be learnt.

Where a teacher sees something is weighted by its best class score at the cell. Sums go through ``reduce``, as those of
the losses do.

Letters: B images, C classes, N cells, K bins, V values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgekit import checkpoint, tasks
from edgekit.errors import UsageError, shorten
from edgekit.nn.boxhead import BINS
from edgekit.nn.boxloss import wide
from edgekit.spec import ModelSpec

GAINS = {"distill_cls": 1.0, "distill_box": 1.5, "distill_task": 1.0, "distill_feature": 1.0}
TEMPERATURE = 2.0  # of classifiers' probabilities
EPS = 1e-6

Raw = Mapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]


class Teacher:
    """A network that answers in training's form with its statistics at rest, and what a student is told by it.

    Attributes:
        sha256, license: of its file.
        reduce: as a loss's: sums over processes.
    """

    def __init__(
        self,
        path: Path,
        student: ModelSpec,
        names: Sequence[str],
        gains: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            path: the teacher's checkpoint.
            student: the network that learns.
            names: its classes.
            gains: changes to ``GAINS``.

        Raises:
            UsageError: the teacher is of another task or has other classes or keypoints; an unknown gain.
            InputError: no checkpoint.
        """
        unknown = set(gains or {}) - set(GAINS)
        if unknown:
            raise UsageError(f"`gains` {sorted(unknown)[0]}: not known; a teacher's are {', '.join(GAINS)}")
        self.gains = {**GAINS, **(gains or {})}
        loaded = checkpoint.load(path)
        self._order = _order(path, loaded, student, names)
        self.net, self.sha256, self.license = loaded.net.requires_grad_(False).to(device), loaded.sha256, loaded.license
        self.net.eval()
        self.net.head.training = True  # the head alone, not what is inside it: raw answers, statistics at rest
        self.reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total
        self._classifies = not tasks.get(student.task).detects
        self._theirs: list[torch.Tensor] = []
        self._mine: list[torch.Tensor] = []
        self._answer: Raw = {}

    def watch(self, student: nn.Module) -> None:
        """Remember the features ``student`` computes."""
        head = student.get_submodule("model")[-1]  # type: ignore[index]

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module.training:
                self._mine = list(inputs[0])

        head.register_forward_pre_hook(keep)

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> None:
        """Answer to ``images`` [B, 3, H, W], the same that the student sees."""
        self._theirs = self.net.features(images)
        self._answer = self.net.head(self._theirs)

    def joined(
        self, loss: Callable[[Raw, Any], tuple[torch.Tensor, Terms]]
    ) -> Callable[..., tuple[torch.Tensor, Terms]]:
        """``loss`` with the teacher's terms added to its total and its terms."""

        def both(raw: Raw, targets: Any) -> tuple[torch.Tensor, Terms]:
            total, terms = loss(raw, targets)
            logits = raw["logits"]
            with torch.autocast(logits.device.type, enabled=False):
                found, images = self.terms(raw)
                gained = {name: self.gains[name] * value for name, value in found.items() if self.gains[name]}
                # Losses of boxes are sums over images, that of classifiers is a mean.
                factor = 1.0 if self._classifies else images
                if gained:
                    total = total + torch.stack(list(gained.values())).sum() * factor
            return total, {**terms, **{name: value.detach() for name, value in gained.items()}}

        return both

    def terms(self, raw: Raw) -> tuple[Terms, torch.Tensor]:
        """This process's shares of the terms, without gains, and the number of images of all processes."""
        mine = {name: wide(value) for name, value in raw.items()}
        theirs = {name: wide(value) for name, value in self._answer.items()}
        theirs["logits"] = theirs["logits"].index_select(1, self._order.to(theirs["logits"].device))
        count = len(mine["logits"])
        if self._classifies:
            images = self.reduce(mine["logits"].new_tensor(count))
            found = {"distill_cls": softened(mine["logits"], theirs["logits"]) / images}
        else:
            seen_BN = theirs["logits"].amax(1).sigmoid()
            seen, images = self.reduce(torch.stack((seen_BN.sum(), seen_BN.new_tensor(count)))).clamp(min=1)
            found = {
                "distill_cls": score_divergence(mine["logits"], theirs["logits"]) / seen,
                "distill_box": (side_divergence(mine["distances"], theirs["distances"]) * seen_BN).sum() / seen,
            }
            if len(mine) > 2:
                found["distill_task"] = _task_difference(mine, theirs, seen_BN, seen, images)
        pairs = zip(self._mine, self._theirs, strict=True)
        each = [feature_difference(wide(a), wide(b)).sum() for a, b in pairs]
        return {**found, "distill_feature": torch.stack(each).sum() / len(each) / images}, images


def softened(mine_BC: torch.Tensor, theirs_BC: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Sum over images of the divergence of softened probabilities, times the temperature's square."""
    mine, theirs = (x.div(temperature).log_softmax(1) for x in (mine_BC, theirs_BC))
    return F.kl_div(mine, theirs, reduction="sum", log_target=True) * temperature**2


def score_divergence(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Sum of binary divergences of logits' probabilities: p·(t - m) + softplus(m) - softplus(t), 0 where equal."""
    return (theirs.sigmoid() * (theirs - mine) + F.softplus(mine) - F.softplus(theirs)).sum()


def side_divergence(mine_BVN: torch.Tensor, theirs_BVN: torch.Tensor) -> torch.Tensor:
    """``[B, 4·K, N]`` logits -> ``[B, N]``: divergence of the sides' distributions, mean over sides."""
    mine, theirs = (x.unflatten(1, (4, BINS)).log_softmax(2) for x in (mine_BVN, theirs_BVN))
    divergence_BN: torch.Tensor = (theirs.exp() * (theirs - mine)).sum(2).mean(1)
    return divergence_BN


def feature_difference(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """``[B, C, H, W]`` and ``[B, C', H, W]`` -> ``[B]``, 0 where they agree."""
    mine, theirs = mine.flatten(2), theirs.flatten(2)
    if mine.shape[1] == theirs.shape[1]:
        mine, theirs = (F.normalize(x - x.mean(2, keepdim=True), dim=2, eps=EPS) for x in (mine, theirs))
        return 1 - (mine * theirs).sum(2).mean(1)
    mine, theirs = (F.normalize(x.square().mean(1), dim=1, eps=EPS) for x in (mine, theirs))
    return (mine - theirs).square().sum(1)


def _task_difference(
    mine: Raw, theirs: Raw, seen_BN: torch.Tensor, seen: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """Squared differences of the values a task adds: those at cells where the teacher sees something, maps all over."""
    total = seen.new_zeros(())
    for name in sorted(set(mine) - {"logits", "distances"}):
        a, b = mine[name], theirs[name]
        if name == "angles":
            a, b = torch.cat((a.cos(), a.sin()), 1), torch.cat((b.cos(), b.sin()), 1)
        if a.ndim == 3:
            total = total + ((a - b).square().mean(1) * seen_BN).sum() / seen
        else:
            total = total + (a - b).square().mean((1, 2, 3)).sum() / images
    return total


def _order(path: Path, teacher: checkpoint.Checkpoint, student: ModelSpec, names: Sequence[str]) -> torch.Tensor:
    """Where each of the student's classes is among the teacher's."""
    spec = teacher.spec
    if spec.task != student.task:
        raise UsageError(f"`teacher` {path}: is a {spec.task} network, and what learns is a {student.task} network")
    known = [name.casefold() for name in teacher.names]
    missing = [name for name in names if name.casefold() not in known]
    if missing or len(known) != len(names):
        which = f"knows no {missing[0]!r}" if missing else "knows others besides"
        raise UsageError(
            f"`teacher` {path}: {which}; its {len(known)} classes are {shorten(teacher.names)}, those to learn are "
            f"{shorten(names)}"
        )
    if spec.keypoint_shape != student.keypoint_shape:
        raise UsageError(
            f"`teacher` {path}: has keypoints {list(spec.keypoint_shape or ())}, what learns has "
            f"{list(student.keypoint_shape or ())}"
        )
    return torch.tensor([known.index(name.casefold()) for name in names])
