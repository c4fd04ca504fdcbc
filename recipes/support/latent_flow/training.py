r"""Autoencoders and flows over their latents, trained one after the other or together.

In joint training the flow starts from the moments of the latents, which change while the encoder is
trained. They are running averages, buffers of the density without a gradient.

References:
    | Generative Latent Flow (Xiao et al., 2019)
    | https://arxiv.org/abs/1905.10485
"""

from __future__ import annotations

__all__ = ["Pair", "fit_flow", "perceptual_network", "train_autoencoder"]

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from latentctl_adapters.conv_vae import ConvAE, ConvVAE
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from latentctl import Latents
from latentctl.errors import InputError
from latentctl.nn.precision import double_precision
from latentctl.priors import LatentFlow
from latentctl.random import seeded
from latentctl.training import Step, train

from ..images import Images
from ..run import RunFlags
from .flags import AutoencoderFlags, FlowFlags

MOMENTUM = 0.01  # of the running moments
EMA = 0.99
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pair(nn.Module):
    """An autoencoder, a flow over its latents, and the running moments of these."""

    mean: Tensor
    covariance: Tensor

    def __init__(self, autoencoder: ConvAE, flow: LatentFlow) -> None:
        super().__init__()
        self.autoencoder, self.flow = autoencoder, flow
        self.register_buffer("mean", torch.zeros(flow.latent_shape))
        self.register_buffer("covariance", torch.eye(*flow.latent_shape * 2))

    def nll(self, z: Tensor, step: Step) -> Tensor:
        """Nats per latent, the mean over the batch."""
        with torch.no_grad():
            new = max(MOMENTUM, 1 / (step.index + 1))
            self.mean.lerp_(z.mean(0), new)
            self.covariance.lerp_(z.T.cov(), new)
        self.standardise()
        return -self.flow.log_prob(z).mean()

    @torch.no_grad()
    def standardise(self) -> None:
        """Set the whitening of the flow to the running moments."""
        white = self.flow.map.white
        variance, basis = torch.linalg.eigh(double_precision(self.covariance))
        white.mean.copy_(self.mean)
        white.basis.copy_(basis)
        white.std.copy_(variance.clamp_min(1e-6 * variance.max()).sqrt())


Reconstruction = Callable[[ConvAE, Tensor, Tensor], Tensor]


def post_hoc(model: ConvAE, x: Tensor, step: Step, recon: Reconstruction) -> Tensor:
    """A plain autoencoder, or a VAE with its prior N(0, I); the flow follows later."""
    q = model.posterior(x)
    z = q.sample(step.normal(q.mean.shape[1]))
    error = recon(model, x, z) / (2 * model.sigma_x**2)
    if q.std is None:
        return error
    prior = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    return error + kl_divergence(Normal(q.mean, q.std), prior).sum(1).mean()


def joint(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The flow is fitted to the latents; its gradient stops there."""
    z = pair.autoencoder.posterior(x).mean
    return recon(pair.autoencoder, x, z) + pair.nll(z.detach(), step)


def regularised(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The density also trains the encoder; with a small beta the latents collapse to a point."""
    z = pair.autoencoder.posterior(x).mean
    return beta * recon(pair.autoencoder, x, z) + pair.nll(z, step)


def vae_flow(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The negative evidence lower bound, up to a constant; its entropy prevents a collapse."""
    q = pair.autoencoder.posterior(x)
    z = q.sample(step.normal(q.mean.shape[1]))
    entropy = q.std.log().sum(1).mean()
    return beta * recon(pair.autoencoder, x, z) + pair.nll(z, step) - entropy


TOGETHER = {"joint": joint, "regularised": regularised, "vae-flow": vae_flow}


def reconstruction(network: nn.Module | None) -> Reconstruction:
    """The squared error, summed over pixels, plus L1 distances of features of a network."""

    def error(model: ConvAE, x: Tensor, z: Tensor) -> Tensor:
        y = model.decode(z)
        total = (y - x).square().flatten(1).sum(1).mean()
        if network is not None:
            pairs = zip(network(y), network(x), strict=True)
            total = total + sum((a - b).abs().flatten(1).sum(1).mean() for a, b in pairs)
        return total

    return error


class _Features(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        found: list[Tensor] = self.net(F.pad(x, (2, 2, 2, 2)) if x.shape[-1] < 32 else x)
        return found


def perceptual_network(name: str | None, weights: str | None = None) -> nn.Module | None:
    """Features of the first four levels of a pretrained timm network, for images in [0, 1].

    Raises:
        InputError: If there is no such network, or its weights cannot be loaded.
    """
    if name is None:
        return None
    try:
        import timm
    except ImportError as error:
        raise InputError("--perceptual needs timm: pip install 'latentctl[timm]'.") from error
    overlay = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    try:
        net = timm.create_model(
            name, pretrained=True, features_only=True, out_indices=(0, 1, 2, 3), **overlay
        )
    except Exception as error:  # of timm, the hub or the file system
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(
            f"--perceptual {name}: the pretrained network cannot be loaded "
            f"({type(error).__name__}: {reason}). Check its name and the connection, pass a local "
            f"file as --perceptual_weights, or leave --perceptual out."
        ) from error
    return _Features(net)


def train_autoencoder(
    images: Images,
    base: AutoencoderFlags,
    flow: FlowFlags,
    run: RunFlags,
    accelerator: Accelerator,
) -> tuple[ConvAE, LatentFlow | None]:
    """The autoencoder and, unless `--training post-hoc`, the flow that is trained with it."""
    together = flow.training != "post-hoc"
    variational = flow.training == "vae-flow" or base.autoencoder == "vae"
    network = perceptual_network(base.perceptual, base.perceptual_weights)
    recon = reconstruction(None if network is None else network.to(accelerator.device))
    with seeded(run.seed, "autoencoder"):
        model = (ConvVAE if variational else ConvAE)(
            resolution=images.images.shape[-1],
            channels=images.images.shape[1],
            latent_size=base.latent_size,
            width=base.width,
            sigma_x=base.sigma_x,
        )
        prior = LatentFlow(
            (base.latent_size,), flow.kind, width=flow.flow_width, blocks=flow.blocks
        )
    pair = Pair(model, prior)
    groups: list[dict[str, Any]] = [{"params": model.parameters()}]
    if together:
        groups.append({"params": prior.parameters(), "lr": flow.flow_learning_rate})

    def loss(batch: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch.float() / 255
        if together:
            return TOGETHER[flow.training](pair, x, step, recon, flow.beta), {}
        return post_hoc(model, x, step, recon), {}

    train(
        pair,
        loss,
        images,
        name="pair",
        learning_rate=base.autoencoder_learning_rate,
        parameters=groups,
        ema=EMA,
        max_train_steps=base.max_train_steps,
        **run.fit_options(
            accelerator,
            "training/autoencoder",
            base.train_batch_size,
            lr_scheduler="cosine",
            lr_warmup_steps=min(50, base.max_train_steps // 10),
        ),
    )
    if not together:
        return model, None
    pair.standardise()
    return model, prior


def fit_flow(
    latents: Latents, flags: FlowFlags, run: RunFlags, accelerator: Accelerator
) -> LatentFlow:
    """The flow, fitted to the cached latents of a frozen autoencoder."""
    return LatentFlow.fit(
        latents,
        flags.kind,
        width=flags.flow_width,
        blocks=flags.blocks,
        max_train_steps=flags.flow_train_steps,
        learning_rate=flags.flow_learning_rate,
        **run.fit_options(accelerator, "training/flow", flags.flow_batch_size),
    )
