r"""Generative Latent Flow on images: `accelerate launch recipes/latent_flow.py --dataset_name ...`.

A flow :math:`f` over the latents of an autoencoder gives it a prior, an exact density and samples.
`--training` says how the two meet; the losses stand side by side below:

    post-hoc      the autoencoder first, or a frozen one of yours; then the flow, on cached latents
    joint         both at once; the flow's loss stops at the latents (the paper's GLF)
    regularised   both at once, and the flow's loss reaches the encoder
    vae-flow      the stochastic twin: a VAE whose prior is the flow, learned with it

In the last three the flow begins with the moments of the latents, which move while the encoder
learns. They are running averages, parameters of the density that no gradient reaches.

    --train_data_dir DIR or --dataset_name ID           the images
    --pretrained_model_name_or_path DIR_OR_ID           post-hoc: a trained reference VAE
    --decoder FILE.py:FUNCTION                          post-hoc: your own model

`--output_dir` gets `autoencoder/` (as `latentctl.load("conv-vae", ...)` reads it), `flow/` (weights
and the arguments of `LatentFlow`), `results.json` and pictures.

References:
    | Generative Latent Flow (Xiao et al., 2019)
    | https://arxiv.org/abs/1905.10485
"""

from __future__ import annotations

__all__ = ["Pair", "main", "train_autoencoder"]

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from latentctl_adapters.conv_vae import ConvAE, ConvVAE
from pretrain_vae import RunFlags
from support.images import Images, load_images
from support.latent_flow.flags import AutoencoderFlags, Flags, FlowFlags, check
from support.latent_flow.report import evaluate, perceptual_network, pictures, save_flow
from support.models import load_decoder
from support.run import run
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import latentctl
from latentctl import Latents
from latentctl.priors import LatentFlow
from latentctl.random import seeded
from latentctl.training import Player, Step, fit

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTUM = 0.01  # of the running moments
EMA = 0.99


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
        """Give the flow the running moments."""
        white = self.flow.map.white
        variance, basis = torch.linalg.eigh(self.covariance.double())
        white.mean.copy_(self.mean)
        white.basis.copy_(basis)
        white.std.copy_(variance.clamp_min(1e-6 * variance.max()).sqrt())


Reconstruction = Callable[[ConvAE, Tensor, Tensor], Tensor]


def post_hoc(model: ConvAE, x: Tensor, step: Step, recon: Reconstruction) -> Tensor:
    """A plain autoencoder, or a VAE with its N(0, I); there is no flow yet."""
    q = model.posterior(x)
    z = q.sample(step.normal(q.mean.shape[1]))
    error = recon(model, x, z) / (2 * model.sigma_x**2)
    if q.std is None:
        return error
    prior = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    return error + kl_divergence(Normal(q.mean, q.std), prior).sum(1).mean()


def joint(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The flow learns where the latents are, and the encoder does not know of it."""
    z = pair.autoencoder.posterior(x).mean
    return recon(pair.autoencoder, x, z) + pair.nll(z.detach(), step)


def regularised(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The encoder also learns to be likely; a small beta lets the latents collapse to a point."""
    z = pair.autoencoder.posterior(x).mean
    return beta * recon(pair.autoencoder, x, z) + pair.nll(z, step)


def vae_flow(pair: Pair, x: Tensor, step: Step, recon: Reconstruction, beta: float) -> Tensor:
    """The entropy of the posterior keeps the latents from collapsing (up to a constant)."""
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


def train_autoencoder(
    images: Images,
    base: AutoencoderFlags,
    flow: FlowFlags,
    run: RunFlags,
    accelerator: Accelerator,
) -> tuple[ConvAE, LatentFlow | None]:
    """The autoencoder and, unless `--training post-hoc`, the flow that was trained with it."""
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
    groups = [{"params": model.parameters(), "lr": base.autoencoder_learning_rate}]
    if together:
        groups.append({"params": prior.parameters(), "lr": flow.flow_learning_rate})

    def loss(batch: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch.float() / 255
        if together:
            return TOGETHER[flow.training](pair, x, step, recon, flow.beta), {}
        return post_hoc(model, x, step, recon), {}

    player = Player("pair", pair, loss, torch.optim.Adam(groups), ema=EMA)
    parts = accelerator.num_processes * run.gradient_accumulation_steps
    history = fit(
        player,
        images,
        max_train_steps=base.max_train_steps,
        batch_size=base.train_batch_size * parts,
        lr_scheduler="cosine",
        lr_warmup_steps=min(50, base.max_train_steps // 10),
        **run.fit_options(accelerator, "training/autoencoder"),
    )
    pair.load_state_dict(history.averaged["pair"].state_dict())
    if not together:
        return model.eval(), None
    pair.standardise()
    return model.eval(), prior.eval()


def main(flags: Flags) -> dict[str, Any]:
    logging.basicConfig(format="%(message)s")
    check(flags)
    started = time.monotonic()
    run = flags.run
    accelerator = run.accelerator("latent_flow")
    folder = Path(run.output_dir)
    splits = load_images(flags.data, run.seed)
    base, flow = flags.base, None
    decoder = load_decoder(base.decoder, base.pretrained_model_name_or_path, base.revision)
    if decoder is None:
        model, flow = train_autoencoder(splits["train"], base, flags.flow, run, accelerator)
        if accelerator.is_main_process:
            model.save_pretrained(folder / "autoencoder")
        decoder = latentctl.wrap(model)
    decoder.to(accelerator.device)
    cache = folder / "cache" / decoder.fingerprint()[:16]
    latents = latentctl.encode_dataset(
        decoder, splits["train"], cache, batch_size=256, accelerator=accelerator
    )
    if flow is None:
        flow = fit_flow(latents, flags.flow, run, accelerator)
    flow.to(accelerator.device)
    results: dict[str, Any] = {}
    if accelerator.is_main_process:
        save_flow(flow, decoder, folder / "flow")
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
        results = evaluate(decoder, flow, splits["test"].pixels())
        results["seconds"] = time.monotonic() - started
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        for name, picture in pictures(decoder, flow, latents, splits["test"].pixels()).items():
            (folder / name).write_bytes(picture)
        print(f"{flags.flow.training}, {flow.kind} flow: {folder}")
        for name, value in results.items():
            print(f"  {name.replace('_', ' '):<40} {value:.4g}")
    accelerator.end_training()
    return results


def fit_flow(
    latents: Latents, flags: FlowFlags, run: RunFlags, accelerator: Accelerator
) -> LatentFlow:
    """The flow on the cached latents of an autoencoder that stays as it is."""
    options = run.fit_options(accelerator, "training/flow")
    if run.max_grad_norm is None:  # then the flow's own default is in force
        del options["max_grad_norm"]
    parts = accelerator.num_processes * run.gradient_accumulation_steps
    return LatentFlow.fit(
        latents,
        flags.kind,
        width=flags.flow_width,
        blocks=flags.blocks,
        max_train_steps=flags.flow_train_steps,
        batch_size=flags.flow_batch_size * parts,
        learning_rate=flags.flow_learning_rate,
        **options,
    )


if __name__ == "__main__":
    run(main, Flags)
