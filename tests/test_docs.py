"""The README and the documentation say what happens: their code blocks are run, on a small model.

A page runs from top to bottom in a folder of its own, which holds what its commands name: ``yolo12n.pt`` (the model of
``models/``), ``street.jpg``, ``photos/``, ``clips/``, ``clip.mp4``, a labelled set ``shapes/``, ``runs/shapes/best.pt``
and a bundle ``yolo12n-ov``. What needs something else has ``<!-- not run: why -->`` above it in the source.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks import shapeset
from tests.tiny import tiny_bundle

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
LONG = ("README.md", "docs/guides/tutorial.md")  # the others take minutes
BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
PAGE_LINK = re.compile(r"\]\(([^)#\s]+\.md)")
MOST = 16  # blocks that are not run, over all pages
COMMAND = re.compile(r"(?:^|&& |\| |torchrun .* -m |venv/bin/)edgekit ((?:[^#\n]|(?<=\\)\n)*)", re.M)


@dataclass(frozen=True)
class Block:
    """A code block: of which page, at which line, why it is not run (None: it is)."""

    page: str
    line: int
    language: str
    code: str
    why: str | None


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    page = path.relative_to(REPO).as_posix()
    return [
        Block(page, text.count("\n", 0, m.start("code")), m["language"], m["code"], m["why"])
        for m in BLOCK.finditer(text)
    ]


ALL = [block for path in PAGES for block in blocks(path)]
RUN = [b for b in ALL if b.language in ("sh", "python") and b.why is None]


def test_blocks_are_found_in_every_form() -> None:
    assert {b.language for b in ALL} >= {"sh", "python", "cpp", "json"}
    assert {b.page for b in RUN} >= {"README.md", "docs/index.md", "docs/guides/int8.md"}


def test_what_is_not_run_says_why_and_is_little() -> None:
    left = [b for b in ALL if b.why is not None]
    print("\n".join(f"{b.page}:{b.line}: {b.why}" for b in left))
    assert len(left) <= MOST, "run them, or say here that there are more"


def test_a_block_that_is_not_run_ends_where_the_next_begins() -> None:
    text = (
        "<!-- not run: a board -->\n```sh\none\n```\n\n```sh\ntwo\n```\n\n<!-- not run: hours -->\n```sh\nthree\n```\n"
    )
    found = [(m["why"], m["code"]) for m in BLOCK.finditer(text)]
    assert found == [("a board", "one\n"), (None, "two\n"), ("hours", "three\n")]


def test_every_page_is_two_clicks_from_the_home_page_by_its_text() -> None:
    """The navigation is on every page, but folded away on a narrow screen."""
    pages = set((REPO / "docs").rglob("*.md"))
    reached = {REPO / "docs" / "index.md"}
    for _ in range(2):
        reached |= {
            (p.parent / link).resolve() for p in reached & pages for link in PAGE_LINK.findall(p.read_text("utf-8"))
        }
    assert not sorted(p.name for p in pages - reached)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=lambda b: f"{b.page}:{b.line}")
def test_python_blocks_compile(block: Block) -> None:
    compile(block.code, f"{block.page}:{block.line}", "exec")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``edgekit`` command line of every page, also of blocks that are not run."""
    for block in ALL:
        if block.language == "sh":
            for found in COMMAND.finditer(block.code.replace("\\\n", " ")):
                words = found[1].split(" #")[0].split(" > ")[0].split(" && ")[0].strip()
                yield f"{block.page}:{block.line}: edgekit {words}", shlex.split(words)


@pytest.mark.parametrize(("where", "words"), list(commands()), ids=lambda v: v if isinstance(v, str) else "")
def test_commands_and_options_exist(where: str, words: list[str]) -> None:
    from edgekit.cli import _app

    name, *words = words
    assert name in _app.names(), where
    command = _app.made(name, importlib.import_module(_app.names()[name]))
    if hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    known = {spelt for p in command.params for spelt in (*p.opts, *p.secondary_opts)}
    unknown = [w for w in words if w.startswith("--") and w.split("=")[0] not in {*known, "--help"}]
    assert not unknown, f"{where}: no option {unknown}"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' commands name."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    root = tmp_path_factory.mktemp("world")
    data = shapeset.make_set(root / "shapes", train=32, val=24, size=256)
    assert data.is_file()
    shutil.copytree(root / "shapes" / "images" / "val", root / "photos")
    shutil.copy(root / "photos" / "0000.jpg", root / "street.jpg")
    shapeset.make_video(root / "clip.mp4", frames=6, size=256)
    (root / "clips").mkdir()
    shutil.copy(root / "clip.mp4", root / "clips")
    shutil.copy(shapeset.CHECKPOINT, root / "yolo12n.pt")
    (root / "runs" / "shapes").mkdir(parents=True)
    shutil.copy(shapeset.CHECKPOINT, root / "runs" / "shapes" / "best.pt")
    (root / "bin").mkdir()
    command = root / "bin" / "edgekit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgekit "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    run("edgekit build yolo12n.pt --target ov-fp16 --out yolo12n-ov", root, root)
    return root


def run(code: str, folder: Path, root: Path, python: bool = False) -> None:
    path = os.pathsep.join([str(root / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code] if python else ["bash", "-e", "-o", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=pytest.mark.long if p in LONG else pytest.mark.slow)
        for p in dict.fromkeys(b.page for b in RUN)
    ],
)
def test_a_page_runs_from_top_to_bottom(page: str, world: Path, tmp_path: Path) -> None:
    """Python blocks of a page continue one another; those of one that opens a bundle start with it."""
    folder = tmp_path / "page"
    made = {b for b in RUN if b.page == page and re.search(r"--out yolo12n-ov\s", b.code)}
    left_out = shutil.ignore_patterns("bin", *(["yolo12n-ov"] if made else []))
    shutil.copytree(world, folder, ignore=left_out)
    if any("edgekit train" in b.code and "--out runs/shapes" in b.code for b in RUN if b.page == page):
        shutil.rmtree(folder / "runs" / "shapes")
    earlier = ""
    for block in (b for b in RUN if b.page == page):
        if block.language == "python":
            earlier += block.code
            run(earlier, folder, world, python=True)
        else:
            run(block.code, folder, world)


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    path = REPO / "docs" / "reference" / "manifest.schema.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return document


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_manifests_are_what_the_documented_schema_says(task: str, schema: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    manifest = json.loads((tiny_bundle(tmp_path / task, task, "ort-fp32") / "manifest.json").read_text())
    jsonschema.validate(manifest, schema)
    assert set(manifest) <= set(schema["properties"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", 2), ("names", []), ("head", "top"), ("files", {"model.onnx": "1234"}), ("imgsz", [64])],
)
def test_the_schema_refuses_what_edgekit_would(key: str, value: object, schema: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    manifest = json.loads((tiny_bundle(tmp_path / "b", "detect", "ort-fp32") / "manifest.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest | {key: value}, schema)
