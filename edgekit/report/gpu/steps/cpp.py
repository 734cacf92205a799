"""The C++ library's TensorRT file: compiled against the SDK here, held to Python's answers, timed beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2

from edgekit.bundle.conformance import DOCUMENT
from edgekit.bundle.loading import load
from edgekit.errors import InputError, require
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.runtime import places
from edgekit.verify import parity

_CONFORM = """
import os, sys
from pathlib import Path
from tests.native import Probe, conform
print("\\n".join(conform(Probe(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]))))
"""


def run(job: Job) -> None:
    """Compile, conformance on the engine that the step before built, milliseconds."""
    repository = job.needs("repository")
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            raise Lacking(f"{tool} is not installed, which the C++ library is compiled with")
    program = _compiled(job, repository)
    bundle = trials.built(job, job.needs("model"), "trt-fp16", "shipped")
    with job.part("conformance"):
        _conformance(job, repository, program, bundle)
    with job.part("times"):
        _times(job, program, bundle)


def _compiled(job: Job, repository: Path) -> Path:
    folder = job.work / "cpp"
    backends = ["-DEDGEKIT_TENSORRT=ON", "-DEDGEKIT_OPENVINO=OFF", "-DEDGEKIT_ONNXRUNTIME=OFF"]
    configure = ["cmake", "-S", str(repository / "tests" / "cpp"), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
    for words in (
        [*configure, f"-Dedgekit_DIR={places.cmake_dir()}", *backends],
        ["cmake", "--build", str(folder), "-t", "probe", "--parallel", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        trials.say(done.stdout[-3000:] + done.stderr[-3000:])
        if "its headers or libraries were not found" in " ".join(done.stderr.split()):  # CMake breaks lines
            raise Lacking(
                "CUDA's or TensorRT's headers are not here: install the CUDA toolkit and TensorRT's development files "
                "(libnvinfer-dev), or name them in CMAKE_PREFIX_PATH"
            )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            job.holds("compiled", False, (lines or ["cmake fails; see the log"])[0], errors=lines[:10])
            raise Lacking("the library does not compile, so nothing of it can be run")
    job.holds("compiled", True, "against the headers here, warnings as errors")
    return folder / "probe"


def _pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for place, image in enumerate(parity.generated_images(4)):
        (folder / f"{place}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def _conformance(job: Job, repository: Path, program: Path, bundle: Path) -> None:
    require("pytest", "holding the C++ library to Python's answers")
    made = job.work / "conformance"
    shutil.rmtree(made, ignore_errors=True)
    pictures = _pictures(job.work / "pictures")
    words = ["-m", "benchmarks.conformance", str(bundle), *trials.flags(images=pictures, out=made)]
    subprocess.run([sys.executable, *words], cwd=repository, check=True)
    (job.work / "probe").mkdir(exist_ok=True)
    asked = [sys.executable, "-c", _CONFORM, str(program), str(job.work / "probe"), str(made)]
    done = subprocess.run(asked, cwd=repository, capture_output=True, text=True, check=False)
    trials.say(done.stderr[-3000:])
    if done.returncode:
        says = f"the answers could not be compared: {trials.last_line(done.stderr)}"
        job.holds("conformance", False, says)
        return
    wrong = done.stdout.strip().splitlines()
    cases = json.loads((made / DOCUMENT).read_text(encoding="utf-8"))["cases"]
    objects = sum(len(case["expected"]["labels"]) for case in cases)
    says = wrong[0] if wrong else f"{objects} objects in {len(cases)} pictures are those that Python gives"
    job.holds("conformance", objects > 0 and not wrong, says, differences=wrong[:10])


def _times(job: Job, program: Path, bundle: Path) -> None:
    image, python = trials.picture(), load(bundle)
    pixels = job.work / "pixels"
    pixels.write_bytes(image.tobytes())
    height, width, channels = image.shape
    words = ["predict", str(bundle), str(pixels), str(width), str(height), str(channels), "0"]
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(_: object) -> dict[str, float]:
            assert process.stdin and process.stdout
            process.stdin.write("\t".join([*words, "conf=0.25"]) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if "error" in answer:
                raise InputError(answer["error"])
            names = ("pre_ms", "network_ms", "post_ms", "whole_ms")
            return dict(zip(names, answer["ok"]["times"], strict=True))

        trials.timed(job, "times", {"C++": ask, "Python": lambda each: python(each)}, image)
        assert process.stdin
        process.stdin.close()
