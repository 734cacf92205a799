"""Is this bundle what it says, and does it answer as it must, here? What ``edgekit verify`` runs.

    found = verify(Path("yolo12n-ov-fp16"), VerifyOptions(device="GPU"))
    found[0].name, found[0].state, found[0].message          # 'files', 'passed', '…'

A check is a function from a ``Request`` to a ``Check``, in the order of ``CHECKS``; each may rely on those before it
having passed, as the first that fails ends the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from edgekit import targets
from edgekit.bundle.loading import open_session
from edgekit.bundle.options import VerifyOptions
from edgekit.bundle.provenance import signing
from edgekit.bundle.selftested import tried
from edgekit.errors import GateError, UnsafeFileError
from edgekit.runtime.manifest import Bundle, read_bundle
from edgekit.spec import Json
from edgekit.verify import selftest

PASSED, FAILED, ABSENT = "passed", "failed", "absent"  # absent: there is nothing to check, which is said and no failure


@dataclass(frozen=True)
class Check:
    """What came of one: its ``name``, ``state`` (of the three above), one sentence, and figures for JSON."""

    name: str
    state: str
    message: str
    figures: Json = field(default_factory=dict)

    def to_dict(self) -> Json:
        return {"check": self.name, "state": self.state, "message": self.message, **self.figures}


@dataclass(frozen=True)
class Request:
    """What is verified: ``path`` and ``options``. ``bundle`` is read when first asked for."""

    path: Path
    options: VerifyOptions

    @cached_property
    def bundle(self) -> Bundle:
        """The manifest, checked; files are compared by the check of that name."""
        return read_bundle(self.path, verify=False)


def files(request: Request) -> Check:
    """Every file is the one that the manifest has the hash of."""
    try:
        found = read_bundle(request.path)
    except (GateError, UnsafeFileError) as error:
        return Check("files", FAILED, str(error))
    return Check("files", PASSED, f"{len(found.manifest['files'])} files are those the bundle was built with")


def self_test(request: Request) -> Check:
    """It answers on this machine and device as it did where it was built."""
    bundle = request.bundle
    test = selftest.read(bundle)
    if test is None:
        return Check("selftest", ABSENT, selftest.absent(bundle))
    targets.get(bundle.target)  # says which are known
    session = open_session(request.path, device=request.options.device)
    try:
        verdict = tried(session, bundle, test, request.options.device)
    finally:
        session.close()
    if not verdict.outcome.passed:
        return Check("selftest", FAILED, verdict.sentence(), verdict.evidence())
    misses = test.about.get("misses")
    blind = f"; its pictures cannot tell wrong {', '.join(misses)}" if misses else ""
    said = (
        f"{len(test.images)} pictures are answered as they must be on {'+'.join(verdict.devices)} "
        f"({verdict.outcome.precision}, {verdict.outcome.milliseconds:.0f} ms){blind}"
    )
    return Check("selftest", PASSED, said, verdict.evidence())


def signature(request: Request) -> Check:
    """Every file in the folder is one that the key, certificate or name that was given signed."""
    asked, path = request.options.signature, request.path / signing.SIGNATURE
    if asked.asked:
        try:
            by = signing.checked(request.path, asked)
        except GateError as error:
            return Check("signature", FAILED, str(error))
        return Check("signature", PASSED, f"every file is as it was signed, by {by}")
    if path.exists():
        return Check("signature", ABSENT, "signed, but by whom was not asked: give `key`, `certificate` or `identity`")
    return Check("signature", ABSENT, "not signed")


CHECKS: tuple[Callable[[Request], Check], ...] = (signature, files, self_test)


def verify(path: Path, options: VerifyOptions | None = None) -> list[Check]:
    """Every check of the bundle, up to the first that fails.

    Raises:
        InputError: no bundle, one that is not valid, or of a newer edgekit.
        UsageError: the target has no such device here.
    """
    request = Request(Path(path), options or VerifyOptions())
    request.bundle  # noqa: B018 - what is no bundle is said before anything else
    found: list[Check] = []
    for check in CHECKS:
        found.append(check(request))
        if found[-1].state == FAILED:
            break
    return found
