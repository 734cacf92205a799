"""Bills of materials, attestations and model cards: read by other people's tools, and saying what the manifest says."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")

from edgekit.bundle.options import DescribeOptions, SignOptions
from edgekit.bundle.provenance import describing, facts
from edgekit.bundle.provenance.signing import sign
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime.manifest import MANIFEST
from edgekit.spec import sha256_file
from tests.hostile.manifests import spoil
from tests.tiny import tiny_bundle

ROW = {"metric": "mAP50-95", "kind": "labels", "on": "set, val", "images": 9, "before": 0.5, "after": 0.49}
PARENT = "ab" * 32


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tiny_bundle(tmp_path / "bundle", "detect", "ort-fp32")
    parity = {"boxes": {"max_abs": 1e-4}}
    provenance = {"checkpoint_sha256": PARENT, "versions": {"edgekit": "9.9"}}
    more = {"license": "AGPL-3.0", "accuracy": ROW, "parity": parity, "provenance": provenance}
    spoil(folder, lambda m: m.update(more, speed={"speedup": 3}))
    return folder


def described(folder: Path, kind: str, **options: Any) -> str:
    return describing.write(folder, DescribeOptions(kind, **options)).read_text(encoding="utf-8")


def test_bill_of_materials(bundle: Path) -> None:
    schema = pytest.importorskip("cyclonedx.schema")
    validation = pytest.importorskip("cyclonedx.validation.json")
    text = described(bundle, "bom")
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    hashes = {c["name"]: c["hashes"][0]["content"] for c in bill["components"]}
    assert hashes == {"model.onnx": sha256_file(bundle / "model.onnx")}
    model = bill["metadata"]["component"]
    assert model["hashes"][0]["content"] == sha256_file(bundle / MANIFEST)
    assert model["licenses"][0]["license"]["id"].startswith("AGPL-3.0")
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == PARENT
    assert "speed" not in text  # measured on one machine, proved of none
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] == "0.49"
    assert described(bundle, "bom", force=True) == text


def test_data_is_listed_with_the_license_that_it_states(bundle: Path) -> None:
    pytest.importorskip("cyclonedx")
    calibration = {"sha256": "cd" * 32, "set": "cells", "license": "CC-BY-4.0"}
    spoil(bundle, lambda m: m.update(calibration=calibration, accuracy=ROW | {"license": "our own"}))
    data = {c["name"]: c for c in json.loads(described(bundle, "bom"))["components"] if c["type"] == "data"}
    assert set(data) == {"calibrated on: cells", "judged on: set, val"}
    calibrated, judged = data["calibrated on: cells"], data["judged on: set, val"]
    assert calibrated["hashes"][0]["content"] == "cd" * 32
    assert calibrated["licenses"][0]["license"]["id"] == "CC-BY-4.0"
    assert judged["licenses"][0]["license"]["name"] == "our own" and "hashes" not in judged


def test_attestation(bundle: Path) -> None:
    statements = pytest.importorskip("in_toto_attestation.v1.statement")
    pb = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    formats = pytest.importorskip("google.protobuf.json_format")
    text = described(bundle, "attestation")
    statements.Statement.copy_from_pb(formats.Parse(text, pb.Statement())).validate()
    statement = json.loads(text)
    subjects = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
    assert subjects == {name: sha256_file(bundle / name) for name in ("model.onnx", MANIFEST)}
    assert statement["predicate"]["result"] == "PASSED"
    assert set(statement["predicate"]["passedTests"]) == {"parity", "accuracy"}
    assert statement["predicate"]["configuration"][0]["annotations"]["gates"]["accuracy"] == ROW


def test_signed_attestation(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("in_toto_attestation")
    dsse = pytest.importorskip("securesystemslib.dsse")
    signers = pytest.importorskip("securesystemslib.signer")
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.test_signing import written

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = written(tmp_path, "key", key)
    envelope = json.loads(described(bundle, "attestation", key=private))
    theirs = dsse.Envelope.from_dict(json.loads(json.dumps(envelope)))
    public_key = signers.SSlibKey.from_crypto(key.public_key(), envelope["signatures"][0]["keyid"])
    assert theirs.verify([public_key], 1)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    assert payload == json.loads(described(bundle, "attestation", force=True))
    with pytest.raises(InputError, match=str(public)):
        described(bundle, "attestation", key=public, force=True)


def test_card(bundle: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(described(bundle, "card"))
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == (ROW["metric"], ROW["after"], ROW["on"])
    assert card.data.license == "agpl-3.0" and card.data.pipeline_tag == "object-detection"
    assert PARENT in card.text and "ant, bee, cat" in card.text


def test_agreement_is_no_accuracy(bundle: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    spoil(bundle, lambda m: m.update(accuracy={**ROW, "kind": "agreement"}, license="Our own terms"))
    card = hub.ModelCard(described(bundle, "card"))
    assert card.data.eval_results is None and card.data.license_name == "Our own terms"
    assert [gate.name for gate in facts.read(bundle).gates] == ["parity", "accuracy"]


def test_refusals(bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("mine")
    with pytest.raises(UsageError):
        described(bundle, "card")
    with pytest.raises(UsageError):
        DescribeOptions("bom", key=tmp_path / "key.pem")
    with pytest.raises(InputError):
        facts.read(tmp_path)
    (bundle / "model.onnx").write_bytes(b"else")
    with pytest.raises(GateError):
        facts.read(bundle)


def test_a_signed_bundle_stays_as_it_is(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("huggingface_hub")
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.test_signing import written

    sign(bundle, SignOptions(key=written(tmp_path, "key", ec.generate_private_key(ec.SECP256R1()))[0]))
    with pytest.raises(UsageError):
        described(bundle, "card")
    assert "model-index" in described(bundle, "card", out=tmp_path / "README.md")
