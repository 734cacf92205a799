"""Cold starts: what the fresh process sees, reports and how its failures read."""

from __future__ import annotations

import json

import pytest

from edgekit.bench.cold import cold_start
from edgekit.errors import InputError


def test_stages_share_one_namespace_of_a_fresh_process() -> None:
    figures = cold_start(
        {
            "import": "import os, sys; print('noise on standard output')",
            "load": "block = bytearray(size); assert 'numpy' not in sys.modules",
            "first_call": "block[0] = 1; assert os.environ['EDGEKIT_TEST'] == 'yes'",
        },
        {"size": 64 << 20},
        runs=2,
        environment={"EDGEKIT_TEST": "yes"},
    )
    assert json.loads(json.dumps(figures)) == figures
    assert {"import_ms", "load_ms", "first_call_ms", "process_ms"} <= figures.keys()
    for name, values in figures.items():
        assert values["n"] == 2, name
        assert 0 < values["min"] <= values["p50"] <= values["max"], name
        assert values["first"] in (values["min"], values["max"]), name
    assert figures["process_ms"]["min"] > figures["load_ms"]["min"]


def test_peak_memory_is_the_childs_own() -> None:
    """Not that of this big process, as a fork's resource usage would have it, and not without what was freed."""
    small = cold_start({"load": "pass"}, runs=1)
    if "peak_mib" not in small:
        pytest.skip("this system does not tell")
    # The block takes, too, what importing has let go of: some 20 MiB less than its size may be added.
    big = cold_start({"load": "block = b'x' * (400 << 20); del block"}, runs=1)
    assert big["peak_mib"]["p50"] - small["peak_mib"]["p50"] == pytest.approx(400, rel=0.15)
    assert small["peak_mib"]["p50"] < 60


def test_failures_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"cold start: the fresh process failed \(exit code 1\): ValueError: no model"):
        cold_start({"load": "raise ValueError('no model')"}, runs=1)
    with pytest.raises(InputError, match="no answer within 1 s"):
        cold_start({"load": "import time; time.sleep(60)"}, runs=1, timeout_s=1)
    with pytest.raises(InputError, match="exit code 7"):
        cold_start({"load": "import os; os._exit(7)"}, runs=1)
