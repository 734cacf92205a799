"""What a backend declares of each target: one record, which is all that the rest of edgekit knows of it.

    TARGETS = (
        Target(
            name="plain-fp32", about="A runtime of our own, float32", precision="fp32", extra="onnx",
            packages=("onnxruntime",), rewriting="portable", missing=missing, builder=build, opener=open_session,
        ),
    )

Functions that a record names get the record itself first, so that one function can serve several targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.errors import UsageError
from edgekit.runtime.fields import about
from edgekit.spec import HEADS, Graph, Json, ModelInfo, Port, Session

if TYPE_CHECKING:
    from typing_extensions import Self

PRECISIONS = ("fp32", "fp16", "int8")  # from the widest to the narrowest
# How the float32 graph becomes the one that a target is built from (edgekit.quantize):
#   fp16           its values are half precision, but for those that would overflow
#   ir             OpenVINO's own form of INT8
#   qdq            explicit Q/DQ pairs around the operators that ONNX Runtime has integer kernels for
#   qdq-symmetric  the same for TensorRT: symmetric, its fusions
#   qdq-fp16       qdq-symmetric, and what stays in floating point is half precision
NARROWINGS = ("fp16", "ir", "qdq", "qdq-symmetric", "qdq-fp16")


@dataclass(frozen=True)
class TargetOptions:
    """What can be asked of one target's build, each field told of by ``edgekit.runtime.fields.option``; this one has
    nothing to ask.

    On the command line a field is ``--option NAME=VALUE``, those in ``FLAGS`` have options of their own.
    """

    FLAGS: ClassVar[tuple[str, ...]] = ()

    @property
    def complete(self) -> bool:
        """Whether the runtime's own files are made; else the graph alone is packed, to be built elsewhere."""
        return True

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Self:
        """Options from their spelling on the command line.

        Raises:
            UsageError: no such option, or a value out of range; the message names it.
        """
        known = {each.name.replace("_", "-"): each for each in fields(cls)}
        values = {}
        for name, text in texts.items():
            if name not in known:
                has = ", ".join(known) or "none"
                raise UsageError(f"`option` {name}: these targets have no such option; they have {has}")
            told = about(known[name])
            try:
                values[known[name].name] = told.parse(text) if told.parse else _plain(text, told.choices)
            except ValueError as error:
                means = told.means or " or ".join(told.choices) or "yes or no"
                raise UsageError(f"{cls.named(name)}{text}: must be {means}") from error
        return cls(**values)

    @classmethod
    def named(cls, name: str) -> str:
        """The option as messages begin with it."""
        return f"`{name.replace('-', '_')}` " if name in cls.FLAGS else f"`option` {name}="


def _plain(text: str, choices: tuple[str, ...]) -> object:
    """A choice, or yes or no."""
    if choices:
        return choices[choices.index(text.lower())]
    return ("no", "yes").index(text.lower()) == 1


@dataclass(frozen=True)
class Opening:
    """How a session is opened.

    Attributes:
        device: as the target knows it (``cpu``, ``cuda:0``, ``GPU``); its default otherwise.
        threads: CPU threads of one session.
        streams: images that one session works on at once; None: one, as fast as possible.
        cache: folder where the runtime keeps what it compiles, for targets that can (``Target.caches``).
    """

    device: str | None = None
    threads: int | None = None
    streams: int | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Served:
    """How a server reads a bundle.

    Attributes:
        runtime: what the server calls the runtime (Triton's ``backend``).
        files: of the bundle, that the server loads; none where it loads the bundle's engines.
        gpu: whether the server runs it on a GPU.
    """

    runtime: str
    files: tuple[str, ...] = ()
    gpu: bool = False


def _as_it_is(target: Target, info: ModelInfo, options: TargetOptions) -> ModelInfo:
    return info


def _anything(target: Target, options: TargetOptions) -> object:
    return None


def _everywhere(target: Target, folder: Path) -> str | None:
    return None


def _nothing() -> str | None:
    return None


@dataclass(frozen=True)
class Target:
    """One thing that edgekit builds for.

    Attributes:
        name: as ``--target`` takes it.
        about: what it is, in a few words.
        precision: asked for: ``fp32``, ``fp16`` or ``int8``. What is executed the session says.
        extra: the pip extra of edgekit that brings what it runs with.
        packages: distributions whose versions a bundle records.
        rewriting: the recipe of rewrites its graphs go through (``edgekit.graph.rewrite.RECIPES``), or a function that
            says which, where that depends on what is installed.
        missing: why it cannot be used here, one message, or None.
        builder: (target, graph, folder, options) -> further keys of the manifest; writes the runtime's own files.
        opener: (target, place, info, opening, count) -> ``count`` sessions that may run at the same time; ``place`` is
            a bundle's folder or a file of the runtime's.
        missing_to_build: the same as ``missing`` for what only building needs.
        narrowing: one of ``NARROWINGS``, or a function that says which; "": the float32 graph is built from.
        floats: the floating-point targets of the same runtime, which an INT8 one must beat in speed.
        exact: whether sums of products of 8-bit numbers are exact wherever it runs; else the processor decides.
        gpu: whether it runs on an NVIDIA GPU.
        engines: whether what is built is tied to a machine: the bundle keeps ``model.onnx``, the graph, beside it, can
            be rebuilt from that, and is judged by it where it cannot run.
        batches: images a run, beside the one asked for, that are worth trying for throughput.
        only_batches: images a run that it can be built for, None standing for any number; empty: all of these.
        heads: forms of outputs that its graphs may have.
        most_candidates: as many as a topk head may keep here; None: any number.
        widens: whether what is built executes float32 where ``float32`` opens it, so that half-precision weights can
            be told from what narrower kernels do.
        caches: whether its runtime can keep what it compiled for a faster next start.
        options: what can be asked of its build.
        takes: (target, info, options) -> the ``info`` of what is built of a graph with this one.
        prepare: (target, options); refuses before the export what cannot be built.
        runs_here: (target, folder) -> why what was built there cannot run on this machine, or None.
        servers: layout -> how that server reads the bundle (``edgekit.bundle.layouts``).
        reproduce: (engine's record, info) -> the vendor's command line that builds the same engine; None: it has none.
        join: (folder, other, stem) -> file; adds what was built in ``other`` for another input size to ``folder``, by
            that name and with the weights that are there already; None: a bundle holds one input size.
        describe: (file) -> inputs and outputs of a model of this runtime from elsewhere; None: it cannot be asked.
    """

    name: str
    about: str
    precision: str
    extra: str
    packages: tuple[str, ...]
    rewriting: str | Callable[[], str]
    missing: Callable[[], str | None]
    builder: Callable[[Target, Graph, Path, Any], Json | None]
    opener: Callable[[Target, Path, ModelInfo, Opening, int], list[Session]]
    missing_to_build: Callable[[], str | None] = _nothing
    narrowing: str | Callable[[], str] = ""
    floats: tuple[str, ...] = ()
    exact: bool = False
    gpu: bool = False
    engines: bool = False
    batches: tuple[int, ...] = ()
    only_batches: tuple[int | None, ...] = ()
    heads: tuple[str, ...] = HEADS
    most_candidates: int | None = None
    widens: bool = False
    caches: bool = False
    options: type[TargetOptions] = TargetOptions
    takes: Callable[[Target, ModelInfo, Any], ModelInfo] = _as_it_is
    prepare: Callable[[Target, Any], object] = _anything
    runs_here: Callable[[Target, Path], str | None] = _everywhere
    servers: Mapping[str, Served] = field(default_factory=dict)
    reproduce: Callable[[Json, ModelInfo], str] | None = None
    join: Callable[[Path, Path, str], str] | None = None
    describe: Callable[[Path], tuple[list[Port], list[Port]]] | None = None

    @property
    def float32(self) -> Target | None:
        """The same target executing float32 whatever the hardware has; None where it cannot."""
        return replace(self, precision="fp32") if self.widens else None

    @property
    def rank(self) -> int:
        """Its precision's place from the widest to the narrowest."""
        return PRECISIONS.index(self.precision)

    @property
    def int8(self) -> bool:
        """Whether it is asked to compute in eight bits: calibrated, and judged by its accuracy."""
        return self.precision == "int8"

    @property
    def recipe(self) -> str:
        """The recipe of rewrites its graphs go through here."""
        return self.rewriting if isinstance(self.rewriting, str) else self.rewriting()

    def refused_batch(self, batch: int | None) -> str | None:
        """Why it cannot be built for so many images a run (None: any number), or None."""
        if not self.only_batches or batch in self.only_batches:
            return None
        takes = " or ".join(str(size) for size in self.only_batches)
        asked = "any number of images a run" if batch is None else f"`batch` {batch}"
        return f"{asked}: {self.name} is built for {takes} a run, and takes more one after the other; leave it out"

    def narrowed(self) -> str:
        """How the graph it is built from is made here; "" for the float32 graph itself."""
        return self.narrowing if isinstance(self.narrowing, str) else self.narrowing()

    def info(self, info: ModelInfo, options: TargetOptions | None = None) -> ModelInfo:
        """What is built of a graph with ``info`` takes and gives."""
        return self.takes(self, info, options or self.options())

    def build(self, graph: Graph, folder: Path, options: TargetOptions | None = None) -> Json:
        """Write the runtime's own files into ``folder``; further keys of the manifest.

        Raises:
            InputError, UsageError: the runtime takes no such graph or option.
        """
        return dict(self.builder(self, graph, folder, options or self.options()) or {})

    def open(self, place: Path, info: ModelInfo, opening: Opening | None = None) -> Session:
        """A session of what was built in ``place``.

        Raises:
            InputError, UsageError, GateError: it cannot be loaded here; the message says why.
        """
        return self.opener(self, place, info, opening or Opening(), 1)[0]

    def open_several(self, place: Path, info: ModelInfo, count: int, opening: Opening | None = None) -> list[Session]:
        """``count`` sessions that may run at the same time, of ``opening.threads`` threads each."""
        return self.opener(self, place, info, opening or Opening(), count)

    def complaints(self) -> list[str]:
        """What is wrong with the record itself."""
        needed = ("name", "about", "extra", "packages", "rewriting")
        found = [f"{name} is empty" for name in needed if not getattr(self, name)]
        if self.precision not in PRECISIONS:
            found.append(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if isinstance(self.narrowing, str) and self.narrowing not in ("", *NARROWINGS):
            found.append(f"narrowing {self.narrowing!r} is none of {', '.join(NARROWINGS)}")
        if self.int8 and not self.narrowing:
            found.append("precision int8 without a narrowing: nothing would be in eight bits")
        return found
