"""The models that flags name: a frozen decoder, and networks on pixels."""

from __future__ import annotations

__all__ = ["DecoderFlags", "load_decoder", "load_network"]

from collections.abc import Sequence
from dataclasses import dataclass

from latentctl_adapters.pixels.classifier import PixelClassifier

import latentctl
from latentctl.cli import load_function
from latentctl.errors import InputError, UnknownNameError


@dataclass
class DecoderFlags:
    """The frozen decoder."""

    pretrained_model_name_or_path: str | None = None
    """A folder or hub id of a reference VAE, or what `--adapter` reads."""
    adapter: str = "conv-vae"  # diffusers-vae for an autoencoder of diffusers.
    revision: str | None = None  # Its revision on the hub.
    subfolder: str | None = None  # Its folder there, `vae` in a pipeline of diffusers.
    variant: str | None = None  # Which of several files of weights of diffusers, such as fp16.
    decoder: str | None = None  # FILE.py:FUNCTION that returns a model for `latentctl.wrap`.

    @property
    def named(self) -> bool:
        """Whether the flags name a decoder."""
        return bool(self.decoder or self.pretrained_model_name_or_path)


def load_decoder(flags: DecoderFlags) -> latentctl.Decoder | None:
    """The decoder that the flags name, or None if they name none.

    Raises:
        InputError: If they name two, or the file or the function does not exist.
    """
    pretrained = flags.pretrained_model_name_or_path
    if flags.decoder and pretrained:
        raise InputError("Give --decoder or --pretrained_model_name_or_path, not both.")
    if pretrained:
        names = ("revision", "subfolder", "variant")
        given = {name: value for name in names if (value := getattr(flags, name)) is not None}
        if flags.adapter != "diffusers-vae" and given.keys() - {"revision"}:
            raise InputError("--subfolder and --variant need --adapter diffusers-vae.")
        return latentctl.load(flags.adapter, pretrained_model_name_or_path=pretrained, **given)
    if not flags.decoder:
        return None
    model = load_function(flags.decoder, "--decoder")()
    return model if isinstance(model, latentctl.Decoder) else latentctl.wrap(model)


def load_network(folder: str, names: Sequence[str] = ()) -> PixelClassifier:
    """A network on pixels that has the outputs `names`, from a folder of `PixelClassifier`.

    Raises:
        CheckpointError: If the folder holds no such network.
        UnknownNameError: If it lacks one of the names.
    """
    network = PixelClassifier.from_pretrained(folder)
    for name in names:
        if name not in network.names:
            raise UnknownNameError(f"attribute of the network at {folder}", name, network.names)
    return network
