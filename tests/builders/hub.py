"""A Hugging Face Hub on this machine, as far as the official client needs one to write and read a small model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]


class Hub:
    """Repositories, each a list of commits; ``refused`` answers all writing with 403."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.heads: dict[str, str] = {}
        self.refused = False
        self.asked: list[str] = []

    def commit(self, repo: str, files: Files) -> str:
        whole = {**self.commits[repo].get(self.heads.get(repo, ""), {}), **files}
        digest = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        self.commits[repo][digest] = whole
        self.heads[repo] = digest
        return digest

    def at(self, repo: str, revision: str) -> tuple[str, Files] | None:
        known = self.commits.get(repo, {})
        digest = self.heads.get(repo, "") if revision == "main" else revision
        return (digest, known[digest]) if digest in known else None


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            path = self._path()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.refused:
                return self._say(403, {"error": "this token may not write"})
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
                hub.commits.setdefault(repo, {})
                hub.commit(repo, {}) if repo not in hub.heads else None
                return self._say(200, {"url": f"{self._root()}/{repo}", "id": repo})
            if path == "/api/validate-yaml":
                return self._say(200, {"errors": [], "warnings": []})
            *_, kind, owner, name, what, _ = path.split("/")
            assert kind == "models"
            if what == "preupload":
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                return self._say(200, {"files": files})
            rows = [json.loads(line) for line in body.splitlines()]
            made = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"])
                for row in rows
                if row["key"] == "file"
            }
            digest = hub.commit(f"{owner}/{name}", made)
            url = f"{self._root()}/{owner}/{name}/commit/{digest}"
            return self._say(200, {"success": True, "commitOid": digest, "commitUrl": url})

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            parts = self._path().strip("/").split("/")
            if parts[0] == "api" and parts[1].startswith("whoami"):
                return self._say(200, {"type": "user", "name": "ann", "orgs": []})
            if parts[:2] == ["api", "models"]:
                found = hub.at("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
                if found is None:
                    return self._say(404, {"error": "Repository not found"}, error="RepoNotFound")
                sha, files = found
                if parts[4:5] == ["tree"]:
                    rows = [
                        {
                            "type": "file",
                            "path": n,
                            "size": len(c),
                            "oid": hashlib.sha1(c).hexdigest(),
                        }
                        for n, c in files.items()
                    ]
                    return self._say(200, rows)
                listed = [{"rfilename": name} for name in files]
                repo = "/".join(parts[2:4])
                return self._say(
                    200, {"id": repo, "sha": sha, "siblings": listed, "private": False}
                )
            return self._file(*parts, body=body)

        def _file(
            self, owner: str, name: str, _: str, revision: str, *rest: str, body: bool
        ) -> None:
            found, file = hub.at(f"{owner}/{name}", revision), "/".join(rest)
            if found is None or file not in found[1]:
                self._say(404, {"error": "not found"}, error="EntryNotFound")
                return
            content = found[1][file]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", found[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _path(self) -> str:
            hub.asked.append(f"{self.command} {self.path}")
            return unquote(urlsplit(self.path).path)

        def _root(self) -> str:
            return f"http://{self.headers['Host']}"

        def _say(self, code: int, value: Any, error: str = "") -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

    return Handler


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serve one, and let the official client talk to it alone."""
    from huggingface_hub import constants, hf_api

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    root = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", root)
    monkeypatch.setattr(hf_api.api, "endpoint", root)  # made when the library was imported
    template = root + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
