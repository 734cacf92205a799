"""The process of one step: ``python -m edgekit.report.gpu.worker MODULE REQUEST FINDINGS``.

REQUEST is a JSON file (``findings.Request``); a line a finding is appended to FINDINGS and is on the disk before the
step goes on.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
from pathlib import Path

from edgekit.report.gpu.findings import Job, Request
from edgekit.spec import Json


def main(module: str, request: str, findings: str) -> None:
    """Do the step, and end the process."""
    faulthandler.enable()  # the stack of a crash goes into the log
    told = Request(**json.loads(Path(request).read_text(encoding="utf-8")))
    with open(findings, "a", encoding="utf-8") as file:

        def write(row: Json) -> None:
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())

        job = Job(told, write)
        with job.part("the step itself"):
            importlib.import_module(module).run(job)
    sys.stderr.flush()
    os._exit(0)  # TensorRT's destructors, which the interpreter would call, may die in a context that is lost


if __name__ == "__main__":
    main(*sys.argv[1:])
