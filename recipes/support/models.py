"""The models that flags name: a frozen decoder, and networks on pixels."""

from __future__ import annotations

__all__ = ["DecoderFlags", "load_decoder", "load_networks"]

from collections.abc import Sequence
from dataclasses import dataclass

from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor, nn

import latentctl
from latentctl.cli import load_function
from latentctl.errors import InputError, UnknownNameError


@dataclass
class DecoderFlags:
    """The frozen decoder."""

    pretrained_model_name_or_path: str | None = None  # A folder or hub id of a reference VAE.
    revision: str | None = None  # Its revision on the hub.
    decoder: str | None = None  # FILE.py:FUNCTION that returns a model for `latentctl.wrap`.


def load_decoder(flags: DecoderFlags) -> latentctl.Decoder | None:
    """The decoder that the flags name, or None if they name none.

    Raises:
        InputError: If they name two, or the file or the function does not exist.
    """
    pretrained = flags.pretrained_model_name_or_path
    if flags.decoder and pretrained:
        raise InputError("Give --decoder or --pretrained_model_name_or_path, not both.")
    if pretrained:
        return latentctl.load(
            "conv-vae", pretrained_model_name_or_path=pretrained, revision=flags.revision
        )
    if not flags.decoder:
        return None
    model = load_function(flags.decoder, "--decoder")()
    return model if isinstance(model, latentctl.Decoder) else latentctl.wrap(model)


class _Columns(nn.Module):
    """Some outputs of a network, in another order."""

    def __init__(self, network: PixelClassifier, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.columns = [network.names.index(name) for name in names]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[:, self.columns]


def load_networks(folders: Sequence[str], names: Sequence[str]) -> list[nn.Module]:
    """Networks on pixels, from folders of `PixelClassifier`, with the outputs `names` in order.

    Raises:
        CheckpointError: If a folder holds no such network.
        UnknownNameError: If one lacks one of the names.
    """
    networks: list[nn.Module] = []
    for folder in folders:
        network = PixelClassifier.from_pretrained(folder)
        for name in names:
            if name not in network.names:
                raise UnknownNameError(f"attribute of the network at {folder}", name, network.names)
        same = network.names == tuple(names)
        networks.append(network if same else _Columns(network, names))
    return networks
