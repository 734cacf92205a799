"""What a build, and verifying what was built, can be asked for, whatever the target. Standard library only: the command
line is derived from it.

BuildOptions(imgsz=(320, 320), quantize=QuantizeOptions(data=Path("bccd/data.yaml")))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.quantize.options import QuantizeOptions
from edgekit.runtime.fields import check, option
from edgekit.spec import HEADS, Images, parse_imgsz


@dataclass(frozen=True)
class BuildOptions:
    """How a model becomes a bundle."""

    imgsz: tuple[int, int] | None = option(None, parse=parse_imgsz, metavar="N|H,W")
    """Input size in pixels, multiples of 32. Default: the model's own.

    (height, width).
    """

    batch: int | None = option(1, least=1)
    """Images per run.

    Fixed in the bundle; None lets any number through.
    """

    images: Images = option(None, metavar="PATH")
    """Files, a folder or a glob of images for the parity check, as often as needed; INT8 without labels is judged on
    them. Default: generated ones."""

    head: str | None = option(None, choices=HEADS)
    """raw (every anchor and class), topk (the best of them) or nms (finished detections). Default: topk, where the
    target has it.

    An ONNX file keeps the one it was exported with.
    """

    candidates: int | None = option(None, least=1)
    """(anchor, class) pairs an image that a topk or nms head keeps before suppression; up to five an object. Default:
    500 at 320 px, 1000 at 640, 2000 at 1280, and more where `data` is more crowded.

    See ``crowding.py``.
    """

    self_test: str = option("given", choices=("given", "generated", "none"))
    """Pictures of the bundle's self-test: a few of those given (`images`, `data`), at 144 px, else generated ones;
    generated ones alone; or none.

    ``edgekit/verify/golden.py``.
    """

    layout: str | None = None
    """Also write what a server reads: triton (trt-*, ort-*), ovms (ov-*, ort-*) or deepstream (trt-*)."""

    target: Mapping[str, str] = field(default_factory=dict)
    """Options of the target's own, by name and as the command line spells their values (``Target.options``)."""

    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)
    """Data, limits and seed of a narrower target; INT8 needs some data."""

    def with_head(self, heads: Sequence[str]) -> BuildOptions:
        """These with a head: the one asked for, or topk or else the first of the target's ``heads``."""
        return self if self.head else dataclasses.replace(self, head="topk" if "topk" in heads else heads[0])

    def __post_init__(self) -> None:
        check(self)
        if self.head == "raw" and self.candidates is not None:
            raise UsageError(
                f"`candidates` {self.candidates}: the raw head keeps every anchor; leave one of the two out"
            )


@dataclass(frozen=True)
class SignatureOptions:
    """What a bundle's signature is checked with: one of ``key``, ``certificate`` and ``identity`` (``signing.py``)."""

    key: Path | None = option(None, metavar="PEM")
    """Public key that the bundle must be signed with."""

    certificate: tuple[Path, ...] = option((), metavar="PEM")
    """Certificate of a root, or of what lies between, that the signer's must lead to; as often as needed."""

    identity: str | None = option(None, metavar="NAME")
    """Who must have signed it through sigstore, such as a mail address."""

    issuer: str | None = option(None, metavar="URL")
    """Who vouches for `identity`, such as https://accounts.google.com."""

    staging: bool = False
    """Check against sigstore's staging instance."""

    @property
    def asked(self) -> bool:
        """Whether there is anything to check a signature with."""
        return self.key is not None or bool(self.certificate) or self.identity is not None or self.issuer is not None


@dataclass(frozen=True)
class VerifyOptions:
    """How a bundle is verified (``verification.py``)."""

    device: str | None = None
    """cpu, cuda:0, GPU, NPU: as the target knows it. Default: the target's."""

    signature: SignatureOptions = field(default_factory=SignatureOptions)
    """What a signature is checked with."""


@dataclass(frozen=True)
class SignOptions:
    """How a bundle is signed (``signing.py``): with a key of one's own, with one and its certificate, or by name
    through sigstore, which needs a network."""

    key: Path | None = option(None, metavar="PEM")
    """Private key: an elliptic curve's (P-256, P-384, P-521). Default: sigstore.

    The environment's EDGEKIT_KEY_PASSWORD opens an encrypted one.
    """

    certificate: Path | None = option(None, metavar="PEM")
    """The key's certificate, which then goes into the signature."""

    chain: tuple[Path, ...] = option((), metavar="PEM")
    """Certificates between that one and the root, as often as needed."""

    staging: bool = False
    """Use sigstore's staging instance, for trials."""

    force: bool = False
    """Replace what is already there."""

    def __post_init__(self) -> None:
        check(self)
        if self.key is None and (self.certificate or self.chain):
            raise UsageError("`certificate` and `chain` need `key`, the certificate's private key")
        if self.key is not None and self.staging:
            raise UsageError("`staging` is for sigstore; leave `key` out")


@dataclass(frozen=True)
class DescribeOptions:
    """How a bundle is described (``describing.py``)."""

    format: str = option("card", choices=("bom", "attestation", "card"))
    """CycloneDX ML-BOM, in-toto attestation, or Hugging Face model card."""

    out: Path | None = None
    """The file to write. Default: in the bundle."""

    key: Path | None = option(None, metavar="PEM")
    """Sign the attestation with this private key, in a DSSE envelope."""

    force: bool = False
    """Replace what is already there."""

    def __post_init__(self) -> None:
        check(self)
        if self.key is not None and self.format != "attestation":
            raise UsageError(f"`key` signs attestations; sign a {self.format} with the bundle it is in")
