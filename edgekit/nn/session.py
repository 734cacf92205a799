"""A PyTorch network behind the same interface as every artifact, so that host code cannot tell them apart.

session = TorchSession(checkpoint.net, checkpoint.info())
session.run(batch)["scores"]
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edgekit.errors import UsageError
from edgekit.nn.attention import whole
from edgekit.nn.blocks import fuse
from edgekit.nn.boxhead import BoxBranches
from edgekit.runtime.processor import is_cpu
from edgekit.spec import ModelInfo, Session


def shaped(net: nn.Module, info: ModelInfo) -> nn.Module:
    """A shallow copy of ``net`` (weights shared) whose head answers in the form ``info`` asks for."""
    net = _shallow(net)
    layers = net._modules["model"] = _shallow(net.get_submodule("model"))
    name, last = list(layers.named_children())[-1]
    head = layers._modules[name] = _shallow(last)
    if isinstance(head, BoxBranches):
        head.best = info.candidates  # None of a raw head
        head.one_class = info.head == "nms"
    return net


def _shallow(module: nn.Module) -> nn.Module:
    """A copy that shares parameters and children, whose children can be replaced without the original noticing."""
    module = copy.copy(module)
    module._modules = dict(module._modules)
    return module


TRUNK = 32 << 20  # bytes that a session keeps of what enters its head: eleven images of 640 px for n, three for m
_KINDS = {"f16": torch.float16, "bf16": torch.bfloat16}


class _Rounding(TorchDispatchMode):
    """Rounds what every operator puts out to ``kind`` and back; views show what is rounded already."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep PyTorch's compiler out, where nothing is compiled, it would be imported

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made if func.is_view else tree_map(self._narrow, made)

    def _narrow(self, value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.copy_(value.to(self.kind))
        return value


class TorchSession(Session):
    """Runs a network in float32 with its BatchNorms folded (``fold=False`` keeps them apart).

    Args:
        net: a network whose forward returns roles.
        info: ports; a batch of None lets any batch through.
        device: ``cpu``, ``cuda:0``, …
        threads: intra-operator threads; note that PyTorch has one such setting per process.

    Raises:
        UsageError: the device does not exist.
    """

    target = "pytorch"
    _works_in = torch.float32
    _values: _Rounding | None = None
    _trunk: dict[str, list[torch.Tensor]] | None = None

    def __init__(
        self,
        net: nn.Module,
        info: ModelInfo,
        path: Path | None = None,
        device: str | None = None,
        threads: int | None = None,
        fold: bool = True,
    ) -> None:
        self.info, self.path = info, path or Path(".")
        if threads:
            torch.set_num_threads(threads)
        try:
            self.device = torch.device("cpu" if device is None or is_cpu(device) else device)
            self.net = shaped(fuse(net) if fold else net, info).eval().to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"`device` {device}: PyTorch cannot use it ({str(error).splitlines()[0]})") from error

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` float32 in 0..1 -> one array per role: float32, labels int64."""
        with torch.inference_mode(), contextlib.ExitStack() as narrow:
            if self._values is not None:
                narrow.enter_context(whole())
                narrow.enter_context(self._values)
            outputs = self._outputs(batch)
        return {r: (v.float() if v.is_floating_point() else v).cpu().numpy() for r, v in outputs.items()}

    def beside(self, info: ModelInfo) -> TorchSession:
        """The same network with a head of another form. What enters the head is computed once for both, of the last few
        images."""
        twin = copy.copy(self)
        twin.info, twin.net = info, shaped(self.net, info)
        twin._trunk = self._trunk = {}
        return twin

    def _outputs(self, batch: np.ndarray) -> dict[str, torch.Tensor]:
        net: Any = self.net
        images, known = torch.from_numpy(batch).to(self.device, self._works_in), self._trunk
        if known is None:
            return net(images)  # type: ignore[no-any-return]
        key = f"{batch.shape} {hashlib.sha256(batch.tobytes()).hexdigest()}"
        features = known[key] if key in known else net.features(images)
        known[key] = features
        while sum(each.nbytes for kept in known.values() for each in kept) > TRUNK:
            del known[next(iter(known))]
        return net.head(features)  # type: ignore[no-any-return]

    def intermediates(self, batch: np.ndarray, paths: Sequence[str]) -> dict[str, np.ndarray]:
        """The outputs of the modules at ``paths`` (those that exist), for finding where two models part."""
        found: dict[str, np.ndarray] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: object) -> None:
                if isinstance(output, torch.Tensor):
                    found[path] = output.detach().float().cpu().numpy()

            return hook

        modules, trunk = dict(self.net.named_modules()), self._trunk
        self._trunk = None
        hooks = [modules[path].register_forward_hook(keep(path)) for path in paths if path in modules]
        try:
            self.run(batch)
        finally:
            self._trunk = trunk
            for handle in hooks:
                handle.remove()
        return found

    def rounded(self, weights: str | None, values: str | None = None, first: float = 1.0) -> TorchSession:
        """The same function as a narrower precision computes it.

        Args:
            weights: what the weights (BatchNorms folded) are rounded to: ``f16`` or ``bf16``; None for a session in
                float64 instead, which shows what float32 rounds.
            values: what every operator's output is rounded to, by default nothing.
            first: the first convolution's weights are stored times this, which decides where they are rounded to.
        """
        twin = copy.copy(self)
        twin._trunk = None
        if weights is None:
            twin.net, twin._works_in = copy.deepcopy(self.net).double(), torch.float64
        else:
            twin.net = fuse(self.net)
            entry = next(module.weight for module in twin.net.modules() if isinstance(module, nn.Conv2d))
            for value in twin.net.parameters():
                stored = first if value is entry else 1.0
                value.data = (value.data * stored).to(_KINDS[weights]).to(value.dtype) / stored
        twin._values = _Rounding(_KINDS[values]) if values else None
        return twin

    def precision_by_type(self) -> dict[str, int]:
        layers = [m for m in self.net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
        return {"f32": len(layers)}
