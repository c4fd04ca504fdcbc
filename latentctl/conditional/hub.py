"""Packs on the hub: pushed as one commit with a card that says what they are, and fetched.

A repository holds the files of a pack as `save_pretrained` writes them, and `README.md`, the card.
The manifest does not list the card, so that it can be corrected on the hub without breaking the
pack. A push is one commit: whoever loads meets the older pack or the newer one, never a mixture.
"""

from __future__ import annotations

__all__ = ["fetch", "model_card", "push"]

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, InputError
from ..storage.folder import COMPANIONS, MANIFEST, hidden, verify_folder
from .card import REPO_ID, Scores, card_text, found_base_model

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi, ModelCard

    from .conditional import Conditional

CARD = "README.md"


def model_card(
    conditional: Conditional,
    repo_id: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    base_license: str | None = None,
    scores: Scores | None = None,
    measured_on: str | None = None,
) -> ModelCard:
    """The card of a pack: what it is, what it was made for, how well it works, and its limits.

    The result is huggingface_hub's own: `card.data` is the front matter, `card.text` the rest, and
    both may be changed before the push.

    Arguments:
        conditional: What the card is about.
        repo_id: Where it will be, for the lines of code that load it.
        license: Identifier of the pack's own licence on the hub, such as `"mit"`.
        base_model: Id of the decoder on the hub; read off its config where it was loaded by id.
        base_license: Licence of the decoder.
        scores: Figures to show: rows as `[{"attribute": "Smiling", "accuracy": 0.98}, ...]`,
            values by name, or either of them by title, as in the `results.json` of a recipe.
        measured_on: What the figures were measured on, and by whose judgement.

    Example:
        >>> import torch, latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> critic = latentctl.AttributeCritic((4,), ["Smiling", "Male"], width=16)
        >>> card = model_card(latentctl.condition(decoder, critic), "me/faces", license="mit")
        >>> card.data.library_name, card.data.license
        ('latentctl', 'mit')
        >>> "No scores were given" in card.text
        True
    """
    from huggingface_hub import ModelCard, ModelCardData

    base_model = base_model or found_base_model(conditional.decoder.model)
    data = ModelCardData(
        library_name="latentctl",
        license=license,
        base_model=base_model,
        tags=["latentctl", "latent-space", "conditional-generation"],
    )
    if base_model is not None:
        data["base_model_relation"] = "adapter"  # the hub would take it for fine-tuned weights
    text = card_text(
        conditional,
        repo_id,
        base_model=base_model,
        base_license=base_license,
        scores=scores,
        measured_on=measured_on,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def push(
    conditional: Conditional,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    card: ModelCard | None = None,
) -> CommitInfo:
    """Pushes a pack and its card, as `Conditional.push_to_hub` says."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = conditional.save_pretrained(Path(temporary) / "pack")
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            head, replaced = _replaced(api, repo_id, revision, temporary)
            card = card if card is not None else model_card(conditional, repo_id)
            new = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
            new[CARD] = str(card).encode()
            return api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(name, data) for name, data in new.items()),
                    *(CommitOperationDelete(name) for name in sorted(replaced - new.keys())),
                ],
                commit_message=commit_message or "Push a pack of latentctl",
                revision=revision,
                parent_commit=head,
            )
        except InputError:
            raise
        except Exception as error:  # the hub's HTTP client, and so its errors, differ by version
            raise CheckpointError(
                f"{repo_id} was not pushed: {_first_line(error)}. Check the name, the network, and "
                f"that `hf auth login` or token= gives the right to write there. A pack that was "
                f"there before is whole; save_pretrained saves this one to a folder."
            ) from error


def _replaced(
    api: HfApi, repo_id: str, revision: str | None, temporary: str
) -> tuple[str | None, set[str]]:
    """The commit that a push follows, and the files of the pack that it replaces."""
    info = api.model_info(repo_id, revision=revision)
    files = {sibling.rfilename for sibling in info.siblings or ()}
    ours: set[str] = set()
    if MANIFEST in files:
        ours = _listed(
            Path(api.hf_hub_download(repo_id, MANIFEST, revision=info.sha, cache_dir=temporary))
        )
    foreign = sorted(name for name in files if name not in COMPANIONS and name[0] != ".")
    if foreign and not ours:
        raise InputError(
            f"{repo_id} was not pushed: it holds something else than a pack "
            f"({', '.join(foreign[:8])}). Choose another name, or a revision of its own."
        )
    return info.sha, ours & files


def fetch(
    path_or_repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a pack: itself, or where the hub's pack of that name was downloaded to.

    Of a repository, only the files that its manifest lists are fetched. What is in the cache
    already is used without a network.

    Raises:
        CheckpointError: If there is neither, the hub cannot be reached, or what came from it is
            cut or altered.
        InputError: If a revision is asked of a folder.
    """
    path = Path(path_or_repo_id)
    if path.exists() or hidden(path.resolve(), "old").exists():
        if revision is not None:
            raise InputError(
                f"{path} is a folder here, and has no revision {revision!r}. Leave revision out, "
                f"or, if you mean the hub's {path_or_repo_id}, load it from another directory."
            )
        return path
    repo_id = str(path_or_repo_id)
    if isinstance(path_or_repo_id, Path) or not REPO_ID.fullmatch(repo_id):
        return path  # loading says that it is missing
    from huggingface_hub import snapshot_download

    source: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    try:
        first = snapshot_download(repo_id, revision=revision, allow_patterns=[MANIFEST], **source)
        manifest = Path(first) / MANIFEST
        if manifest.is_file():
            # by commit, so that a push in between does not mix two packs
            commit, names = manifest.parent.name, sorted(_listed(manifest))
            snapshot_download(repo_id, revision=commit, allow_patterns=names, **source)
    except Exception as error:  # the hub's HTTP client, and so its errors, differ by version
        at = "" if revision is None else f" at {revision}"
        raise CheckpointError(
            f"{repo_id} is no folder, and the hub gave no pack of that name{at}: "
            f"{_first_line(error)}. Check the name and the revision, that you may read it "
            f"(`hf auth login`, or token=), and the network. Offline, only what was fetched "
            f"before can be loaded."
        ) from error
    if not manifest.is_file():
        raise CheckpointError(
            f"{repo_id} is on the hub, but it is no pack: it has no {MANIFEST}. Packs are written "
            f"by push_to_hub."
        )
    try:
        verify_folder(manifest.parent)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Remove {manifest.parents[2]} to fetch it again; if it is the same then, "
            f"{repo_id} itself is damaged."
        ) from error
    return manifest.parent


def _listed(manifest: Path) -> set[str]:
    """Names of the files of a pack; none if this is the manifest of something else."""
    try:
        return {MANIFEST, *json.loads(manifest.read_bytes())["files"]}
    except (ValueError, KeyError, TypeError):
        return set()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no further word"
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}"
