"""The same answers on ARM, from an x86-64 machine: ``make test-arm``.

    python -m tests.arm                          # every row; exit code 1 if one is wrong, 2 if it cannot be run here
    python -m tests.arm ov-fp16 install          # some; `--tasks=detect,pose`: of these tasks
    python -m tests.arm --quick                  # two targets and two tasks, what CI runs
    python -m tests.arm --docs                   # every row, and if all are right the table into docs/guides/arm.md

An aarch64 Debian is unpacked (mmdebstrap, nothing of it is run while it is), aarch64 wheels are downloaded, and qemu's
user emulation runs the root's own Python: a virtual environment, pip installing edgekit's wheel and the runtimes, and
then every row. Bundles and what they must answer are made here. All is kept in ``~/.cache/edgekit-test-arm``
(``EDGEKIT_TEST_ARM``), bundles in ``build/arm``. Times mean nothing under emulation: none are printed.

| file | does |
|---|---|
| ``arm_machine.py`` | the emulated machine |
| ``arm_bundles.py`` | what is built here and taken there |
| ``arm_answers.py`` | run by either machine's Python |
| ``arm_gaps.py`` | how far two machines' answers are apart |
| ``arm_table.py`` | the documentation's table, and the bounds that follow from it |
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from tests.arm_gaps import CONF, Gap, Json, gap
from tests.arm_machine import (
    BUILD,
    REPO,
    RUNTIMES,
    SUITE,
    CannotError,
    Machine,
    cross_compiled,
    finished,
    install,
    installed,
    kept,
    last,
    pytest_folder,
    say,
    unpack,
)
from tests.arm_table import PAGE, ROWS, Outcome, Row, bounds, document, table

ANSWERS = REPO / "tests" / "arm_answers.py"
FRAMES = 3  # of the video
FLOAT32 = "EDGEKIT_TEST_FLOAT32"  # conftest.py
TESTS = ("resize", "processor")  # without PyTorch, of what differs
QUICK = ("ort-fp32", "ncnn-fp16"), ("detect", "classify")
PLAIN, SMALL = ("detect", "ort-fp32"), ("detect", "ncnn-fp16")  # bundles of what is typed
CANDIDATES = (  # what `--target auto` would try, which needs PyTorch only to build it
    "import json; from edgekit.autotune import Objective; from edgekit.autotune.candidates import candidates; "
    "print(json.dumps(candidates(Objective('latency'), data=True)[1]))"
)
BOARD = "<!-- not run: a board -->"  # before the commands for a board in the page

ROLES = {
    "detect": ("boxes",), "segment": ("boxes", "masks"), "pose": ("boxes", "keypoints"), "obb": ("rotated_boxes",),
    "classify": ("probs",),
}  # fmt: skip


def run(row: Row, machine: Machine, folder: Path, program: Path | None, tasks: Sequence[str]) -> Outcome:
    """Every task's bundle of the target on both machines."""
    words = [ANSWERS, folder, row.target, *tasks]
    # The bf16 of this machine, if it has any, is coarser than what is compared.
    exact = os.environ | {FLOAT32: "1", "PYTHONPATH": str(REPO)}
    here = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=exact)
    want = answers(finished(here).stdout)
    done = machine.run(*words)
    found = Outcome(row)
    if done.returncode:
        found.wrong.append(last(done))
        return found
    have, bound = answers(done.stdout), bounds(row.bound)
    failed = {key[0]: line["selftest"] for key, line in have.items() if line["selftest"]}
    found.wrong += [f"self-test, {task}: {why}" for task, why in failed.items()]
    found.executed = executed(have.values())
    for key, line in want.items():
        one = gap(line["entry"], have[key]["entry"], bound)
        found.wrong += [f"Python, {key[0]}, {key[1]}: {what}" for what in one.wrong(bound)]
        found.python.join(one)
    if program and row.native:
        found.native = Gap()
        for key, entry in zip(want, natively(machine, program, folder, row, want), strict=True):
            one = gap(want[key]["entry"], entry, bound)
            found.wrong += [f"C++, {key[0]}, {key[1]}: {what}" for what in one.wrong(bound)]
            found.native.join(one)
    return found


def tried(row: Row, machine: Machine, folder: Path, program: Path | None, tasks: Sequence[str]) -> Outcome:
    """``run``; what breaks it is wrong with that row and leaves the others as they are."""
    try:
        return run(row, machine, folder, program, tasks)
    except (AssertionError, CannotError, EdgekitError, LookupError, OSError, ValueError) as error:
        return Outcome(row, wrong=[f"{type(error).__name__}: {error}"])


def executed(lines: Iterable[Json]) -> str:
    """The precisions that the runtime says it executed, most operators first."""
    counts: dict[str, int] = {}
    for kind, count in ((kind, count) for line in lines for kind, count in line["precision"].items()):
        counts[kind] = counts.get(kind, 0) + count
    return ", ".join(kind for kind, _ in sorted(counts.items(), key=lambda item: -item[1]) if kind != "i64")


def answers(printed: str) -> dict[tuple[str, str], Json]:
    """(task, picture) -> what ``arm_answers.py`` printed."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return {(line["task"], line["picture"]): line for line in lines}


def natively(machine: Machine, program: Path, folder: Path, row: Row, asked: Iterable[tuple[str, str]]) -> list[Json]:
    """What the C++ library answers on the machine."""
    from edgekit.runtime.image import read_image
    from edgekit.runtime.manifest import read_bundle
    from edgekit.runtime.results import Result
    from tests import native

    libraries = [machine.site / "openvino" / "libs", machine.site / "onnxruntime" / "capi", BUILD / "cpp"]
    native.EMULATOR[:] = [*machine.emulated(), "-E", f"LD_LIBRARY_PATH={os.pathsep.join(map(str, libraries))}"]
    probe = native.Probe(program, BUILD)
    found = []
    for task, picture in asked:
        place = folder / f"{task}-{row.target}"
        info = read_bundle(place, verify=False).info
        answer = probe.predict(place, read_image(folder / "pictures" / picture), conf=CONF)
        like = Result((0, 0), ())
        for key in ROLES[task]:
            setattr(like, key, ())
        found.append(native.result_of(answer, info.names, like).to_dict())
    probe.close()
    return found


def installs(machine: Machine, folder: Path) -> list[str]:
    """What is wrong on a machine that has every runtime: commands, and tests of what differs between processors."""
    picture = sorted((folder / "pictures").iterdir())[-1]
    bundle, small = (folder / "-".join(names) for names in (PLAIN, SMALL))
    typing = ["-m", "edgekit"]
    wrong = []
    steps: dict[str, tuple[Sequence[object], Callable[[Any], bool]]] = {
        "doctor": ([*typing, "doctor", "--json"], lambda said: _ready(said) >= {row.target for row in ROWS}),
        "predict": ([*typing, "predict", bundle, picture, "--json"], lambda said: len(said[0]["labels"]) > 0),
        "stream": ([*typing, "predict", bundle, folder / "clip.mp4", "--json"], lambda said: len(said) == FRAMES),
        "bench": ([*typing, "bench", bundle, small, "--budget", "1", "--json"], _times_both),
        "auto": (["-c", CANDIDATES], _leaves_out),
    }
    for name, (words, right) in steps.items():
        done = machine.run(*words)
        if done.returncode or not right(json.loads(done.stdout)):
            wrong.append(f"{name}: {last(done)}")
    files = [REPO / "tests" / f"test_{name}.py" for name in TESTS]
    done = machine.run(
        "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files, paths=(pytest_folder(), REPO)
    )
    return wrong + ([f"tests: {done.stdout.strip().splitlines()[-1:] or last(done)}"] if done.returncode else [])


def _ready(said: Json) -> set[str]:
    return {target["name"] for target in said["targets"] if target["ready"]}


def _times_both(records: list[Json]) -> bool:
    """Whether ``bench`` timed both on such a machine; how long they took says nothing here."""
    machines = [record["machine"] for record in records]
    return [record["target"] for record in records] == [PLAIN[1], SMALL[1]] and all(
        {*RUNTIMES} <= {*each["packages"]} and {"dotprod", "fp16"} <= {*each["cpu"]["instruction_sets"]}
        for each in machines
    )


def _leaves_out(reasons: Json) -> bool:
    """Whether ``--target auto`` would try all that is right to try here, but for what only building lacks."""
    return "FP16" in reasons["ov-int8"] and "pnnx" in reasons[SMALL[1]] and "ort-fp32" not in reasons


def board(machine: Machine, folder: Path) -> list[str]:
    """What is wrong with the page's commands for a board, typed as they stand there: a virtual environment of its own
    with what they install, and then each of them."""
    packages, commands = typed(PAGE.read_text(encoding="utf-8"))
    own = installed(Machine(machine.root), [name for name in packages if name != "edgekit"], "board")
    desk = BUILD / "desk"
    shutil.rmtree(desk, ignore_errors=True)
    desk.mkdir()
    shutil.copytree(folder / "-".join(PLAIN), desk / "yolo12n-ort")
    shutil.copyfile(sorted((folder / "pictures").iterdir())[-1], desk / "street.jpg")
    wrong = []
    for command in commands:
        done = own.run("-m", "edgekit", *command, folder=desk)
        if done.returncode:
            wrong.append(f"edgekit {' '.join(command)}: {last(done)}")
    return wrong + ([] if list((desk / "seen").glob("street*")) else ["predict left nothing in seen/"])


def typed(page: str) -> tuple[list[str], list[list[str]]]:
    """The packages and the words of each ``edgekit`` command that the page gives for a board."""
    block = page.partition(BOARD)[2].partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    packages = re.search(r"pip install (.*)", block.partition("#")[0])
    assert packages, block
    return packages[1].split(), [line.split()[1:] for line in lines if line.startswith("venv/bin/edgekit ")]


def bundles(wanted: Sequence[tuple[str, str]]) -> Path:
    """The folder of bundles (task, target), pictures and a video, made here for what the package's code is now."""
    from benchmarks import shapeset
    from tests import arm_bundles

    sources = [*sorted((REPO / "edgekit").rglob("*.py")), Path(arm_bundles.__file__), shapeset.CHECKPOINT]
    key = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in sources))
    key.update(json.dumps(wanted).encode())
    place = BUILD / f"set-{key.hexdigest()[:12]}"
    if not place.exists():
        say(f"building {len(wanted)} bundles")
        for old in BUILD.glob("set-*"):
            shutil.rmtree(old)
        partial = BUILD / ".set.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arm_bundles.made(partial, wanted)
        shapeset.make_video(partial / "clip.mp4", frames=FRAMES, size=arm_bundles.SIZE[0])
        os.replace(partial, place)
    return place


def matrix(names: Sequence[str], tasks: Sequence[str]) -> tuple[list[Outcome], list[str]]:
    """Everything that was asked for: the rows' outcomes, and all that is wrong.

    Raises:
        CannotError: it cannot be run here.
    """
    install()
    BUILD.mkdir(parents=True, exist_ok=True)
    machine = Machine(kept(f"root-{SUITE}", unpack))
    say("installing the wheel on the emulated machine")
    machine = installed(machine)
    wanted = [(task, row.target) for task in tasks for row in ROWS if row.target in names]
    folder = bundles(list(dict.fromkeys(wanted + [PLAIN, SMALL] * ("install" in names))))
    program = cross_compiled(machine)
    wrong, outcomes = [], []
    if "install" in names:
        wrong += installs(machine, folder) + board(machine, folder)
        say(f"install: {'; '.join(wrong) or 'right'}")
    for row in ROWS:
        if row.target in names:
            outcomes.append(tried(row, machine, folder, program, tasks))
            wrong += outcomes[-1].wrong
            say(f"{row.target}: {'; '.join(outcomes[-1].wrong) or 'right'}")
    return outcomes, wrong


def main(words: list[str]) -> int:
    rows = ["install", *(row.target for row in ROWS)]
    tasks = next((w.removeprefix("--tasks=").split(",") for w in words if w.startswith("--tasks=")), list(ROLES))
    names = [w for w in words if not w.startswith("-")] or rows
    if "--quick" in words:
        names, tasks = ["install", *QUICK[0]], list(QUICK[1])
    if unknown := {*names} - {*rows} | {*tasks} - {*ROLES}:
        say(f"error: no {', '.join(sorted(unknown))}; rows: {', '.join(rows)}; tasks: {', '.join(ROLES)}")
        return 2
    if "--docs" in words and ({*names} != {*rows} or {*tasks} != {*ROLES}):
        say("error: --docs is of every row and task; leave the others out")
        return 2
    try:
        outcomes, wrong = matrix(names, tasks)
    except CannotError as error:
        say(f"error: {error}")
        return 2
    if outcomes:
        print(table(outcomes))
    if "--docs" in words and not wrong:
        document(outcomes)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
