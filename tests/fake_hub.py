"""A Hugging Face Hub on this machine: as much of its HTTP as huggingface_hub needs to make, fill and read a repository.

Large files go through LFS. Repositories are dicts of commits; every commit is a dict of files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
LFS_BYTES = 10_000


@dataclass
class Repository:
    """Commits by id, and branches by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add or change files; returns the new commit's id."""
        whole = {**self.files(branch), **files}
        commit = hashlib.sha1(repr((len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[commit] = whole
        self.branches[branch] = commit
        return commit

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Those of a branch or commit."""
        return self.commits.get(self.branches.get(revision, revision), {})


class FakeHub:
    """Repositories by name, and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.url = ""

    def create(self, name: str, private: bool = False) -> Repository:
        """A new repository with the one file that the Hub puts in."""
        self.repositories[name] = Repository(private)
        self.repositories[name].commit({".gitattributes": b""})
        return self.repositories[name]

    @property
    def downloads(self) -> list[str]:
        """The files whose bytes were fetched."""
        return [request.split("/")[-1] for request in self.requests if re.match("GET .*/resolve/", request)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _handle(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.startswith("/lfs/"):
            hub.large[path[5:]] = body
            return self._answer(200)
        own = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.command == "POST" and not own:
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self._answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
            hub.create(name, asked.get("visibility") == "private" or asked.get("private") is True)
            return self._answer(200, {"url": f"{hub.url}/{name}", "name": name})
        name, verb, rest = re.match(r"(?:/api/models)?/([^/]+/[^/.]+)(?:/|\.git/)?([^/]*)/?(.*)", path).groups()  # type: ignore[union-attr]
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not own):
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if verb == "resolve":
            return self._resolve(repository, *rest.split("/", 1))
        if verb in ("", "revision"):
            sha = repository.branches.get(rest or "main", rest)
            return self._answer(200, {"id": name, "private": repository.private, "sha": sha, "siblings": []})
        return self._change(repository, verb, rest, body)

    def _resolve(self, repository: Repository, revision: str, file: str) -> None:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        content = repository.files(commit).get(file)
        if content is None:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        tag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=commit)

    def _change(self, repository: Repository, verb: str, rest: str, body: bytes) -> None:
        hub = self.server.hub
        if verb == "branch":
            made = rest in repository.branches
            repository.branches.setdefault(rest, repository.branches["main"])
            return self._answer(409 if made else 200, {})
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > LFS_BYTES else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if verb == "info":
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}} for o in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        assert verb == "commit"
        files = {}
        for value in [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] != "header"]:
            large = "oid" in value
            files[value["path"]] = hub.large[value["oid"]] if large else base64.b64decode(value["content"])
        commit = repository.commit(files, rest)
        return self._answer(
            200,
            {
                "commitUrl": f"{hub.url}{self.path.split('/commit/')[0].removeprefix('/api/models')}/commit/{commit}",
                "commitOid": commit,
            },
        )

    do_GET = do_HEAD = do_POST = do_PUT = _handle


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: FakeHub


@contextmanager
def running() -> Iterator[FakeHub]:
    """A Hub that listens on loopback until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = FakeHub()
    server.hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
