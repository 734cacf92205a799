"""Signatures over whole bundles, in the form of OpenSSF's model-signing: its tool checks ours, and ours its.

    sign(Path("yolo12n-ov-fp16"), SignOptions(key=Path("private.pem")))        # writes yolo12n-ov-fp16/model.sig
    checked(Path("yolo12n-ov-fp16"), SignatureOptions(key=Path("public.pem")))  # who signed; raises if it does not hold

Every file in the bundle's folder is covered, whether its manifest lists it or not, except ``model.sig`` itself: a file
more, less or altered breaks the signature. Not covered, as model-signing has it, is what belongs to git (``.git``,
``.gitattributes``, ``.github``, ``.gitignore`` in the folder itself), which nothing here reads. What runtimes keep of a
model lies outside the bundle. Links are refused.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.bundle.options import SignatureOptions, SignOptions
from edgekit.errors import GateError, InputError, UsageError, optional
from edgekit.runtime.atomic import replacing
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import sha256_file

SIGNATURE = "model.sig"  # the name model-signing gives it
PASSWORD = "EDGEKIT_KEY_PASSWORD"  # the environment variable that opens an encrypted key
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # NIST's, which model-signing takes
GIT = (".git", ".gitattributes", ".github", ".gitignore")
EXTRA = "trust"
_OFFLINE = "sigstore cannot be reached; use a `key`, or try again where there is a network"


def sign(folder: Path, options: SignOptions) -> Path:
    """Sign the bundle as it is now; the signature file, ``model.sig`` in it.

    Raises:
        UsageError: it is signed already, and ``force`` is not given.
        InputError: no bundle, a key or certificate that cannot sign, or no way to sigstore.
        GateError: the bundle is not what its manifest says, which is not signed.
    """
    out = folder / SIGNATURE
    if out.exists() and not options.force:
        raise UsageError(f"{folder}: is signed already; give `force` to sign it anew")
    read_bundle(folder)
    with _needed(folder):
        from model_signing import hashing, signing
    config = signing.Config()
    if options.key is not None:
        private_key(options.key)
        with _refusals(options.certificate or options.key):
            _signer(config, options)
    else:
        with _refusals(folder):
            config.use_sigstore_signer(use_ambient_credentials=True, use_staging=options.staging)
    covered = hashing.Config().set_ignored_paths(paths=[SIGNATURE])
    with _refusals(folder), replacing(out) as partial:
        config.set_hashing_config(covered).sign(folder, partial)
    return out


def _signer(config: Any, options: SignOptions) -> None:
    """Give model-signing the key, and the certificate if there is one."""
    if options.certificate is None:
        config.use_elliptic_key_signer(private_key=options.key, password=_password())
        return
    config.use_certificate_signer(
        private_key=options.key, signing_certificate=options.certificate, certificate_chain=options.chain
    )


def checked(folder: Path, options: SignatureOptions) -> str:
    """Who signed the bundle, in a few words, every file of it being what was signed.

    Raises:
        UsageError: nothing, or several things, to check it with.
        InputError: a key or certificate that cannot be used.
        GateError: not signed, signed by another, or something in the bundle is not what was signed.
    """
    given = _check_given(options)
    path = folder / SIGNATURE
    if not path.is_file():
        raise GateError(f"{folder}: is not signed (no {SIGNATURE})")
    with _needed(folder):
        from model_signing import hashing, verifying
    config = verifying.Config()
    if options.key is not None:
        public_key(options.key)
        config.use_elliptic_key_verifier(public_key=options.key)
    elif options.certificate:
        for certificate in options.certificate:
            _read(certificate)
        with _refusals(options.certificate[0]):
            config.use_certificate_verifier(certificate_chain=options.certificate)
    else:
        with _refusals(folder):
            config.use_sigstore_verifier(
                identity=str(options.identity), oidc_issuer=str(options.issuer), use_staging=options.staging
            )
    _signed(path)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
    _held(folder, path, lambda: config.verify(folder, path), given)
    return given


def _check_given(options: SignatureOptions) -> str:
    """What the signature is to be checked with, for messages.

    Raises:
        UsageError: not exactly one thing.
    """
    ways = {
        f"the key {options.key}": options.key is not None,
        f"a certificate of {', '.join(map(str, options.certificate))}": bool(options.certificate),
        f"the identity {options.identity}": options.identity is not None,
    }
    asked = [way for way, given in ways.items() if given]
    if len(asked) != 1:
        raise UsageError("a signature is checked with one of `key`, `certificate` and `identity`")
    if (options.identity is None) != (options.issuer is None):
        raise UsageError("`identity` and `issuer` go together: who signed, and who vouches for that name")
    return asked[0]


def _held(folder: Path, path: Path, verify: Callable[[], object], given: str) -> None:
    """Run ``verify``; whatever it raises becomes the sentence that says which of the three it is: another key, another
    bundle, or a file."""
    try:
        verify()
    except Exception as error:
        signed = _signed(path)
        if str(error).startswith("Signature mismatch"):
            raise GateError(_differing(folder, signed)) from error
        if _about_network(error):
            raise InputError(f"{folder}: {_OFFLINE} ({_first_line(error)})") from error
        raise GateError(f"{path}: the signature is not by {given} ({_first_line(error)})") from error


def _signed(path: Path) -> dict[str, str]:
    """File -> SHA-256 as the signature has them, whoever made it.

    Raises:
        GateError: no signature of model-signing.
    """
    try:
        envelope = json.loads(path.read_text(encoding="utf-8"))["dsseEnvelope"]
        for text in (envelope["payload"], *(row["sig"] for row in envelope["signatures"])):
            if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
                raise ValueError("bits behind the end")  # which decoders ignore
        statement = json.loads(base64.b64decode(envelope["payload"]))
        return {str(row["name"]): str(row["digest"]) for row in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError) as error:
        raise GateError(f"{path}: not a whole signature of model-signing; sign the bundle again") from error


def _differing(folder: Path, signed: dict[str, str]) -> str:
    """The sentence on a bundle that is not the signed one."""
    here = {
        p.relative_to(folder).as_posix(): sha256_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.relative_to(folder).parts[0] not in (SIGNATURE, *GIT)
    }
    wrong = [name for name in sorted({*here, *signed}) if here.get(name) != signed.get(name)]
    if 2 * len(wrong) > len(signed):
        return f"{folder}: the signature is over another bundle ({len(wrong)} files differ); sign this one"
    first = wrong[0] if wrong else "a file"
    what = "was altered" if first in here and first in signed else "was added" if first in here else "is missing"
    return f"{folder}: {first} {what} since it was signed; copy the bundle again"


def private_key(path: Path) -> Any:
    """The private key in a PEM file: an elliptic curve's of NIST, opened by the environment's EDGEKIT_KEY_PASSWORD
    where it is encrypted.

    Raises:
        InputError: another kind of key, or one that cannot be opened.
    """
    with _needed(path):
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    data = _read(path)
    if b"PUBLIC KEY" in data or b"CERTIFICATE" in data:
        raise InputError(f"{path}: holds no private key; sign with the private one")
    try:
        key = load_pem_private_key(data, _password())
    except TypeError as error:
        how = "is encrypted" if _password() is None else "is not encrypted, but there is a password"
        raise InputError(f"{path}: {how}; the password is read from {PASSWORD}") from error
    except ValueError as error:
        raise InputError(f"{path}: no PEM private key, or another password ({_first_line(error)})") from error
    return _of_curve(key, path, ec.EllipticCurvePrivateKey)


def public_key(path: Path) -> Any:
    """The public key in a PEM file.

    Raises:
        InputError: another kind of key, or none.
    """
    with _needed(path):
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise InputError(f"{path}: a private key; signatures are checked with its public one")
    if b"CERTIFICATE" in data:
        raise InputError(f"{path}: a certificate; give it as `certificate`")
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise InputError(f"{path}: no PEM public key") from error
    return _of_curve(key, path, ec.EllipticCurvePublicKey)


def _of_curve(key: Any, path: Path, kind: type) -> Any:
    if not isinstance(key, kind) or key.curve.name not in CURVES:  # type: ignore[attr-defined]
        curve = getattr(getattr(key, "curve", None), "name", None)
        found = f"an elliptic curve's, {curve}" if curve else type(key).__name__.lstrip("_")
        raise InputError(
            f"{path}: a key of another kind ({found}); model-signing takes elliptic curves: {', '.join(CURVES)}"
        )
    return key


def _password() -> bytes | None:
    text = os.environ.get(PASSWORD)
    return text.encode() if text else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _needed(what: Path) -> Any:
    return optional(f"the signature of {what}", EXTRA)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What model-signing refuses becomes one sentence about ``path``."""
    try:
        yield
    except (InputError, UsageError, GateError, OSError):
        raise
    except Exception as error:
        if _about_network(error):
            raise InputError(f"{path}: {_OFFLINE} ({_first_line(error)})") from error
        raise InputError(f"{path}: cannot be used for a signature ({_first_line(error)})") from error


def _about_network(error: BaseException | None) -> bool:
    """Whether a connection that failed is behind it."""
    while error is not None:
        if type(error).__module__.split(".")[0] in ("requests", "urllib3", "socket", "tuf"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
