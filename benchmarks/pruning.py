"""Does cutting channels pay? A trained detector with fewer channels inside its blocks: how fast, and how accurate.

    python benchmarks/pruning.py yolo12n-bccd.pt --data bccd/data.yaml --out benchmarks/results/pruning.json
    python benchmarks/pruning.py … --retrain all:0.25 --epochs 10 --run runs/pruned       # joins that row's accuracy

Cut is what has one reader, so that no other shape changes: hidden channels of bottlenecks, of attention's MLPs, of the
head's branches. The channels with the smallest BatchNorm scales go (arXiv 1708.06519), a share of every convolution,
kept counts rounded up to multiples of 8. Every network so made is built for ``--target`` and timed in turns with the
whole one, the call an application makes. ``--retrain`` lets one of them learn from the network it was cut from, with
the options of `edgekit tune`: the channels stay, but are held at zero, which computes the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgekit import checkpoint, targets
from edgekit.bench.clock import ClockOptions
from edgekit.bench.run import bench
from edgekit.data import open_dataset
from edgekit.graph.export import export
from edgekit.nn.blocks import ABlock, Bottleneck, Conv
from edgekit.nn.session import TorchSession
from edgekit.runtime.atomic import replacing
from edgekit.runtime.image import read_image
from edgekit.runtime.predictor import Predictor
from edgekit.train.loop import train
from edgekit.train.options import TrainOptions
from edgekit.train.setup import NullCallback
from edgekit.verify.evaluate import evaluate

GROUPS = ("bottlenecks", "mlp", "boxes", "classes")
ROUND = 8
Chain = tuple[nn.Module, ...]  # who makes the channels, depthwise ones they pass through, who reads them


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    document = json.loads(options.out.read_text()) if options.out.is_file() else {"schema": 1, "kind": "pruning"}
    if options.retrain:
        row = next(row for row in document["rows"] if row["cut"] == options.retrain)
        row["accuracy"] = retrained(options)
    else:
        document |= timed(options)
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        print({k: v for k, v in row.items() if k != "whole_ms"})


def chains(net: nn.Module, group: str) -> Iterator[Chain]:
    """The places of a group where channels can be cut without a change anywhere else."""
    for module in net.modules():
        if isinstance(module, Bottleneck) and group in ("bottlenecks", "all"):
            yield module.cv1, module.cv2
        if isinstance(module, ABlock) and group in ("mlp", "all"):
            yield tuple(module.mlp)
    head = net.get_submodule("model")[-1]  # type: ignore[index]
    for level in range(3):
        if group in ("boxes", "all"):
            first, second, last = head.cv2[level]
            yield from ((first, second), (second, last))
        if group in ("classes", "all"):
            (_, first), (depthwise, second), last = head.cv3[level]
            yield from ((first, depthwise, second), (second, last))


def dropped(chain: Chain, share: float) -> torch.Tensor:
    """[C] bool, which of the channels go."""
    scale = chain[0].bn.weight.detach().abs()
    kept = min(-(-round(len(scale) * (1 - share)) // ROUND) * ROUND, len(scale))
    return scale.argsort(descending=True).argsort() >= kept


def zero(chain: Chain, gone: torch.Tensor) -> None:
    """Hold channels at zero: what the chain's readers get of them is 0 (activations of 0 are 0)."""
    with torch.no_grad():
        for module in chain[:-1]:
            module.bn.weight[gone] = 0
            module.bn.bias[gone] = 0


def cut(chain: Chain, gone: torch.Tensor) -> None:
    """Take channels out, in place."""
    kept = ~gone
    with torch.no_grad():
        for module in chain[:-1]:
            module.conv.weight = nn.Parameter(module.conv.weight[kept])
            module.conv.out_channels = int(kept.sum())
            for name in ("weight", "bias"):
                setattr(module.bn, name, nn.Parameter(getattr(module.bn, name)[kept]))
            for name in ("running_mean", "running_var"):
                setattr(module.bn, name, getattr(module.bn, name)[kept])
            module.bn.num_features = module.conv.out_channels
        for module in chain[1:-1]:
            module.conv.in_channels = module.conv.groups = int(kept.sum())
        reader = chain[-1].conv if isinstance(chain[-1], Conv) else chain[-1]
        reader.weight = nn.Parameter(reader.weight[:, kept])
        reader.in_channels = int(kept.sum())


def narrowed(net: nn.Module, name: str) -> nn.Module:
    """A copy of ``net``, cut as ``name`` (GROUP:SHARE) says; proved to be what holding those channels at zero is."""
    group, share = name.split(":")
    held, net = copy.deepcopy(net).eval(), copy.deepcopy(net).eval()
    for mine, other in zip(list(chains(net, group)), list(chains(held, group)), strict=True):
        gone = dropped(mine, float(share))
        cut(mine, gone)
        zero(other, gone)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for role, value in held(image).items():
            torch.testing.assert_close(net(image)[role], value, rtol=1e-3, atol=1e-3)
    return net


def timed(options: argparse.Namespace) -> dict[str, Any]:
    """Rows of every cut, all timed in turns with the whole network."""
    whole = checkpoint.load(options.checkpoint)
    dataset = open_dataset(options.data, whole.spec.task, "val", names=whole.names)
    backend, predictors, sizes = targets.get(options.target), {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("whole", *options.cuts):
            mine = copy.copy(whole)
            mine.net = whole.net if name == "whole" else narrowed(whole.net, name)
            sizes[name] = sum(p.numel() for p in mine.net.parameters())
            place = Path(scratch) / name.replace(":", "-")
            place.mkdir()
            graph = export(mine, place / "model.onnx", head="topk", recipe=targets.get(options.target).recipe)
            backend.build(graph, place)
            predictors[name] = Predictor(backend.open(place, graph.info))
        pictures = [read_image(sample.path) for sample in dataset.samples[:16]]
        records = bench(predictors, pictures, ClockOptions(budget_s=options.budget), baseline="whole")
    rows = [
        {
            "cut": record["artifact"],
            "parameters": sizes[record["artifact"]],
            "whole_ms": record["whole_ms"],
            "ratio": record["ratio"]["whole_ms"] if record["ratio"] else None,
            "reliable": record["reliable"],
        }
        for record in records
    ]
    settings = {"checkpoint": options.checkpoint.name, "target": options.target, "imgsz": list(whole.imgsz)}
    about = {"disturbances": records[0]["disturbances"], "machine": records[0]["machine"]}
    return {"settings": settings, "rows": rows, **about}


class Held(NullCallback):
    """Holds channels of a run's network at zero, from its first batch on."""

    def __init__(self, name: str) -> None:
        self.group, share = name.split(":")
        self.share, self.held = float(share), []

    def began(self, run: Any) -> None:
        for net in (run.average.net, run.net):
            for chain in chains(net, self.group):
                self.held.append((chain, dropped(chain, self.share)))
        self.stepped(run, 0)

    def stepped(self, run: Any, images: int) -> None:
        for chain, gone in self.held:
            zero(chain, gone)


def retrained(options: argparse.Namespace) -> dict[str, Any]:
    """The main metric before the cut, right after it, and after learning from the network as it was."""
    source = str(options.checkpoint)
    wanted = TrainOptions(
        epochs=options.epochs, batch=16, nominal_batch=16, optimizer="adamw", lr=5e-4, warmup=1.0, patience=0,
        close_mosaic=max(options.epochs // 3, 1), teacher=source, threads=options.threads,
        workers=options.workers,
    )  # fmt: skip
    whole = checkpoint.load(options.checkpoint)
    dataset = open_dataset(options.data, whole.spec.task, "val", names=whole.names)

    def judged(net: nn.Module) -> float:
        with Predictor(TorchSession(net, whole.info(None, None), options.checkpoint), batch=16) as predictor:
            return evaluate(predictor, dataset).scores.metrics["map50_95"]

    before, after = judged(whole.net), judged(narrowed(whole.net, options.retrain))
    result = train(options.data, source, options.run, wanted, watch=Held(options.retrain))
    final = judged(narrowed(checkpoint.load(result.best).net, options.retrain))
    assert abs(final - result.metrics["map50_95"]) < 1e-3, "channels did not stay at zero"
    return {"whole": before, "cut": after, "retrained": final, "epochs": options.epochs}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", default="ov-fp16")
    parser.add_argument("--cuts", nargs="+", default=[*(f"{group}:0.5" for group in GROUPS), "all:0.25", "all:0.5"])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of timing")
    parser.add_argument("--retrain", metavar="GROUP:SHARE", help="train this one, and nothing is timed")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--run", type=Path, help="folder of the run that --retrain makes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pruning.json")
    options = parser.parse_args()
    if options.retrain and not options.run:
        parser.error("--retrain needs --run")
    return options


if __name__ == "__main__":
    main()
