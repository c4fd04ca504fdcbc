"""Saving and loading of the reference networks, in a folder or from the hub.

They are saved as all modules of latentctl are (`latentctl.storage`): configuration and weights in
one folder that is replaced atomically, with a hash of every byte. Nothing is pickled.
"""

from __future__ import annotations

__all__ = ["Pretrained", "loader"]

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.conditional.hub import fetch
from latentctl.decoder import Decoder
from latentctl.storage import Saved

if TYPE_CHECKING:
    from typing_extensions import Self


class Pretrained(Saved):
    """A network that is saved with the arguments it was built from, `config`."""

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the folder `path`, in place of an older one.

        Raises:
            CheckpointError: If the disk is full, a file cannot be written, or `path` holds files
                of others.
        """
        return self.save(path)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """The network that `save_pretrained` wrote, in evaluation mode.

        Arguments:
            pretrained_model_name_or_path: A folder, or the id of a model on the hub.
            revision: Branch, tag or commit on the hub.
            cache_dir: Where downloads are kept.

        Raises:
            CheckpointError: If it is missing, truncated, corrupted, of another architecture or of
                a later format, or if its weights do not fit strictly.
        """
        folder = fetch(
            pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir, what="model"
        )
        return cls.load(folder)


def loader(wrap: Callable[[Any], Decoder], network: type[Pretrained]) -> Callable[..., Decoder]:
    """The way to load a network or its subclasses, which their adapter defines as its `load`."""

    def load(
        *,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Decoder:
        """The decoder of a saved network, with arguments as in `Pretrained.from_pretrained`."""
        found = network.from_pretrained(
            pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir
        )
        return wrap(found)

    return load
