"""A checkpoint without the attention and MLPs that a set can do without, ranked by points lost for a millisecond saved.

    made = prune(checkpoint.load("yolo12n.pt"), Path("pruned.pt"), (640, 640), sets, limit=0.25)
    made.branches                     # ('model.8.m.1.1.attn', 'model.6.m.1.1.attn'), in the order they were left out
    made.lost                         # 0.11 points, on the images that they were ranked on

1. Of every branch (``nn/pruning.py``): the points of the metric that the model loses without it, and the time that it
   takes, both on images that accuracy is not judged on later. What loses more than the limit by itself stays.
2. The others in the order of points lost for a millisecond, the longest first where nothing is lost: each goes if all
   that are gone together lose no more than the limit, and else stays.

No training: a branch's mean is left in its place. What the checkpoint that this makes loses is for others to judge.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError
from edgekit.quantize.sets import Sets
from edgekit.spec import Session
from edgekit.verify import accuracy

if TYPE_CHECKING:
    from edgekit.checkpoint import Checkpoint

IMAGES = 64  # ranked on: two passes over them for every branch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pruned:
    """What was made.

    Attributes:
        path: the checkpoint.
        branches: paths of the modules that were left out, in order.
        lost: points of the metric, on the images ranked on.
        parts: branches that there are.
    """

    path: Path
    branches: tuple[str, ...]
    lost: float
    parts: int


def prune(
    loaded: Checkpoint,
    out: Path,
    size: tuple[int, int],
    sets: Sets,
    limit: float,
    say: Say = lambda _: None,
) -> Pruned:
    """Write ``loaded`` without what it can do without to ``out``.

    Args:
        size: input height and width that it is ranked in.
        sets: whose ``pool`` has the images to rank on: by labels where there are some, else by agreement with the
            whole model.
        limit: points that may be lost there.

    Raises:
        InputError: there are no images to rank on, or nothing can be left out.
    """
    from edgekit import checkpoint
    from edgekit.nn.pruning import left_out, parts_of, take_out, watching
    from edgekit.nn.session import TorchSession

    info = loaded.info(size)
    session = TorchSession(loaded.net, info)
    parts = parts_of(session.net)
    judge = _judge(sets, lambda: TorchSession(loaded.net, info))
    say("ranking what could be left out: the whole model")
    with watching(session.net, parts) as seen:
        before = judge.score(session)

    def lost(branches: Sequence[str]) -> float:
        with left_out(session.net, {parts[branch]: seen.means[parts[branch]] for branch in branches}):
            return 100 * (before - judge.score(session))

    gone, together = choose(seen.seconds, lost, limit, say)
    if not gone:
        asked = f"{limit:g} points of {judge.metric}"
        raise InputError(f"none of the {len(parts)} attention and MLP branches can be left out for {asked}")
    net = copy.deepcopy(loaded.net)
    take_out(net, {parts[branch]: seen.means[parts[branch]] for branch in gone})
    provenance = {"origin": "edgekit tune", "start_sha256": loaded.sha256, "pruned": list(gone)}
    made = dataclasses.replace(loaded, net=net, sha256=None, path=None, provenance=provenance)
    checkpoint.save(made, out)
    what = f"left out: {len(gone)} of {len(parts)} attention and MLP branches"
    say(f"note: {what}, {together:.2f} points on {judge.images} images of {judge.on}")
    return Pruned(out, tuple(gone), together, len(parts))


def choose(
    seconds: Mapping[str, float], lost: Callable[[Sequence[str]], float], limit: float, say: Say = lambda _: None
) -> tuple[list[str], float]:
    """Which branches go, and the points that are lost together.

    Args:
        seconds: what each branch takes.
        lost: the points that are lost without these.
    """
    alone = {}
    for number, branch in enumerate(seconds, 1):
        say(f"ranking what could be left out: {branch}, {number} of {len(seconds)}")
        alone[branch] = lost([branch])
    order = sorted(
        (branch for branch in seconds if alone[branch] <= limit),
        key=lambda branch: (max(alone[branch], 0.0) / seconds[branch], -seconds[branch]),
    )
    gone: list[str] = []
    together = 0.0
    for number, branch in enumerate(order, 1):
        say(f"leaving out, together: {branch}, {number} of {len(order)}")
        if (now := lost([*gone, branch])) <= limit:
            gone, together = [*gone, branch], now
    return gone, together


def _judge(sets: Sets, whole: Callable[[], Session]) -> accuracy.Evaluator:
    pool = sets.pool
    if pool is None:
        why = sets.lacking or "all of them are judged on"
        raise InputError(f"there are no images to rank branches of the network on: {why}")
    some = dataclasses.replace(pool, samples=pool.spread(IMAGES))
    if pool.names:
        return accuracy.by_labels(some)
    return accuracy.check_seen(
        accuracy.by_agreement([sample.path for sample in some.samples], whole(), f"{pool.source.name}, {pool.split}")
    )
