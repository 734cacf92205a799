"""What `edgekit doctor` says about packages and targets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy
import pytest

from edgekit import targets
from edgekit.bench import doctor
from tests.records import change_targets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[1]
CONTRACT = "ort-fp32 ort-int8 ov-fp32 ov-fp16 ov-int8 trt-fp16 trt-int8 trt-rtx-fp16 trt-rtx-int8".split()


def declared() -> dict[str, str]:
    """Package -> the first extra of pyproject.toml that brings it ('' where always needed)."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    groups = {extra: lines for extra, lines in groups.items() if extra not in ("dev", "all", "docs")}
    return {re.split(r"[<>=; \[]", line)[0]: extra for extra, lines in reversed(groups.items()) for line in lines}


def test_every_declared_package_is_looked_at_under_its_extra() -> None:
    looked_at = {p["name"]: p["extra"] or "" for p in doctor.examine()["packages"]}
    extras = {name: extra for name, extra in declared().items() if name != "tomli"}
    assert looked_at == extras | {"pnnx": ""}, "which no extra brings, for it would bring PyTorch"


def test_versions_are_those_of_the_installed_packages() -> None:
    packages = {p["name"]: p for p in doctor.examine()["packages"]}
    assert packages["numpy"]["version"] == numpy.__version__
    for package in packages.values():
        assert (package["version"] is None) == (package["installed"] is None)


def test_every_target_of_the_contract_is_ready_or_says_why_not() -> None:
    states = {s["name"]: s for s in doctor.target_states()}
    assert [name for name in states if name in CONTRACT] == CONTRACT
    for state in states.values():
        assert state["ready"] == (state["note"] is None)
        assert state["ready"] or len(state["note"]) > 10


def test_a_target_without_its_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else found(name, *rest)
    )
    notes = {s["name"]: s["note"] for s in doctor.target_states()}
    assert "pip install 'edgekit[openvino]'" in notes["ov-fp16"]


def test_every_target_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    change_targets(monkeypatch, "ort-int8", missing=lambda: "its package is not installed")
    notes = {s["name"]: s["note"] for s in doctor.target_states()}
    assert list(notes) == targets.names() and notes["ort-int8"] == "its package is not installed"


def test_packages_that_only_a_record_names_are_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    change_targets(monkeypatch, "ort-fp32", packages=("onnxruntime", "a-runtime-of-our-own"))
    rows = {p["name"]: p for p in doctor.examine()["packages"]}
    assert rows["a-runtime-of-our-own"]["version"] is None and "ort-fp32" in rows["a-runtime-of-our-own"]["use"]


def test_two_packages_that_overwrite_each_other_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"opencv-python": "4.10", "opencv-python-headless": "4.10"}
    monkeypatch.setattr(doctor, "version", both.get)
    (warning,) = doctor.examine()["warnings"]
    assert "opencv-python-headless and opencv-python" in warning


def test_another_build_of_a_package_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", {"onnxruntime-gpu": "1.20.0"}.get)
    package = next(p for p in doctor.examine()["packages"] if p["name"] == "onnxruntime")
    assert (package["installed"], package["version"]) == ("onnxruntime-gpu", "1.20.0")


def test_the_command_prints_a_document_or_a_table() -> None:
    command = [sys.executable, "-m", "edgekit", "doctor"]
    machine = subprocess.run([*command, "--json"], cwd=REPO, capture_output=True, text=True)
    assert machine.returncode == 0, machine.stderr
    report = json.loads(machine.stdout)
    assert {"packages", "targets", "cpu", "gpus", "warnings"} <= set(report)
    people = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (people.returncode, people.stdout) == (0, "")
    assert all(target in people.stderr for target in CONTRACT)
    assert metadata.version("numpy") in people.stderr


def test_the_documentation_gives_a_reason_for_every_dependency() -> None:
    page = (REPO / "docs" / "project" / "dependencies.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")}
    assert set(declared()) <= {row.split("[")[0] for row in rows}


def test_a_runtime_of_years_ago_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: {"openvino": "2023.1.0", "ncnn": "1.0.20261020"}.get(name))
    (said,) = (warning for warning in doctor.examine()["warnings"] if "older" in warning)
    assert "openvino 2023.1.0" in said and "2025.0" in said


def test_the_oldest_versions_are_those_pip_is_told() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = [line for extra in extras.values() for line in extra if line.startswith(tuple(doctor.OLDEST))]
    told = dict(line.split(">=") for line in lines)
    assert {name: ".".join(map(str, least)) for name, least in doctor.OLDEST.items()} == told
