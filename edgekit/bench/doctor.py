"""What is installed here, and what each target still lacks, a sentence each.

Versions come from the packages' metadata, so nothing is imported to learn them; whether a target can run is asked of
the target itself (``missing()`` in its file).

    report = examine()
    report["targets"][0]        # {'name': 'ort-fp32', 'ready': True, 'note': None}
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

import edgekit
from edgekit import targets
from edgekit.bench import machine
from edgekit.errors import no_wheel
from edgekit.runtime import processor
from edgekit.runtime.versions import version
from edgekit.spec import Json
from edgekit.targets._experimental import EXPERIMENTAL


@dataclass(frozen=True)
class Package:
    """A package edgekit can use.

    Attributes:
        name: what pip calls it.
        extra: the extra of edgekit that brings it; empty where edgekit always needs it, None where ``use`` says how to
            install it.
        use: what for.
        others: other distributions of the same module, any of which will do.
    """

    name: str
    extra: str | None
    use: str
    others: tuple[str, ...] = ()


PACKAGES = (
    Package("numpy", "", "arrays"),
    Package(
        "opencv-python-headless",
        "",
        "reading, resizing and drawing images and video",
        ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
    Package("PyYAML", "", "data.yaml"),
    Package("rich", "", "tables and progress"),
    Package("psutil", "", "what else the machine does while something is timed"),
    Package("nvidia-ml-py", "", "the state of NVIDIA GPUs"),
    Package("typer", "", "the command line"),
    Package("torch", "train", "checkpoints, training and export"),
    Package("faster-coco-eval", "train", "COCO metrics"),
    Package("matplotlib", "train", "curves"),
    Package("onnx", "onnx", "export"),
    Package("onnx-ir", "onnx", "graphs in memory: export and rewrites"),
    Package("onnxscript", "onnx", "export and rewrites"),
    Package("onnxsim", "onnx", "fixing the image size of ONNX files from elsewhere"),
    Package("onnxruntime", "onnx", "ort-* targets", ("onnxruntime-gpu", "onnxruntime-openvino")),
    Package("openvino", "openvino", "ov-* targets"),
    Package("nncf", "int8", "building ov-int8"),
    Package("ncnn", "ncnn", "ncnn-* targets"),
    Package("pnnx", None, "building ncnn-*: pip install --no-deps pnnx"),
    Package("jinja2", "report", "edgekit report"),
    Package("tensorrt", "tensorrt", "trt-* targets", ("tensorrt-cu12", "tensorrt-cu13")),
    Package("tensorrt-rtx", "tensorrt-rtx", "trt-rtx-* targets", ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13")),
    Package("cuda-core", "cuda", "DLPack arrays and kernels for TensorRT"),
    Package("cuda-bindings", "cuda", "GPU memory, streams and graphs for TensorRT"),
    Package("supervision", "supervision", "results in its form: Result.to_supervision"),
    Package("trackers", "track", "tracks of objects over frames"),
    Package("pyarrow", "parquet", "predictions as Parquet"),
    Package("fsspec", "store", "object stores and remote archives as sources"),
    Package("ray", "ray", "predictions by Ray"),
    Package("oras", "fleet", "push and pull: OCI registries"),
    Package("huggingface_hub", "fleet", "push and pull: the Hugging Face Hub; model cards"),
    Package("optuna", "search", "the documentation's search of training settings"),
    Package("model-signing", "trust", "sign, and signatures in verify"),
    Package("cryptography", "trust", "keys, and signed attestations"),
    Package("pyOpenSSL", "trust", "what model-signing needs and does not declare"),
    Package("in-toto-attestation", "trust", "checking attestations"),
    Package("cyclonedx-python-lib", "trust", "bills of materials"),
    Package("safetensors", "safetensors", "checkpoints as .safetensors"),
    Package("pycuda", "pycuda", "never imported; its arrays are TensorRT's input as they are"),
)


# As pyproject.toml has them; a test compares.
OLDEST = {"onnxruntime": (1, 20), "openvino": (2025, 0), "ncnn": (1, 0, 20250503)}


def examine() -> Json:
    """The state of this installation as plain data.

    Returns:
        ``edgekit`` and ``python`` (versions), ``platform``, ``packages`` (``name``, ``installed``: the distribution
        found, ``version`` or None, ``extra``, ``use``), ``targets`` (``name``, ``ready``, ``note``: the sentence that
        says what is lacking, or None), ``warnings`` (sentences), ``experimental`` (what no hardware has
        proved: ``name``, ``what``, ``why``, ``targets``, ``proved_by``), ``cpu`` and ``gpus`` (see
        ``edgekit.bench.machine``).
    """
    return {
        "edgekit": edgekit.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": [_package(p) for p in (*PACKAGES, *_of_targets())],
        "targets": target_states(),
        "warnings": [*_warnings(), *_old(), *processor.warnings()],
        "experimental": [
            {"name": e.name, "what": e.what, "why": e.why, "targets": "trt-*", "proved_by": "gpu-check"}
            for e in EXPERIMENTAL
        ],
        "cpu": machine.cpu(),
        "gpus": machine.gpus(),
    }


def target_states() -> list[Json]:
    """For every target its ``name``, whether it is ``ready`` here, and the ``note`` saying what it lacks."""
    states = []
    for target in targets.every():
        note = target.missing()
        states.append({"name": target.name, "ready": note is None, "note": note})
    return states


def _of_targets() -> list[Package]:
    """Packages that only a target's record names."""
    listed = {p.name for p in PACKAGES}
    found = {name: target for target in targets.every() for name in target.packages if name not in listed}
    return [Package(name, target.extra, f"{target.name} and its like") for name, target in found.items()]


def _package(package: Package) -> Json:
    found = next((n for n in (package.name, *package.others) if version(n)), None)
    return {
        "name": package.name,
        "installed": found,
        "version": version(found) if found else None,
        "extra": package.extra or None,
        "use": package.use,
    }


def _warnings() -> list[str]:
    """Installed twice: distributions that bring the same module overwrite each other's files."""
    return [
        f"{' and '.join(found)} are both installed and overwrite each other's files; uninstall all but one"
        for package in PACKAGES
        if len(found := [n for n in (package.name, *package.others) if version(n)]) > 1
        and not package.name.startswith("tensorrt")  # there one is a shell that brings the other
    ]


def _old() -> list[str]:
    """Runtimes older than edgekit asks for: what pip takes, without a word, where newer ones do not fit the system."""
    said = []
    for name, least in OLDEST.items():
        found = version(name)
        numbers = tuple(int(part) for part in (found or "").split(".")[: len(least)] if part.isdigit())
        if found and numbers < least:
            why = no_wheel(name) or f"run: pip install --upgrade {name}"
            said.append(f"{name} {found} is older than {'.'.join(map(str, least))}, the oldest edgekit is for; {why}")
    return said
