"""The numerical tests under every instruction set that one x86-64 machine can offer: ``make test-processors``.

    python -m tests.processors                   # every row; exit code 1 if a test failed or a switch had no effect
    python -m tests.processors avx2 haswell      # some
    python -m tests.processors avx2 --tests=stages,heads
    python -m tests.processors avx2 --verify=a,b         # not the tests but the self-tests of these bundles
    python -m tests.processors --evidence        # the kernels that this very process gets, as JSON

A row is a set of variables, or an emulator where no variable reaches (ONNX Runtime and the C++ compiler's intrinsics
obey CPUID alone). Before its tests a row is asked for the kernels it gets, and one that does not get those it names
fails. oneDNN's limit does not reach what OpenVINO decides by CPUID: it would ask a limited oneDNN for bf16, which no
processor does (with AVX512_CORE attention falls apart, with AVX2 no bf16 compiles), so ``EDGEKIT_TEST_FLOAT32`` takes
float32 as the default precision there (conftest.py); below AVX2 it cannot compile a detector at all ("bad
combination"), which leaves that to the emulator. ``MKL_ENABLE_INSTRUCTIONS`` changed nothing where this was written
(AMD), nor has ONNX Runtime a variable; neither is here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.runtime import processor

REPO = Path(__file__).resolve().parents[1]
INSTALL = "apt-get install qemu-user-static"

NUMERICAL = (
    "agreement parity_faults precision stages rewrite_stages heads export forms rewrite rewrite_copies rewrite_files "
    "pruning resize pixels models postprocess boxes quantize quantize_build qat processor processors fleet build "
    "predictor cpp"
)
# What an emulator can do in minutes: small graphs, without PyTorch; the C++ library's programs run under it, too.
FEW = "processors processor resize rewrite_copies boxes"


@dataclass(frozen=True)
class Environment:
    """A row of the matrix.

    Attributes:
        name: of the row.
        like: the processors it stands for.
        needs: the instruction set (``processor.asked``) without which it is skipped.
        variables: what is set, library by library.
        model: the emulator's processor; None to run on this one.
        kernels: library -> what its kernels must be called (a regular expression); the evidence.
        tests: names of test files without ``test_``.
        limit_s: seconds after which the row is given up.
    """

    name: str
    like: str
    needs: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    kernels: Mapping[str, str] = field(default_factory=dict)
    tests: str = NUMERICAL
    limit_s: int = 7200


ENVIRONMENTS = (
    Environment("native", "this machine"),
    Environment(
        "torch-default", "PyTorch, NumPy, MKL and OpenBLAS as on Nehalem, the runtimes native", "avx2",
        {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem",
         "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL"}, None,
        {"torch": "DEFAULT", "product": "COMPATIBLE", "numpy": "baseline"},
        "parity_faults precision stages heads export models quantize qat build fleet processors",
    ),
    Environment(
        "torch-avx2", "PyTorch with AVX2, all else native", "avx512f",
        {"ATEN_CPU_CAPABILITY": "avx2"}, None, {"torch": "AVX2"},
        "parity_faults precision stages heads export models quantize qat build fleet processors",
    ),
    Environment(
        "avx512", "Skylake server: AVX-512, no VNNI, no BF16 instructions", "avx512_vnni",
        {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "SkylakeX",
         "EDGEKIT_TEST_FLOAT32": "1"}, None,
        {"torch": "AVX512", "convolution": "avx512_core$", "openvino": "avx512_f32", "int8": "saturates"},
    ),
    Environment(
        "avx2", "Haswell, but for ONNX Runtime", "avx512f",
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
         "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL", "EDGEKIT_TEST_FLOAT32": "1"}, None,
        {"torch": "AVX2", "convolution": "avx2$", "openvino": "avx2_f32", "numpy": "X86_V3", "int8": "saturates"},
    ),
    Environment(
        "haswell", "Haswell: AVX2, no VNNI, emulated", "", {}, "Haswell",
        {"cpuid": "avx2$", "openvino": "avx2_f32", "int8": "saturates"}, FEW,
    ),
    Environment(
        "nehalem", "Nehalem: SSE4.2, emulated", "", {}, "Nehalem",
        {"cpuid": "sse4_2$", "openvino": "sse42_f32", "int8": "saturates"}, FEW,
    ),
)  # fmt: skip


def emulator(model: str) -> list[str] | None:
    """The command that runs a program on an emulated processor; None where the emulator is not installed."""
    found = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    return [found, "-cpu", model] if found else None


def lacking(row: Environment) -> str | None:
    """Why a row cannot be run here, or None."""
    if not processor.is_x86():
        return "is for x86-64"
    if row.model is not None and emulator(row.model) is None:
        return f"needs qemu-x86_64, which is not installed; run: {INSTALL}"
    if row.model is None and row.needs and not processor.asked()[row.needs]:
        return f"this processor has no {row.needs}"
    return None


# ---- what kernels a process gets ---------------------------------------------------------------------------------


def evidence() -> dict[str, str]:
    """Library -> the kernels it takes in this process; libraries that are not installed are absent."""
    found = {"cpuid": [name for name, has in processor.asked().items() if has][-1:] or ["none"]}
    collect = {"numpy": _numpy, "openvino": _openvino, "int8": int8_sums}
    if os.environ.get("EDGEKIT_TEST_EMULATOR") is None:  # PyTorch takes half a minute there and no row runs it
        collect |= {"torch": _torch, "convolution": _convolution, "product": _product}
    for name, ask in collect.items():
        try:
            found[name] = [ask()]
        except ImportError:
            continue
    return {name: said[0] for name, said in found.items()}


def _numpy() -> str:
    from numpy.lib.introspect import opt_func_info

    return str(opt_func_info(func_name="^exp$", signature="float32")["exp"]["ff"]["current"])


def _torch() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def _convolution() -> str:
    """PyTorch's convolution, as oneDNN calls it."""
    return _said("torch.nn.Conv2d(64, 64, 3)(torch.zeros(4, 64, 64, 64))", "ONEDNN", "exec,cpu,convolution,([^,]+)")


def _product() -> str:
    """How MKL computes PyTorch's matrix product."""
    return _said("torch.ones(64, 64) @ torch.ones(64, 64)", "MKL", r"GEMM.* CNR:(\S+)")


def _said(expression: str, library: str, pattern: str) -> str:
    environment = os.environ | {f"{library}_VERBOSE": "1"}
    command = [sys.executable, "-c", f"import torch; {expression}"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    found = re.search(pattern, said)
    return found[1] if found else f"not {library}'s"


def _openvino() -> str:
    """The kernel of a convolution in float32."""
    import numpy as np

    compiled = _compiled(np.float32(np.ones((32, 16, 3, 3))))
    nodes = compiled.get_runtime_model().get_ordered_ops()
    return next(
        str(n.get_rt_info()["primitiveType"].value)
        for n in nodes
        if str(n.get_rt_info()["layerType"].value) == "Convolution"
    )


def int8_sums() -> str:
    """Whether OpenVINO's sums of the largest products of eight bits are right."""
    import numpy as np

    found = _compiled(np.full((32, 16, 3, 3), 127, np.int8))([np.ones((1, 16, 32, 32), np.float32)])[0]
    return "exact" if abs(found[0, 0, 8, 8] / (16 * 9 * 127 / 255) - 1) < 1e-3 else "saturates"


def _compiled(weights):  # type: ignore[no-untyped-def]
    """A 3×3 convolution of ``[1, 16, 32, 32]``, in eight bits where its weights are."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, 16, 32, 32], np.float32)
    value = image
    kernel = ops.constant(weights.astype(np.float32) if weights.dtype == np.float32 else weights)
    if weights.dtype == np.int8:
        value = ops.fake_quantize(image, np.float32(0), np.float32(1), np.float32(0), np.float32(1), 256)
        kernel = ops.multiply(ops.convert(kernel, "f32"), np.float32(1 / 255))
    made = ops.convolution(value, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    return openvino.Core().compile_model(openvino.Model([made], [image]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


# ---- running ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a row: the kernels seen, counts, and what was wrong with it or why it was skipped."""

    row: Environment
    kernels: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None
    wrong: str | None = None


def run(row: Environment, artifacts: Path, log: Path) -> Outcome:
    """The row's tests in a process of its own; its output goes to ``log``."""
    reason = lacking(row)
    if reason:
        return Outcome(row, skipped=reason)
    before, environment = under(row)
    environment["EDGEKIT_TEST_ARTIFACTS"] = str(artifacts)
    start = time.monotonic()
    asked = subprocess.run(
        [*before, sys.executable, "-m", "tests.processors", "--evidence"],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if asked.returncode:
        return Outcome(row, wrong=f"cannot be asked for its kernels: {asked.stderr.strip().splitlines()[-1:]}")
    kernels = json.loads(asked.stdout.strip().splitlines()[-1])
    missed = [
        f"{k}: {kernels[k]}" for k, want in row.kernels.items() if k in kernels and not re.search(want, kernels[k])
    ]
    if missed:
        return Outcome(row, kernels, wrong=f"the switch had no effect ({', '.join(missed)})")
    command = [*before, sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files(row)]
    try:
        with log.open("w", encoding="utf-8") as out:
            code = subprocess.run(
                command, cwd=REPO, env=environment, stdout=out, stderr=out, timeout=row.limit_s
            ).returncode
    except subprocess.TimeoutExpired:
        return Outcome(row, kernels, seconds=row.limit_s, wrong=f"took more than {row.limit_s} s, see {log}")
    counts = counted(log.read_text(encoding="utf-8", errors="replace"))
    return Outcome(row, kernels, counts, time.monotonic() - start, wrong=None if code == 0 else f"failed, see {log}")


def under(row: Environment) -> tuple[list[str], dict[str, str]]:
    """The words before a program that runs as on the row's processor, and its environment."""
    before = emulator(row.model) or [] if row.model else []
    emulated = {"EDGEKIT_TEST_EMULATOR": " ".join(before)} if before else {}
    return before, os.environ | {"OMP_NUM_THREADS": "1", **row.variables, **emulated}


_VERIFY = "import sys; from tests import conftest; conftest.adjust(); from edgekit.cli import main; main(sys.argv[1:])"


def verify(row: Environment, bundles: list[str]) -> bool:
    """Whether every bundle passes its self-test on the row, a line each."""
    if reason := lacking(row):
        print(f"{row.name}: skipped: {reason}")
        return True
    before, environment = under(row)
    good = True
    for bundle in bundles:
        asked = subprocess.run(
            [*before, sys.executable, "-c", _VERIFY, "verify", bundle, "--json"],
            cwd=REPO, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        wrong = asked.stderr.strip().splitlines()[-1:] if asked.returncode else []
        print(f"{row.name}: {bundle}: {wrong[0] if wrong else 'passed'}", flush=True)
        good &= asked.returncode == 0
    return good


def files(row: Environment) -> list[str]:
    """The row's test files."""
    return [str(REPO / "tests" / f"test_{name}.py") for name in row.tests.split()]


def counted(output: str) -> dict[str, int]:
    """passed, failed, skipped and errors of pytest's last line."""
    last = next((line for line in reversed(output.splitlines()) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    return {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}


def table(outcomes: list[Outcome]) -> str:
    """Rows as Markdown: what was set, the kernels seen, and counts."""
    lines = ["| row | stands for | set | kernels seen | passed | failed | skipped | seconds |", "|" + "---|" * 8]
    for outcome in outcomes:
        row = outcome.row
        switch = f"qemu -cpu {row.model}" if row.model else " ".join(f"{k}={v}" for k, v in row.variables.items())
        seen = ", ".join(f"{k} {v}" for k, v in outcome.kernels.items())
        start = f"| {row.name} | {row.like} | {switch.replace('|', '')} | {seen} |"
        if outcome.skipped or (outcome.wrong and not outcome.counts):
            lines.append(f"{start} {'skipped: ' if outcome.skipped else ''}{outcome.skipped or outcome.wrong} | | | |")
            continue
        n = outcome.counts
        failed = n.get("failed", 0) + n.get("error", 0)
        lines.append(f"{start} {n.get('passed', 0)} | {failed} | {n.get('skipped', 0)} | {outcome.seconds:.0f} |")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    if words == ["--evidence"]:
        print(json.dumps(evidence()))
        return 0
    names = [w for w in words if not w.startswith("-")]
    only = " ".join(w.removeprefix("--tests=").replace(",", " ") for w in words if w.startswith("--tests="))
    unknown = set(names) - {row.name for row in ENVIRONMENTS}
    if unknown:
        print(
            f"error: no row {', '.join(sorted(unknown))}; rows: {', '.join(r.name for r in ENVIRONMENTS)}",
            file=sys.stderr,
        )
        return 2
    rows = [row for row in ENVIRONMENTS if not names or row.name in names]
    if bundles := next((w.removeprefix("--verify=") for w in words if w.startswith("--verify=")), ""):
        return 0 if all([verify(row, bundles.split(",")) for row in rows]) else 1
    logs = REPO / "build" / "processors"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as artifacts:
        from tests.artifacts import make

        make(Path(artifacts))
        for row in rows:
            asked = replace(row, tests=only) if only else row
            outcomes.append(run(asked, Path(artifacts), logs / f"{row.name}.log"))
            done = outcomes[-1]
            said = done.skipped or done.wrong or ", ".join(f"{n} {what}" for what, n in done.counts.items())
            print(f"{row.name}: {said} ({done.seconds:.0f} s)", file=sys.stderr, flush=True)
    print(table(outcomes))
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
