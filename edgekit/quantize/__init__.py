"""INT8 and FP16: calibration, quantization, and what to leave in floating point. Build judges the result.

| file | does |
|---|---|
| ``options.py`` | what can be asked for |
| ``calibration.py`` | chooses images and writes down which and why |
| ``sets.py`` ``pictures.py`` | what is calibrated and judged on, with labels or without; before the export |
| ``ranges.py`` | what values the graph's tensors take on them |
| ``qdq.py`` | explicit Q/DQ pairs in an ONNX graph |
| ``ir.py`` | OpenVINO's own form, by NNCF |
| ``fp16.py`` | half precision |
| ``logits.py`` | class scores moved by a constant, in the graph |
| ``groups.py`` | the named parts that are quantized or left alone together |
| ``sensitivity.py`` ``search.py`` | which groups cost accuracy, and the fewest to put back |
| ``candidates.py`` | all of it: the graphs that a bundle could be built from |
"""

from __future__ import annotations

from edgekit.errors import InputError, UsageError, not_installed
from edgekit.quantize.options import QuantizeOptions as QuantizeOptions
from edgekit.runtime.processor import adds_exactly
from edgekit.targets import Target, every


def needed(target: Target, options: QuantizeOptions) -> bool:
    """Whether a graph is quantized or halved for ``target``.

    Raises:
        UsageError: INT8 without data, or options that the target cannot heed.
    """
    if target.int8 and not (options.sources or options.calibration):
        raise UsageError(
            f"`target` {target.name}: INT8 is calibrated and judged on images; give `data`, a labelled set or pictures "
            "without labels, or `calibration`"
        )
    narrows = bool(target.narrowing)
    if not narrows and options.calibration:
        raise UsageError(f"`calibration` goes with INT8 and trt-* targets, not with {target.name}; give `data`")
    if options.require_speedup is not None and (not target.floats or options.timing_s == 0):
        timed = " and ".join(other.name for other in every() if other.floats)
        raise UsageError(f"`require_speedup` goes with {timed}, which are timed here, not with {target.name}")
    if options.weight_bits is not None and not target.int8:
        raise UsageError(f"`weight_bits` goes with INT8 targets, not with {target.name}")
    if options.recalibrate_scores and not target.int8:
        raise UsageError(f"`recalibrate_scores` goes with INT8 targets, whose scores may move, not with {target.name}")
    if target.int8:
        weight_bits(target, options)
    return narrows


def missing(target: Target) -> str | None:
    """What calibrating for ``target`` needs and is not installed, one message, or None."""
    return target.missing_to_build() or not_installed("onnxruntime", "calibration", "onnx")


def check_packages(target: Target) -> None:
    """Raise InputError unless what calibrating for ``target`` needs is installed."""
    reason = missing(target)
    if reason:
        raise InputError(reason)


def weight_bits(target: Target, options: QuantizeOptions) -> int:
    """Bits of the weights: what was asked for, else eight where sums of products are exact (GPUs, CPUs with VNNI), else
    seven, which saturate nowhere.

    Raises:
        UsageError: neither 7 nor 8.
    """
    if options.weight_bits is not None:
        if options.weight_bits not in (7, 8):
            raise UsageError(f"`weight_bits` {options.weight_bits}: 8, or 7 for processors without VNNI")
        return options.weight_bits
    return 8 if target.exact or adds_exactly() else 7
