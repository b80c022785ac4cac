"""Publish a run folder: `data2vec push RUN_FOLDER OWNER/NAME [--dry-run] [--public] [...]`.

Uploads the model, its card with curves, the record of the run and, for data2vec 2.0, the code, in one commit.
`--dry-run` lists exactly what that would be and uses no network. The repository is private unless `--public` is given.
Interrupted, the same command continues: large files that the Hub has are not sent again.

The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another Hub. Exit codes: 0 done, 2 not done (the
message says what helps).
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from data2vec.model_cards.command_line import MAIN, push_parser
from data2vec.model_cards.folder import CONFIG
from data2vec.model_cards.hub.errors import in_words, is_expected
from data2vec.model_cards.hub.upload_list import UploadList, list_uploads
from data2vec.pretraining.checkpoints.run_files import CARD
from data2vec.pretraining.console.help import EXIT_REFUSED


BARE = {".gitattributes", CARD, "LICENSE", ".gitignore"}  # what a repository may hold that nobody has used yet


@dataclass(frozen=True)
class Push:
    """Where to and how; the fields are the command line's."""

    folder: Path
    repo_id: str
    public: bool = False
    revision: str = MAIN
    tag: str | None = None
    pretraining: bool = False
    overwrite: bool = False
    include: list[str] = field(default_factory=list)
    trust_code: bool = False
    message: str = "Upload model"

    def uploads(self) -> UploadList:
        return list_uploads(
            self.folder,
            self.repo_id,
            pretraining=self.pretraining,
            include=self.include,
            trust_code=self.trust_code,
        )


def push(request: Push, api: HfApi | None = None) -> CommitInfo:
    """Upload a run folder in one commit, and tag it.

    Raises:
        ValueError: something is invalid; the message names it and the fix. Nothing was changed on the Hub.
        HfHubHTTPError, or an error of the network: see [`in_words`].
    """
    api = api or HfApi()
    validate_repo_id(request.repo_id)
    if "/" not in request.repo_id:
        raise ValueError(f"{request.repo_id!r} names no owner: give {api.whoami()['name']}/{request.repo_id}.")
    found = request.uploads()
    old = _look_at(request, api)
    stale: set[str] = set()
    if old is None:
        api.create_repo(request.repo_id, private=not request.public, exist_ok=True)
    else:
        stale = _refuse_unrelated(request, api, old) - {upload.path for upload in found.uploads}
    if request.revision != MAIN:
        api.create_branch(request.repo_id, branch=request.revision, exist_ok=True)
    added = [CommitOperationAdd(upload.path, upload.content or str(upload.source)) for upload in found.uploads]
    removed = [CommitOperationDelete(path) for path in sorted(stale)]
    commit = api.create_commit(
        request.repo_id, [*removed, *added], commit_message=request.message, revision=request.revision
    )
    if request.tag is not None:
        api.create_tag(request.repo_id, tag=request.tag, revision=commit.oid)
    return commit


def _look_at(request: Push, api: HfApi) -> set[str] | None:
    """Paths of the repository at the revision, `None` where there is no repository yet; refuses what cannot be."""
    try:
        info = api.model_info(request.repo_id)
    except RepositoryNotFoundError:
        return None
    if not info.private and not request.public:
        raise ValueError(
            f"{request.repo_id} exists and is public: add --public to say that everybody may see this, or give "
            "another name."
        )
    refs = api.list_repo_refs(request.repo_id)
    if request.tag is not None and any(tag.name == request.tag for tag in refs.tags):
        raise ValueError(f"--tag {request.tag} is invalid: {request.repo_id} has that tag, and tags do not move.")
    there = any(branch.name == request.revision for branch in refs.branches)
    try:
        return set(api.list_repo_files(request.repo_id, revision=request.revision if there else MAIN))
    except RevisionNotFoundError:
        return set()


def _refuse_unrelated(request: Push, api: HfApi, old: set[str]) -> set[str]:
    """Refuse to write over something else; returns what has to go with `--overwrite`."""
    if old <= BARE:
        return set()
    if request.overwrite:
        return old - BARE
    there, ours = _model_type(request, api, old), _own_type(request)
    if there == ours:
        return set()
    what = f"another model, {there}," if there else f"other files ({', '.join(sorted(old - BARE)[:3])} ...)"
    raise ValueError(
        f"{request.repo_id} holds {what} where this is {ours}: give another name, or --overwrite to put this in its "
        "place (what was there stays in the history)."
    )


def _model_type(request: Push, api: HfApi, old: set[str]) -> str | None:
    if CONFIG not in old:
        return None
    try:
        path = api.hf_hub_download(request.repo_id, CONFIG, force_download=True)
    except EntryNotFoundError:
        return None
    return str(json.loads(Path(path).read_text(encoding="utf-8")).get("model_type"))


def _own_type(request: Push) -> str:
    return str(json.loads((request.folder / CONFIG).read_text(encoding="utf-8")).get("model_type"))


# ---- the command ----


def listing(found: UploadList) -> Iterable[str]:
    """What is uploaded, with sizes in bytes, and what stays, with the reason."""
    width = max(len(f"{upload.size:,}") for upload in found.uploads)
    for upload in sorted(found.uploads, key=lambda upload: (upload.path.count("/"), upload.path)):
        yield f"  {upload.size:>{width},}  {upload.path}"
    yield f"  {found.size:>{width},}  bytes in {len(found.uploads)} files"
    together: dict[tuple[str, str], list[str]] = {}
    for path, why in found.left.items():
        together.setdefault((path.split("/")[0], why), []).append(path)
    if together:
        yield "stays here:"
    for (first, why), paths in together.items():
        yield f"  {paths[0] if len(paths) == 1 else f'{first}/ ({len(paths)} files)'}: {why}"


def main(argv: Sequence[str] | None = None) -> int:
    values = vars(push_parser().parse_args(argv))
    dry_run, api = values.pop("dry_run"), HfApi()
    request = Push(**values)
    try:
        where = f"{api.endpoint}/{request.repo_id} ({request.revision}, {'public' if request.public else 'private'})"
        found = request.uploads()
        print(f"{'Would upload' if dry_run else 'Uploading'} to {where}:", *listing(found), sep="\n", flush=True)
        if dry_run:
            return 0
        commit = push(request, api)
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {in_words(error, api, request.repo_id)}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"Done: {commit.commit_url}")
    return 0
