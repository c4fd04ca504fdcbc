r"""Trained autoencoders of pythae as frozen decoders.

The latent is the input of pythae's decoder network. For a VAE the posterior is that of its encoder,

.. math:: q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}(\exp \log \sigma^2(x)))

with `embedding` as the mean and `log_covariance` as the log-variance. It is a point

- for plain, Wasserstein and regularised autoencoders, and for an adversarial one that was trained
  with a deterministic posterior;
- for a VAE with a flow after its encoder (`VAE_IAF`, `VAE_LinNF`): the mean, mapped by the flow;
- for a Hamiltonian VAE (`HVAE`, `RHVAE`), which draws its latent by a random walk from the
  encoder's mean: that mean.

A `VQVAE` has the latent before quantisation, and quantises as it decodes. Its samples are a step
function of `z`, the gradient at `z` is straight-through, and `differentiable` is False.

N(0, I) is the prior that a VAE was trained with. It does not hold for plain autoencoders, a VQVAE,
or a `VAMP`, whose prior is a mixture: fit a flow and use `decoder.through(flow)`. Latents on a
sphere or in hyperbolic space (`SVAE`, `PoincareVAE`) are refused.

References:
    | Pythae: Unifying Generative Autoencoders in Python (Chadebec et al., 2022)
    | https://arxiv.org/abs/2206.08309
"""

from __future__ import annotations

__all__ = ["PythaeModel", "accepts", "load", "wrap"]

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentctl.decoder import Decoder, Gaussian, Posterior
from latentctl.decoder.frozen import frozen_view
from latentctl.errors import AdapterError, CheckpointError

from . import torch_module
from .wrapping.trial import Trial

CURVED = {"SVAE": "a sphere", "PoincareVAE": "hyperbolic space"}
WALKS = {"HVAE", "RHVAE"}


class PythaeModel(nn.Module):
    """A model of pythae with the two methods that a decoder needs.

    Arguments:
        model: The model; it becomes a submodule.

    Raises:
        AdapterError: If its latents are not vectors of real numbers without constraint.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.kinds = {base.__name__ for base in type(model).__mro__}
        for kind, space in CURVED.items():
            if kind in self.kinds:
                raise AdapterError(
                    f"The latents of a {kind} lie on {space}, where a straight move or a normal "
                    f"prior has no meaning. Train a VAE, or pass encode= and decode= that map to "
                    f"and from flat coordinates."
                )
        self.model = model

    def encode(self, x: Tensor) -> Posterior:
        """The posterior of samples `x (B, *input_dim)`."""
        out, model = self.model.encoder(x), self.model
        mean = out["embedding"]
        if "VAE_IAF" in self.kinds:
            return Posterior(model.iaf_flow.inverse(mean).out)
        if "VAE_LinNF" in self.kinds:
            for layer in model.net:
                mean = layer(mean).out
            return Posterior(mean)
        point = self.kinds & WALKS or getattr(model, "deterministic_posterior", False)
        if "VAE" not in self.kinds or point:
            return Posterior(mean)
        return Posterior(mean, torch.exp(0.5 * out["log_covariance"]))

    def decode(self, z: Tensor) -> Tensor:
        """Samples `(B, *input_dim)` of latents `z (B, *latent_shape)`."""
        if "VQVAE" in self.kinds:
            grid = z if z.ndim == 4 else z[:, None, None]  # vectors are quantised by number
            z = self.model.quantizer(grid.permute(0, 2, 3, 1)).quantized_vector.reshape(z.shape)
        return self.paint(z)

    def paint(self, z: Tensor) -> Tensor:
        """The output of the decoder network for `z`, without quantisation."""
        x: Tensor = self.model.decoder(z)["reconstruction"]
        return x


def accepts(model: object) -> bool:
    """Whether `model` is an autoencoder of pythae, or of a class derived from one."""
    return any(
        base.__name__ == "BaseAE" and base.__module__.startswith("pythae.")
        for base in type(model).__mro__
    )


def load(
    *, pretrained_model_name_or_path: str | Path, allow_pickle: bool = False, **options: Any
) -> Decoder:
    """The decoder of a model that pythae has saved in a folder.

    Arguments:
        pretrained_model_name_or_path: The folder, with `model_config.json` and `model.pt`.
        allow_pickle: Also read networks of the user's own (`encoder.pkl`, `decoder.pkl`). Reading
            a pickle runs whatever code is in it.
        options: As in `latentctl.wrap`.

    Raises:
        CheckpointError: If it is missing, truncated or corrupted.
        AdapterError: If it holds pickles that were not allowed.
    """
    folder = Path(pretrained_model_name_or_path)
    if not (folder / "model_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds no model_config.json of pythae. Pass the folder that model.save(...) "
            f"wrote, or `final_model` of a training run; from the hub, download it first."
        )
    pickles = sorted(file.name for file in folder.glob("*.pkl"))
    if pickles and not allow_pickle:
        raise AdapterError(
            f"{folder} holds {', '.join(pickles)}, and reading a pickle runs the code in it. If "
            f"you trust its source, pass allow_pickle=True."
        )
    from pythae.models import AutoModel

    try:
        model = AutoModel.load_from_folder(str(folder))
    except Exception as error:  # pythae passes on errors of json, torch and its own classes
        words = (str(error).strip().splitlines() or [""])[0][:300]
        raise CheckpointError(
            f"pythae cannot load {folder} ({type(error).__name__}: {words}). Save or download it "
            f"again, with the version of pythae that wrote it."
        ) from error
    return wrap(model, **options)


def wrap(model: Any, **options: Any) -> Decoder:
    """The frozen decoder of a model of pythae, with `options` as in `latentctl.wrap`.

    Raises:
        AdapterError: If the latents are not flat, or the trial run fails.
    """
    if options.keys() & {"encode", "decode"}:
        return torch_module.wrap(model, **options)
    root = PythaeModel(model)
    if "latent_shape" not in options and getattr(model, "input_dim", None) is not None:
        options["latent_shape"] = _latent_shape(root, tuple(model.input_dim))
    options.setdefault("latent_shape", (model.latent_dim,))
    name, quantised = type(model).__name__, "VQVAE" in root.kinds
    if quantised and "value_range" not in options:
        # the finite set of codes bounds the output of any network, so that it is tried alone
        trial = Trial(frozen_view(root), None, "paint", name)
        found, _ = trial.samples(Gaussian(options["latent_shape"]))
        options["value_range"] = found or (-math.inf, math.inf)
    decoder = torch_module.wrap(root, **options)
    decoder.name = name
    decoder.differentiable = decoder.differentiable and not quantised
    return decoder


@torch.no_grad()
def _latent_shape(root: PythaeModel, input_dim: tuple[int, ...]) -> tuple[int, ...]:
    view = frozen_view(root)
    weight = next(view.parameters())
    x = torch.zeros(2, *input_dim, device=weight.device, dtype=weight.dtype)
    try:
        return tuple(view.encode(x).mean.shape[1:])  # type: ignore[operator]
    except Exception as error:
        raise AdapterError(
            f"The encoder of {type(root.model).__name__} does not take samples {input_dim}, its "
            f"input_dim ({type(error).__name__}: {error}). Pass encode= and decode=."
        ) from error
