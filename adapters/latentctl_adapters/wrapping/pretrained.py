"""Saving and loading of the reference networks: `config.json` and `model.safetensors`.

The layout is that of the Hugging Face hub. The config holds what the constructor takes, and the
hash of the weights, so that a cut, altered or exchanged file is refused. Nothing is pickled.
"""

from __future__ import annotations

__all__ = ["Pretrained", "architecture", "fetch"]

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from latentctl import __version__
from latentctl.errors import CheckpointError, InputError
from latentctl.storage.weights import load_strict

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
            CheckpointError: If the disk is full or refuses.
        """
        from safetensors.torch import save

        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        weights = save(state)
        config = {
            "architecture": type(self).__name__,
            "format": FORMAT,
            "latentctl_version": __version__,
            "sha256": hashlib.sha256(weights).hexdigest(),
            **self.config,
        }
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / WEIGHTS, weights)
            _replace(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
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
            CheckpointError: If it is missing, cut, altered, of another architecture or of a later
                format, or if its weights do not fit strictly.
        """
        from safetensors.torch import load

        folder = fetch(pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir)
        config = _read_config(folder)
        name = config.pop("architecture")
        if name != cls.__name__:
            raise CheckpointError(f"{folder} holds a {name}, not a {cls.__name__}: use {name}.")
        weights = _read(folder / WEIGHTS)
        if hashlib.sha256(weights).hexdigest() != config.pop("sha256"):
            raise CheckpointError(
                f"{folder / WEIGHTS} is cut or altered: its sha256 is not the one in {CONFIG}. "
                f"Download or save it again."
            )
        try:
            model = cls(**config)
        except (TypeError, InputError) as error:
            raise CheckpointError(f"{folder / CONFIG} builds no {name}: {error}") from error
        load_strict(model, load(weights), f"weights in {folder}")
        return model.eval()


def architecture(folder: Path) -> str:
    """Name of the class that a folder was saved from."""
    return str(_read_config(folder)["architecture"])


def fetch(
    name: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The folder `name`, or the folder where the hub's model `name` was downloaded to.

    Raises:
        CheckpointError: If there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            str(name), revision=revision, cache_dir=cache_dir, allow_patterns=[CONFIG, WEIGHTS]
        )
    except (OSError, ValueError) as error:  # the hub's own errors, a bad name, no network
        raise CheckpointError(
            f"{name} is no folder, and the hub gave no model of that name "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Check the name, "
            f"the revision and the network."
        ) from error
    return Path(found)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = dict(json.loads(_read(folder / CONFIG)))
        number, version = int(config.pop("format")), config.pop("latentctl_version")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} was not written by latentctl, or it is altered ({error!r})."
        ) from error
    if number > FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG} has format {number}, this latentctl reads up to {FORMAT}: upgrade "
            f"latentctl to >= {version}."
        )
    if not {"architecture", "sha256"} <= config.keys():
        raise CheckpointError(f"{folder / CONFIG} lacks the architecture or the hash of a model.")
    return config


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
