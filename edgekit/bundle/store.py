"""Bundles and fleets elsewhere: ``edgekit push`` and ``edgekit pull``, by digest.

    push(Path("yolo12n-ov"), "oci://registry.example/models/yolo12n:v3")    # 'oci://…/yolo12n@sha256:…'
    pull("oci://registry.example/models/yolo12n@sha256:…", Path("yolo12n-ov"))

| reference | where |
|---|---|
| ``file:FOLDER[:TAG]`` | a folder: an OCI image layout (``oci-layout``, ``index.json``, ``blobs/sha256/…``) |
| ``oci://HOST/NAME[:TAG]`` | an OCI registry, through the ``oras`` package; plain HTTP on this machine alone |
| ``hf://OWNER/NAME[:REVISION]`` | the Hugging Face Hub, through ``huggingface_hub`` |

What is sent is an OCI manifest with a layer a file; its SHA-256 is the digest, and ``@sha256:…`` after any reference
asks for that very one. Every file is held against its layer's size and SHA-256 before anything appears, whole, at its
place; files that had arrived when a pull was interrupted are not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from edgekit.bundle import fleet
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError, UsageError, optional
from edgekit.runtime.atomic import replacing
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.spec import Json, sha256_file

ARTIFACT = "application/vnd.edgekit.bundle.v1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
LISTING = "edgekit.oci.json"  # the manifest, on the Hub
MOST_BYTES, TIMEOUT_S = 16 << 20, 20.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Layer:
    """A file: its path (relative, posix), ``sha256:…`` and bytes."""

    title: str
    digest: str
    size: int


@dataclass(frozen=True)
class Reference:
    """``scheme``, ``place``, ``tag`` ("latest" where none is given) and ``digest`` ("" for any)."""

    scheme: str
    place: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """
        Raises:
            UsageError: an unknown scheme, no place, or a digest that is none.
        """
        scheme = next((s for s in STORES if text.startswith(s)), None)
        if scheme is None:
            raise UsageError(f"{text}: of no known scheme; give {', '.join(f'{s}…' for s in STORES)}")
        place, at, digest = text.removeprefix(scheme).partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise UsageError(f"{text}: {digest!r} is no digest; give @sha256: and 64 digits")
        tagged = re.fullmatch(r"(.+):([\w][\w.-]{0,127})", place)
        place, tag = (tagged[1], tagged[2]) if tagged else (place, "latest")
        if not place or (scheme != "file:" and "/" not in place):
            raise UsageError(f"{text}: names no place; give e.g. {STORES[scheme].example}")
        return cls(scheme, place, tag, digest)

    def pinned(self, digest: str) -> str:
        """The same by digest; on the Hub a revision goes with it, as files are found by name there."""
        tag = f":{self.tag}" if self.scheme == "hf://" else ""
        return f"{self.scheme}{self.place}{tag}@{digest}"


class Store(Protocol):
    """Where artifacts are kept."""

    example: str

    def __init__(self, reference: Reference) -> None: ...

    def write(self, files: Sequence[tuple[Layer, Path]], manifest: bytes, digest: str) -> None:
        """Keeps files and the manifest, the latter under the reference's tag, too."""

    def manifest(self) -> bytes:
        """The manifest that the reference asks for."""

    def fetch(self, layer: Layer, to: Path) -> None:
        """Writes a file's bytes to ``to``."""


# ---- what users call ----------------------------------------------------------------------------------------------


def push(artifact: Path, to: str) -> str:
    """Sends a bundle, or an index with its bundles, after comparing every file with its manifest; the reference by
    digest that brings back exactly this.

    Raises:
        UsageError: the reference is none.
        InputError: neither bundle nor index, or the place cannot be reached or does not take it.
        GateError: a file is missing or altered.
    """
    reference = Reference.parse(to)
    files = [(_layer(path, title), path) for title, path in sorted(_files(artifact).items())]
    empty = {"mediaType": EMPTY_TYPE, "digest": _digest(EMPTY), "size": len(EMPTY)}
    layers = [
        {"mediaType": "application/octet-stream", "digest": f.digest, "size": f.size, "annotations": {TITLE: f.title}}
        for f, _ in files
    ]
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT, "config": empty, "layers": layers}
    manifest = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = _digest(manifest)
    STORES[reference.scheme](reference).write(files, manifest, digest)
    return reference.pinned(digest)


def pull(source: str, out: Path) -> str:
    """Brings an artifact to the folder ``out``, which appears whole or not at all; its digest.

    Raises:
        UsageError: the reference is none, or something is at ``out``.
        InputError: there is no such artifact, or the place cannot be reached.
        UnsafeFileError: it has a file that would lie outside ``out``.
        GateError: what came is not what was asked for: a digest differs.
    """
    reference = Reference.parse(source)
    if out.exists():
        raise UsageError(f"`out` {out}: already exists; give another name")
    store = STORES[reference.scheme](reference)
    manifest = store.manifest()
    digest = _digest(manifest)
    if reference.digest not in ("", digest):
        raise GateError(f"{source}: what is there has the digest {digest}; nothing was kept")
    layers = _layers(source, manifest)
    staged = out.with_name(f"{out.name}.pulling")  # stays when a pull is interrupted, for the next
    staged.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        _arrive(store, source, layer, staged / layer.digest.removeprefix("sha256:"))
    ready = staged / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    for layer in layers:
        place = ready / layer.title
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staged / layer.digest.removeprefix("sha256:"), place)
    for folder in {path.parent for path in ready.rglob("manifest.json")}:
        read_bundle(folder)
    os.replace(ready, out)
    shutil.rmtree(staged, ignore_errors=True)
    return digest


def _arrive(store: Store, source: str, layer: Layer, place: Path) -> None:
    """Fetches a file to ``place`` unless it is there already."""
    if place.is_file() and _digest_of(place) == layer.digest:
        return
    with replacing(place) as partial:
        store.fetch(layer, partial)
        if partial.stat().st_size != layer.size or _digest_of(partial) != layer.digest:
            raise GateError(
                f"{source}: {layer.title!r} did not come as it was sent (its hash differs); nothing was kept"
            )


# ---- artifacts ----------------------------------------------------------------------------------------------------


def _files(artifact: Path) -> dict[str, Path]:
    """Title -> file of a bundle, or of an index and its bundles.

    Raises:
        InputError: it is neither.
    """
    if fleet.is_index(artifact):
        index = fleet.read_index(artifact)
        found = {artifact.name: artifact}
        for entry in index.entries:
            found |= {f"{entry.path}/{title}": path for title, path in _files(index.folder(entry)).items()}
        return found
    if not is_bundle(artifact):
        raise InputError(f"{artifact}: is neither a bundle nor an index of bundles")
    bundle = read_bundle(artifact)
    return {name: artifact / name for name in ("manifest.json", *bundle.manifest["files"])}


def _layer(path: Path, title: str) -> Layer:
    return Layer(title, _digest_of(path), path.stat().st_size)


def _layers(source: str, manifest: bytes) -> list[Layer]:
    """The files of a manifest, none of which lies outside the folder they go to."""
    try:
        document = json.loads(manifest)
        rows = document["layers"] if document.get("artifactType") == ARTIFACT else None
        layers = [Layer(str(r["annotations"][TITLE]), str(r["digest"]), int(r["size"])) for r in rows or ()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        layers = []
    if not layers or not all(_DIGEST.fullmatch(layer.digest) for layer in layers):
        raise InputError(f"{source}: holds no bundle or index that edgekit pushed")
    for layer in layers:
        pure = PurePosixPath(layer.title)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or any(c in layer.title for c in "\\:\0"):
            raise UnsafeFileError(f"{source}: it holds {layer.title!r}, which is outside its folder; nothing was kept")
    return layers


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digest_of(path: Path) -> str:
    return f"sha256:{sha256_file(path)}"


# ---- places -------------------------------------------------------------------------------------------------------


class FolderStore:
    """An OCI image layout."""

    example = "file:shared/models:v1"

    def __init__(self, reference: Reference) -> None:
        self._reference, self._root = reference, Path(reference.place)

    def write(self, files: Sequence[tuple[Layer, Path]], manifest: bytes, digest: str) -> None:
        (self._root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        for layer, path in files:
            if not self._blob(layer.digest).is_file():
                with replacing(self._blob(layer.digest)) as partial:
                    shutil.copyfile(path, partial)
        for data in (EMPTY, manifest):
            self._put(self._blob(_digest(data)), data)
        self._put(self._root / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        name = {"org.opencontainers.image.ref.name": self._reference.tag}
        entry = {"mediaType": MANIFEST, "digest": digest, "size": len(manifest), "annotations": name}
        others = [row for row in self._tags() if row.get("annotations") != name]
        document = {"schemaVersion": 2, "manifests": [*others, entry]}
        self._put(self._root / "index.json", json.dumps(document, indent=1).encode())

    def manifest(self) -> bytes:
        wanted = self._reference.digest or next(
            (
                str(row["digest"])
                for row in self._tags()
                if (row.get("annotations") or {}).get("org.opencontainers.image.ref.name") == self._reference.tag
            ),
            "",
        )
        if not _DIGEST.fullmatch(wanted) or not self._blob(wanted).is_file():
            raise InputError(f"{self._root}: holds no {wanted or self._reference.tag}")
        return self._blob(wanted).read_bytes()

    def fetch(self, layer: Layer, to: Path) -> None:
        if not self._blob(layer.digest).is_file():
            raise InputError(f"{self._root}: lacks {layer.digest}, the file {layer.title!r}")
        shutil.copyfile(self._blob(layer.digest), to)

    def _tags(self) -> list[Json]:
        path = self._root / "index.json"
        if not path.is_file():
            return []
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["manifests"]
            return [row for row in rows if isinstance(row, dict) and "digest" in row]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: is no index of an OCI layout ({error})") from None

    def _blob(self, digest: str) -> Path:
        return self._root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        with replacing(path) as partial:
            partial.write_bytes(data)


class RegistryStore:
    """An OCI registry."""

    example = "oci://registry.example/models/yolo12n:v1"

    def __init__(self, reference: Reference) -> None:
        with optional(f"{reference.scheme}{reference.place}", "fleet"):
            import oras.provider
        host = reference.place.partition("/")[0]
        self._reference, self._name = reference, f"{reference.scheme}{reference.place}"
        local = host.partition(":")[0] in ("localhost", "127.0.0.1")
        self._registry: Any = oras.provider.Registry(host, insecure=local)
        self._container = self._registry.get_container(f"{reference.place}:{reference.tag}")
        with _reaching(self._name, "the registry"):  # asked once without a retry: oras tries for minutes
            self._registry.session.get(f"{self._registry.prefix}://{host}/v2/", timeout=TIMEOUT_S)

    def write(self, files: Sequence[tuple[Layer, Path]], manifest: bytes, digest: str) -> None:
        with _reaching(self._name, "the registry"), TemporaryDirectory() as folder:
            config = Path(folder) / "config"  # a registry takes no manifest that names what it has not
            config.write_bytes(EMPTY)
            for layer, path in [*files, (_layer(config, ""), config)]:
                self._taken(self._registry.upload_blob(str(path), self._container, vars(layer)))
            url = f"{self._registry.prefix}://{self._container.manifest_url(self._reference.tag)}"
            headers = {"Content-Type": MANIFEST}
            self._taken(self._registry.do_request(url, "PUT", data=manifest, headers=headers))

    def manifest(self) -> bytes:
        with _reaching(self._name, "the registry"):
            wanted = self._reference.digest or self._reference.tag
            url = f"{self._registry.prefix}://{self._container.manifest_url(wanted)}"
            answer = self._registry.do_request(url, "GET", headers={"Accept": MANIFEST})
            self._taken(answer)
            return bytes(answer.content[: MOST_BYTES + 1])

    def fetch(self, layer: Layer, to: Path) -> None:
        with (
            _reaching(self._name, "the registry"),
            self._registry.get_blob(self._container, layer.digest, stream=True) as answer,
        ):
            self._taken(answer)
            with open(to, "wb") as handle:
                for chunk in answer.iter_content(1 << 20):
                    handle.write(chunk)
                    if handle.tell() > layer.size:
                        break  # it is not what was sent, whatever follows

    def _taken(self, answer: Any) -> None:
        if answer.status_code not in (200, 201, 202):
            raise InputError(f"{self._name}: the registry answers {answer.status_code} {answer.reason}")


class HubStore:
    """A model repository of the Hugging Face Hub."""

    example = "hf://owner/yolo12n"

    def __init__(self, reference: Reference) -> None:
        with optional(f"{reference.scheme}{reference.place}", "fleet"):
            import huggingface_hub
            from huggingface_hub import constants, utils
        self._hub: Any = huggingface_hub
        asking: Any = utils
        self._repo, self._revision = reference.place, "main" if reference.tag == "latest" else reference.tag
        self._name = f"{reference.scheme}{reference.place}"
        if not constants.HF_HUB_OFFLINE:
            with _reaching(self._name, "the Hub"):  # asked once without a retry: downloads try for half a minute
                asking.get_session().head(self._hub.HfApi().endpoint, timeout=TIMEOUT_S)

    def write(self, files: Sequence[tuple[Layer, Path]], manifest: bytes, digest: str) -> None:
        add = self._hub.CommitOperationAdd
        operations = [add(path_in_repo=layer.title, path_or_fileobj=str(path)) for layer, path in files]
        operations.append(add(path_in_repo=LISTING, path_or_fileobj=manifest))
        with _reaching(self._name, "the Hub"):
            api = self._hub.HfApi()
            api.create_repo(self._repo, exist_ok=True)
            if self._revision != "main":  # nothing is added to a branch that is not there
                api.create_branch(self._repo, branch=self._revision, exist_ok=True)
            api.create_commit(
                repo_id=self._repo, operations=operations, commit_message=f"edgekit {digest}", revision=self._revision
            )

    def manifest(self) -> bytes:
        return self._file(LISTING).read_bytes()

    def fetch(self, layer: Layer, to: Path) -> None:
        shutil.copyfile(self._file(layer.title), to)

    def _file(self, name: str) -> Path:
        with _reaching(self._name, "the Hub"):
            return Path(self._hub.hf_hub_download(self._repo, name, revision=self._revision))


@contextmanager
def _reaching(name: str, store: str) -> Iterator[None]:
    """Whatever a store's library raises, as one sentence."""
    try:
        yield
    except (EdgekitError, KeyboardInterrupt):
        raise
    except Exception as error:  # of requests, the Hub or the network, or ValueError of oras where it may not enter
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__  # of the Hub's the second says what of it was not found
        raise InputError(f"{name}: {store} cannot be used ({reason})") from error


STORES: dict[str, type[FolderStore] | type[RegistryStore] | type[HubStore]] = {
    "file:": FolderStore,
    "oci://": RegistryStore,
    "hf://": HubStore,
}
