"""edgekit: train, export, build and measure YOLO12 models for edge devices.

Importing this package loads nothing heavy; what a name needs is imported when the name is used.

    import edgekit

    model = edgekit.load("bundle/")            # a bundle, a checkpoint or an exported ONNX file
    for result in model("street.jpg"):
        result.plot()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bundle.loading import load as load

__version__ = "0.1.0"

# Public name -> the module it lives in.
_HOMES = {
    "EdgekitError": "edgekit.errors",
    "GateError": "edgekit.errors",
    "InputError": "edgekit.errors",
    "MissingPackageError": "edgekit.errors",
    "UnsafeFileError": "edgekit.errors",
    "UsageError": "edgekit.errors",
    "Graph": "edgekit.spec",
    "ModelInfo": "edgekit.spec",
    "ModelSpec": "edgekit.spec",
    "Port": "edgekit.spec",
    "Preprocess": "edgekit.spec",
    "Result": "edgekit.runtime.results",
    "load": "edgekit.bundle.loading",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
