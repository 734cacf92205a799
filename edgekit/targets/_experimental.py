"""What no GPU has proved and few need: marked as experimental wherever it is offered, until ``gpu-check`` has run it.

The one list: `edgekit doctor` prints it, the help and docs/guides/tensorrt.md mark what is in it (tests hold them to
it), and the last step of `edgekit gpu-check` builds and runs each.

    [each.name for each in EXPERIMENTAL]
    about("timing_cache").why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Experimental:
    """One thing that is offered and unproved.

    Attributes:
        name: as it is asked for: an option of ``TensorRTOptions``, or a version.
        what: what it does, in a few words.
        why: why it is not simply kept.
        options: of a build that shows it, as the command line spells them; ``{folder}`` is an empty folder.
        option: whether ``name`` is an option of the target's.
    """

    name: str
    what: str
    why: str
    options: Mapping[str, str] = field(default_factory=dict)
    option: bool = True


EXPERIMENTAL = (
    Experimental(
        "timing-cache",
        "kernels' times kept between builds",
        "the key of a cache file (GPU, version) is ours and met no GPU",
        {"timing-cache": "{folder}"},
    ),
    Experimental(
        "strip-weights",
        "engines without weights, which are put in on loading",
        "refitting ran against stand-ins alone",
        {"strip-weights": "yes"},
    ),
    Experimental(
        "version-compatible",
        "engines for later versions too",
        "loads the lean runtime that an engine brings along",
        {"version-compatible": "yes"},
    ),
    Experimental("hardware", "engines for other GPUs", "needs two GPUs to prove", {"hardware": "ampere+"}),
    Experimental("sparsity", "2:4 sparse kernels", "no network of ours has such weights", {"sparsity": "yes"}),
    Experimental("dla", "Jetson's accelerator", "needs a Jetson", {"dla": "0"}),
    Experimental("gpu-fallback", "layers that the accelerator cannot take", "needs a Jetson", {"dla": "0"}),
    Experimental(
        "TensorRT 8.6",
        "precision by builder flags",
        "a path of its own for the last version before 10; JetPack 5 and 6.0 have it",
        option=False,
    ),
)


def about(name: str) -> Experimental | None:
    """The entry of an option, spelt either way; None where it is not on the list."""
    spelt = name.replace("_", "-")
    return next((each for each in EXPERIMENTAL if each.name == spelt), None)
