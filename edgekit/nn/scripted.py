"""TorchScript files of other tools behind the same interface as every model.

Such a file is a program, and running it runs that program: give only files that you would run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.errors import InputError, UsageError
from edgekit.spec import ModelInfo, Port, Session

METADATA = "config.txt"  # where Ultralytics' exporter keeps it


class ScriptSession(Session):
    """Runs a TorchScript file: the ports' roles are the outputs' numbers."""

    target = "torchscript"

    def __init__(self, path: Path, info: ModelInfo, device: str | None = None, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        try:
            self.device = torch.device(device or "cpu")
            self.module, _ = _opened(path, self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"`device` {device}: cannot run {path} ({str(error).splitlines()[0]})") from error
        self.path, self.info = path, info

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` -> one array per output."""
        outputs = _called(self.module, torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        return {port.role: value for port, value in zip(self.info.outputs, outputs, strict=True)}


def opener(target: Any, place: Path, info: ModelInfo, opening: Any, count: int) -> list[Session]:
    """``Target.opener`` of TorchScript files; PyTorch has one set of threads a process, so one session."""
    if count > 1:
        raise UsageError(f"{place}: PyTorch runs one stream a process; build the model for a target")
    return [ScriptSession(place, info, opening.device, opening.threads)]


def describe(path: Path, imgsz: tuple[int, int] | None) -> tuple[list[Port], list[Port], Mapping[str, object]]:
    """Inputs, outputs and metadata. A TorchScript file does not tell its shapes, so it is run once on a grey image.

    Raises:
        InputError: it is none, or takes no such image.
        UsageError: nothing tells the size of its input.
    """
    module, text = _opened(path, torch.device("cpu"))
    metadata = _read(text)
    own = metadata.get("imgsz")
    size = imgsz or (tuple(own) if isinstance(own, list) and len(own) == 2 else None)
    if size is None:
        raise UsageError(f"{path}: takes images of any size; say which with `imgsz`")
    batch = metadata.get("batch", 1)
    shape = (batch if isinstance(batch, int) else 1, 3, *size)
    first = next((value for value in module.parameters() if value.is_floating_point()), torch.zeros(1))
    try:
        outputs = _called(module, torch.full(shape, 0.5, dtype=first.dtype))
    except RuntimeError as error:
        raise InputError(
            f"{path}: takes no image of {size[0]}x{size[1]} pixels ({str(error).splitlines()[-1]})"
        ) from error
    ports = [Port(f"output{i}", "", tuple(value.shape), str(value.dtype)) for i, value in enumerate(outputs)]
    return [Port("images", "", shape, str(first.dtype).removeprefix("torch."))], ports, metadata


def _opened(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, str]:
    files = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, files of it remain
            module = torch.jit.load(str(path), map_location=device, _extra_files=files)
    except (RuntimeError, ValueError) as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), "damaged")
        raise InputError(f"{path}: cannot be loaded as TorchScript ({why})") from error
    text: Any = files[METADATA]
    return module.eval(), text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _read(text: str) -> dict[str, object]:
    """The metadata as ``external`` reads it: class names by number."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    names = found.get("names")
    if isinstance(names, dict) and all(str(key).isdigit() for key in names):
        found["names"] = {int(key): name for key, name in names.items()}
    return found


def _called(module: torch.jit.ScriptModule, batch: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        outputs = module(batch)
    every = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return [value.float().cpu().numpy() for value in every]
