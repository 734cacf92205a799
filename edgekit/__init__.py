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
    from edgekit.runtime.predictor import Predictor

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
}

__all__ = ["__version__", "load", *_HOMES]


def load(path: str, **options: Any) -> Predictor:
    """Open a bundle folder, a checkpoint or an exported ONNX file for prediction.

    Args:
        path: what to open.
        options: see ``edgekit.bundle.loading.load``.

    Raises:
        EdgekitError: what is wrong with the file, or what is not installed.
    """
    from edgekit.bundle.loading import load as open_model

    return open_model(path, **options)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
