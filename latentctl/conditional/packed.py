"""A `Conditional` as a pack: saved, loaded, described by a card, pushed to the hub."""

from __future__ import annotations

__all__ = ["Packed"]

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..critics import PixelCritic
from ..decoder import Decoder
from .card import card_of
from .facts import for_card
from .hub import fetch, push
from .pack import load_pack, save_pack
from .parts import fitting_parts
from .sums import Sums

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard
    from typing_extensions import Self


class Packed(Sums):
    """The methods of a `Conditional` that write and read packs."""

    def save_pretrained(self, path: str | Path) -> Path:
        """Saves the trained parts as a pack: a folder without the decoder's weights.

        Raises:
            InputError: If the critic, the controller or the prior is not one of latentctl's own.
            CheckpointError: If the disk is full, or `path` holds other files.
        """
        return save_pack(path, **self.parts)

    def model_card(self, repo_id: str, **options: Any) -> ModelCard:
        """The card of the pack; `options` are those of `latentctl.conditional.card.model_card`."""
        own = self.parts
        found = {"guarantee": own["guarantee"], "doses": own["doses"]}
        return card_of(repo_id, for_card(**own), **found, **options)

    def push_to_hub(
        self, repo_id: str, *, card: ModelCard | None = None, **options: Any
    ) -> CommitInfo:
        """Pushes the pack, without the decoder's weights, to the model hub, as one commit.

        An older pack and its card are replaced; other files stay.

        Arguments:
            repo_id: `"name"` or `"owner/name"`; the repository is made if there is none.
            card: From `model_card`, which takes scores and licences; without them by default.
            options: `private`, `token`, `revision` and `commit_message` of
                `latentctl.conditional.hub.push`.

        Returns:
            The commit; its `oid` is the `revision` that gives exactly this pack.

        Raises:
            InputError: If the repository holds something else than a pack, or a part cannot be
                saved.
            CheckpointError: If the hub cannot be reached, or refuses.
        """
        with tempfile.TemporaryDirectory() as temporary:
            return push(
                self.save_pretrained(Path(temporary) / "pack"),
                repo_id,
                card=lambda name: self.model_card(name) if card is None else card,
                **options,
            )

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        decoder: Decoder | nn.Module,
        *,
        refine_with: PixelCritic | None = None,
        evaluator: PixelCritic | None = None,
        **options: Any,
    ) -> Self:
        """Loads a pack on the decoder that it was made for.

        Arguments:
            path_or_repo_id: A folder, or, if there is none of that name, `"owner/name"` on the hub.
                Checksums are verified in both cases.
            decoder: The decoder whose weights the pack was made for, or its bare model, which is
                wrapped. Of a pack for `decoder.through(flow)`, also the decoder without the flow.
            refine_with: As in `condition`; a pack holds no networks on samples.
            evaluator: As in `condition`; a guarantee is of one evaluator, and is left out without
                it.
            options: `revision`, `token` and `cache_dir` of `latentctl.conditional.hub.fetch`.

        Raises:
            CheckpointError: If the pack is missing, truncated, corrupted, or of a later format, or
                the hub cannot be reached.
            FingerprintError: If it was made for another decoder.
            AdapterError: If a bare model cannot be wrapped.
        """
        path = fetch(path_or_repo_id, **options)
        parts = load_pack(path, decoder, refine_with=refine_with, evaluator=evaluator)
        measured = {key: parts.pop(key) for key in ("guarantee", "doses")}
        return cls(**fitting_parts(**parts), **measured)
