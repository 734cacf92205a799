"""The walls between the rooms: which file may import what.

Read ``WALLS`` from the top: the first line whose pattern matches a file is that file's wall. ``packages`` may be
imported at the top of the file, ``inside`` only within functions (so that importing the file does not need them),
``rooms`` are the files and folders of edgekit it may use. The standard library and the file's own folder are free.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "edgekit"
OPTIONAL = tuple(
    "torch torchvision onnx onnx_ir onnxscript onnxsim onnxruntime openvino nncf ncnn tensorrt tensorrt_rtx cuda "
    "pycuda matplotlib faster_coco_eval pycocotools supervision scipy PIL jinja2 pyarrow fsspec trackers ray "
    "pandas model_signing cryptography sigstore in_toto_attestation google cyclonedx huggingface_hub "
    "safetensors".split()
)
HEAVY = (*OPTIONAL, "cv2", "numpy", "yaml", "psutil", "pynvml")
# What everyone may use: the nouns, the errors, and what edgekit needs of the system it runs on.
SYSTEM = "atomic fields filenames forks garbage home processor silence versions".split()
PLAIN = " ".join(("spec errors", *(f"runtime.{name}" for name in SYSTEM)))
# What only running bundles takes.
HOST = f"{PLAIN} metrics runtime data tasks"


@dataclass(frozen=True)
class Wall:
    files: str
    packages: str = ""
    inside: str = ""
    rooms: str = ""


WALLS = (
    Wall("spec.py errors.py runtime/options.py", rooms=PLAIN),
    Wall(" ".join(f"runtime/{name}.py" for name in SYSTEM), inside="cv2", rooms=PLAIN),
    # Reading other people's checkpoints: as little as can be behind it.
    Wall("checkpoint/published/inert_*.py checkpoint/published/torch_archive.py", rooms="errors"),
    Wall("checkpoint/published/modules.py", rooms="errors"),
    Wall("checkpoint/published/__init__.py", "numpy", rooms="errors"),
    Wall("checkpoint/published/recognition.py", "numpy torch", rooms=f"{PLAIN} nn"),
    Wall("checkpoint/__init__.py"),
    Wall("checkpoint/tensors.py", "torch", "safetensors", rooms=PLAIN),
    Wall("checkpoint/files.py", "torch numpy", rooms=f"{PLAIN} tasks nn"),
    Wall("checkpoint/catalog.py", "tomli", rooms=f"{PLAIN} tasks"),
    # Host code: runs where there is neither torch nor onnx.
    Wall("runtime/boxes.py runtime/masks.py", "numpy", rooms=PLAIN),
    Wall("runtime/examples/*", "numpy cv2", "supervision trackers pycuda", rooms=HOST),
    Wall("runtime/manifest.py runtime/modelcache.py", rooms=PLAIN),
    Wall("runtime/many/options.py runtime/many/shards.py", rooms=PLAIN),
    Wall("runtime/*", "numpy cv2", "supervision trackers PIL fsspec pyarrow", rooms=HOST),
    Wall("data/*", "numpy cv2 yaml", rooms=f"{PLAIN} runtime metrics tasks"),
    Wall("metrics/options.py", rooms=PLAIN),
    Wall("metrics/*", "numpy cv2", "faster_coco_eval", rooms=f"{PLAIN} runtime.boxes runtime.masks"),
    # Networks: torch, and nothing of where they will run. What their layers are called is for everybody.
    Wall("nn/layers.py"),
    Wall("nn/*", "torch numpy", rooms=PLAIN),
    Wall("tasks/*/net.py tasks/network.py", "torch", rooms=f"{PLAIN} nn"),
    Wall("tasks/*/loss.py", "torch", rooms=f"{PLAIN} nn metrics"),
    Wall("tasks/*", "numpy", rooms=f"{PLAIN} metrics"),
    Wall("train/options.py", rooms=PLAIN),
    Wall("train/*", "torch numpy cv2 psutil", "matplotlib", rooms=f"{HOST} nn checkpoint verify.evaluate"),
    # Graphs: only the exporter and what captures for it know both worlds; a rule knows graphs alone.
    Wall(
        "graph/export.py", "torch onnx onnx_ir onnxscript", rooms=f"{PLAIN} checkpoint nn tasks graph runtime.modelinfo"
    ),
    Wall("graph/capture.py", "torch numpy onnxscript", rooms="nn"),
    Wall("graph/rules/*", "numpy onnx onnx_ir onnxscript", rooms="errors graph"),
    Wall("graph/*", "numpy onnx onnx_ir onnxscript", "onnxsim onnxruntime", rooms=f"{PLAIN} graph"),
    Wall("quantize/options.py", rooms=PLAIN),
    Wall(
        "quantize/*",
        "numpy cv2 onnx onnx_ir onnxscript",
        "onnxruntime openvino nncf",
        rooms=f"{HOST} nn.layers graph targets",
    ),
    # Backends: see also test_a_backend_uses_one_vendor_and_no_other_backend.
    Wall(
        "targets/*",
        "numpy",
        "onnx onnxruntime openvino ncnn tensorrt tensorrt_rtx cuda pycuda",
        rooms=f"{PLAIN} nn.layers runtime",
    ),
    Wall("bench/options.py", rooms=PLAIN),
    Wall("bench/*", "numpy psutil", "pynvml", rooms=f"{HOST} nn.layers targets"),
    Wall("autotune/__init__.py autotune/select.py", rooms=PLAIN),
    Wall("autotune/picture.py", rooms=f"{PLAIN} report"),
    Wall("autotune/*", "numpy", rooms=f"{HOST} bench bundle targets quantize verify"),
    Wall("report/charts.py report/verdict.py report/request.py", rooms=PLAIN),
    Wall("report/page.py", inside="jinja2 markupsafe", rooms=f"{PLAIN} report"),
    # From weights to figures.
    Wall(
        "report/table.py",
        "numpy",
        "torch",
        rooms=f"{HOST} bench bundle targets checkpoint quantize report verify",
    ),
    Wall("report/table_*.py", rooms=f"{HOST} checkpoint.catalog targets"),
    Wall("report/gpu/options.py report/gpu/plan.py report/gpu/words.py", rooms=f"{PLAIN} report"),
    Wall(
        "report/gpu/steps/training.py report/gpu/steps/loader.py",
        "numpy torch",
        "pynvml",
        rooms=f"{HOST} bench bundle checkpoint quantize report targets train verify",
    ),
    Wall(
        "report/gpu/*",
        "numpy cv2",
        "torch pynvml",
        rooms=f"{HOST} bench bundle checkpoint nn.boxhead quantize report targets train verify",
    ),
    Wall("report/*", "numpy cv2", rooms=f"{HOST} bench bundle verify"),
    # What puts the rooms together: the heavy ones are imported inside functions, as the last test here proves.
    Wall("verify/__init__.py verify/rounding.py"),
    Wall("verify/evaluate.py verify/written.py", "numpy", rooms=HOST),
    Wall("verify/parity.py", "numpy cv2", rooms=f"{HOST} verify"),
    Wall("verify/golden.py", "numpy cv2", rooms=f"{HOST} targets"),
    Wall("verify/whereabouts.py", "numpy", "onnx", rooms=f"{PLAIN} nn"),
    Wall("verify/*", "numpy", rooms=f"{HOST} nn.layers graph targets"),
    Wall("bundle/source.py", rooms=f"{PLAIN} runtime tasks checkpoint.published checkpoint.tensors graph"),
    Wall("bundle/options.py", rooms=f"{PLAIN} quantize"),
    Wall(
        "bundle/exports.py bundle/gates.py bundle/recalibrated.py",
        rooms=f"{HOST} verify targets graph quantize checkpoint nn",
    ),
    Wall("bundle/preflight.py", rooms=f"{HOST} targets quantize graph checkpoint.catalog"),
    Wall("bundle/fleet.py bundle/planned.py", rooms=f"{HOST} targets"),
    Wall("bundle/store.py", inside="oras huggingface_hub", rooms=f"{HOST}"),
    Wall("bundle/provenance/signing.py", inside="model_signing cryptography", rooms=f"{PLAIN} runtime"),
    Wall(
        "bundle/provenance/attestation.py", inside="cryptography google in_toto_attestation", rooms=f"{PLAIN} runtime"
    ),
    Wall("bundle/provenance/bom.py", inside="cyclonedx", rooms=f"{PLAIN} runtime"),
    Wall("bundle/provenance/card.py", inside="huggingface_hub", rooms=f"{PLAIN} runtime"),
    Wall("bundle/provenance/facts.py bundle/provenance/describing.py", rooms=f"{PLAIN} runtime"),
    Wall("bundle/layouts.py", rooms=f"{PLAIN} targets"),
    Wall("bundle/loading.py", "numpy", rooms=f"{HOST} targets graph checkpoint nn"),
    Wall("bundle/selftested.py bundle/verification.py", "numpy", rooms=f"{HOST} verify targets"),
    Wall("bundle/external/models.py", "numpy yaml", "onnx openvino", rooms=f"{HOST} targets graph nn"),
    Wall("bundle/external/faults.py", "numpy cv2", rooms="runtime"),
    Wall("bundle/external/doubtful.py", "numpy cv2", rooms=HOST),
    Wall("bundle/deepstream/*", rooms=PLAIN),
    Wall("bundle/inspection.py", inside="onnx", rooms=f"{HOST} targets graph checkpoint"),
    Wall("bundle/build.py", "numpy", rooms=f"{HOST} verify targets graph quantize checkpoint nn bench"),
    Wall("bundle/pruned.py", rooms=f"{HOST} verify quantize checkpoint nn"),
    Wall("bundle/fitted.py", "numpy", rooms=f"{HOST} verify targets quantize nn"),
    Wall("bundle/ray.py", "numpy", "ray pyarrow", rooms=HOST),
    Wall("bundle/*", "numpy", rooms=f"{HOST} verify graph"),
    # The command line: quick to start, free in what a command imports when it runs.
    Wall("cli/_plan_table.py cli/_many.py", inside="rich", rooms="*"),
    Wall("cli/_*", "typer", "rich torch", rooms=f"cli {PLAIN} runtime.options train"),
    Wall("cli/*", "typer", " ".join(("rich", *HEAVY)), rooms="*"),
    Wall("__main__.py", rooms="cli"),
    Wall("__init__.py", rooms="bundle runtime"),
)

VENDORS = ({"onnxruntime"}, {"openvino", "nncf"}, {"ncnn"}, {"tensorrt"}, {"tensorrt_rtx"})
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    top: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def room(self) -> str:
        return self.module.split(".")[1] if "." in self.module else ""

    @property
    def parents(self) -> set[str]:
        """Modules of edgekit that it is or is in, as ``nn.layers``: a wall may let in one file of a room."""
        parts = self.module.split(".")[1:]
        return {".".join(parts[:n]) for n in range(2, len(parts) + 1)}


@cache
def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def wall_of(name: str) -> Wall | None:
    return next((w for w in WALLS if any(fnmatch.fnmatch(name, p) for p in w.files.split())), None)


def imports(path: Path) -> list[Import]:
    """Every import of a file but those only a type checker sees."""
    return list(_walk(tree_of(path).body, top=True))


def _walk(body: list[ast.stmt], top: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports absolutely"
            if node.module == "edgekit":
                known = {
                    a.name for a in node.names if (PACKAGE / a.name).exists() or (PACKAGE / f"{a.name}.py").exists()
                }
                yield from (
                    Import(f"edgekit.{a.name}" if a.name in known else "edgekit", node.lineno, top) for a in node.names
                )
            else:
                yield from (Import(f"{node.module}.{alias.name}", node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _walk(node.orelse, top)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for block in ("body", "orelse", "finalbody"):
                yield from _walk(getattr(node, block, []), top and not function)
            for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                yield from _walk(part.body, top)


def complaints(name: str, wall: Wall, found: list[Import]) -> Iterator[str]:
    own = name.partition("/")[0].removesuffix(".py")
    for item in found:
        where = f"edgekit/{name}:{item.line}"
        if item.package == "edgekit":
            rooms = {"", own, *wall.rooms.split()}
            if not rooms & {item.room, *item.parents} and wall.rooms != "*":
                yield f"{where} imports edgekit.{item.room}; it may use: {wall.rooms or 'nothing of edgekit'}"
        elif item.package not in {*sys.stdlib_module_names, "tomllib"}:  # which 3.10 has not
            if item.top and item.package not in wall.packages.split():
                late = " (inside functions only)" if item.package in wall.inside.split() else ""
                yield f"{where} imports {item.package} at the top; it may: {wall.packages or 'nothing'}{late}"
            elif item.package not in f"{wall.packages} {wall.inside}".split():
                yield f"{where} imports {item.package}; it may: {wall.packages} {wall.inside}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_its_wall_allows(path: Path) -> None:
    wall = wall_of(name_of(path))
    assert wall is not None, f"edgekit/{name_of(path)} has no wall: add a line to WALLS that says what it may import"
    found = dict.fromkeys(complaints(name_of(path), wall, imports(path)))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("wall", "code", "complaint"),
    [
        (Wall("x", "numpy"), "import numpy as np, json", None),
        (Wall("x", "numpy"), "import torch", "x.py:1 imports torch at the top"),
        (Wall("x", "numpy"), "try:\n    import torch\nexcept ImportError:\n    torch = None", "x.py:2 imports torch"),
        (Wall("x", "numpy"), "def f():\n    from torch import nn", "x.py:2 imports torch"),
        (Wall("x", "numpy"), "class C:\n    import cv2.dnn", "x.py:2 imports cv2 at the top"),
        (Wall("x", inside="PIL"), "def f():\n    with g():\n        from PIL import Image", None),
        (Wall("x", inside="PIL"), "from PIL import Image", "imports PIL at the top; it may: nothing (inside functions"),
        (Wall("x"), "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
        (Wall("x", rooms="spec"), "from edgekit.spec import ModelInfo\nfrom edgekit import __version__", None),
        (Wall("x", rooms="spec"), "from edgekit import spec, cli", "x.py:1 imports edgekit.cli"),
        (Wall("x", rooms="spec"), "def f():\n    import edgekit.nn.blocks", "x.py:2 imports edgekit.nn"),
        (Wall("x", rooms="nn.layers"), "from edgekit.nn import layers\nfrom edgekit.nn.layers import parse", None),
        (Wall("x", rooms="nn.layers"), "from edgekit.nn import blocks", "x.py:1 imports edgekit.nn"),
        (Wall("x", rooms="spec"), "match 1:\n    case 1:\n        from edgekit.nn import blocks", "imports edgekit.nn"),
    ],
)
def test_the_walls_are_not_made_of_paper(wall: Wall, code: str, complaint: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(code)
    found = "\n".join(complaints("x.py", wall, imports(path)))
    assert (complaint in found) if complaint else not found


# ---- cycles ------------------------------------------------------------------------------------------------------


def edges(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> modules of ``files`` it imports anywhere, functions included; not what only a type checker sees, nor
    the packages a module lies in, which Python runs first."""
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for item in imports(path):
            while item.module not in files and "." in item.module:
                item = Import(item.module.rpartition(".")[0], item.line, item.top)
            found[name] |= {item.module} & files.keys() - {name}
    return found


def between_rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same for files and folders directly in ``edgekit/``."""
    rooms: dict[str, set[str]] = {}
    for name, others in graph.items():
        own = room_of(name)
        rooms.setdefault(own, set()).update({room_of(other) for other in others} - {own, "edgekit"})
    return rooms


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def cycle_in(graph: Mapping[str, set[str]]) -> str | None:
    """``a -> b -> a``, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return None


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    names = {path: path.relative_to(package.parent).with_suffix("").as_posix() for path in package.rglob("*.py")}
    return {name.removesuffix("/__init__").replace("/", "."): path for path, name in names.items()}


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert cycle_in(edges(modules(PACKAGE))) is None


def test_no_room_imports_itself_by_way_of_others() -> None:
    assert cycle_in(between_rooms(edges(modules(PACKAGE)))) is None


@pytest.mark.parametrize(
    ("late", "files", "rooms"),
    [
        ("from edgekit.b.one import f", True, True),
        ("import edgekit.b.one", True, True),
        ("from edgekit.b import two", False, True),  # other files of the same two rooms
        ("from edgekit.a import two", False, False),
        ("if TYPE_CHECKING:\n        from edgekit.b import one", False, False),
    ],
)
def test_a_planted_cycle_is_found(late: str, files: bool, rooms: bool, tmp_path: Path) -> None:
    package = tmp_path / "edgekit"
    for place, code in {
        "__init__.py": "",
        "a/__init__.py": "",
        "a/one.py": f"def f():\n    {late}\n",
        "a/two.py": "",
        "b/__init__.py": "",
        "b/one.py": "from edgekit.a.one import f\n",
        "b/two.py": "",
    }.items():
        (package / place).parent.mkdir(parents=True, exist_ok=True)
        (package / place).write_text(code)
    graph = edges(modules(package))
    assert (cycle_in(graph) is not None) == files
    assert (cycle_in(between_rooms(graph)) is not None) == rooms


def test_only_the_exporter_imports_both_torch_and_onnx() -> None:
    both = [name_of(p) for p in FILES if {"torch", "onnx"} <= {i.package for i in imports(p)}]
    assert both in ([], ["graph/export.py"])


@pytest.mark.parametrize("path", sorted((PACKAGE / "targets").glob("*.py")), ids=lambda p: p.name)
def test_a_backend_uses_one_vendor_and_no_other_backend(path: Path) -> None:
    found = imports(path)
    used = [v for v in VENDORS if any(i.package in v for i in found)]
    assert len(used) <= 1, f"{path.name} imports the SDKs of {len(used)} vendors: {used}"
    others = [
        i for i in found if i.module.startswith("edgekit.targets.") and not i.module.split(".")[2].startswith("_")
    ]
    stems = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
    for item in others:
        assert item.module.split(".")[2] not in stems, f"{path.name}:{item.line} imports the backend {item.module}"


def test_nobody_imports_the_command_line() -> None:
    users = {name_of(p) for p in FILES for i in imports(p) if i.package == "edgekit" and i.room == "cli"}
    assert {u for u in users if not u.startswith("cli/")} == {"__main__.py"}


@pytest.mark.parametrize("path", [p for p in FILES if not name_of(p).startswith("cli/")], ids=name_of)
def test_library_code_neither_prints_nor_exits(path: Path) -> None:
    forbidden = {"print", "exit", "quit", "sys.exit", "os._exit"}
    if name_of(path) in ("train/distributed.py", "train/loader.py"):
        # The only way out of a process that a dead one's collective blocks, and of a worker without its parent.
        forbidden -= {"os._exit"}
    if name_of(path) == "report/gpu/worker.py":  # what an SDK does when a lost GPU's objects go is no finding
        forbidden -= {"os._exit"}
    for node in ast.walk(tree_of(path)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        raised = ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ""
        where = f"edgekit/{name_of(path)}:{getattr(node, 'lineno', 0)}"
        assert called not in forbidden, f"{where} calls {called}()"
        assert not raised.startswith("SystemExit"), f"{where} raises SystemExit"


MOST_PARAMETERS = 8  # more belong into a dataclass; a command's are made of its options


def crowded_signatures(code: str) -> Iterator[tuple[str, int]]:
    """(name, count) of functions with more parameters than that; ``self`` and ``**options`` do not count."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > MOST_PARAMETERS:
                yield node.name, count


def test_functions_take_few_parameters() -> None:
    files = [path for path in FILES if not name_of(path).startswith("cli/")]
    found = {name_of(path): list(crowded_signatures(path.read_text(encoding="utf-8"))) for path in files}
    assert {name: many for name, many in found.items() if many} == {}


def test_crowded_signatures_are_found() -> None:
    code = "def f(a, b, c, d, e, /, f, g, *, h, {}**i): pass\nclass C:\n  def g(self, a, b, c, d, e, f, g, h): pass"
    assert list(crowded_signatures(code.format(""))) == []
    assert list(crowded_signatures(code.format("j, "))) == [("f", 9)]


# Where an import that fails is no missing extra.
OTHER_GUARDS = {
    "errors.py": "the guard itself",
    "targets/tensorrt.py": "its shell on PyPI raises RuntimeError, and it comes with JetPack, not with an extra alone",
}
SEARCHES = {"errors.py": "require", "runtime/places.py": "wants the folder of OpenVINO's CMake files"}


def guards(tree: ast.AST) -> Iterator[int]:
    """Lines at which a failing import is caught by other means than ``edgekit.errors.optional``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(h.type) if h.type else "Exception" for h in node.handlers)
            imported = any(isinstance(n, (ast.Import, ast.ImportFrom)) for part in node.body for n in ast.walk(part))
            if "ImportError" in caught or "ModuleNotFoundError" in caught or (imported and "Exception" in caught):
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            yield from [node.lineno] * any(ast.unparse(a).endswith(("ImportError", "NotFoundError")) for a in node.args)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_optional_packages_are_imported_through_one_guard(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = list(guards(ast.parse(text)))
    assert bool(lines) == (name_of(path) in OTHER_GUARDS), f"edgekit/{name_of(path)}:{lines}: use errors.optional"
    searches = "find_spec(" in text
    assert searches == (name_of(path) in SEARCHES), f"edgekit/{name_of(path)}: use errors.require or not_installed"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("try:\n    import x\nexcept ImportError:\n    x = None", [1]),
        ("try:\n    f()\nexcept (OSError, ModuleNotFoundError):\n    pass", [1]),
        ("def f():\n    try:\n        from x import y\n    except Exception:\n        pass", [2]),
        ("try:\n    import x\nexcept:\n    pass", [1]),
        ("import contextlib\nwith contextlib.suppress(ImportError):\n    import x", [2]),
        ("with optional('this', 'train'):\n    import x", []),
        ("try:\n    f()\nexcept Exception:\n    pass", []),
    ],
)
def test_other_guards_are_found(code: str, found: list[int]) -> None:
    assert list(guards(ast.parse(code))) == found


# How the network's own modules are called. ``published`` reads state dicts of files from elsewhere, whose keys these
# names are: there they are a file format's, and the parser would hide what it says.
LAYER_NAMES = re.compile(
    r"\bmodel[./\\\\]+(\d|\{|\(|\\\\d)|\bcv[1-4]\b|\battn\b|\bmlp\b|\bproto\b|\bdfl[./\\\\]|[./]dfl\b|\bqkv?\b"
)
SPELT = ("nn/", "checkpoint/published/")


def spelt(code: str) -> Iterator[tuple[int, str]]:
    """(line, text) of string literals that spell a layer's name; docstrings do not count."""
    return _spelt(ast.parse(code))


def _spelt(tree: ast.Module) -> Iterator[tuple[int, str]]:
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            inside.add(id(body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if LAYER_NAMES.search(text):
            yield node.lineno, text


@pytest.mark.parametrize("path", [p for p in FILES if not name_of(p).startswith(SPELT)], ids=name_of)
def test_layer_names_are_spelt_in_nn_alone(path: Path) -> None:
    found = [f"edgekit/{name_of(path)}:{line} spells {text!r}" for line, text in _spelt(tree_of(path))]
    assert not found, "ask edgekit.nn.layers: " + "; ".join(found)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('"""model.21.cv3"""\ndef f():\n    "model.6.m.0.0.attn"', False),
        ('x = "model.21.cv3.0.2"', True),
        ('x = f"model.{head}/"', True),
        ('x = re.compile(r"model\\.(\\d+)")', True),
        ('x = ".attn" in name', True),
        ('x = name.startswith(f"{head}.dfl")', True),
        ('x = ("box", "cls", "dfl")', False),
        ('x = "model.onnx"', False),
        ('x = f"{model}: no such model. {why}"', False),
    ],
)
def test_spelt_finds_names_of_layers(code: str, found: bool) -> None:
    assert bool(list(spelt(code))) is found


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a file but its docstrings, those in f-strings included."""
    tree = tree_of(path)
    documents = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(getattr(node, "body", None), list)
        for statement in node.body  # type: ignore[attr-defined]
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def options() -> frozenset[str]:
    """Every option of every command, as it is typed."""
    from edgekit.cli import _app

    def below(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for each in getattr(command, "commands", {}).values():
            yield from below(each)

    made = (_app.made(name, importlib.import_module(module)) for name, module in _app.names().items())
    return frozenset(option for command in made for option in below(command) if option.startswith("--"))


LIBRARY = [p for p in FILES if not name_of(p).startswith("cli/")]


def test_library_code_does_not_know_how_options_are_typed(options: frozenset[str]) -> None:
    """It names them `max_det`; the command line adds the dashes. Flags of other programs are none of ours."""
    found = [
        f"edgekit/{name_of(path)}:{line} spells {word}; write `{word[2:].replace('-', '_')}`, or errors.command_line"
        for path in LIBRARY
        for line, text in literals(path)
        for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])", text)
        if word in options
    ]
    assert not found, "\n" + "\n".join(found)


def test_what_messages_name_between_backticks_is_an_option(options: frozenset[str]) -> None:
    found = [
        f"edgekit/{name_of(path)}:{line}: no command has an option `{name}`"
        for path in LIBRARY
        for line, text in literals(path)
        for name in re.findall(r"(?<!`)`([a-z][a-z0-9_]*)`(?!`)", text)
        if f"--{name.replace('_', '-')}" not in options
    ]
    assert not found, "\n" + "\n".join(found)


def run_python(code: str) -> str:
    """Standard error of ``code`` in a fresh interpreter; it must end with exit code 0."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_importing_edgekit_loads_nothing_heavy() -> None:
    loaded = run_python(
        f"import sys, edgekit; dir(edgekit); print(*({set(HEAVY)} & set(sys.modules)), file=sys.stderr)"
    )
    assert loaded.split() == []


def test_no_help_page_loads_anything_heavy() -> None:
    code = f"""
import sys
from edgekit.cli import main
from edgekit.cli._app import names
for words in [[], *([n] for n in names())]:
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert not end.code, words
    loaded = {set(HEAVY)} & set(sys.modules)
    assert not loaded, (words, loaded)
"""
    run_python(code)


def test_what_runs_bundles_imports_without_torch_onnx_or_any_optional_package() -> None:
    """Also what those files import in turn: the static walls above look at one file at a time."""
    needy = {"torch", "onnx", "onnxscript"}
    modules = [
        "edgekit." + name_of(p).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for p in FILES
        if name_of(p) not in {"__init__.py", "__main__.py"}
        and not needy & set((wall_of(name_of(p)) or Wall("")).packages.split())
    ]
    code = f"""
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(OPTIONAL)}:
            raise ModuleNotFoundError("No module named " + repr(name) + " (not on this machine)")
sys.meta_path.insert(0, Missing())
for module in {modules}:
    importlib.import_module(module)
"""
    run_python(code)
