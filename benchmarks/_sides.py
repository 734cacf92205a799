"""Two programs side by side, each a process of its own that stays alive and does its work once whenever told to.

    with side(__file__, "edgekit", sys.executable) as edgekit, side(__file__, "peer", peer_python) as peer:
        edgekit(), peer(), peer(), edgekit()

A script that uses this runs itself again with ``--worker NAME`` and calls ``serve`` there. Only the standard library:
the peer's Python reads this file too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def serve(run: Callable[[], dict[str, Any]]) -> None:
    """Answer each line of standard input with one line of JSON; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for _ in sys.stdin:
        answers.write(json.dumps(run()) + "\n")
        answers.flush()


class Side:
    """A worker process; calling it makes it work once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def __call__(self) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended without an answer; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def side(script: str, name: str, python: str, *more: str) -> Iterator[Side]:
    """The worker ``name`` of ``script``, run by ``python`` with this process's arguments and ``more``."""
    words = [python, str(Path(script).resolve()), *sys.argv[1:], "--worker", name, *more]
    with tempfile.TemporaryDirectory() as scratch:  # the peer writes a folder of results where it runs
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=scratch)
        try:
            yield Side(process)
        finally:
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            process.wait(60)


def take_turns(sides: dict[Any, Side], rounds: int, tick: Callable[[], None]) -> dict[Any, list[dict[str, Any]]]:
    """What every side answers in each round; the order turns round every time, ``tick`` follows every answer."""
    answers: dict[Any, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            answers[name].append(sides[name]())
            tick()
    return answers


def compiled_probe() -> Path:
    """tests/cpp/probe.cpp, which answers with the C++ library, compiled with -O3."""
    from edgekit.runtime import places

    folder = REPO / "build/cpp-release"
    configure = ["cmake", "-S", REPO / "tests/cpp", "-B", folder, f"-Dedgekit_DIR={places.cmake_dir()}"]
    openvino = places.openvino_cmake_dir()
    subprocess.run([*configure, f"-DOpenVINO_DIR={openvino}", "-DCMAKE_BUILD_TYPE=Release"], check=True, stdout=2)
    subprocess.run(["cmake", "--build", folder, "--target", "probe"], check=True, stdout=2)
    return folder / "probe"
