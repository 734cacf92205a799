"""Files that are whole or not there, whoever writes them."""

from __future__ import annotations

import errno
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtime.atomic import replacing


def test_what_a_library_leaves_unfinished_does_not_take_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with replacing(path, zipfile.is_zipfile) as partial, partial.open("wb") as file:
        np.savez(file, values=np.arange(9))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a\.npz"), replacing(path, zipfile.is_zipfile) as partial:
        partial.write_bytes(before[: len(before) // 2])
    with pytest.raises(InputError, match=r"a\.npz.*MB are free"), replacing(path, zipfile.is_zipfile) as partial:
        raise RuntimeError("iostream error\nmore")
    with pytest.raises(UsageError), replacing(path, zipfile.is_zipfile) as partial:
        raise UsageError("not the writer's")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        raise ZeroDivisionError
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_the_system_s_refusals_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, replacing(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a.bin")


# Writing beyond 60 kB fails in this process, as on a full disk.
FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
{setup}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from edgekit.errors import EdgekitError
path = Path(sys.argv[1])
try:
    {write}
except (EdgekitError, OSError) as error:
    sys.exit(f"refused {{error}}")
"""
WRITERS = {
    "model.xml": (
        "from edgekit.targets import openvino as target\n"
        "import openvino, openvino.opset13 as ops\n"
        "image = ops.parameter([1, 60000], np.float32)\n"
        "model = openvino.Model([ops.add(image, ops.constant(np.random.rand(1, 60000).astype('f')))], [image])",
        "target.save(model, path)",
    ),
    "best.pt": (
        "import torch\nimport zipfile\nfrom edgekit.runtime.atomic import replacing",
        "with replacing(path, zipfile.is_zipfile) as partial: torch.save(torch.rand(60000), partial)",
    ),
    "a.png": (
        "from edgekit.runtime.image import write_image",
        "write_image(path, np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8))",
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit for files")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_no_half_and_no_traceback(name: str, tmp_path: Path) -> None:
    setup, write = WRITERS[name]
    for module in ("openvino", "torch"):
        if f"import {module}" in setup:
            pytest.importorskip(module)
    script = FULL.format(setup=setup, write=write)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], capture_output=True, text=True)
    assert done.returncode == 1 and "refused" in done.stderr and name in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    if name != "model.xml":  # its two files are part of a bundle, which is a folder that is there whole or not
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a user the system does not know")
def test_openvino_is_imported_where_there_is_no_home(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    script = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "os.environ.pop('HOME', None)\n"
        "from edgekit.targets.openvino import describe\n"
        "from edgekit.errors import InputError\n"
        "from pathlib import Path\n"
        "try: describe(Path('absent.xml'))\n"
        "except InputError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
