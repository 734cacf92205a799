"""Bundles and fleets sent and brought by digest: a folder, a registry on this machine, a stand-in for the Hub."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit import cli
from edgekit.bundle import fleet
from edgekit.bundle.store import pull, push
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError, UsageError
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import sha256_file
from tests.test_fleet import sealed
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and an index of two."""
    pytest.importorskip("openvino")
    root = tmp_path_factory.mktemp("models")
    bundles = [sealed(tiny_bundle(root / target, "detect", target)) for target in ("ort-fp32", "ov-fp32")]
    fleet.write_index(root / "index.json", bundles)
    for path in root.glob("*.onnx"):
        path.unlink()
    return root


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.rglob("*") if p.is_file()}


class Registry(http.server.BaseHTTPRequestHandler):
    """What the OCI distribution specification asks of one, as far as a push and a pull go."""

    blobs: dict[str, bytes]
    manifests: dict[str, bytes]

    def log_message(self, *words: object) -> None:
        pass

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        kind, _, name = self.path.rpartition("/")
        if self.path == "/v2/":
            return self._answer(200)
        found = (self.blobs if kind.endswith("blobs") else self.manifests).get(name)
        return self._answer(404) if found is None else self._answer(200, found)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(202, Location="/v2/upload/1")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if "/manifests/" in self.path:
            document = json.loads(body)
            if not {blob["digest"] for blob in (document["config"], *document["layers"])} <= set(self.blobs):
                return self._answer(400)
            self.manifests |= {self.path.rpartition("/")[2]: body, digest: body}
            self._answer(201)
        else:
            asked = self.path.partition("digest=")[2].replace("%3A", ":")
            self.blobs[digest] = body
            self._answer(201 if asked == digest else 400)


@pytest.fixture
def registry() -> Iterator[tuple[str, type[Registry]]]:
    """Its reference without a tag, and what it holds."""
    pytest.importorskip("oras")
    handler = type("Own", (Registry,), {"blobs": {}, "manifests": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"oci://127.0.0.1:{server.server_port}/models/tiny", handler
        server.shutdown()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands in for a repository of the Hub; its own library is asked for no more than these."""
    root = tmp_path / "hub"

    class HfApi:
        endpoint = ""

        def create_repo(self, repo_id: str, exist_ok: bool) -> None:
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def create_branch(self, repo_id: str, branch: str, exist_ok: bool) -> None:
            assert branch != "main" and exist_ok

        def create_commit(self, repo_id: str, operations: list[Any], commit_message: str, revision: str) -> None:
            for operation in operations:
                place = root / repo_id / operation.path_in_repo
                place.parent.mkdir(parents=True, exist_ok=True)
                given = operation.path_or_fileobj
                place.write_bytes(given if isinstance(given, bytes) else Path(given).read_bytes())

    def download(repo_id: str, filename: str, revision: str) -> str:
        if not (root / repo_id / filename).is_file():
            raise RuntimeError(f"404: no {filename}")
        return str(root / repo_id / filename)

    session = SimpleNamespace(head=lambda address, timeout: None)
    stand_in = SimpleNamespace(
        HfApi=HfApi,
        CommitOperationAdd=lambda **given: SimpleNamespace(**given),
        constants=SimpleNamespace(HF_HUB_OFFLINE=False),
        hf_hub_download=download,
        utils=SimpleNamespace(get_session=lambda: session),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)  # type: ignore[arg-type]
    return root


@pytest.fixture(params=["file", "registry", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file:{tmp_path / 'layout'}"
    if request.param == "registry":
        name: str = request.getfixturevalue("registry")[0]
        return name
    request.getfixturevalue("hub")
    return "hf://owner/tiny"


def test_a_bundle_comes_back_as_it_was(place: str, models: Path, tmp_path: Path) -> None:
    reference = push(models / "ov-fp32", place)
    assert reference.rpartition("@")[2].startswith("sha256:")
    assert push(models / "ov-fp32", place) == reference  # the same files, the same digest
    for number, asked in enumerate((reference, place)):
        out = tmp_path / f"out{number}"
        assert pull(asked, out) == reference.rpartition("@")[2]
        assert contents(out) == contents(models / "ov-fp32") and read_bundle(out).target == "ov-fp32"
    assert not list(tmp_path.glob("*.pulling"))


def test_an_index_comes_with_its_bundles(place: str, models: Path, tmp_path: Path) -> None:
    pull(push(models / "index.json", place), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(models)
    assert fleet.first(fleet.read_index(tmp_path / "out" / "index.json"), None, read_bundle)


def test_tags_name_what_was_pushed_last(models: Path, tmp_path: Path) -> None:
    place = f"file:{tmp_path / 'layout'}"
    first = push(models / "ov-fp32", f"{place}:v1")
    second = push(models / "ort-fp32", f"{place}:v2")
    push(models / "ort-fp32", f"{place}:v1")
    digests = [pull(f"{place}:{tag}", tmp_path / tag) for tag in ("v1", "v2")]
    assert digests == [second.rpartition("@")[2]] * 2
    assert pull(first, tmp_path / "first") == first.rpartition("@")[2]
    with pytest.raises(InputError, match="v3"):
        pull(f"{place}:v3", tmp_path / "third")


def largest(folder: Path) -> Path:
    return max((folder / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)


def test_what_was_altered_on_the_way_is_not_kept(models: Path, tmp_path: Path) -> None:
    reference = push(models / "ov-fp32", f"file:{tmp_path / 'layout'}")
    blob = largest(tmp_path / "layout")
    whole = blob.read_bytes()
    for harmed in (b"other" + whole[5:], whole[:-1], whole + b" "):
        blob.write_bytes(harmed)
        with pytest.raises(GateError, match="hash"):
            pull(reference, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(GateError, match="digest"):
        manifest = next(p for p in blob.parent.iterdir() if b'"schemaVersion"' in p.read_bytes()[:3000])
        manifest.write_bytes(manifest.read_bytes().replace(b"model", b"modem"))
        pull(reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_registry_that_sends_something_else(
    registry: tuple[str, type[Registry]], models: Path, tmp_path: Path
) -> None:
    name, held = registry
    reference = push(models / "ov-fp32", name)
    digest = max(held.blobs, key=lambda d: len(held.blobs[d]))
    held.blobs[digest] += bytes(1 << 22)
    with pytest.raises(GateError, match="hash"):
        pull(reference, tmp_path / "out")
    del held.blobs[digest]
    with pytest.raises(InputError, match="404"):
        pull(reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_pull_goes_on(registry: tuple[str, type[Registry]], models: Path, tmp_path: Path) -> None:
    name, held = registry
    reference = push(models / "ov-fp32", name)
    kept = dict(held.blobs)
    held.blobs.pop(max(kept, key=lambda d: len(kept[d])))
    with pytest.raises(InputError):
        pull(reference, tmp_path / "out")
    arrived = {f"sha256:{p.name}" for p in (tmp_path / "out.pulling").iterdir() if p.is_file()}
    assert arrived and not (tmp_path / "out").exists()
    held.blobs.clear()
    held.blobs.update({digest: data for digest, data in kept.items() if digest not in arrived})
    pull(reference, tmp_path / "out")  # what had arrived is not asked for again
    assert contents(tmp_path / "out") == contents(models / "ov-fp32")


def test_files_outside_the_folder_are_refused(models: Path, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    push(models / "ov-fp32", f"file:{place}")
    index = json.loads((place / "index.json").read_text())
    blobs = place / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    for title in ("../evil", "/evil", "a\\b", ""):
        manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] = title
        data = json.dumps(manifest).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        with pytest.raises(UnsafeFileError):
            pull(f"file:{place}@sha256:{digest}", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("ftp://host/model", UsageError),
        ("oci://registry", UsageError),
        ("file:", UsageError),
        ("file:models@sha256:12", UsageError),
        ("oci://127.0.0.1:9/models/none", InputError),  # nobody answers there
    ],
)
def test_references_that_lead_nowhere(reference: str, kind: type[EdgekitError], models: Path, tmp_path: Path) -> None:
    if reference.startswith("oci://1"):
        pytest.importorskip("oras")
    for call in (lambda: push(models / "ov-fp32", reference), lambda: pull(reference, tmp_path / "out")):
        with pytest.raises(kind):
            call()


def test_only_whole_bundles_are_sent(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        push(tmp_path, f"file:{tmp_path / 'layout'}")
    harmed = shutil.copytree(models / "ov-fp32", tmp_path / "harmed")
    (harmed / "model.bin").write_bytes(b"altered")
    with pytest.raises(GateError, match=r"model\.bin"):
        push(harmed, f"file:{tmp_path / 'layout'}")
    assert not (tmp_path / "layout").exists()


def test_the_commands(models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["push", str(models / "ov-fp32"), f"file:{tmp_path / 'layout'}"])
    reference = capfd.readouterr().out.strip()
    codes = []
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            cli.main(["pull", reference, "--out", str(tmp_path / "out"), "--json"])
        codes.append(done.value.code)
    assert codes[0] in (0, None) and codes[1] == 2  # what is there is not replaced
    assert json.loads(capfd.readouterr().out)["digest"] == reference.rpartition("@")[2]
