"""The guard around imports of optional packages."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit import targets
from edgekit.errors import InputError, MissingPackageError, no_wheel, not_installed, optional, require
from tests.conftest import Run


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "no_such_package", None)
    with pytest.raises(MissingPackageError) as caught, optional("flying", "wings"):
        import no_such_package.deeper  # type: ignore[import-not-found]
    assert (caught.value.package, caught.value.extra) == ("no-such-package", "wings")
    assert "flying" in str(caught.value) and "edgekit[wings]" in str(caught.value)
    with pytest.raises(MissingPackageError) as caught, optional("flying", package="feathers"):
        import no_such_package  # noqa: F401
    assert caught.value.package == "feathers"


def test_what_is_installed_and_cannot_be_loaded_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torn.py").write_text("raise ImportError('libGL.so.1: no such file')")
    with pytest.raises(InputError, match="libGL") as caught, optional("drawing", "train"):
        import torn  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(caught.value, MissingPackageError)


def test_a_module_of_edgekits_own_that_is_missing_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), optional("anything", "train"):
        import edgekit.no_such_module  # type: ignore[import-not-found]  # noqa: F401


def test_looking_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not_installed("numpy", "counting") is None
    reason = not_installed("no_such_package", "flying", "wings")
    assert reason is not None and "'no-such-package'" in reason and "edgekit[wings]" in reason
    with pytest.raises(MissingPackageError):
        require("no_such_package", "flying", "wings")
    assert "no_such_package" not in sys.modules and isinstance(sys.modules["numpy"], types.ModuleType)


@pytest.mark.parametrize(
    ("package", "machine", "glibc", "bits", "says"),
    [
        ("openvino", "aarch64", "2.31", 64, "2.35"),  # Ubuntu 20.04, JetPack 5
        ("openvino", "aarch64", "2.41", 64, None),
        ("openvino", "x86_64", "2.31", 64, None),
        ("onnxruntime", "aarch64", "2.31", 64, None),
        ("ncnn", "aarch64", "2.17", 64, "2.24"),
        ("onnxruntime", "armv7l", "2.41", 32, "32-bit"),
        ("ncnn", "aarch64", "2.41", 32, "32-bit"),  # a 64-bit kernel under a 32-bit system
        ("tensorrt-rtx", "aarch64", "2.41", 64, "ARM"),
        ("jinja2", "armv7l", "2.31", 32, None),
    ],
)
def test_what_no_wheel_fits_is_said(package: str, machine: str, glibc: str, bits: int, says: str | None) -> None:
    found = no_wheel(package, machine, glibc, bits)
    assert (found is None) == (says is None) and (says or "") in str(found)


def test_a_package_that_cannot_come_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    for package in ("openvino", "tensorrt-rtx"):
        assert "pip install" not in str(MissingPackageError(package, "flying", "wings"))
    assert "pip install" in str(MissingPackageError("onnxruntime", "flying", "wings"))


@pytest.mark.parametrize(
    ("target", "module", "words"),
    [("ov-fp32", "openvino", ("2.35", "2.31", "onnxruntime")), ("trt-rtx-fp16", "tensorrt_rtx", ("ARM", "ort-*"))],
)
def test_a_target_that_cannot_come_to_a_board_says_why(
    target: str, module: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """glibc of years ago, and no wheels at all: no advice to install it, but another target or runtime."""
    on_a_board(monkeypatch, module)
    said = str(targets.get(target).missing())
    assert all(word in said for word in words) and "pip install" not in said


def test_a_bundle_that_cannot_run_on_a_board_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    from tests.tiny import tiny_bundle

    bundle = tiny_bundle(tmp_path / "bundle", "detect", "ov-fp32")
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((64, 96, 3), np.uint8))
    on_a_board(monkeypatch, "openvino")
    for words in (("predict", bundle, tmp_path / "street.png", "--json"), ("bench", bundle)):
        code, _, err = run(*words)
        assert code == 2 and "2.35" in err and "2.31" in err and "pip install" not in err, words


def on_a_board(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """A 64-bit ARM system of 2020, on which a module is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.libc_ver", lambda *_: ("glibc", "2.31"))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == without else found(name, *rest)
    )
    monkeypatch.setitem(sys.modules, without, None)
