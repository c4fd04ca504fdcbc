"""Packs on the hub: pushed as one commit with a model card, fetched and verified.

A repository holds the files of a pack as `save_pretrained` writes them, and `README.md`, the card.
The manifest does not list the card, so that it can be corrected on the hub without breaking the
pack.
"""

from __future__ import annotations

__all__ = ["fetch", "push"]

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, InputError
from ..storage.files import MANIFEST, hidden
from ..storage.folder import verify_folder
from ..storage.verified import COMPANIONS, read_listing
from .card import REPO_ID

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi, ModelCard


def push(
    folder: Path,
    repo_id: str,
    *,
    card: Callable[[str], ModelCard],
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Pushes the pack in `folder`, as `Conditional.push_to_hub` says.

    The files of an older pack there are replaced or deleted; files beside it stay.

    Arguments:
        folder: The pack; the card is written into it.
        repo_id: `"name"` or `"owner/name"`.
        card: The card for the full name `"owner/name"` of the repository.
        private: Whether a new repository is private.
        token: Of an account that may write there.
        revision: Branch to push to.
        commit_message: Says what changed.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head, replaced = _replaced(api, repo_id, revision)
        card(repo_id).save(folder / "README.md")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            delete_patterns=replaced,
            commit_message=commit_message or "Push a latentctl pack",
            revision=revision,
            parent_commit=head,
        )
    except InputError:
        raise
    except Exception as error:  # the hub's HTTP client, and so its errors, differ by version
        raise CheckpointError(
            f"{repo_id} was not pushed: {_first_line(error)}. Check the name, the network, and "
            f"that `hf auth login` or token= gives the right to write there. A pack that was "
            f"there before is unchanged; save_pretrained saves this one to a folder."
        ) from error


def _replaced(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, list[str]]:
    """The commit that a push follows, and the files of the pack that it replaces."""
    info = api.model_info(repo_id, revision=revision)
    files = {sibling.rfilename for sibling in info.siblings or ()}
    ours: set[str] = set()
    if MANIFEST in files:
        with tempfile.TemporaryDirectory() as cache:
            path = api.hf_hub_download(repo_id, MANIFEST, revision=info.sha, cache_dir=cache)
            with contextlib.suppress(CheckpointError):  # damaged, or another library's
                ours = {MANIFEST, *read_listing(Path(path).parent)[1]}
    foreign = sorted(name for name in files if name not in COMPANIONS and name[0] != ".")
    if foreign and not ours:
        raise InputError(
            f"{repo_id} was not pushed: it holds files that are not a pack "
            f"({', '.join(foreign[:8])}). Choose another name, or a revision of its own."
        )
    return info.sha, sorted(ours & files)


def fetch(
    path_or_repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    what: str = "pack",
) -> Path:
    """The folder of a pack: itself, or where the hub's pack of that name was downloaded to.

    `what` names it in messages. Of a repository, only the files that its manifest lists are
    fetched. Files already in the cache are used without a network.

    Raises:
        CheckpointError: If there is neither, the hub cannot be reached, or the download is
            truncated or corrupted.
        InputError: If a revision is given for a folder.
    """
    path = Path(path_or_repo_id)
    if path.exists() or hidden(path.resolve(), "old").exists():
        if revision is not None:
            raise InputError(
                f"{path} is a local folder and has no revision {revision!r}. Leave revision out; "
                f"to load {path_or_repo_id} from the hub, run from another directory."
            )
        return path
    repo_id = str(path_or_repo_id)
    if isinstance(path_or_repo_id, Path) or not REPO_ID.fullmatch(repo_id):
        return path  # loading reports that it is missing
    from huggingface_hub import snapshot_download

    source: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    at = "" if revision is None else f" at {revision}"
    missing = (
        f"{repo_id} is not a local folder, and the hub returned no {what} of that name{at}: <why>. "
        f"Check the name and the revision, the permission to read it (`hf auth login`, or "
        f"token=), and the network. Offline, only what is in the cache can be loaded."
    )
    with _from_hub(missing):
        first = snapshot_download(repo_id, revision=revision, allow_patterns=[MANIFEST], **source)
    manifest = Path(first) / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(
            f"{repo_id} is on the hub, but it is not a {what}: it has no {MANIFEST}. Packs are "
            f"written by push_to_hub."
        )
    try:
        names = sorted(read_listing(manifest.parent)[1])
        with _from_hub(missing):  # by commit, so that a push in between does not mix two
            snapshot_download(
                repo_id, revision=manifest.parent.name, allow_patterns=names, **source
            )
        verify_folder(manifest.parent)
    except _HubError:
        raise
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Remove {manifest.parents[2]} to fetch it again. If the error stays, the "
            f"files of {repo_id} itself are damaged."
        ) from error
    return manifest.parent


class _HubError(CheckpointError):
    """The hub cannot be reached, or has no such repository."""


@contextlib.contextmanager
def _from_hub(message: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's HTTP client, and so its errors, differ by version
        raise _HubError(message.replace("<why>", _first_line(error))) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}"
