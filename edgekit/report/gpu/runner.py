"""Runs the steps one after another, each in a process of its own, and keeps what they find.

    document = run(GpuOptions(minutes=10), Path("results.json"), say=print)
    [(step["name"], step["state"]) for step in document["steps"]]      # [('basics', 'works'), …]

The results file is written anew after every step, whole or not at all. A step that crashes, hangs or finds wrong
numbers costs itself alone. No step begins that has less than ``LEAST_S`` left.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bench import machine
from edgekit.errors import InputError
from edgekit.report.gpu import survey, words
from edgekit.report.gpu.findings import FAILS, LACKING, MEMORY, WORKS, Request, private
from edgekit.report.gpu.options import GpuOptions
from edgekit.report.gpu.plan import STEPS, Step
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json, JsonView

SCHEMA = 1
WORKER = ["-m", "edgekit.report.gpu.worker"]
LEAST_S = 5.0  # a step with less is not begun
PARTLY, CRASHED, HUNG, UNREACHED = "works in part", "crashed", "hung", "not reached"
BAD = (FAILS, MEMORY, CRASHED, HUNG)
_TAIL = 15  # lines of a log that are kept of a step that went wrong
_SILENT: Callable[[str], None] = lambda _: None  # noqa: E731 - a silent default for progress messages


@dataclass(frozen=True)
class Ended:
    """How a step's process ended: its exit ``code`` (negative: the signal), None where it ran out of time."""

    code: int | None
    seconds: float
    log: str


def run(
    options: GpuOptions, out: Path, say: Callable[[str], None] = _SILENT, steps: Sequence[Step] | None = None
) -> Json:
    """Check this machine's GPU.

    Args:
        out: the results file; written after every step.
        say: called with a line when a step begins and when it ends.
        steps: instead of ``STEPS``.

    Returns:
        What ``out`` holds: ``kind``, ``schema``, ``machine``, ``gpu`` (see ``survey.look``), ``minutes``, and of every
        step its ``name``, ``shows``, ``state``, ``says``, ``seconds``, ``findings`` and, where it went wrong, the
        end of its ``log``.

    Raises:
        InputError: there is no GPU that can be checked, or the results cannot be written.
    """
    survey.check_writable(out)
    gpu = survey.look(options.device)
    chosen = [step for step in steps or STEPS if not options.only or step.name in options.only]
    with _work_folder(options.work_dir) as work:
        return _all(chosen, options, out, work, gpu, say)


def _all(
    steps: Sequence[Step], options: GpuOptions, out: Path, work: Path, gpu: Json, say: Callable[[str], None]
) -> Json:
    began = time.monotonic()
    request, visible = survey.request_of(options, work), survey.visible(options.device)
    document: Json = {
        "kind": "gpu-check",
        "schema": SCHEMA,
        "what": "what works of TensorRT, CUDA and training on this GPU",
        "machine": machine.describe(),
        "gpu": gpu,
        "minutes": options.minutes,
        "steps": [_unreached(step, options.minutes) for step in steps],
    }
    _write(out, document)
    for place, step in enumerate(steps):
        left = 60 * options.minutes - (time.monotonic() - began)
        if left < min(LEAST_S, step.seconds):
            break
        say(f"{step.name}: {step.shows}")
        told = replace(request, seconds=min(step.seconds, left))
        document["steps"][place] = row = _one(step, told, work, visible)
        document["seconds"] = round(time.monotonic() - began, 1)
        _write(out, document)
        say(f"{step.name}: {row['state']}; {row['says']} ({row['seconds']:.0f} s)")
    return document


def _unreached(step: Step, minutes: float) -> Json:
    says = f"the run or its {minutes:g} minutes ended before it"
    about = {"name": step.name, "shows": step.shows}
    return about | {"state": UNREACHED, "says": says, "seconds": 0.0, "findings": []}


def _one(step: Step, request: Request, work: Path, gpu: str) -> Json:
    """A step's row, whatever becomes of it; it sees no other GPU than ``gpu``."""
    findings = work / f"{step.name}.jsonl"
    findings.unlink(missing_ok=True)
    told = work / f"{step.name}.request.json"
    told.write_text(json.dumps(request.to_dict()), encoding="utf-8")
    command = [sys.executable, *WORKER, step.module, str(told), str(findings)]
    ended = process(command, work / f"{step.name}.log", request.seconds, os.environ | {"CUDA_VISIBLE_DEVICES": gpu})
    found = read_findings(findings)
    state, says = judged(ended, found, request.seconds)
    row: Json = {"name": step.name, "shows": step.shows, "state": state, "says": says}
    row |= {"seconds": round(ended.seconds, 1), "findings": found}
    return row | ({"log": private(ended.log).splitlines()[-_TAIL:]} if state in BAD else {})


def process(command: Sequence[str], log: Path, seconds: float, env: Mapping[str, str]) -> Ended:
    """Run ``command``, what it prints going to ``log``; it and its children are killed after ``seconds``."""
    began, nothing = time.monotonic(), subprocess.DEVNULL
    with open(log, "wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file, stdin=nothing, start_new_session=True, env=env)
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(child)
    return Ended(code, time.monotonic() - began, log.read_text(encoding="utf-8", errors="replace"))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a step and whatever it started, also where it ended by itself."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    with suppress(subprocess.TimeoutExpired):  # stuck in the driver: it cannot be waited for
        child.wait(10)


def read_findings(path: Path) -> list[Json]:
    """What a step wrote; a line that was cut off is left out."""
    rows: list[Json] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(ValueError):
            rows.append(dict(_finite(json.loads(line))))
    return rows


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judged(ended: Ended, found: Sequence[JsonView], seconds: float) -> tuple[str, str]:
    """A step's state, and a sentence."""
    last = f"the last thing found: {found[-1]['name']}" if found else "it had found nothing"
    if ended.code is None:
        return HUNG, f"not done in {seconds:.0f} s and ended; {last}"
    if ended.code < 0:
        name = _signal_name(-ended.code)
        more = ", perhaps for want of the host's memory" if name == "SIGKILL" else ""
        return CRASHED, f"its process died of {name}{more}; {last}"
    if ended.code:
        return CRASHED, f"its process left with code {ended.code}; {last}"
    return _summed(found)


def _summed(found: Sequence[JsonView]) -> tuple[str, str]:
    by = {state: [row for row in found if row["state"] == state] for state in (WORKS, FAILS, LACKING, MEMORY)}
    for state in (MEMORY, FAILS):
        if by[state]:
            return state, f"{by[state][0]['name']}: {by[state][0]['says']}"
    if not by[WORKS]:
        return LACKING, by[LACKING][0]["says"] if by[LACKING] else "the step found nothing"
    if by[LACKING]:
        return PARTLY, f"{len(by[WORKS])} findings hold; {by[LACKING][0]['name']}: {by[LACKING][0]['says']}"
    return WORKS, f"{len(by[WORKS])} findings hold"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        try:
            given.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"`work_dir` {given}: cannot be made ({error.strerror}); give another folder") from error
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-gpu-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _write(out: Path, document: Mapping[str, object]) -> None:
    with replacing(out) as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")


def load(path: Path) -> Json:
    """A results file of ``gpu-check``.

    Raises:
        InputError: it is none.
    """
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
        words.markdown(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no results of `edgekit gpu-check` ({error})") from error
    return document
