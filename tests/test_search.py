"""The documented script for Optuna: several processes share a study, and a trial whose process was killed is
retried."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# A training that is over at once, or never where the file HANG is there; the metric depends on the settings.
TRAINING = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

def train(data, model, out, options):
    if Path("HANG").exists():
        Path("HANG").rename("HANGS")
        time.sleep(600)
    out.mkdir(parents=True)                      # one that is there would raise
    (out / "lr").write_text(repr(options.lr))
    time.sleep(0.05)
    return SimpleNamespace(metrics={"map50_95": 1 - abs(options.lr - 0.003)})

sys.modules["edgekit.train.loop"] = SimpleNamespace(train=train)
"""


def script() -> str:
    page = (REPO / "docs" / "guides" / "tuning.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(from pathlib import Path\n\nimport optuna.*?)```", page, re.S)
    assert found is not None
    quick = found[1].replace("heartbeat_interval=2, grace_period=10", "heartbeat_interval=1, grace_period=2")
    quick = quick.replace("MaxTrialsCallback(20,", "MaxTrialsCallback(8,")
    assert quick.count("grace_period=2") == quick.count("Callback(8,") == 1
    return TRAINING + quick


def start(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", script()]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def find_twice(folder: Path) -> None:
    """Mark the killed trial as failed, and have it retried by two."""
    import optuna
    from optuna.storages import RDBStorage, RetryFailedTrialCallback, fail_stale_trials

    again = RetryFailedTrialCallback(max_retry=2)

    def twice(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        again(study, trial)
        again(study, trial)

    address = f"sqlite:///{folder / 'search.db'}"
    storage = RDBStorage(address, heartbeat_interval=1, grace_period=2, heartbeat_stale_trial_callback=twice)
    fail_stale_trials(optuna.load_study(study_name="shapes", storage=storage))


@pytest.mark.long
@pytest.mark.parametrize("at_once", [False, True])
def test_a_killed_trial_is_retried_and_none_is_done_twice(at_once: bool, tmp_path: Path) -> None:
    """``at_once``: as two processes do it that find the killed trial in the same moment."""
    optuna = pytest.importorskip("optuna", reason="needs optuna (pip install 'edgekit[search]')")
    (tmp_path / "HANG").touch()
    first = start(tmp_path)
    try:
        for _ in range(600):
            if (tmp_path / "HANGS").exists() or first.poll() is not None:
                break
            time.sleep(0.1)
        assert (tmp_path / "HANGS").exists(), (
            first.communicate()[1] if first.poll() is not None else "it hangs elsewhere"
        )
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    time.sleep(3)  # the grace period
    if at_once:
        find_twice(tmp_path)
    others = [start(tmp_path) for _ in range(2)]
    for other in others:
        said = other.communicate(timeout=200)[1]
        assert other.returncode == 0, said
    trials = optuna.load_study(study_name="shapes", storage=f"sqlite:///{tmp_path / 'search.db'}").trials
    killed = [t for t in trials if t.state.name == "FAIL"]
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    assert [t.number for t in killed] == [0] and len(complete) >= 8
    (again,) = [t for t in complete if t.params == killed[0].params]
    assert again.system_attrs["failed_trial"] == 0
    assert len({t.params["lr"] for t in complete}) == len(complete)
    done = {int(p.name): float((p / "lr").read_text()) for p in (tmp_path / "runs" / "search").iterdir()}
    assert done == {t.number: t.params["lr"] for t in complete}
