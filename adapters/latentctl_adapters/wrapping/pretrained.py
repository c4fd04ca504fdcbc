"""Saving and loading of the reference networks: `config.json` and `model.safetensors`.

The file names are those of the Hugging Face hub. The config holds the arguments of the constructor
and the hashes of itself and of the weights, so that a truncated, corrupted or exchanged file is
refused. Nothing is pickled.
"""

from __future__ import annotations

__all__ = ["Pretrained", "arguments", "loader"]

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from latentctl.decoder import Decoder
from latentctl.errors import CheckpointError, InputError
from latentctl.storage import load_strict
from latentctl.storage.files import sealed, unsealed, write_atomic

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Pretrained(nn.Module):
    """A network that is saved with the arguments it was built from, `config`."""

    config: dict[str, Any]

    def save_pretrained(self, path: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into the folder `path`.

        Raises:
            CheckpointError: If the disk is full or a file cannot be written.
        """
        from safetensors.torch import save

        weights = save({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()})
        manifest = {
            "architecture": type(self).__name__,
            "format": FORMAT,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "config": self.config,
        }
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / WEIGHTS, weights)
            write_atomic(folder / CONFIG, sealed(manifest))
        except OSError as error:
            raise CheckpointError(
                f"{folder} was not saved: {error}. Free some disk space, or choose another "
                f"folder, and save again."
            ) from error

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
        folder = _fetch(pretrained_model_name_or_path, revision, cache_dir)
        model: Self = _build(folder, {cls.__name__: cls})
        return model


def arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor by name, from its `locals()` at the start."""
    return {k: v for k, v in scope.items() if k not in ("self", "__class__")}


def loader(wrap: Callable[[Any], Decoder], *classes: type[Pretrained]) -> Callable[..., Decoder]:
    """The way to load these classes, which their adapter defines as its `load`."""

    def load(
        *,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Decoder:
        """The decoder of a saved network, with arguments as in `Pretrained.from_pretrained`."""
        folder = _fetch(pretrained_model_name_or_path, revision, cache_dir)
        return wrap(_build(folder, {cls.__name__: cls for cls in classes}))

    return load


def _build(folder: Path, classes: Mapping[str, type[Any]]) -> Any:
    from safetensors.torch import load

    advice = "Download or save it again."
    manifest = unsealed(_read(folder / CONFIG), folder / CONFIG, FORMAT, CheckpointError, advice)
    name = str(manifest.get("architecture"))
    if name not in classes:
        raise CheckpointError(f"{folder} holds a {name}, not a {' or '.join(classes)}.")
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != manifest["weights_sha256"]:
        raise CheckpointError(
            f"{folder / WEIGHTS} is truncated or corrupted: its sha256 is not the one in {CONFIG}. "
            f"{advice}"
        )
    try:
        model = classes[name](**manifest["config"])
    except (TypeError, InputError) as error:
        raise CheckpointError(f"{folder / CONFIG} builds no {name}: {error}") from error
    load_strict(model, load(weights), f"weights in {folder}")
    return model.eval()


def _fetch(name: str | Path, revision: str | None, cache_dir: str | Path | None) -> Path:
    """The folder `name`, or the folder where the hub's model `name` was downloaded to."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            str(name), revision=revision, cache_dir=cache_dir, allow_patterns=[CONFIG, WEIGHTS]
        )
    except (OSError, ValueError) as error:  # the hub's own errors, a bad name, no network
        raise CheckpointError(
            f"{name} is not a folder, and the hub returned no model of that name "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Check the name, "
            f"the revision and the network."
        ) from error
    return Path(found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
