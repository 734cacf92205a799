"""OpenVINO's own INT8: NNCF puts FakeQuantize where the CPU has integer kernels, on a graph made ready for it.

    placed = quantize(graph.path, folder / "model.xml", batches)

What makes it worth it (figures of an EPYC with VNNI, YOLO12-n on bccd, 72 images, on which differences under 0.3 points
say little; ``benchmarks/results/int8-methods.json``). The network takes 0.54 of float32's CPU time and loses nothing:

- the ONNX file is converted before it is quantized, so that SiLU is one Swish and no FakeQuantize gets inside;
- attention stays one ``ScaledDotProductAttention`` in floating point, from the convolutions that make queries, keys and
  values to the sum behind it; so does the decode tail;
- activations are asymmetric: SiLU's are nearly all positive, and a symmetric range wastes half of its steps (0.2
  points of mAP);
- weights take seven bits of eight where there is no VNNI: sums of pairs of products saturate in sixteen bits there.
  With oneDNN told to do without (``ONEDNN_MAX_CPU_ISA=AVX512_CORE``) eight bits cost 38 points, seven none;
- biases are corrected for the mean error that rounding leaves behind (0.3 points);
- ranges are those of all images: means of theirs are as good, means of their percentiles lose 0.6 points.

SmoothQuant of convolutions and alignment of channels were tried too: the same figure to the last digit. What was tried
and is not done stands in ``benchmarks/int8_methods.py``.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, optional
from edgekit.graph.files import load
from edgekit.nn import layers
from edgekit.quantize import groups, qdq
from edgekit.runtime.home import ensure_home
from edgekit.runtime.silence import quiet_loggers
from edgekit.targets.openvino import save

# Where a walk back from attention ends: what is quantized may make its inputs.
_COMPUTES = ("Convolution", "GroupConvolution", "Parameter", "Constant")
_COUNTED = re.compile(r"[A-Za-z]\w*_\d+")  # a name that OpenVINO gave by itself
_SUFFIX = "/WithoutBiases"  # OpenVINO's name for a convolution whose bias became an Add


def quantize(
    graph: Path, out: Path, batches: Sequence[np.ndarray], skip: Collection[str] = (), weight_bits: int = 7
) -> qdq.Placement:
    """Write ``graph`` as an INT8 IR, ``out`` and the ``.bin`` beside it.

    Args:
        graph: an ONNX file edgekit exported for OpenVINO, float32, static shapes.
        out: the ``.xml`` to write.
        batches: float32 ``[B, 3, H, W]`` each.
        skip: groups (``groups.collect``) and nodes to leave in floating point.
        weight_bits: 7, or 8 for processors with VNNI only.

    Raises:
        MissingPackageError: openvino or nncf is not installed.
        InputError: what ``qdq.check`` refuses, or no attention that OpenVINO could keep whole.
        UsageError: ``skip`` names neither a group nor a node.
    """
    ensure_home()
    with optional("building ov-int8", "int8"):
        import nncf
        import openvino
    exported = load(graph)
    qdq.check(exported, graph)
    with tempfile.TemporaryDirectory() as scratch:
        plain = shutil.copyfile(graph, Path(scratch) / "model.onnx")  # a comma in a path would be the end of it
        model = openvino.convert_model(str(plain))
    left = _left_alone(model, skip, graph)
    left |= {name + _SUFFIX for name in qdq.last_convolutions(exported) if qdq.keeps_float(name)}
    known = {name for op in model.get_ops() if not _COUNTED.fullmatch(name := op.get_friendly_name())}
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.DISABLE,
        disable_bias_correction=False,
        disable_channel_alignment=True,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1),  # none
        # Per image, whatever the artifact's batch: the ranges must not depend on it.
        batchwise_statistics=len(batches[0]) > 1,
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
    )
    # NNCF narrates by a logger, whose set_log_level is for good and for everybody's handlers, and draws progress bars.
    with quiet_loggers("nncf"), contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=sorted(left), validate=False),
            advanced_parameters=advanced,
        )
    _make_repeatable(quantized, known)
    save(quantized, out)
    return _placement(quantized, left)


def _left_alone(model: Any, skip: Collection[str], graph: Path) -> set[str]:
    """Names of operations that stay in floating point: attention with all that leads to it, the tail, what is asked."""
    operations = {op.get_friendly_name(): op for op in model.get_ops()}
    computed = [
        name for name, op in operations.items() if op.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    cores = [op for op in operations.values() if op.get_type_name() == "ScaledDotProductAttention"]
    if not cores:
        raise InputError(f"{graph}: OpenVINO finds no attention to keep whole in it; give its checkpoint")
    left = groups.chosen(skip, computed) | layers.tail(computed)
    for core in cores:
        left.add(core.get_friendly_name())
        left |= set(_behind(core))
    return left


def _behind(operation: Any) -> Iterator[str]:
    """Names of everything between an operation and the convolutions its inputs come from."""
    for port in operation.inputs():
        source = port.get_source_output().get_node()
        # The bias is the convolution's: it and the convolution itself may be quantized.
        if source.get_type_name() in _COMPUTES or _is_bias(source):
            continue
        yield source.get_friendly_name()
        yield from _behind(source)


def _is_bias(operation: Any) -> bool:
    if operation.get_type_name() != "Add":
        return False
    inputs = [port.get_source_output().get_node().get_type_name() for port in operation.inputs()]
    return any(kind in _COMPUTES[:2] for kind in inputs) and "Constant" in inputs


def _placement(model: Any, left: set[str]) -> qdq.Placement:
    convolutions, values = 0, []
    for op in model.get_ops():
        if op.get_type_name() == "FakeQuantize":
            values.append(op.input_value(0).get_node().get_friendly_name())
        elif op.get_type_name() in _COMPUTES[:2]:
            convolutions += op.get_friendly_name() not in left
    skipped = sorted(name.removesuffix(_SUFFIX) for name in left if name.endswith(_SUFFIX))
    return qdq.Placement(convolutions, tuple(sorted(values)), tuple(skipped))


def _make_repeatable(model: Any, known: Collection[str]) -> None:
    """Two builds are the same bytes: no paths or moments in the notes, and names that count from one, not from how many
    operations this process has made before."""
    notes = model.get_rt_info()
    for key in ("conversion_parameters", "nncf", "framework"):
        if key in notes:
            del notes[key]
    counts: dict[str, int] = {}
    for op in model.get_ordered_ops():
        if op.get_friendly_name() in known:
            continue
        kind = op.get_type_name()
        counts[kind] = counts.get(kind, 0) + 1
        op.set_friendly_name(f"{kind}_{counts[kind]}")
