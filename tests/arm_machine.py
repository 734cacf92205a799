"""An emulated aarch64 machine: a Debian unpacked, with edgekit's wheel and the runtimes installed by its own pip.

    machine = installed(Machine(kept("root-trixie", unpack)))
    machine.run("-m", "edgekit", "doctor").stdout

Two things need care. qemu shows the host's ``/proc/cpuinfo``, at which ONNX Runtime crashes, so the root gets an ARM
one; and pip must be told every glibc that the root can serve, or it silently takes wheels of years ago.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


class CannotError(Exception):
    """The matrix cannot be run on this machine; the text says what to do."""


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

    def run(self, *words: object, paths: Sequence[Path] = (), folder: Path = CACHE) -> subprocess.CompletedProcess[str]:
        """Its Python (of ``venv`` where there is one) with these arguments, in ``folder``."""
        python = self.venv / "bin" / "python" if self.venv else self.python
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1", "EDGEKIT_TEST_CPU": CPU,
        }  # fmt: skip
        return subprocess.run(
            [*self.emulated(), str(python), *map(str, words)],
            capture_output=True, text=True, env=environment, cwd=folder,
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


def installed(machine: Machine, runtimes: Sequence[str] = RUNTIMES, name: str = "venv") -> Machine:
    """The machine with a virtual environment, into which its own pip installed edgekit's wheel and ``runtimes``."""
    wheels, scratch = downloaded(machine), BUILD / "wheel"
    shutil.rmtree(scratch, ignore_errors=True)
    called([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(scratch), str(REPO)])
    venv = BUILD / name
    shutil.rmtree(venv, ignore_errors=True)
    finished(machine.run("-m", "venv", "--without-pip", "--system-site-packages", venv))
    found = Machine(machine.root, venv)
    finished(found.run("-m", "pip", "install", "--quiet", "--no-compile", "--no-index", "--find-links", wheels,
                       next(scratch.glob("*.whl")), *runtimes))  # fmt: skip
    return found


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
