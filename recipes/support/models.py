"""What the flags name: the user's own model as a frozen decoder, and networks on pixels."""

from __future__ import annotations

__all__ = ["load_decoder", "load_function", "load_networks"]

from collections.abc import Sequence

from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor, nn

import latentctl
from latentctl.cli import load_function
from latentctl.errors import InputError, UnknownNameError


def load_decoder(
    source: str | None, pretrained: str | None = None, revision: str | None = None
) -> latentctl.Decoder | None:
    """The decoder that the flags name, or None if they name none.

    Arguments:
        source: `FILE.py:FUNCTION`; the function takes nothing and returns a model that
            `latentctl.wrap` takes, or a `Decoder`.
        pretrained: Folder or hub id of a reference VAE.
        revision: Its revision on the hub.

    Raises:
        InputError: If both are given, or the file or the function does not exist.
    """
    if source and pretrained:
        raise InputError("Give --decoder or --pretrained_model_name_or_path, not both.")
    if pretrained:
        return latentctl.load(
            "conv-vae", pretrained_model_name_or_path=pretrained, revision=revision
        )
    if not source:
        return None
    model = load_function(source, "--decoder")()
    return model if isinstance(model, latentctl.Decoder) else latentctl.wrap(model)


class _Columns(nn.Module):
    """Some of what a network says, in another order."""

    def __init__(self, network: PixelClassifier, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.columns = [network.names.index(name) for name in names]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[:, self.columns]


def load_networks(folders: Sequence[str], names: Sequence[str]) -> list[nn.Module]:
    """Networks on pixels, from folders of `PixelClassifier`, that say `names` in this order.

    Raises:
        CheckpointError: If a folder holds no such network.
        UnknownNameError: If one does not know one of the names.
    """
    networks: list[nn.Module] = []
    for folder in folders:
        network = PixelClassifier.load(folder)
        for name in names:
            if name not in network.names:
                raise UnknownNameError(f"attribute of the network at {folder}", name, network.names)
        same = network.names == tuple(names)
        networks.append(network if same else _Columns(network, names))
    return networks
