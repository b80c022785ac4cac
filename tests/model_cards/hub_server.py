"""A Hub on this machine, for tests: the part of its HTTP API that the real `huggingface_hub` client speaks.

    with HubServer() as hub:
        subprocess.run(command, env=os.environ | hub.environment(cache_folder))

It listens on a free port of the loopback interface. Large files go by LFS, as with HF_HUB_DISABLE_XET=1.
"""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.model_cards.hub_store import (
    Account,
    Blob,
    HubError,
    Repo,
    Store,
    apply_commit,
    is_large,
    metadata_errors,
)


KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}
REPO = r"(?P<repo>[\w.\-]+/[\w.\-]+)"
KIND = r"(?P<kind>models|datasets|spaces)"
PREFIX = r"(?P<prefix>datasets/|spaces/)?"
ROUTES: list[tuple[str, str, str]] = [  # method, path, name of the handler's function
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("GET", rf"/api/{KIND}/{REPO}", "info"),
    ("GET", rf"/api/{KIND}/{REPO}/revision/(?P<revision>[^/]+)", "info"),
    ("GET", rf"/api/{KIND}/{REPO}/refs", "refs"),
    ("GET", rf"/api/{KIND}/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
    ("POST", rf"/api/{KIND}/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", rf"/api/{KIND}/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/{KIND}/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/{KIND}/{REPO}/branch/(?P<name>[^/]+)", "create_branch"),
    ("POST", rf"/api/{KIND}/{REPO}/tag/(?P<revision>[^/]+)", "create_tag"),
    ("POST", rf"/{PREFIX}{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_get"),
    ("POST", r"/lfs-verify", "lfs_verify"),
    ("GET", rf"/{PREFIX}{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class HubServer:
    """Runs while its `with` block does.

    Attributes:
        url: give it as HF_ENDPOINT.
        token: of `user`, who may write; `reader_token` is one that may only read, `other_token` another user's.
        store: what was created and uploaded.
        requests: (method, path) of every request, in order.
        refuse_after_uploads: so many large objects are stored, then the server answers 500: an interrupted upload.
    """

    def __init__(self, user: str = "me"):
        self.user, self.token = user, "hf_writerwriterwriterwriter"
        self.reader_token, self.other_token = "hf_readerreaderreaderreader", "hf_otherotherotherother"
        self.store = Store(
            {
                self.token: Account(user),
                self.reader_token: Account(user, may_write=False),
                self.other_token: Account("somebody"),
            }
        )
        self.requests: list[tuple[str, str]] = []
        self.refuse_after_uploads: int | None = None
        self.storing = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # As on the Hub, large files come from another host, where the client sends no token and reads no headers.
        self.storage_url = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """What a process needs that shall use this Hub and no other."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token if token is None else token,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        return self.store.repos[kind, repo_id]

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Path -> content of what was pushed, without the .gitattributes that a new repository has."""
        files = self.repo(repo_id, kind).at(revision).files
        return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    # ---- dispatch ----

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self._read()
        self.hub.requests.append((self.command, url.path))
        try:
            for route_method, pattern, name in ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and route_method == method:
                    function: Callable[..., Any] = getattr(self, name)
                    found = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    answer = function(**found)
                    if answer is not None:
                        self._json(200, answer)
                    return
            raise HubError(404, f"this test's Hub has no {method} {url.path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self._json(error.status, {"error": error.message, **error.body}, headers)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # ---- who asks, and for what ----

    def account(self, required: bool = False) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.store.accounts:
            raise HubError(401, "Invalid credentials in Authorization header")
        if required and not token:
            raise HubError(401, "Invalid username or password.")
        return self.hub.store.accounts.get(token)

    def find(self, kind: str, repo: str, write: bool = False) -> Repo:
        return self.hub.store.find(kind, repo, self.account(), write)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    # ---- the API ----

    def whoami(self) -> Any:
        account = self.account(required=True)
        assert account is not None
        role = "write" if account.may_write else "read"
        access = {"displayName": "test", "role": role}
        return {"type": "user", "name": account.name, "orgs": [], "auth": {"accessToken": access}}

    def validate_yaml(self) -> Any:
        errors = metadata_errors(self.json()["content"])
        if not errors:
            return {"errors": [], "warnings": []}
        self._json(400, {"errors": [{"message": error} for error in errors], "warnings": []})

    def create_repo(self) -> Any:
        account, asked = self.account(required=True), self.json()
        assert account is not None
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        kind = KINDS[asked.get("type") or "model"]
        try:
            repo = self.hub.store.create(account, kind, asked["name"], asked.get("organization"), private)
        except HubError as error:
            if "url" in error.body:
                error.body["url"] = self._page(kind, error.body["url"])
            raise
        return {"url": self._page(kind, repo.id), "name": repo.id, "id": "0" * 24}

    def _page(self, kind: str, repo_id: str) -> str:
        return f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"

    def info(self, kind: str, repo: str, revision: str = "main") -> Any:
        return self.find(kind, repo).info(revision)

    def refs(self, kind: str, repo: str) -> Any:
        found = self.find(kind, repo)
        lists = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
        return {
            key: [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for key, (where, refs) in lists.items()
        } | {"converts": []}

    def tree(self, kind: str, repo: str, revision: str, path: str) -> Any:
        commit = self.find(kind, repo).at(revision)
        below = path.rstrip("/") + "/" if path else ""
        files = {name: blob for name, blob in commit.files.items() if name.startswith(below)}
        if path and not files:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        folders = sorted({name.rsplit("/", 1)[0] for name in files if "/" in name[len(below) :]})
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders] + [
            blob.entry(name) for name, blob in files.items() if deep or "/" not in name[len(below) :]
        ]

    def paths_info(self, kind: str, repo: str, revision: str) -> Any:
        files = self.find(kind, repo).at(revision).files
        asked = self.json()["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode()).get("paths", [])
        return [files[path].entry(path) for path in asked if path in files]

    def preupload(self, kind: str, repo: str, revision: str) -> Any:
        files = self.find(kind, repo, write=True).at(revision).files
        asked = self.json()["files"]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular",
                    "shouldIgnore": False,
                    "oid": files[file["path"]].etag if file["path"] in files else None,
                }
                for file in asked
            ]
        }

    def commit(self, kind: str, repo: str, revision: str) -> Any:
        found = self.find(kind, repo, write=True)
        commit = apply_commit(self.hub.store, found, revision, self.body)
        return {"success": True, "commitOid": commit.sha, "commitUrl": f"{self._page(kind, repo)}/commit/{commit.sha}"}

    def create_branch(self, kind: str, repo: str, name: str) -> Any:
        found = self.find(kind, repo, write=True)
        if name in found.branches:
            raise HubError(409, f"Reference refs/heads/{name} already exists")
        start = self.json().get("startingPoint", "main") if self.body else "main"
        found.branches[name] = found.at(start).sha
        return {}

    def create_tag(self, kind: str, repo: str, revision: str) -> Any:
        found, name = self.find(kind, repo, write=True), self.json()["tag"]
        if name in found.tags:
            raise HubError(409, f"Reference refs/tags/{name} already exists")
        found.tags[name] = found.at(revision).sha
        return {}

    # ---- large files ----

    def lfs_batch(self, prefix: str, repo: str) -> Any:
        self.find(prefix.rstrip("/") or "models", repo, write=True)
        objects = []
        for asked in self.json()["objects"]:
            if asked["oid"] not in self.hub.store.objects:
                upload = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
                asked["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            objects.append(asked)
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> Any:
        most = self.hub.refuse_after_uploads
        if Blob(self.body, True).sha256 != oid:
            raise HubError(400, "the content does not have this SHA-256")
        with self.hub.storing:  # files come side by side
            if most is not None and len(self.hub.store.objects) >= most:
                raise HubError(507, "the disk of this Hub is full")
            self.hub.store.objects[oid] = self.body
        return {}

    def lfs_verify(self) -> Any:
        asked = self.json()
        if len(self.hub.store.objects.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(400, "not stored, or of another size")
        return {}

    def lfs_get(self, oid: str) -> None:
        self._send(200, self.hub.store.objects[oid], {"Content-Type": "application/octet-stream"})

    # ---- downloads ----

    def resolve(self, prefix: str, repo: str, revision: str, path: str) -> None:
        commit = self.find(prefix.rstrip("/") or "models", repo).at(revision)
        if path not in commit.files:
            error = {
                "X-Repo-Commit": commit.sha,
                "X-Error-Code": "EntryNotFound",
                "X-Error-Message": "Entry not found",
            }
            return self._json(404, {"error": "Entry not found"}, error)
        blob = commit.files[path]
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if not blob.large:
            return self._send(200, blob.content, headers)
        linked = {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        return self._send(302, b"", headers | linked | {"Location": f"{self.hub.storage_url}/lfs/{blob.sha256}"})
