"""Wheels cut into parts and joined again by the script that travels with them; NVRTC compiling our kernels."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks import wheelhouse
from edgekit.targets import _cuda_kernels

PART = 1000


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A wheel below a part, one of exactly one, and one of several."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, size in (("small-1-py3-none-any.whl", 10), ("exact-1-py3-none-any.whl", PART)):
        (folder / name).write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    with zipfile.ZipFile(folder / "great-1-py3-none-any.whl", "w") as archive:
        archive.writestr("great.py", "value = 1\n" * 1234)
    return folder


def _join(out: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    return subprocess.run(["sh", str(out / "join.sh")], capture_output=True, text=True, check=False)


def test_what_is_cut_is_joined_again_byte_for_byte(wheels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wheelhouse.cut(wheels, out, PART)
    carried = [file for file in out.iterdir() if ".whl" in file.name]
    assert all(file.stat().st_size <= PART for file in carried) and len(carried) > 10
    assert _join(out).returncode == 0
    joined = {file.name: file.read_bytes() for file in (out / "wheels").iterdir()}
    assert joined == {file.name: file.read_bytes() for file in wheels.iterdir()}


def test_a_part_that_is_damaged_or_lost_stops_the_joining(wheels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wheelhouse.cut(wheels, out, PART)
    part = out / "great-1-py3-none-any.whl.part003"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert _join(out).returncode != 0 and not (out / "wheels").exists()
    part.unlink()
    assert _join(out).returncode != 0


def test_what_cannot_be_asked_for(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in ([], ["a", "--from", str(wheels)], ["--from", str(tmp_path / "empty")]):
        with pytest.raises(SystemExit) as left:
            wheelhouse.main([str(tmp_path / "out"), *words])
        assert left.value.code == 2 and not (tmp_path / "out").exists()


def _nvrtc() -> ctypes.CDLL:
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in found.submodule_search_locations or [] if found else []:
            for file in sorted(Path(folder, "lib").glob("libnvrtc.so*")):
                return ctypes.CDLL(str(file))
    pytest.skip("needs NVIDIA's compiler: pip install nvidia-cuda-nvrtc-cu12 (no GPU, 85 MB)")


@pytest.mark.parametrize("sm", [75, 80, 86, 87, 89, 90, 100, 120])
def test_nvrtc_compiles_the_kernels_to_machine_code(sm: int) -> None:
    nvrtc = _nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), _cuda_kernels.SOURCE.encode(), b"k.cu", 0, None, None) == 0
    words = (ctypes.c_char_p * 2)(f"--gpu-architecture=sm_{sm}".encode(), b"--fmad=false")
    code = nvrtc.nvrtcCompileProgram(program, 2, words)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert code == 0 and not log.value.strip(), log.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    assert cubin.raw[:4] == b"\x7fELF" and b"letterbox" in cubin.raw and b"suppress" in cubin.raw
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
