"""Signatures: OpenSSF's tool takes ours and we take its; whatever is altered, by whichever key, is refused by both."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("model_signing")
pytest.importorskip("onnxruntime")

import model_signing.hashing
import model_signing.signing
import model_signing.verifying
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgekit.bundle.options import SignatureOptions, SignOptions, VerifyOptions
from edgekit.bundle.provenance.signing import PASSWORD, SIGNATURE, checked, sign
from edgekit.bundle.verification import ABSENT, FAILED, PASSED, verify
from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from tests.tiny import tiny_bundle


def written(folder: Path, name: str, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    """A pair of PEM files, private and public."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    forms = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    private.write_bytes(key.private_bytes(*forms))
    public.write_bytes(key.public_key().public_bytes(forms[0], serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return written(tmp_path_factory.mktemp("keys"), "own", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tiny_bundle(tmp_path / "bundle", "detect", "ort-fp32")
    (folder / ".gitignore").write_text("*.bak\n")
    (folder / "README.md").write_text("# A card\n")
    return folder


def theirs(folder: Path, public: Path) -> None:
    """OpenSSF's own verification, at its defaults but for what is left out."""
    config = model_signing.hashing.Config().set_ignored_paths(paths=[SIGNATURE])
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(config)
    config.verify(folder, folder / SIGNATURE)


def test_theirs_takes_ours(bundle: Path, keys: tuple[Path, Path]) -> None:
    assert sign(bundle, SignOptions(key=keys[0])) == bundle / SIGNATURE
    theirs(bundle, keys[1])
    plain = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    plain.verify(bundle, bundle / SIGNATURE)  # what was left out is guessed from the signature
    states = {c.name: c.state for c in verify(bundle, VerifyOptions(signature=SignatureOptions(key=keys[1])))}
    assert states["signature"] == PASSED and states["files"] == PASSED


def test_the_tool_itself_takes_ours(bundle: Path, keys: tuple[Path, Path]) -> None:
    testing = pytest.importorskip("click.testing")
    cli = pytest.importorskip("model_signing._cli")
    sign(bundle, SignOptions(key=keys[0]))
    words = ["verify", "key", str(bundle), "--signature", str(bundle / SIGNATURE), "--public_key", str(keys[1])]
    assert testing.CliRunner().invoke(cli.main, words).exit_code == 0
    (bundle / "README.md").write_text("# Another card\n")
    assert testing.CliRunner().invoke(cli.main, words).exit_code == 1


def test_ours_takes_theirs(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=keys[0])
    signer.sign(bundle, tmp_path / "elsewhere.sig")
    shutil.move(tmp_path / "elsewhere.sig", bundle / SIGNATURE)
    assert str(keys[1]) in checked(bundle, SignatureOptions(key=keys[1]))


def refused(call: Callable[[], object], kind: type[Exception]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def test_any_byte_is_refused_by_both(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, SignOptions(key=keys[0]))
    options = SignatureOptions(key=keys[1])
    for path in sorted(p for p in bundle.rglob("*") if p.is_file() and p.name not in (SIGNATURE, ".gitignore")):
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert refused(lambda: checked(bundle, options), GateError), (path, place)
            assert refused(lambda: theirs(bundle, keys[1]), ValueError), (path, place)
        path.write_bytes(whole)
    checked(bundle, options)


def test_bytes_of_the_signature(bundle: Path, keys: tuple[Path, Path]) -> None:
    """Any byte of what is signed, and of the signature over it, is refused."""
    sign(bundle, SignOptions(key=keys[0]))
    path = bundle / SIGNATURE
    whole = path.read_bytes()
    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert refused(lambda: checked(bundle, SignatureOptions(key=keys[1])), GateError), whole[place - 20 : place + 5]


@pytest.mark.parametrize("what", ["added", "missing", "linked"])
def test_files_more_and_less(bundle: Path, keys: tuple[Path, Path], what: str) -> None:
    sign(bundle, SignOptions(key=keys[0]))
    if what == "added":
        (bundle / "run.py").write_text("print()\n")
    elif what == "linked":
        (bundle / "link").symlink_to(bundle / "README.md")
    else:
        (bundle / "README.md").unlink()
    with pytest.raises(GateError, match="README|run.py|link"):
        checked(bundle, SignatureOptions(key=keys[1]))


def test_another_bundle_and_another_key(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign(bundle, SignOptions(key=keys[0]))
    other = tiny_bundle(tmp_path / "other", "pose", "ort-fp32", seed=1)
    shutil.copy(bundle / SIGNATURE, other)
    with pytest.raises(GateError, match="another bundle"):
        checked(other, SignatureOptions(key=keys[1]))
    _, stranger = written(tmp_path, "stranger", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(GateError, match=str(stranger)):
        checked(bundle, SignatureOptions(key=stranger))


@pytest.mark.parametrize("kind", ["rsa", "curve", "text", "public", "nothing"])
def test_keys_of_another_kind(bundle: Path, keys: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    other = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "curve": lambda: ec.generate_private_key(ec.SECP256K1()),
    }
    private, public = written(tmp_path, kind, other[kind]()) if kind in other else (tmp_path / "k", tmp_path / "p")
    if kind == "text":
        private.write_text("a key\n"), public.write_text("a key\n")
    if kind == "public":
        private, public = keys[1], keys[0]
    with pytest.raises(InputError, match=str(private)):
        sign(bundle, SignOptions(key=private))
    assert not (bundle / SIGNATURE).exists()
    sign(bundle, SignOptions(key=keys[0]))
    with pytest.raises(InputError, match=str(public)):
        checked(bundle, SignatureOptions(key=public))


def test_encrypted_key(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = written(tmp_path, "locked", ec.generate_private_key(ec.SECP384R1()), b"open")
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(InputError, match=PASSWORD):
        sign(bundle, SignOptions(key=private))
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(InputError, match=str(private)):
        sign(bundle, SignOptions(key=private))
    monkeypatch.setenv(PASSWORD, "open")
    sign(bundle, SignOptions(key=private))
    checked(bundle, SignatureOptions(key=public))


def certificate(folder: Path, name: str, key: Any, issuer: tuple[str, Any], ca: bool) -> Path:
    def of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder().subject_name(of(name)).issuer_name(of(issuer[0])).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    made = made.not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    usage = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only".split(), False
    )
    made = made.add_extension(
        x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
    )
    made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    path = folder / f"{name}.crt"
    path.write_bytes(made.sign(issuer[1], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("OpenSSL")
    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    private, _ = written(tmp_path, "signer", own)
    anchor = certificate(tmp_path, "root", root, ("root", root), True)
    leaf = certificate(tmp_path, "leaf", own, ("root", root), False)
    sign(bundle, SignOptions(key=private, certificate=leaf, chain=(anchor,)))
    assert str(anchor) in checked(bundle, SignatureOptions(certificate=(anchor,)))
    stranger = certificate(tmp_path, "stranger", root, ("stranger", root), True)
    with pytest.raises(GateError):
        checked(bundle, SignatureOptions(certificate=(stranger,)))
    (bundle / "README.md").write_text("# Another\n")
    with pytest.raises(GateError, match="README.md"):
        checked(bundle, SignatureOptions(certificate=(anchor,)))
    with pytest.raises(InputError):
        sign(bundle, SignOptions(key=private, certificate=anchor, force=True))  # of another key


def test_options(bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError):
        SignOptions(certificate=keys[1])
    for wrong in (
        SignatureOptions(),
        SignatureOptions(key=keys[1], identity="me", issuer="them"),
        SignatureOptions(identity="me"),
    ):
        with pytest.raises(UsageError):
            checked(bundle, wrong)
    with pytest.raises(GateError):
        checked(bundle, SignatureOptions(key=keys[1]))  # not signed
    sign(bundle, SignOptions(key=keys[0]))
    with pytest.raises(UsageError):
        sign(bundle, SignOptions(key=keys[0]))
    sign(bundle, SignOptions(key=keys[0], force=True))
    (bundle / "model.onnx").write_bytes(b"else")
    with pytest.raises(GateError):
        sign(bundle, SignOptions(key=keys[0], force=True))  # not what its manifest says


def test_verify_says_what_was_not_asked(bundle: Path, keys: tuple[Path, Path]) -> None:
    assert verify(bundle)[0].state == ABSENT
    sign(bundle, SignOptions(key=keys[0]))
    assert verify(bundle)[0].state == ABSENT
    (bundle / "README.md").write_text("# Another\n")
    found = verify(bundle, VerifyOptions(signature=SignatureOptions(key=keys[1])))
    assert [c.state for c in found] == [FAILED]
    with pytest.raises(EdgekitError):
        verify(bundle, VerifyOptions(signature=SignatureOptions(issuer="them")))


def test_sigstore_without_a_network(bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, whichever way, and nothing is written. The proxy is a port at which nobody listens."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InputError, match="sigstore cannot be reached"):
        sign(bundle, SignOptions())
    assert not (bundle / SIGNATURE).exists()
    sign(bundle, SignOptions(key=keys[0]))
    with pytest.raises(InputError, match="sigstore cannot be reached"):
        checked(bundle, SignatureOptions(identity="me@example.org", issuer="https://accounts.google.com"))
