"""The list of what is experimental (``targets/_experimental.py``), each thing built and run: parity is the proof."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.targets import tensorrt
from edgekit.targets._experimental import EXPERIMENTAL, Experimental
from edgekit.targets._tensorrt_common import generation_of


def run(job: Job) -> None:
    """One build each."""
    for entry in EXPERIMENTAL:
        with job.part(entry.name):
            _one(job, entry)


def _one(job: Job, entry: Experimental) -> None:
    if not entry.option:
        found = tensorrt.installed()
        if found is None or generation_of("tensorrt", found).name != entry.name:
            raise Lacking(f"{entry.name} is not what is installed here ({found or 'none is'})")
        trials.told(job, trials.built(job, job.needs("model"), "trt-fp16", "shipped"), entry.name)
        return
    if entry.options.get("dla") and not Path("/dev/nvhost-nvdla0").exists():
        raise Lacking("there is no DLA here; a Jetson has one")
    with tempfile.TemporaryDirectory(dir=job.work) as folder:
        options = {name: value.format(folder=folder) for name, value in entry.options.items()}
        try:
            bundle = trials.built(job, job.needs("model"), "trt-fp16", f"experimental-{entry.name}", own=options)
        except UsageError as error:
            raise Lacking(f"it cannot be had here: {error}") from error
        trials.told(job, bundle, entry.name)
        if entry.name == "timing-cache":
            files = [file.stat().st_size for file in Path(folder).iterdir()]
            job.holds("timing-cache: a file", len(files) == 1 and files[0] > 0, f"{len(files)} file(s), {files} bytes")
