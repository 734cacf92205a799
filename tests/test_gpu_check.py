"""`edgekit gpu-check` without a GPU: steps that crash, hang and find wrong numbers, machines that cannot be checked."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from edgekit.bench import doctor
from edgekit.cli._app import application
from edgekit.errors import InputError, UsageError
from edgekit.report.gpu import findings, plan, runner, survey, words
from edgekit.report.gpu.findings import Job, Request
from edgekit.report.gpu.options import GpuOptions
from edgekit.report.gpu.plan import Step
from edgekit.report.gpu.steps import basics, loader
from edgekit.targets._cuda import Gpu
from edgekit.targets._experimental import EXPERIMENTAL, about
from edgekit.targets._tensorrt_common import TensorRTOptions
from tests import gpu_steps
from tests.gpu_stand_ins import FakeDriver
from tests.test_tensorrt import _install, kernels  # noqa: F401 - the kernels compiled for the CPU

REPO = Path(__file__).resolve().parents[1]
T4 = Gpu(0, "Tesla T4", 75, 13000, "0000:3b:00.0")
WANTED = {
    "works": "works",
    "partly": runner.PARTLY,
    "wrong": findings.FAILS,
    "crash": runner.CRASHED,
    "killed": runner.CRASHED,
    "leaves": runner.CRASHED,
    "hang": runner.HUNG,
    "lacking": findings.LACKING,
    "library": findings.FAILS,
    "memory": findings.MEMORY,
    "silent": findings.LACKING,
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "find_gpu", lambda device: T4)
    monkeypatch.setattr(survey, "_nvml", lambda: None)
    monkeypatch.delenv("EDGEKIT_PEER", raising=False)


def steps(*names: str, seconds: float = 30) -> list[Step]:
    return [Step(name, "a stand-in", f"tests.gpu_steps.{name}", seconds) for name in names]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every stand-in once, through the command line."""
    folder = tmp_path_factory.mktemp("gpu")
    chosen = [dataclasses.replace(s, seconds=4 if s.name == "hang" else 60) for s in steps(*gpu_steps.NAMES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "find_gpu", lambda device: T4)
        patch.setattr(survey, "_nvml", lambda: None)
        patch.setattr(runner, "STEPS", chosen)
        patch.setenv("PYTHONPATH", f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setattr(runner, "WORKER", ["-c", WORKER])
        done = CliRunner().invoke(application(), ["gpu-check", "--out", str(folder / "gpu.json")])
    assert done.exit_code == 1, done.output
    document: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return document


WORKER = "import sys, tests.gpu_steps; from edgekit.report.gpu.worker import main; main(*sys.argv[1:])"


def test_every_planted_failure_is_reported_and_survived(checked: dict[str, Any]) -> None:
    assert {step["name"]: step["state"] for step in checked["steps"]} == WANTED


def test_what_was_found_before_a_crash_is_kept_with_the_log(checked: dict[str, Any]) -> None:
    by = {step["name"]: step for step in checked["steps"]}
    for name in ("crash", "hang", "memory"):
        assert by[name]["findings"][0] == {"name": "before", "state": "works", "says": "kept"}
    assert "SIGSEGV" in by["crash"]["says"] and any("last words" in line for line in by["crash"]["log"])
    assert "SIGKILL" in by["killed"]["says"] and "code 3" in by["leaves"]["says"]
    wrong = by["wrong"]["findings"]
    assert [row["state"] for row in wrong] == ["fails", "fails", "works"]
    assert wrong[0]["figures"] == {"gap": None}  # infinity, for which JSON has no word
    assert wrong[1]["figures"]["evidence"] == {"scores": {"max_abs": 0.5}}


def test_nothing_of_it_says_whose_machine_it_was(checked: dict[str, Any]) -> None:
    text = json.dumps(checked)
    assert str(Path.home()) + "/" not in text and os.getcwd() not in text and str(REPO) not in text
    rows: list[dict[str, Any]] = []
    Job(Request("work"), rows.append).holds("x", False, f"see {REPO}/a", errors=[f"{sys.prefix}/lib/b.h:1: error"])
    assert rows[0]["says"] == "see REPO/a" and rows[0]["figures"] == {"errors": ["PYTHON/lib/b.h:1: error"]}


def test_the_words_name_every_step(checked: dict[str, Any]) -> None:
    text, line = words.markdown(checked), words.conclusion(checked)
    assert all(f"| {name} |" in text and name in line for name in WANTED)


@pytest.mark.long
def test_the_whole_is_bounded_and_what_was_not_reached_is_said(gpu: None, tmp_path: Path) -> None:
    began = time.monotonic()
    document = runner.run(
        GpuOptions(minutes=0.1), tmp_path / "r.json", steps=[*steps("hang", seconds=60), *steps("works")]
    )
    assert time.monotonic() - began < 30
    assert [step["state"] for step in document["steps"]][1] == runner.UNREACHED
    assert json.loads((tmp_path / "r.json").read_text())["steps"] == document["steps"]


def test_all_steps_exist_and_their_times_keep_what_is_promised() -> None:
    """The first four, and half an hour for about all of them."""
    import importlib

    for step in plan.STEPS:
        assert callable(importlib.import_module(step.module).run)
    assert sum(step.seconds for step in plan.STEPS[:4]) < 10 * 60
    assert sum(step.seconds for step in plan.STEPS) <= 33 * 60


def test_basics_hold_on_the_stand_ins(
    kernels: ctypes.CDLL,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Every check of the first step, the kernels computed by the CPU; and one that computes something else is seen."""
    runtime = _install(monkeypatch, FakeDriver(current=7))
    monkeypatch.setattr(basics, "find_gpu", lambda: T4)
    core: Any = sys.modules["cuda.core"]
    core.kernels = {"letterbox": lambda *a: kernels.all_pixels(*a[:-1]), "suppress": kernels.one_block}
    monkeypatch.setattr(basics, "COUNT", 40)
    monkeypatch.setattr(basics, "SIZE", (64, 96))
    rows: list[dict[str, Any]] = []
    basics.run(Job(Request(str(tmp_path)), rows.append))
    states = {row["name"]: row["state"] for row in rows}
    assert states.pop("zero-copy from PyTorch") == findings.LACKING  # this PyTorch has no CUDA
    assert set(states.values()) == {"works"} and len(states) == 9, states
    assert not runtime.graphs or all(not steps_ for steps_ in runtime.graphs.values())
    core.kernels["suppress"] = lambda *a: None
    rows.clear()
    basics.run(Job(Request(str(tmp_path)), rows.append))
    assert {row["state"] for row in rows if row["name"].startswith("suppression")} == {"fails"}


# --- machines that cannot be checked


class Nvml(ModuleType):
    """NVIDIA's management library of a machine with one GPU."""

    NVMLError = RuntimeError

    def __init__(self, free: int = 15 << 30, mig: int = 0, others: int = 0) -> None:
        super().__init__("pynvml")
        self.free, self.mig, self.others = free, mig, others

    def __getattr__(self, name: str) -> Any:
        return {
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda place: place,
            "nvmlDeviceGetHandleByPciBusId": lambda address: address,
            "nvmlDeviceGetMigMode": lambda handle: (self.mig, self.mig),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=16 << 30, free=self.free),
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=1)] * self.others,
            "nvmlSystemGetDriverVersion": lambda: "580.65",
        }[name]


def look(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None, gpu: Gpu | InputError) -> dict[str, Any]:
    def find(device: str) -> Gpu:
        if isinstance(gpu, InputError):
            raise gpu
        return gpu

    monkeypatch.setattr(survey, "find_gpu", find)
    monkeypatch.setattr(survey, "_nvml", lambda: nvml)
    return survey.look("cuda:0")


def test_a_machine_that_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, Nvml(others=2, mig=1), T4)
    assert (found["sm"], found["driver"], found["free_mib"], found["processes"]) == (75, "580.65", 15 << 10, 2)
    assert len(found["notes"]) == 2


@pytest.mark.parametrize(
    ("nvml", "gpu", "datum"),
    [
        (None, InputError("there is no NVIDIA driver here"), "driver"),
        (Nvml(), InputError("the NVIDIA driver finds no GPU here"), "no GPU"),
        (Nvml(mig=1), InputError("the NVIDIA driver finds no GPU here"), "CUDA_VISIBLE_DEVICES"),
        (Nvml(), dataclasses.replace(T4, sm=61, name="GTX 1080"), "SM 61"),
        (Nvml(free=300 << 20, others=1), T4, "300 of 16384 MiB"),
    ],
)
def test_a_machine_that_cannot_be_checked_gets_a_sentence(
    nvml: Nvml | None, gpu: Gpu | InputError, datum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=datum):
        look(monkeypatch, nvml, gpu)


def test_results_that_cannot_be_written_are_refused_at_once(gpu: None, tmp_path: Path) -> None:
    for out in (tmp_path / "nothing" / "r.json", tmp_path):
        with pytest.raises(InputError, match="`out`"):
            runner.run(GpuOptions(), out, steps=steps("works"))


def test_a_folder_to_work_in_that_cannot_be_made_is_refused(gpu: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="`work_dir`"):
        runner.run(GpuOptions(work_dir=tmp_path / "file"), tmp_path / "r.json", steps=steps("works"))


@pytest.mark.parametrize(
    ("device", "given", "seen"), [(0, None, "0"), (1, None, "1"), (1, "2, 5", "5"), (0, "MIG-7", "MIG-7")]
)
def test_steps_see_the_gpu_that_is_checked_alone(
    device: int, given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "find_gpu", lambda name: dataclasses.replace(T4, index=device))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert survey.visible(f"cuda:{device}") == seen


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((900, 850, 800), "PyTorch's would do"),
        ((900, 700, 800), "ours feeds it and PyTorch's does not"),
        ((700, 900, 800), "PyTorch's feeds it and ours does not"),
        ((600, 400, 800), "1.50 of the steps"),
    ],
)
def test_the_verdict_on_the_loader(rates: tuple[float, float, float], said: str) -> None:
    assert said in loader.verdict(*rates)


def test_what_is_asked_for_must_be_there(gpu: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`only` engines"):
        GpuOptions(only=("engines",))
    with pytest.raises(InputError, match="`model`"):
        runner.run(GpuOptions(model=tmp_path / "none.pt"), tmp_path / "r.json", steps=steps("works"))


def test_a_step_says_what_it_needs_of_the_repository(tmp_path: Path) -> None:
    job = Job(Request(str(tmp_path)), lambda row: None)
    for name in ("model", "repository", "peer"):
        with pytest.raises(findings.Lacking):
            job.needs(name)


# --- the list of what is experimental


def test_the_list_is_of_things_that_exist_and_that_can_be_built() -> None:
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(TensorRTOptions)}
    for entry in EXPERIMENTAL:
        assert not entry.option or entry.name in fields
        TensorRTOptions.parse({name: value.format(folder="f") for name, value in entry.options.items()})
    assert about("timing_cache") is about("timing-cache") is not None and about("workspace") is None


def test_doctor_help_and_docs_mark_what_is_on_the_list() -> None:
    assert [row["name"] for row in doctor.examine()["experimental"]] == [entry.name for entry in EXPERIMENTAL]
    page = (REPO / "docs/guides/tensorrt.md").read_text(encoding="utf-8")
    source = (REPO / "edgekit/targets/_tensorrt_common.py").read_text(encoding="utf-8")
    for entry in EXPERIMENTAL:
        rows = [line for line in page.splitlines() if line.startswith("|") and entry.name in line]
        assert rows and all("experimental" in row for row in rows), entry.name
    assert source.count('Experimental."""') == sum(entry.option for entry in EXPERIMENTAL)
    told = CliRunner().invoke(application(), ["build", "--help"], env={"COLUMNS": "200"})
    [line] = [line for line in told.output.splitlines() if "--timing-cache" in line]
    assert "Experimental" in line
