"""The same answers on ARM, from an x86-64 machine: ``make test-arm``.

    python -m tests.arm                          # every row; exit code 1 if one is wrong, 2 if it cannot be run here
    python -m tests.arm ov-fp16 install          # some; `--tasks=detect,pose`: of these tasks
    python -m tests.arm --quick                  # two targets and two tasks, what CI runs
    python -m tests.arm --docs                   # also write the table into docs/guides/arm.md

An aarch64 Debian is unpacked (mmdebstrap, nothing of it is run while it is), aarch64 wheels are downloaded, and qemu's
user emulation runs the root's own Python: a virtual environment, pip installing edgekit's wheel and the runtimes, and
then every row. Bundles and what they must answer are made here. All is kept in ``~/.cache/edgekit-test-arm``
(``EDGEKIT_TEST_ARM``), bundles in ``build/arm``. Times mean nothing under emulation: none are printed.

Two things need care. qemu shows the host's ``/proc/cpuinfo``, at which ONNX Runtime crashes, so the root gets an ARM
one; and pip must be told every glibc that the root can serve, or it silently takes wheels of years ago.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("EDGEKIT_TEST_ARM") or Path.home() / ".cache" / "edgekit-test-arm")
BUILD = REPO / "build" / "arm"
SUITE, CPU = "trixie", "cortex-a76"  # Raspberry Pi OS's Debian; a Pi 5. With `-cpu max` OpenVINO hangs
PACKAGES = "python3,python3-venv,python3-pip,libstdc++6,libonnxruntime-dev"
RUNTIMES = ("onnxruntime", "openvino", "ncnn")
GLIBC = range(17, 42)  # 2.x, up to the root's
TOOLS = {"mmdebstrap": "mmdebstrap", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "cmake": "cmake"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CONF = 0.25
BEGIN, END = "<!-- made by: python -m tests.arm --docs -->", "<!-- end -->"
Json = dict[str, Any]


class CannotError(Exception):
    """The matrix cannot be run on this machine; the text says what to do."""


@dataclass(frozen=True)
class Row:
    """A target on the emulated machine.

    Attributes:
        target: its name.
        bound: the row of ``edgekit.verify.rounding.ACROSS`` that its answers keep to.
        native: whether the C++ library has a backend for it.
    """

    target: str
    bound: str
    native: bool = True


ROWS = (
    Row("ort-fp32", "f32"),
    Row("ort-int8", "int8"),
    Row("ov-fp32", "f32"),
    Row("ov-fp16", "f16"),
    Row("ov-int8", "int8"),
    Row("ncnn-fp32", "f32", native=False),
    Row("ncnn-fp16", "f16", native=False),
)
FRAMES = 3  # of the video
FLOAT32 = "EDGEKIT_TEST_FLOAT32"  # conftest.py
TESTS = ("resize", "processor")  # without PyTorch, of what differs
QUICK = ("ort-fp32", "ncnn-fp16"), ("detect", "classify")


# ---- the emulated machine -----------------------------------------------------------------------------------------


def emulator() -> str | None:
    """The program that runs aarch64 programs here."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def lacking() -> list[str]:
    """Debian's packages that are missing here.

    Raises:
        CannotError: this machine is none that could have them.
    """
    machine = platform.machine()
    if machine in ("aarch64", "arm64"):
        raise CannotError("this machine is ARM already; run make test on it")
    if sys.platform != "linux" or machine != "x86_64":
        raise CannotError(f"aarch64 is emulated on x86-64 Linux alone, and this is {sys.platform} on {machine}")
    wanted = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    wanted += [] if emulator() else ["qemu-user-static"]
    return wanted + ([] if KEYRING.is_file() else ["debian-archive-keyring"])


def install() -> None:
    """Install what is missing where that may be done; else say how.

    Raises:
        CannotError: it cannot.
    """
    wanted = lacking()
    if not wanted:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
    if shutil.which("apt-get") is None:
        raise CannotError(f"needs {', '.join(wanted)} (so Debian calls them), and there is no apt-get here")
    if os.geteuid() != 0:
        raise CannotError(f"needs {', '.join(wanted)}; run: sudo {' '.join(command)}")
    say(f"installing {', '.join(wanted)}")
    called(["apt-get", "update"])
    called(command)
    if lacking():
        raise CannotError(f"apt-get could not install {', '.join(lacking())}")


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """``CACHE/name``, made by ``make`` under another name where it is not there yet."""
    place = CACHE / name
    if not place.exists():
        say(f"making {place}")
        partial = place.with_name(f".{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        make(partial)
        os.replace(partial, place)
    return place


def unpack(place: Path) -> None:
    """An arm64 Debian in a new folder, with what an ARM machine says of its processor."""
    called(
        ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", "--skip=check/qemu", f"--keyring={KEYRING}",
         f"--include={PACKAGES}", SUITE, str(place), "http://deb.debian.org/debian"],
    )  # fmt: skip
    for name in ("lib", "bin"):  # links of base-files, which is not there
        if not (place / name).exists():
            (place / name).symlink_to(f"usr/{name}")
    core = (
        f"Features\t: {FEATURES}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
    )
    texts = {"proc/cpuinfo": "".join(f"processor\t: {i}\n{core}CPU revision\t: 1\n\n" for i in range(2))}
    for name in ("possible", "present", "online"):
        texts[f"sys/devices/system/cpu/{name}"] = "0-1\n"
    for i in range(2):
        cpu = f"sys/devices/system/cpu/cpu{i}"
        texts[f"{cpu}/regs/identification/midr_el1"] = "0x00000000414fd0b1\n"
        texts[f"{cpu}/cpufreq/cpuinfo_max_freq"] = "2400000\n"
    for path, text in texts.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text, encoding="ascii")


@dataclass(frozen=True)
class Machine:
    """The root, and how its Python is called. ``venv`` is None before there is one."""

    root: Path
    venv: Path | None = None

    @property
    def python(self) -> Path:
        """The root's Python, whatever version it has."""
        return next(p for p in sorted((self.root / "usr/bin").glob("python3.*")) if p.suffix[1:].isdigit())

    @property
    def version(self) -> str:
        return self.python.name.removeprefix("python")

    @property
    def site(self) -> Path:
        assert self.venv is not None
        return self.venv / "lib" / self.python.name / "site-packages"

    def emulated(self) -> list[str]:
        """What goes before an aarch64 program."""
        return [str(emulator()), "-cpu", CPU, "-L", str(self.root)]

    def run(self, *words: object, paths: Sequence[Path] = (), **options: Any) -> subprocess.CompletedProcess[str]:
        """Its Python (of ``venv`` where there is one) with these arguments."""
        python = self.venv / "bin" / "python" if self.venv else self.python
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1", "EDGEKIT_TEST_CPU": CPU,
        }  # fmt: skip
        return subprocess.run(
            [*self.emulated(), str(python), *map(str, words)],
            capture_output=True, text=True, env=environment, cwd=CACHE, **options,
        )  # fmt: skip


def downloaded(machine: Machine) -> Path:
    """The folder of aarch64 wheels for the root's Python: edgekit's needs and the runtimes, as in constraints.txt."""
    pinned = (REPO / "constraints.txt").read_bytes() + (REPO / "pyproject.toml").read_bytes()
    name = f"wheels-{machine.version}-{hashlib.sha256(pinned).hexdigest()[:12]}"
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in GLIBC] + ["--platform=manylinux2014_aarch64"]

    def make(place: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", *platforms]
        called([*pip, f"--python-version={machine.version}", "-c", str(REPO / "constraints.txt"), "-d", str(place),
                *dependencies(), *RUNTIMES])  # fmt: skip

    return kept(name, make)


def dependencies() -> list[str]:
    """What edgekit's wheel asks for on such a machine, of ``pyproject.toml``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    wanted = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return [line for line in wanted if "python_version <" not in line]


def installed(machine: Machine) -> Machine:
    """A virtual environment of the machine's own, into which its own pip installed edgekit's wheel and the runtimes."""
    wheels, scratch = downloaded(machine), BUILD / "wheel"
    shutil.rmtree(scratch, ignore_errors=True)
    called([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(scratch), str(REPO)])
    venv = BUILD / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    finished(machine.run("-m", "venv", "--without-pip", "--system-site-packages", venv))
    found = Machine(machine.root, venv)
    finished(found.run("-m", "pip", "install", "--quiet", "--no-compile", "--no-index", "--find-links", wheels,
                       next(scratch.glob("*.whl")), *RUNTIMES))  # fmt: skip
    return found


# ---- what is compared ---------------------------------------------------------------------------------------------


@dataclass
class Gap:
    """How far answers are from those they must be: largest differences, and what does not fit at all.

    Attributes:
        sizes: ``boxes``, ``scores``, ``keypoints`` (pixels, 0..1), ``angles`` (radians), ``masks`` (1 - IoU).
        objects: compared.
        alone: clear objects of one side without a partner on the other.
        order: whether objects came in the same order.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    objects: int = 0
    alone: int = 0
    order: bool = True

    def add(self, what: str, size: float) -> None:
        self.sizes[what] = max(self.sizes.get(what, 0.0), size)

    def join(self, other: Gap) -> None:
        for what, size in other.sizes.items():
            self.add(what, size)
        self.objects += other.objects
        self.alone += other.alone
        self.order &= other.order

    def wrong(self, bound: Mapping[str, float]) -> list[str]:
        """What is beyond a row of ``ACROSS``."""
        found = [f"{what} off by {size:.3g}" for what, size in self.sizes.items() if not size <= bound[what]]
        found += [f"{self.alone} objects without a partner"] if self.alone else []
        found += ["another order"] if bound["order"] and not self.order else []
        return found + ([] if self.objects else ["nothing was compared"])


def gap(want: Json, have: Json, bound: Mapping[str, float]) -> Gap:
    """Two entries of ``predict --json`` compared, object by object; those within ``scores`` of the threshold may be
    missing."""
    import numpy as np

    if "probs" in want:
        return Gap({"scores": float(np.abs(np.subtract(want["probs"], have["probs"])).max())}, 1)
    from edgekit.metrics.matching import same_objects

    one, other = as_result(want), as_result(have)
    partner = same_objects(one, other)
    found = Gap({"boxes": 0.0, "scores": 0.0}, len(one), order=bool((np.diff(partner[partner >= 0]) > 0).all()))
    clear = CONF + bound["scores"]
    scores, theirs = np.array(want["scores"]), np.array(have["scores"])
    left = np.setdiff1d(np.arange(len(theirs)), partner)
    found.alone = int((scores[partner < 0] >= clear).sum() + (theirs[left] >= clear).sum())
    for i in np.flatnonzero(partner >= 0):
        _compare(want, have, int(i), int(partner[i]), found)
    return found


def _compare(want: Json, have: Json, i: int, k: int, found: Gap) -> None:
    """Add how far object ``k`` of ``have`` is from object ``i`` of ``want``."""
    import numpy as np

    from edgekit.runtime.masks import decode_rle

    found.add("scores", abs(want["scores"][i] - have["scores"][k]))
    if "boxes" in want:
        found.add("boxes", float(np.abs(np.subtract(want["boxes"][i], have["boxes"][k])).max()))
    if "rotated_boxes" in want:
        x, y, w, h, angle = have["rotated_boxes"][k]
        ways = [
            np.subtract(want["rotated_boxes"][i], way) for way in ((x, y, w, h, angle), (x, y, h, w, angle + np.pi / 2))
        ]
        turned = [float(abs((way[4] + np.pi / 2) % np.pi - np.pi / 2)) for way in ways]
        best = int(np.argmin(turned))  # of a square either side may be the longer
        found.add("boxes", float(np.abs(ways[best][:4]).max()))
        found.add("angles", turned[best])
    if "keypoints" in want:
        off = np.abs(np.subtract(want["keypoints"][i], have["keypoints"][k]))
        found.add("keypoints", float(off[:, :2].max()))
        found.add("scores", float(off[:, 2].max()))
    if "masks" in want:
        a, b = decode_rle(want["masks"][i]), decode_rle(have["masks"][k])
        found.add("masks", 1 - float((a & b).sum() / max((a | b).sum(), 1)))


def as_result(entry: Json) -> Any:
    """What of an entry decides which objects are the same."""
    import numpy as np

    from edgekit.runtime.results import Result

    found = Result((0, 0), ())
    found.labels, found.scores = np.array(entry["labels"], np.int64), np.array(entry["scores"], np.float32)
    for key, sides in (("boxes", 4), ("rotated_boxes", 5)):
        if key in entry:
            setattr(found, key, np.array(entry[key], np.float32).reshape(-1, sides))
    return found


def inside(folder: Path, target: str, tasks: Sequence[str]) -> None:
    """Print, a JSON line each, what the target's bundles in ``folder`` answer here; run by either machine's Python."""
    from edgekit.bundle.loading import load
    from edgekit.bundle.selftested import tried
    from edgekit.runtime.manifest import read_bundle
    from edgekit.verify import selftest

    if os.environ.get(FLOAT32):
        from tests.conftest import adjust

        adjust()
    for task in tasks:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            predictor = load(folder / f"{task}-{target}", conf=CONF, threads=1)
        precision, bundle = predictor.session.precision_by_type(), read_bundle(folder / f"{task}-{target}")
        test = selftest.read(bundle)
        assert test is not None
        tested = tried(predictor.session, bundle, test).outcome.passed
        for picture in sorted((folder / "pictures").iterdir()):
            entry = predictor(picture)[0].to_dict()
            entry.pop("names", None)
            print(json.dumps({"task": task, "picture": picture.name, "entry": entry, "precision": precision,
                              "selftest": tested}))  # fmt: skip
        predictor.close()


def answers(printed: str) -> dict[tuple[str, str], Json]:
    """(task, picture) -> what ``inside`` printed."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return {(line["task"], line["picture"]): line for line in lines}


def natively(machine: Machine, program: Path, folder: Path, row: Row, asked: Iterable[tuple[str, str]]) -> list[Json]:
    """What the C++ library answers on the machine."""
    from edgekit.runtime.image import read_image
    from edgekit.runtime.manifest import read_bundle
    from edgekit.runtime.results import Result
    from tests import native

    libraries = [machine.site / "openvino" / "libs", machine.site / "onnxruntime" / "capi", BUILD / "cpp"]
    native.EMULATOR[:] = [*machine.emulated(), "-E", f"LD_LIBRARY_PATH={os.pathsep.join(map(str, libraries))}"]
    probe = native.Probe(program, BUILD)
    found = []
    for task, picture in asked:
        place = folder / f"{task}-{row.target}"
        info = read_bundle(place, verify=False).info
        answer = probe.predict(place, read_image(folder / "pictures" / picture), conf=CONF)
        like = Result((0, 0), ())
        for key in ROLES[task]:
            setattr(like, key, ())
        found.append(native.result_of(answer, info.names, like).to_dict())
    probe.close()
    return found


ROLES = {
    "detect": ("boxes",), "segment": ("boxes", "masks"), "pose": ("boxes", "keypoints"), "obb": ("rotated_boxes",),
    "classify": ("probs",),
}  # fmt: skip


def cross_compiled(machine: Machine) -> Path:
    """tests/cpp for aarch64, with OpenVINO's CMake files of the wheel and Debian's header of ONNX Runtime."""
    capi = machine.site / "onnxruntime" / "capi"
    library = next(capi.glob("libonnxruntime.so.*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        if not (capi / name).exists():
            (capi / name).symlink_to(library.name)
    options = {
        "CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64", "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++", "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc",
        "edgekit_DIR": REPO / "edgekit/runtime/cpp/cmake", "OpenVINO_DIR": machine.site / "openvino" / "cmake",
        "EDGEKIT_OPENVINO": "ON", "EDGEKIT_ONNXRUNTIME": "ON",
        "ONNXRUNTIME_INCLUDE_DIR": machine.root / "usr/include/onnxruntime",
        "ONNXRUNTIME_LIBRARY": capi / "libonnxruntime.so",
        "CMAKE_EXE_LINKER_FLAGS": "-Wl,--allow-shlib-undefined",
    }  # fmt: skip
    folder = BUILD / "cpp"
    called(["cmake", "-S", str(REPO / "tests/cpp"), "-B", str(folder), *(f"-D{k}={v}" for k, v in options.items())])
    called(["cmake", "--build", str(folder), "--target", "probe"])
    return folder / "probe"


# ---- the rows -----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of a row, in Python and C++, and what was wrong."""

    row: Row
    executed: str = ""
    python: Gap = field(default_factory=Gap)
    native: Gap | None = None
    wrong: list[str] = field(default_factory=list)


def run(row: Row, machine: Machine, folder: Path, program: Path | None, tasks: Sequence[str]) -> Outcome:
    """Every task's bundle of the target on both machines."""
    from edgekit.verify.rounding import ACROSS

    words = [Path(__file__), "--inside", folder, row.target, *tasks]
    exact = os.environ | {FLOAT32: "1"}  # the bf16 of this machine, if it has any, is coarser than what is compared
    here = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=exact)
    want = answers(finished(here).stdout)
    done = machine.run(*words)
    found = Outcome(row)
    if done.returncode:
        found.wrong.append(last(done))
        return found
    have, bound = answers(done.stdout), ACROSS[row.bound]
    found.wrong += [f"self-test, {key[0]}" for key, line in have.items() if not line["selftest"]]
    counts: dict[str, int] = {}
    for kind, count in ((k, n) for line in have.values() for k, n in line["precision"].items()):
        counts[kind] = counts.get(kind, 0) + count
    found.executed = ", ".join(kind for kind, _ in sorted(counts.items(), key=lambda item: -item[1]) if kind != "i64")
    for key, line in want.items():
        one = gap(line["entry"], have[key]["entry"], bound)
        found.wrong += [f"Python, {key[0]}, {key[1]}: {what}" for what in one.wrong(bound)]
        found.python.join(one)
    if program and row.native:
        found.native = Gap()
        for key, entry in zip(want, natively(machine, program, folder, row, want), strict=True):
            one = gap(want[key]["entry"], entry, bound)
            found.wrong += [f"C++, {key[0]}, {key[1]}: {what}" for what in one.wrong(bound)]
            found.native.join(one)
    return found


def installs(machine: Machine, folder: Path) -> list[str]:
    """What is wrong with what a user types on the board: doctor, verify, predict on a picture and on a video."""
    picture, bundle = sorted((folder / "pictures").iterdir())[-1], folder / f"detect-{QUICK[0][0]}"
    wrong = []
    steps: dict[str, tuple[Sequence[object], Callable[[Any], bool]]] = {
        "doctor": (["doctor"], lambda said: _ready(said) >= {row.target for row in ROWS}),
        "verify": (["verify", bundle], lambda said: said["passed"] is True),
        "predict": (["predict", bundle, picture], lambda said: len(said[0]["labels"]) > 0),
        "stream": (["predict", bundle, folder / "clip.mp4"], lambda said: len(said) == FRAMES),
    }
    for name, (words, right) in steps.items():
        done = machine.run("-m", "edgekit", *words, "--json")
        if done.returncode or not right(json.loads(done.stdout)):
            wrong.append(f"{name}: {last(done)}")
    files = [REPO / "tests" / f"test_{name}.py" for name in TESTS]
    done = machine.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, paths=(pytest_folder(), REPO))
    return wrong + ([f"tests: {done.stdout.strip().splitlines()[-1:] or last(done)}"] if done.returncode else [])


def _ready(said: Json) -> set[str]:
    return {target["name"] for target in said["targets"] if target["ready"]}


def pytest_folder() -> Path:
    """pytest and what it needs, none of it compiled, out of the environment under test."""
    plain = ["pip", "install", "--quiet", "--no-compile", "-c", str(REPO / "constraints.txt"), "pytest", "--target"]
    return kept("pytest", lambda place: called([sys.executable, "-m", *plain, str(place)]))


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a program said before it failed."""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[-1] if said else f"exit code {done.returncode}"


def finished(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """``done``, which must have come to its end.

    Raises:
        CannotError: it has not; the message has the end of what it said.
    """
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise CannotError(f"{' '.join(map(str, done.args[-4:]))} failed:\n{said}")
    return done


def called(command: Sequence[str]) -> None:
    finished(subprocess.run(command, capture_output=True, text=True))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bundles(tasks: Sequence[str], targets: Sequence[str]) -> Path:
    """The folder of bundles, pictures and a video, made here for what the package's code is now."""
    from benchmarks import shapeset
    from tests import arm_bundles

    sources = [*sorted((REPO / "edgekit").rglob("*.py")), Path(arm_bundles.__file__), shapeset.CHECKPOINT]
    key = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in sources))
    key.update(json.dumps([tasks, targets]).encode())
    place = BUILD / f"set-{key.hexdigest()[:12]}"
    if not place.exists():
        say(f"building {len(tasks) * len(targets)} bundles")
        for old in BUILD.glob("set-*"):
            shutil.rmtree(old)
        partial = BUILD / ".set.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arm_bundles.made(partial, targets, tasks)
        shapeset.make_video(partial / "clip.mp4", frames=FRAMES, size=arm_bundles.SIZE[0])
        os.replace(partial, place)
    return place


def table(outcomes: Sequence[Outcome]) -> str:
    """What was found, as Markdown."""
    lines = [
        "| target | executed | objects | px | scores | masks: 1 − IoU | C++: px | scores | without partner |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        found, other = outcome.python, outcome.native
        cells = [f"`{outcome.row.target}`", outcome.executed, str(found.objects), *_sizes(found), _size(found, "masks")]
        cells += [*_sizes(other), str(found.alone + other.alone)] if other else ["–", "–", str(found.alone)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sizes(found: Gap) -> tuple[str, str]:
    return _size(found, "boxes", "keypoints"), _size(found, "scores")


def _size(found: Gap, *names: str) -> str:
    return f"{max((found.sizes.get(name, 0.0) for name in names), default=0.0):.2g}"


def document(text: str) -> None:
    """Put the table where ``docs/guides/arm.md`` has its place for it."""
    page = REPO / "docs" / "guides" / "arm.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def matrix(names: Sequence[str], tasks: Sequence[str]) -> tuple[list[Outcome], list[str]]:
    """Everything that was asked for: the rows' outcomes, and all that is wrong.

    Raises:
        CannotError: it cannot be run here.
    """
    install()
    BUILD.mkdir(parents=True, exist_ok=True)
    machine = Machine(kept(f"root-{SUITE}", unpack))
    say("installing the wheel on the emulated machine")
    machine = installed(machine)
    folder = bundles(tasks, [row.target for row in ROWS if row.target in {*names, QUICK[0][0]}])
    program = cross_compiled(machine)
    wrong, outcomes = [], []
    if "install" in names:
        wrong += installs(machine, folder)
        say(f"install: {'; '.join(wrong) or 'right'}")
    for row in ROWS:
        if row.target in names:
            outcomes.append(run(row, machine, folder, program, tasks))
            wrong += outcomes[-1].wrong
            say(f"{row.target}: {'; '.join(outcomes[-1].wrong) or 'right'}")
    return outcomes, wrong


def main(words: list[str]) -> int:
    if words[:1] == ["--inside"]:
        inside(Path(words[1]), words[2], words[3:])
        return 0
    rows = ["install", *(row.target for row in ROWS)]
    tasks = next((w.removeprefix("--tasks=").split(",") for w in words if w.startswith("--tasks=")), list(ROLES))
    names = [w for w in words if not w.startswith("-")] or rows
    if "--quick" in words:
        names, tasks = ["install", *QUICK[0]], list(QUICK[1])
    if unknown := {*names} - {*rows} | {*tasks} - {*ROLES}:
        say(f"error: no {', '.join(sorted(unknown))}; rows: {', '.join(rows)}; tasks: {', '.join(ROLES)}")
        return 2
    try:
        outcomes, wrong = matrix(names, tasks)
    except CannotError as error:
        say(f"error: {error}")
        return 2
    if outcomes:
        print(table(outcomes))
    if "--docs" in words and not wrong:
        document(table(outcomes))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
