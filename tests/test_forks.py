"""Processes that are forked after a model was loaded: they answer or refuse at once, and they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")

# The child ends as gunicorn's workers do, by SystemExit, so destructors and exit handlers run.
SCRIPT = """
import os, sys, time
import numpy as np
import edgekit

how, path, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
model = edgekit.load(path, **options)
image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
expected = model(image, conf=0.01)[0].to_dict()
begun = model.stream([image] * 3) if how == "stream" else None
child = os.fork()
if child == 0:
    try:
        if how == "again":
            model = edgekit.load(path, **options)
        if how == "with":
            with model:
                pass
        found = next(begun) if begun else model(image, conf=0.01)[0].to_dict()
    except edgekit.UsageError as error:
        print("refused", error)
        sys.exit(3)
    sys.exit(0 if found == expected else 4)
end = time.monotonic() + 60
while time.monotonic() < end:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    sys.exit("the child hangs")
if begun:
    begun.close()
assert model(image, conf=0.01)[0].to_dict() == expected  # the parent goes on
sys.exit(os.waitstatus_to_exitcode(status))
"""


def outcome(how: str, path: Path, options: str = "{}") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(path), options], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
@pytest.mark.parametrize("how", ["plain", "again", "with"])
def test_sessions_that_answer_in_a_forked_process(target: str, how: str, tmp_path: Path) -> None:
    code, said = outcome(how, tiny_bundle(tmp_path / "bundle", "detect", target))
    assert code == 0, said


def test_several_streams_refuse_in_a_forked_process_and_load_there(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", "detect", "ov-fp32")
    code, said = outcome("plain", bundle, "{'streams': 2}")
    assert code == 3 and "refused" in said and "forked" in said, said
    code, said = outcome("again", bundle, "{'streams': 2}")
    assert code == 0, said


def test_a_checkpoint_refuses_in_a_forked_process(shared: Path) -> None:
    pytest.importorskip("torch")
    code, said = outcome("plain", shared / "fixtures" / "yolo12n-cls-flowers5.pt", "{'imgsz': 64}")
    assert code == 3 and "yolo12n-cls-flowers5.pt" in said, said


def test_a_stream_is_taken_where_it_was_begun(tmp_path: Path) -> None:
    code, said = outcome("stream", tiny_bundle(tmp_path / "bundle", "detect", "ort-fp32"))
    assert code == 3 and "stream" in said, said
