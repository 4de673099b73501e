"""A server of the Hub's protocol for tests: repositories in memory, and a list of what was asked.

Source: what huggingface_hub sends and expects (``hf_api.model_info``, ``file_download``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from loopback import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 4096
"""Files of so many bytes are kept apart, as by Git LFS: the Hub redirects to them."""


@dataclass
class Repo:
    """A repository with one commit, and who may read it."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    """Of those who may read it; None if it is public."""
    is_gated: bool = False
    """Whether everybody sees that it is there."""
    cut: dict[str, int] = field(default_factory=dict)
    """After how many bytes the connection breaks, once, while a file is sent."""

    @classmethod
    def of(cls, folder: Path, **more: Any) -> Repo:
        """One with the files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return cls({**files, **more.pop("extra", {})}, **more)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repos: dict[str, Repo]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.requests: list[Request] = []
        self.status: int | None = None
        """If set, the answer to everything."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Another host, by its name: a token must not go there."""
        return f"http://localhost:{self.server_address[1]}"

    def fetched(self) -> set[str]:
        """The files whose content or description was asked for."""
        asked = [one.path.partition("/resolve/")[2] for one in self.requests]
        return {path.partition("/")[2] for path in asked if path}

    def handle_error(self, *args: Any) -> None:
        pass  # clients hang up on purpose


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(Request(self.command, path, dict(self.headers)))
        if self.server.status is not None:
            self._send(self.server.status, b"")
        elif path.startswith("/cdn/"):
            self._send_large(path)
        elif path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._describe(repo, revision or "main")
        else:
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._resolve(repo, revision, name)

    def _find(self, name: str, revision: str, *, content: bool) -> Repo | None:
        repo = self.server.repos.get(name)
        may_read = repo is not None and (
            repo.token is None or self.headers.get("Authorization") == f"Bearer {repo.token}"
        )
        if repo is None or not (may_read or repo.is_gated):
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif content and not may_read:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif revision not in (*repo.revisions, repo.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _describe(self, name: str, revision: str) -> None:
        repo = self._find(name, revision, content=False)
        if repo is not None:
            files = [{"rfilename": file} for file in repo.files]
            answer = {"id": name, "modelId": name, "sha": repo.commit, "siblings": files}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._find(name, revision, content=True)
        if repo is None:
            return
        commit = {"X-Repo-Commit": repo.commit}
        content = repo.files.get(file)
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        digest = hashlib.sha256(content).hexdigest()
        if len(content) < _LARGE:
            self._send(200, content, {**commit, "ETag": f'"{digest[:40]}"'})
            return
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        place = {"Location": f"{self.server.cdn}/cdn/{name}/{file}?signature=secret"}
        self._send(302, b"", {**commit, **linked, **place})

    def _send_large(self, path: str) -> None:
        owner, name, file = path.removeprefix("/cdn/").split("/", 2)
        repo = self.server.repos[f"{owner}/{name}"]
        content, asked = repo.files[file], self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        cut = repo.cut.pop(file, None)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        self.close_connection = cut is not None

    def _refuse(self, status: int, code: str, message: str, more: dict[str, str] = {}) -> None:  # noqa: B006
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message, **more})

    def _send(self, status: int, content: bytes, headers: dict[str, str] = {}) -> None:  # noqa: B006
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(repos: dict[str, Repo]) -> Iterator[HubServer]:
    server = HubServer(repos)
    with running(server):
        yield server
