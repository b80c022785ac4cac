"""What the loopback Hub keeps: accounts, repositories, commits and large objects, in memory.

Only what a client can see is modelled: a commit is the whole tree of its files, a branch or a tag is the name of one.
"""

import base64
import fnmatch
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import yaml


# As the Hub's default .gitattributes: these go to large-file storage, whatever their size.
LARGE = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx", "*.npz", "*.parquet", "*.arrow", "*.zip", "*.gz")
LARGE_BYTES = 10 * 2**20
LICENSES = {
    "apache-2.0",
    "mit",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc0-1.0",
    "bsd-3-clause",
    "other",
    "unknown",
}


class HubError(Exception):
    """An answer with an error status, said as the Hub says it: in the body and in `X-Error-*` headers."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Blob:
    content: bytes
    large: bool

    @property
    def sha1(self) -> str:
        """Git's name of the blob; of a large file, of its pointer."""
        text = self.content
        if self.large:
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
            )
            text = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.sha1

    def entry(self, path: str) -> dict[str, Any]:
        """A line of a tree listing."""
        entry: dict[str, Any] = {"type": "file", "oid": self.sha1, "size": len(self.content), "path": path}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    sha: str
    files: dict[str, Blob]
    title: str
    parent: str | None


@dataclass
class Repo:
    """A repository of `kind` models, datasets or spaces."""

    id: str
    kind: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        sha = hashlib.sha1(f"{self.id} {branch} {title} {parent} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, files, title, parent)
        self.branches[branch] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def info(self, revision: str) -> dict[str, Any]:
        commit = self.at(revision)
        return {
            "_id": "0" * 24, "id": self.id, "modelId": self.id, "sha": commit.sha, "private": self.private,
            "author": self.id.split("/")[0], "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": [], "siblings": [{"rfilename": path} for path in commit.files],
            "createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


@dataclass(frozen=True)
class Account:
    name: str
    may_write: bool = True


class Store:
    """The accounts by token, the repositories by (kind, id), and the large objects by SHA-256."""

    def __init__(self, accounts: dict[str, Account]):
        self.accounts = accounts
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.counter = itertools.count()

    def create(self, account: Account, kind: str, name: str, namespace: str | None, private: bool) -> Repo:
        owner = namespace or account.name
        if owner != account.name or not account.may_write:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        key = (kind, f"{owner}/{name}")
        if key in self.repos:
            raise HubError(409, "You already created this model repo", url=key[1])
        repo = self.repos[key] = Repo(key[1], kind, private)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
        repo.commit("main", "initial commit", {".gitattributes": Blob(attributes.encode(), False)})
        return repo

    def find(self, kind: str, repo_id: str, account: Account | None, write: bool = False) -> Repo:
        repo = self.repos.get((kind, repo_id))
        owns = account is not None and repo_id.split("/")[0] == account.name
        if repo is None or (repo.private and not owns):
            if account is None:
                raise HubError(401, "Invalid username or password.")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write and account is None:
            raise HubError(401, "Invalid username or password.")
        if write and not (owns and account is not None and account.may_write):
            raise HubError(403, "you must use a write token to upload to a repository.")
        return repo


def is_large(path: str, size: int) -> bool:
    return size > LARGE_BYTES or any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LARGE)


def apply_commit(store: Store, repo: Repo, branch: str, body: bytes) -> Commit:
    """A commit's NDJSON: a header, then one line for every file added or deleted."""
    if branch not in repo.branches:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    files = dict(repo.at(branch).files)
    title = ""
    for line in body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in store.objects:
                raise HubError(400, f"LFS pointer points to a file that does not exist: {value['path']}")
            files[value["path"]] = Blob(store.objects[value["oid"]], True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            prefix = value["path"].rstrip("/") + "/"
            files = {path: blob for path, blob in files.items() if not path.startswith(prefix)}
        else:
            raise HubError(400, f"unknown operation {key}")
    return repo.commit(branch, title, files)


def metadata_errors(content: str) -> list[str]:
    """What the Hub would say against the YAML block of a card: licence, languages, model-index."""
    if not content.startswith("---\n"):
        return ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(content.split("---\n")[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    errors = []
    if data.get("license", "unknown") not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    languages = data.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not (isinstance(language, str) and 2 <= len(language) <= 3):
            errors.append('"language" must only contain lowercase ISO 639 codes')
    for model in data.get("model-index", []):
        if not model.get("name"):
            errors.append('"model-index[0].name" is required')
        for result in model.get("results", []):
            if not {"type"} <= set(result.get("task", {})) or not {"type", "name"} <= set(result.get("dataset", {})):
                errors.append('"model-index[0].results[0]" needs task.type, dataset.type and dataset.name')
            if any("value" not in metric or "type" not in metric for metric in result.get("metrics", [])):
                errors.append('"model-index[0].results[0].metrics[0]" needs type and value')
    return errors
