"""The first call of a fresh process, and the memory it takes: what a user of a command or a serverless host feels.

A loaded process cannot tell: its pages, caches and thread pools are there already. So each run is a new interpreter
which executes named stages of Python one after the other in one namespace and reports the time of each.

    cold_start(
        {
            "import": "from edgekit import load",
            "load": "model = load(path)",
            "first_call": "model.predict(image)",
        },
        {"path": "yolo12n.ov", "image": "street.jpg"},
    )
    # {'import_ms': {'min': 301.2, 'p50': ..., 'max': ..., 'n': 5, 'first': ...}, 'load_ms': ..., 'first_call_ms': ...,
    #  'process_ms': ..., 'resident_mib': ..., 'peak_mib': ...}

From the second run on the files lie in the system's cache; ``first`` keeps the first run's figure apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.errors import InputError

# Runs in the fresh interpreter. Results go to a copy of standard output, which itself is turned towards standard error:
# what libraries print must not mix with them. The timed code sees nothing of this module but `namespace`.
_CHILD = """
import json, os, sys, time
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
job = json.load(sys.stdin)
sys.path[:0] = job["path"]
namespace, report = dict(job["variables"]), {}
for stage, code in job["stages"].items():
    code = compile(code, "<" + stage + ">", "exec")
    start = time.perf_counter()
    exec(code, namespace)
    report[stage + "_ms"] = 1e3 * (time.perf_counter() - start)
from edgekit.bench.cold import process_memory
report.update(process_memory())
json.dump(report, out)
out.close()
"""


def cold_start(
    stages: Mapping[str, str],
    variables: Mapping[str, Any] | None = None,
    *,
    runs: int = 5,
    timeout_s: float = 300.0,
    environment: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Time stages of Python code in ``runs`` fresh interpreters, one after the other.

    Args:
        stages: name → code, executed in order in one namespace.
        variables: JSON-ready values that the code finds in its namespace (paths as strings).
        runs: fresh processes.
        timeout_s: for one process.
        environment: variables set on top of this process's.

    Returns:
        ``<stage>_ms``, ``process_ms`` (start of the interpreter to its end) and, where the system tells,
        ``resident_mib`` at the end and ``peak_mib``, each with ``first min p50 max n``.

    Raises:
        InputError: the code failed, or took longer than ``timeout_s``; with the last line of its error output.
    """
    # The package's parent, so that the child runs this edgekit whether or not it is installed.
    job = {"path": [str(Path(edgekit.__path__[0]).parent)], "variables": dict(variables or {}), "stages": dict(stages)}
    reports = []
    for _ in range(runs):
        start = time.perf_counter()
        report = _run_child(
            [sys.executable, "-c", _CHILD], json.dumps(job), timeout_s, {**os.environ, **(environment or {})}
        )
        reports.append({**report, "process_ms": 1e3 * (time.perf_counter() - start)})
    return {key: _figures([r[key] for r in reports]) for key in reports[0] if reports[0][key] is not None}


def process_memory() -> dict[str, float | None]:
    """``resident_mib`` of this process now and its ``peak_mib`` so far; None where the system does not say.

    Of Linux its own file: the peak that ``getrusage`` gives is at least that of the process this one was forked from.
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        resident, peak = (float(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        return {"resident_mib": resident, "peak_mib": peak}
    except (OSError, KeyError, ValueError):
        pass
    if sys.platform == "win32":
        return {"resident_mib": None, "peak_mib": None}
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, others kilobytes
    return {"resident_mib": None, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def _run_child(command: Sequence[str], job: str, timeout_s: float, environment: Mapping[str, str]) -> dict[str, float]:
    try:
        done = subprocess.run(
            command, input=job, capture_output=True, text=True, timeout=timeout_s, check=False, env=dict(environment)
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"cold start: no answer within {timeout_s:.0f} s; raise the time limit") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"cold start: the fresh process failed (exit code {done.returncode}): {last}")
    report: dict[str, float] = json.loads(done.stdout)
    return report


def _figures(values: Sequence[float]) -> dict[str, float]:
    first, low, p50, high = values[0], min(values), float(np.median(values)), max(values)
    return {"first": first, "min": low, "p50": p50, "max": high, "n": len(values)}
