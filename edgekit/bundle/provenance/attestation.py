"""An in-toto attestation of a bundle: these files passed these gates.

    document(read(folder))                        # Statement v1, predicate test-result v0.1
    signed(document(read(folder)), Path("private.pem"))   # the same in a DSSE envelope

Subjects are the bundle's files. The predicate is in-toto's own ``test-result``: ``passedTests`` names the gates, and
``configuration`` points to the manifest by its hash and has what each gate found among its annotations.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from edgekit.bundle.provenance.facts import Facts
from edgekit.bundle.provenance.signing import EXTRA, private_key
from edgekit.errors import optional
from edgekit.runtime.manifest import MANIFEST
from edgekit.spec import Json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD = "application/vnd.in-toto+json"


def document(facts: Facts) -> Json:
    """The statement, checked by in-toto's own package.

    Raises:
        MissingPackageError: in-toto-attestation is not installed.
    """
    gates = {gate.name: gate.found for gate in facts.gates}
    manifest = {"name": MANIFEST, "digest": {"sha256": facts.manifest_sha256}, "annotations": {"gates": gates}}
    statement: Json = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha}} for name, sha in sorted(facts.files.items())],
        "predicateType": PREDICATE,
        "predicate": {"result": "PASSED", "configuration": [manifest], "passedTests": list(gates)},
    }
    _check(statement)
    return statement


def _check(statement: Json) -> None:
    with optional("attestations", EXTRA):
        from google.protobuf import json_format
        from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
        from in_toto_attestation.v1 import statement_pb2
        from in_toto_attestation.v1.statement import Statement
    parsed = json_format.ParseDict(statement, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    json_format.ParseDict(statement["predicate"], test_result_pb2.TestResult())


def signed(statement: Json, key: Path) -> Json:
    """A DSSE envelope of the statement, signed as model-signing signs.

    Raises:
        InputError: no key that can sign.
    """
    private = private_key(key)
    with optional("attestations", EXTRA):
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    payload = json.dumps(statement, sort_keys=True).encode()
    framed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    digests = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    signature = private.sign(framed, ec.ECDSA(digests[private.curve.key_size]))
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    hint = hashlib.sha256(private.public_key().public_bytes(*form)).hexdigest()
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": hint, "sig": base64.b64encode(signature).decode()}],
    }
