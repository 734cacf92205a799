"""Push and pull through huggingface_hub itself, against a small server of the Hub's protocol on this machine.

The command runs in processes of its own, as the package reads its endpoint where it is imported."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.test_store import contents
from tests.test_store import models as models

Files = dict[str, tuple[bytes, bool]]  # by path: bytes, and whether the Hub keeps them as a large file


class Hub(http.server.BaseHTTPRequestHandler):
    """What a push and a pull ask of the Hub. A branch must exist before something is added to it."""

    protocol_version = "HTTP/1.1"
    repos: dict[str, dict[str, Files]]
    large: dict[str, bytes]
    asked: list[str]

    def log_message(self, *words: object) -> None:
        pass

    def _answer(self, code: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:
        body, path = self._body(), unquote(self.path.partition("?")[0])
        self.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.repos:
                return self._answer(409, {"error": "You already created it", "url": f"{self._here}/{name}"})
            self.repos[name] = {"main": {}}
            return self._answer(200, {"url": f"{self._here}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            for row in rows:
                row["actions"] = {"upload": {"href": f"{self._here}/lfs/{row['oid']}"}}
            return self._answer(200, {"transfer": "basic", "objects": rows})
        _, _, _, owner, name, what, revision = path.split("/", 6)
        branches = self.repos[f"{owner}/{name}"]
        if what == "branch":
            code = 409 if revision in branches else 201
            branches.setdefault(revision, dict(branches["main"]))
            return self._answer(code, {"error": "it exists"} if code == 409 else {})
        if revision not in branches:
            return self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "preupload":
            files = [
                {
                    "path": row["path"],
                    "uploadMode": "lfs" if row["path"].endswith((".bin", ".onnx")) else "regular",
                    "shouldIgnore": False,
                }
                for row in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                branches[revision][value["path"]] = base64.b64decode(value["content"]), False
            elif row["key"] == "lfsFile":
                branches[revision][value["path"]] = self.large[value["oid"]], True
        oid = hashlib.sha1(body).hexdigest()
        return self._answer(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self._here}/{owner}/{name}/commit/{oid}"}
        )

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.rpartition("/")[2]
        self.large[oid] = data
        self._answer(200 if hashlib.sha256(data).hexdigest() == oid else 400)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked.append(f"{self.command} {path}")
        if path.count("/") < 5 or path.startswith("/api/"):
            return self._answer(404, {"error": "not found"})
        owner, name, _, revision, title = path.strip("/").split("/", 4)
        files = self.repos.get(f"{owner}/{name}", {}).get(revision)
        if files is None or title not in files:
            code = "RepoNotFound" if f"{owner}/{name}" not in self.repos else "EntryNotFound"
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": code})
        data, large = files[title]
        kind = hashlib.sha256 if large else hashlib.sha1
        headers = {"ETag": f'"{kind(data).hexdigest()}"', "X-Repo-Commit": "0" * 40}
        if large:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        self._answer(200, data, headers)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[type[Hub], dict[str, str]]]:
    """A Hub that is empty, and the environment of who uses it."""
    pytest.importorskip("huggingface_hub", reason="pip install 'edgekit[fleet]'")
    handler = type("Own", (Hub,), {"repos": {}, "large": {}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield (
            handler,
            {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_TOKEN": "hf_nobody",
                "HF_HUB_DISABLE_XET": "1",  # whose server is another one; large files go the way of git's LFS
                "HF_HOME": str(tmp_path / "home"),
            },
        )
        server.shutdown()


def edgekit(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *map(str, words)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tag", ["", ":v1"])
def test_an_index_comes_back_from_the_hub(
    tag: str, hub: tuple[type[Hub], dict[str, str]], models: Path, tmp_path: Path
) -> None:
    server, environment = hub
    sent = edgekit(environment, "push", models / "index.json", f"hf://owner/tiny{tag}")
    assert sent.returncode == 0, sent.stderr
    reference = sent.stdout.strip()
    assert "sha256:" in reference and server.large
    again = edgekit(environment, "push", models / "index.json", f"hf://owner/tiny{tag}")
    assert again.stdout.strip() == reference, again.stderr
    for number, asked in enumerate((reference, f"hf://owner/tiny{tag}")):
        out = tmp_path / f"out{number}"
        brought = edgekit(environment, "pull", asked, "--out", out)
        assert brought.returncode == 0, brought.stderr
        assert contents(out) == contents(models)


def test_what_the_hub_has_not_or_has_changed(
    hub: tuple[type[Hub], dict[str, str]], models: Path, tmp_path: Path
) -> None:
    server, environment = hub
    out = tmp_path / "out"
    missing = edgekit(environment, "pull", "hf://owner/none", "--out", out)
    assert missing.returncode == 2 and "hf://owner/none" in missing.stderr and "Traceback" not in missing.stderr
    reference = edgekit(environment, "push", models / "ov-fp32", "hf://owner/tiny").stdout.strip()
    files = server.repos["owner/tiny"]["main"]
    data, large = files["model.bin"]
    files["model.bin"] = b"other" + data[5:], large
    harmed = edgekit(environment, "pull", reference, "--out", out)
    assert harmed.returncode == 1 and "model.bin" in harmed.stderr and not out.exists()
    silent = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    for words in (("push", models / "ov-fp32", "hf://owner/other"), ("pull", "hf://owner/other", "--out", out)):
        done = edgekit(silent, *words)
        assert done.returncode == 2 and "hf://owner/other" in done.stderr and "Traceback" not in done.stderr
