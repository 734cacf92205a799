"""Shared fixtures: where the real checkpoints and images are; skipping where they or PyTorch are not; seeds.

``EDGEKIT_TEST_SEED`` (0 by default) changes what is random in the tests' networks; the last lines of a run say it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import EdgekitError, MissingPackageError
from edgekit.runtime import processor
from tests import networks

Run = Callable[..., tuple[int, str, str]]

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"

HAS_TORCH = importlib.util.find_spec("torch") is not None
WITHOUT_TORCH = "needs torch, which is not installed here (pip install 'edgekit[train]')"


if importlib.util.find_spec("hypothesis") is not None:  # which the few tests on the emulated ARM machine do without
    from hypothesis import settings

    settings.register_profile("edgekit", deadline=None)  # a busy machine is no fault
    settings.load_profile("edgekit")


# Files that take longest, which go first: at the end one process would wait for the other.
FIRST = (
    "extension docs tensorrt_rtx train train_tasks evaluate cpp capture quantize_build plan_auto build selftest "
    "distributed clock fleet".split()
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))


def pytest_configure(config: pytest.Config) -> None:
    try:
        processor.check_environment()
    except EdgekitError as error:
        pytest.exit(str(error), error.exit_code)
    adjust()


def adjust() -> None:
    """Where ``EDGEKIT_TEST_FLOAT32`` is set, as on a processor without bf16, which OpenVINO asks for by CPUID whatever
    oneDNN's limit (processors.py)."""
    if not os.environ.get("EDGEKIT_TEST_FLOAT32"):
        return
    import openvino

    honest = openvino.Core.compile_model

    def compiled(
        self: Any, model: Any, device_name: str | None = None, config: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        return honest(self, model, device_name, {"INFERENCE_PRECISION_HINT": "f32", **(config or {})}, **more)

    openvino.Core.compile_model = compiled


def _lacks_torch(error: BaseException | None) -> bool:
    """Whether it comes of PyTorch not being installed, as on the interpreters that run bundles alone."""
    while error is not None and not HAS_TORCH:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            return True
        if isinstance(error, MissingPackageError) and error.package == "torch":
            return True
        error = error.__cause__
    return False


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    call = getattr(report, "call", None)
    if report.failed and call and call.excinfo and _lacks_torch(call.excinfo.value):
        report.outcome, report.longrepr = "skipped", (str(collector.path), None, f"Skipped: {WITHOUT_TORCH}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    report = yield
    if report.failed and call.excinfo and _lacks_torch(call.excinfo.value):
        report.outcome, report.longrepr = "skipped", (str(item.path), None, f"Skipped: {WITHOUT_TORCH}")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What tests draw from the libraries' own generators depends on the test and the seed, not on the order."""
    number = zlib.crc32(f"{networks.SEED} {item.nodeid}".encode())
    random.seed(number)
    np.random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["proofs"] = [(proof.by, proof.share()) for proof in networks.PROOFS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    _proofs.extend(map(tuple, getattr(node, "workeroutput", {}).get("proofs", ())))


_proofs: list[tuple[str, float]] = []  # of the workers


def pytest_terminal_summary(terminalreporter: Any) -> None:
    proofs = [*_proofs, *((proof.by, proof.share()) for proof in networks.PROOFS)]
    line = f"EDGEKIT_TEST_SEED={networks.SEED}"
    if proofs:
        by, share = max(proofs, key=lambda proof: proof[1])
        line += f"; {len(proofs)} random networks proved, the closest to its limit {by} at {share:.2f} of it"
    terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images beside the repository; tests that need it skip without it."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip(f"needs {SHARED} (real checkpoints and images), which is not here")
    return SHARED


class Raw:
    """Stored raw outputs of the real checkpoints, by role, and how to compare with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes = json.loads((folder / "expected.json").read_text())["raw"]

    def __call__(self, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(input ``[1, 3, S, S]``, role -> array in edgekit's layout)."""
        side = self.sizes[f"{name}.pt"]["imgsz"]
        batch = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
        return batch, self.roles(name, np.load(self.folder / f"{name}.npz"))

    @staticmethod
    def roles(name: str, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What Ultralytics gives for (a variation of) the checkpoint ``name``, in edgekit's layout."""
        output = stored["output"]
        if output.ndim == 2:
            return {"class_probabilities": output}
        extra = {"yolo12n-seg-balloon": 32, "yolo12n-pose-person": 51, "yolo12n-obb-table-tennis": 1}.get(name, 0)
        classes = output.shape[1] - 4 - extra
        centre, size = output[:, :2].transpose(0, 2, 1), output[:, 2:4].transpose(0, 2, 1)
        tail = output[:, 4 + classes :].transpose(0, 2, 1)
        roles = {"scores": output[:, 4 : 4 + classes]}
        if extra == 1:
            return roles | {"rotated_boxes": np.concatenate([centre, size, tail], 2)}
        roles["boxes"] = np.concatenate([centre - size / 2, centre + size / 2], 2)
        if extra == 51:
            roles["keypoints"] = tail.reshape(*tail.shape[:2], 17, 3)
        if extra == 32:
            roles |= {"mask_coefficients": tail, "mask_prototypes": stored["prototypes"]}
        return roles

    @staticmethod
    def assert_close(found: dict, expected: dict, pixels: float, scores: float, masks: float) -> None:
        assert set(found) == set(expected)
        allowed = {
            "boxes": pixels,
            "rotated_boxes": pixels,
            "keypoints": pixels,
            "scores": scores,
            "class_probabilities": scores,
            "mask_coefficients": masks,
            "mask_prototypes": masks,
        }
        for role, want in expected.items():
            assert found[role].shape == want.shape, role
            assert np.abs(found[role] - want).max() <= allowed[role], role


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """``run("models", "--json")`` -> (exit code, standard output, standard error)."""

    def command(*words: object) -> tuple[int, str, str]:
        from edgekit import cli

        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main([str(word) for word in words])
        output = capfd.readouterr()
        code = done.value.code
        return (code if isinstance(code, int) else 0), output.out, output.err

    return command


@pytest.fixture(scope="session")
def raw(shared: Path) -> Raw:
    return Raw(shared / "fixtures")


@pytest.fixture(scope="session")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``exported("yolo12n-bccd")``: the real checkpoint as ONNX at the size of its stored outputs, made once.

    Workers of a parallel run share the folder; should two make the same file, the later rename wins with equal bytes.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "exported"
    sizes = json.loads((shared / "fixtures" / "expected.json").read_text())["raw"]

    def make(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.is_file():
            from edgekit import checkpoint
            from edgekit.graph.export import export

            side = sizes[f"{name}.pt"]["imgsz"]
            private = folder / f"{os.getpid()}-{name}.onnx"
            export(checkpoint.load(shared / "fixtures" / f"{name}.pt"), private, (side, side))
            os.replace(private, path)
        return path

    return make
