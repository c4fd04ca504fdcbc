"""The user's own model, or a pretrained reference one, as a frozen decoder."""

from __future__ import annotations

__all__ = ["load_decoder", "load_function"]

import latentctl
from latentctl.errors import InputError
from latentctl.user_function import load_function


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
