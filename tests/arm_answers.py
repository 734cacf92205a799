"""What bundles answer on the machine whose Python runs this, a JSON line for every task and picture.

    python tests/arm_answers.py FOLDER TARGET TASK...        # FOLDER/TASK-TARGET, FOLDER/pictures

A line has the entry of ``predict --json``, what precision was executed, and what fails of the self-test ("": nothing).
It imports nothing but the installed edgekit. ``EDGEKIT_TEST_FLOAT32`` (conftest.py) is obeyed where the tests are.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from edgekit.bundle.loading import load
from edgekit.bundle.selftested import tried
from edgekit.runtime.manifest import read_bundle
from edgekit.verify import selftest

CONF = 0.25


def answer(folder: Path, target: str, tasks: Sequence[str]) -> None:
    """Print what the target's bundles in ``folder`` answer to its pictures."""
    if os.environ.get("EDGEKIT_TEST_FLOAT32"):
        from tests.conftest import adjust

        adjust()
    for task in tasks:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            predictor = load(folder / f"{task}-{target}", conf=CONF, threads=1)
        precision, bundle = predictor.session.precision_by_type(), read_bundle(folder / f"{task}-{target}")
        test = selftest.read(bundle)
        assert test is not None
        worst = tried(predictor.session, bundle, test).outcome.worst()
        for picture in sorted((folder / "pictures").iterdir()):
            entry = predictor(picture)[0].to_dict()
            entry.pop("names", None)
            print(json.dumps({"task": task, "picture": picture.name, "entry": entry, "precision": precision,
                              "selftest": worst}))  # fmt: skip
        predictor.close()


if __name__ == "__main__":
    answer(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
