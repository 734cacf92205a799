"""Random networks for tests that compare numbers: they carry signal, do not amplify rounding, and prove both when made.

A network as PyTorch initialises it, or with the BatchNorm statistics of other images, may multiply the last bit of its
input a thousandfold, and then "equal within 1e-4" holds on some processors only. ``settled`` takes the statistics of
the very inputs, damps every layer a little and asks double precision how far off float32 is: that must be ten times
less than what the test allows, and what images differ by ten times more; of three networks, or the test's name and the
numbers are raised.

    made = settled("yolo12n", batch, {"boxes": 1e-3, "scores": 1e-4})       # an edgekit Checkpoint
    made = settled("yolo12n-cls", pictures(), 1e-3, names=("a", "b"))

``EDGEKIT_TEST_SEED`` (0 by default) changes every network made here and what ``noise`` gives. Networks that are made
elsewhere are found by ``test_networks.py``.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.image import prepare
from edgekit.spec import Preprocess
from edgekit.verify import parity

if TYPE_CHECKING:
    import onnx
    import torch

    from edgekit.checkpoint import Checkpoint
    from edgekit.spec import ModelSpec

SEED = int(os.environ.get("EDGEKIT_TEST_SEED") or 0)
MARGIN = 10  # how much closer to double precision than the tolerance float32 must be, and signal must be larger
CALM = 1.1  # what the variances of the settled BatchNorms are multiplied by: at 1 rounding grows, at 1.5 signal is gone

ATTEMPTS = 3

Array = np.ndarray


@dataclass(frozen=True)
class Proof:
    """What was found of a network: of each role the largest error of float32, the signal and what a test allows."""

    by: str
    error: dict[str, float]
    signal: dict[str, float]
    tolerance: dict[str, float]

    def share(self) -> float:
        """How much of what the error may be it is, at worst."""
        return max(MARGIN * self.error[role] / self.tolerance[role] for role in self.tolerance)


PROOFS: list[Proof] = []  # of this process; conftest.py prints the closest


class IllConditionedError(AssertionError):
    """A fixture whose numbers say more of the processor than of what is tested."""


def seeded(number: int) -> int:
    """The seed to use for ``number`` in this run."""
    return number + 10_000 * SEED


def noise(*shape: int, seed: int = 0) -> Array:
    """Uniform float32 in 0..1."""
    return np.random.default_rng(seeded(seed)).random(shape, dtype=np.float32)


def pictures(size: tuple[int, int] = (64, 64), count: int = 3, seed: int = 0) -> Array:
    """Generated images as float32 ``[count, 3, H, W]`` in 0..1; with seed 0 those that a build's parity looks at."""
    return prepare(parity.generated_images(count, seed=seed and seeded(seed)), size, Preprocess())[0]


def settled(
    name: str,
    inputs: Array,
    tolerance: float | Mapping[str, float],
    names: tuple[str, ...] | None = None,
    seed: int = 0,
    plant: Callable[[Any], None] | None = None,
    keypoint_shape: tuple[int, int] | None = None,
    **changes: Any,
) -> Checkpoint:
    """A random network whose answers to ``inputs`` can be compared within ``tolerance`` on every processor.

    Args:
        name: a model of the catalogue, such as ``yolo12n-seg``.
        inputs: what the test will feed it, float32 ``[B, 3, H, W]`` in 0..1.
        tolerance: what the test will allow, of every output or by role.
        names: of the classes; their number is the catalogue's by default.
        seed: other networks for other numbers.
        plant: changes the settled network in place, before it is proved.
        changes: of its ModelSpec.

    Raises:
        IllConditionedError: float32 is too far from double precision, or the answer hardly depends on the image, of
            ``ATTEMPTS`` networks: a single one may turn out so.
    """
    from edgekit.checkpoint import catalog

    spec = catalog.spec(name, classes=names and len(names), keypoint_shape=keypoint_shape).replace(**changes)
    for attempt in range(ATTEMPTS):
        with contextlib.suppress(*[IllConditionedError] * (attempt < ATTEMPTS - 1)):
            return _settled(spec, inputs, tolerance, names, seeded(seed) + 1_000_003 * attempt, plant)
    raise AssertionError("the last attempt returns or raises")


def _settled(
    spec: ModelSpec,
    inputs: Array,
    tolerance: float | Mapping[str, float],
    names: tuple[str, ...] | None,
    seed: int,
    plant: Callable[[Any], None] | None,
) -> Checkpoint:
    import torch

    from edgekit import checkpoint

    made = checkpoint.new(spec, names, seed=seed)
    made.imgsz = inputs.shape[2:]
    checkpoint.recalibrate(made, [_with_others(inputs)], damping=CALM)
    with torch.no_grad():
        for branch in getattr(made.net.head, "cv3", ()):  # scores about one half instead of one in a thousand
            branch[-1].bias.zero_()
        if spec.task == "classify":
            made.net.head.linear.weight *= 4
        if plant:
            plant(made.net)
    prove(made.net, inputs, tolerance)
    return made


def prove(net: torch.nn.Module, inputs: Array, tolerance: float | Mapping[str, float]) -> Proof:
    """Hold a network's float32 answers against those in double precision.

    Raises:
        IllConditionedError: as ``settled``; it names the test file and function that asked.
    """
    import torch

    with torch.no_grad():
        every = _with_others(inputs)
        single = {role: v.numpy() for role, v in net(every).items()}
        double = {role: v.numpy() for role, v in copy.deepcopy(net).double()(every.double()).items()}
    return proved(single, double, tolerance, len(inputs))


def proved(
    single: Mapping[str, Array], double: Mapping[str, Array], tolerance: float | Mapping[str, float], count: int
) -> Proof:
    """The proof from answers to several images; the error counts in the first ``count``, the signal in all."""
    allowed = dict(tolerance) if isinstance(tolerance, Mapping) else dict.fromkeys(single, tolerance)
    error = {role: float(np.abs(single[role] - double[role])[:count].max()) for role in allowed}
    signal = {role: float(np.ptp(double[role], axis=0).max()) for role in allowed}
    proof = Proof(_asker(), error, signal, allowed)
    for role, most in allowed.items():
        if not error[role] <= most / MARGIN:  # NaN is no less
            raise IllConditionedError(
                f"{proof.by}: {role} in float32 are {error[role]:.2g} from double precision where the test allows "
                f"{most:.2g}; they must be {MARGIN} times closer: recalibrate the network on what it is fed"
            )
        if role in ("scores", "class_probabilities") and np.median(_room(double[role])) < MARGIN * most:
            raise IllConditionedError(f"{proof.by}: {role} are saturated: most lie at 0 or 1, whatever the logits")
        if not signal[role] >= MARGIN * most:
            raise IllConditionedError(
                f"{proof.by}: {role} differ by {signal[role]:.2g} between images where the test allows {most:.2g}; "
                "a network that ignores its input would pass"
            )
    PROOFS.append(proof)
    return proof


def _room(probabilities: Array) -> Array:
    return np.minimum(probabilities, 1 - probabilities)


def prove_graph(model: onnx.ModelProto, inputs: Array, tolerance: float) -> Proof:
    """The same of an ONNX graph of standard operators with one input: ONNX Runtime against onnx's own evaluation in
    double precision, on every one of ``inputs`` ``[images, ...]``."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    exact = ReferenceEvaluator(_in_double(model))
    name = model.graph.input[0].name
    single = [runtime.run(names, {name: image[None]}) for image in inputs]
    double = [exact.run(names, {name: image[None].astype(np.float64)}) for image in inputs]
    return proved(
        {name: np.concatenate(values) for name, values in zip(names, zip(*single, strict=True), strict=True)},
        {name: np.concatenate(values) for name, values in zip(names, zip(*double, strict=True), strict=True)},
        tolerance,
        len(inputs),
    )


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import TensorProto, numpy_helper

    wide = type(model)()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def _with_others(inputs: Array) -> torch.Tensor:
    """The inputs and a few images more: BatchNorm needs several, and signal is what changes between them."""
    import torch

    size = inputs.shape[2:]
    return torch.from_numpy(np.concatenate([inputs, pictures(size, 3, seed=7), noise(3, 3, *size, seed=7)]))


def _asker() -> str:
    """``file.py::function`` of the test or fixture that asked."""
    frame = next(f for f in inspect.stack() if Path(f.filename).name != Path(__file__).name)
    return f"{Path(frame.filename).name}::{frame.function}"
