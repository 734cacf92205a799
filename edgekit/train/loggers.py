"""Other places a run's numbers go to when asked: TensorBoard, MLflow, Weights & Biases.

    sinks = open_loggers(["tensorboard"], folder, config)
    for sentence in sinks.log(epoch, {"map50_95": 0.41}):      # empty unless one has just failed
        warn(sentence)
    sinks.close()

Each package is imported when it is asked for. What goes wrong at the start is refused there; what goes wrong later
turns that one off with a sentence, because no run should die of its diary.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.errors import InputError, MissingPackageError, UsageError, optional

Metrics = Mapping[str, Any]


class Logger(NamedTuple):
    """One place: how to hand it a step's numbers, and how to finish."""

    name: str
    log: Callable[[int, dict[str, float]], Any]
    close: Callable[[], Any]


class Loggers:
    """All places a run's numbers go to; empty where none was asked for."""

    def __init__(self, sinks: Sequence[Logger]) -> None:
        self._open = list(sinks)

    def log(self, step: int, metrics: Metrics) -> list[str]:
        """Hand over the finite numbers among ``metrics``; a sentence for each place that failed and is now off."""
        numbers = {k: float(v) for k, v in metrics.items() if _finite(v)}
        return self._each(lambda sink: sink.log(step, numbers))

    def close(self) -> list[str]:
        """Finish all; a sentence for each that could not."""
        failed = self._each(lambda sink: sink.close())
        self._open = []
        return failed

    def _each(self, call: Callable[[Logger], Any]) -> list[str]:
        failed = []
        for sink in list(self._open):
            try:
                call(sink)
            except Exception as error:  # whatever it is, the run is worth more
                self._open.remove(sink)
                failed.append(f"{sink.name}: {_reason(error)}; nothing more is logged there")
        return failed


def open_loggers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> Loggers:
    """The sinks of these names for the run in ``folder``, each told the run's ``config``.

    Raises:
        UsageError: a name that is none of ``SINKS``.
        MissingPackageError: its package is not installed.
        InputError: it could not be started.
    """
    for name in names:
        if name not in SINKS:
            raise UsageError(f"`log` {name}: choose from {', '.join(SINKS)}")
    opened: list[Logger] = []
    for name in dict.fromkeys(names):
        try:
            with optional(f"`log` {name}", package=name):
                opened.append(SINKS[name](folder, _flat(config)))
        except Exception as error:
            Loggers(opened).close()
            if isinstance(error, MissingPackageError):
                raise
            raise InputError(f"`log` {name}: could not be started ({_reason(error)})") from None
    return Loggers(opened)


def _tensorboard(folder: Path, config: dict[str, Any]) -> Logger:
    importlib.import_module("tensorboard")  # torch's writer would say ImportError for many other reasons
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return Logger("tensorboard", log, writer.close)


def _mlflow(folder: Path, config: dict[str, Any]) -> Logger:
    mlflow = importlib.import_module("mlflow")
    mlflow.start_run(run_name=folder.name)
    mlflow.log_params(config)
    return Logger("mlflow", lambda step, numbers: mlflow.log_metrics(numbers, step=step), mlflow.end_run)


def _wandb(folder: Path, config: dict[str, Any]) -> Logger:
    run = importlib.import_module("wandb").init(project="edgekit", name=folder.name, dir=str(folder), config=config)
    return Logger("wandb", lambda step, numbers: run.log(numbers, step=step), run.finish)


SINKS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``augment.mosaic: 1.0``, which all three can show."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
