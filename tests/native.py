"""The C++ library under test: compiling tests/cpp, asking its programs, and reading what they answer.

folder = compile_tests("cpp-address", "-DEDGEKIT_SANITIZE=address,undefined")
Probe(folder / "probe", tmp_path)("read", bundle)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.conformance import DOCUMENT, differences
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError, UsageError
from edgekit.runtime import places
from edgekit.runtime.image import read_image
from edgekit.runtime.manifest import manifest_of, read_bundle, write_manifest
from edgekit.runtime.masks import Crop, Masks
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo

KEYS = ("boxes", "rotated_boxes", "keypoints", "masks", "probs")
# Error::Kind of edgekit.hpp; a missing backend is no package, so no MissingPackageError.
KINDS = {1: InputError, 2: UsageError, 3: EdgekitError, 4: UnsafeFileError, 5: GateError}
REPO = Path(__file__).resolve().parents[1]
# Before a program of ours, such as "qemu-x86_64-static -cpu Haswell": what an emulated Python starts is not emulated.
EMULATOR = os.environ.get("EDGEKIT_TEST_EMULATOR", "").split()
# OpenVINO's threading loads a library in a way the sanitizers forbid, unless told of them.
ENVIRONMENT = {
    **os.environ,
    "TBB_ENABLE_SANITIZERS": "1",
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1",
    "LSAN_OPTIONS": f"suppressions={REPO / 'tests/cpp/openvino.lsan'}:print_suppressions=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"suppressions={REPO / 'tests/cpp/openvino.tsan'}:halt_on_error=1",
}


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=ENVIRONMENT, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done


def compile_tests(name: str, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
    """tests/cpp compiled in build/NAME."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to compile the C++ library")
    openvino = places.openvino_cmake_dir(required=False)
    if openvino is None:
        pytest.skip("needs OpenVINO's wheel to compile the C++ library with")
    folder = REPO / "build" / name
    ninja = ("-G", "Ninja") if shutil.which("ninja") else ()
    paths = (f"-Dedgekit_DIR={places.cmake_dir()}", f"-DOpenVINO_DIR={openvino}", "-DCMAKE_BUILD_TYPE=None")
    run("cmake", "-S", REPO / "tests/cpp", "-B", folder, *ninja, *paths, "-DCMAKE_CXX_FLAGS=-O1", *options)
    run("cmake", "--build", folder, "--parallel", "1", "--target", *targets)  # the other core runs other tests
    return folder


class Probe:
    """Asks tests/cpp/probe.cpp: ``probe("read", folder)`` is its answer, or the error it would have thrown."""

    def __init__(self, program: Path, scratch: Path, **environment: str) -> None:
        self.scratch = scratch
        self.process = subprocess.Popen([*EMULATOR, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8", env=ENVIRONMENT | environment)  # fmt: skip

    def __call__(self, *words: object) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\t".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the program died of {words}"
        answer = json.loads(line)
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return answer["ok"]

    def pixels(self, image: np.ndarray) -> tuple[object, ...]:
        """The words that describe an image, whose rows may lie apart."""
        path = self.scratch / "pixels"
        width, channels = image.shape[1], image.shape[2] if image.ndim == 3 else 1
        rows = np.lib.stride_tricks.as_strided(image, (len(image), image.strides[0]), (image.strides[0], 1))
        path.write_bytes(rows[:-1].tobytes() + rows[-1, : width * channels].tobytes())
        return path, width, len(image), channels, image.strides[0]

    def predict(self, folder: Path, image: np.ndarray, **options: Any) -> dict[str, Any]:
        return self("predict", folder, *self.pixels(image), *words_of(options))

    def close(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait()


def data(message: str) -> set[str]:
    """The names in quotes and the numbers of an error's or a warning's message."""
    return set(re.findall(r"(?<!\w)'[^']*'|\d+(?:\.\d+)?", message))


def assert_same_error(ours: EdgekitError, theirs: EdgekitError) -> None:
    """Python's error and the C++ library's are of one kind and tell the same data, in whatever words."""
    assert type(ours) is type(theirs), f"{ours!r} is not {theirs!r}"
    assert data(str(ours)) == data(str(theirs)), f"{ours!r} is not {theirs!r}"


def words_of(options: dict[str, Any]) -> list[str]:
    return [f"{k}={'+'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in options.items() if v is not None]


def result_of(answer: dict[str, Any], names: tuple[str, ...], like: Result) -> Result:
    """What the program printed, with the fields ``like`` has."""
    count = len(answer["labels"])
    shape = answer["shape"]
    found = Result((shape[0], shape[1]), names)
    if like.probs is not None:
        found.probs = np.array(answer["probs"], np.float32)
        return found
    found.truncated = tuple(answer["truncated"])
    found.scores, found.labels = np.array(answer["scores"], np.float32), np.array(answer["labels"], np.int64)
    if like.boxes is not None:
        found.boxes = np.array(answer["boxes"], np.float32).reshape(-1, 4)
    if like.rotated_boxes is not None:
        found.rotated_boxes = np.array(answer["rotated_boxes"], np.float32).reshape(-1, 5)
    if like.keypoints is not None:
        found.keypoints = np.array(answer["keypoints"], np.float32).reshape(count, answer["points"], 3)
    if like.masks is not None:
        crops = [
            Crop(left, top, np.frombuffer(bits.encode(), np.uint8).reshape(height, width) == ord("1"))
            for left, top, width, height, bits in answer["masks"]
        ]
        found.masks = Masks((shape[0], shape[1]), tuple(crops))
    return found


def bundle_around(folder: Path, info: ModelInfo, target: str = "ort-fp32") -> Path:
    """A well-formed bundle around a file that no runtime is asked to load."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights" * 100)
    write_manifest(folder, manifest_of(info, target, folder, parity={}, rewrites=[]))
    return folder


def conform(probe: Probe, folder: Path) -> list[str]:
    """What the C++ library does wrong in a set that ``benchmarks/conformance.py`` made; empty where it conforms."""
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    wrong = []
    for case in document["cases"]:
        place, expected = folder / case["bundle"], case["expected"]
        answer = probe.predict(place, read_image(folder / case["image"]), **case["options"])
        like = Result((0, 0), (), **{key: expected[key] for key in KEYS if key in expected})
        found = result_of(answer, read_bundle(place, verify=False).info.names, like)
        name = f"{case['bundle']} on {case['image']}"
        wrong += [f"{name}: {what}" for what in differences(expected, found, document["tolerances"])]
    return wrong


if __name__ == "__main__":  # python -m tests.native CONFORMANCE_SET
    with tempfile.TemporaryDirectory() as made:
        program = compile_tests("cpp-address", "-DEDGEKIT_SANITIZE=address,undefined") / "probe"
        complaints = conform(Probe(program, Path(made)), Path(sys.argv[1]))
        sys.exit("\n".join(complaints) or 0)
