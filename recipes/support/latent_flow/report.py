"""The evaluation of `latent_flow`, and its pictures."""

from __future__ import annotations

__all__ = ["evaluate", "pictures"]

import torch
from torch import Tensor

import latentctl
from latentctl import Latents
from latentctl.decoder import Gaussian
from latentctl.display.picture import grid, png
from latentctl.priors import LatentFlow
from latentctl.random import noise

SCORED = {"coupling": 2000, "spline": 2000, "matching": 64}  # latents with a density
BATCH = 256  # images at once


@torch.no_grad()
def evaluate(decoder: latentctl.Decoder, flow: LatentFlow, x: Tensor) -> dict[str, float]:
    """Held-out density, and whether the decoder reconstructs the same through the flow."""
    through = decoder.through(flow)
    q = decoder.encode(x, batch_size=BATCH)
    plain = decoder.decode(q.mean, batch_size=BATCH).cpu()
    e = through.encode(x, batch_size=BATCH).mean
    bent = through.decode(e, batch_size=BATCH).cpu()
    z = mean = q.mean[: SCORED[flow.kind]]
    if q.std is not None:
        eps = noise(0, len(mean), mean.shape[1:], seed=0).to(mean.device)
        z = mean + q.std[: len(mean)] * eps
    gaussian = Gaussian(decoder.latent_shape, z.mean(0), z.std(0)).to(z.device)
    size = z[0].numel()
    return {
        "nats_per_dimension": -flow.log_prob(z).mean().item() / size,
        "nats_per_dimension_of_a_gaussian": -gaussian.log_prob(z).mean().item() / size,
        "reconstruction_error": (plain - x.cpu()).square().mean().item(),
        "reconstruction_error_through_the_flow": (bent - x.cpu()).square().mean().item(),
        "largest_change_of_a_pixel": (bent - plain).abs().max().item(),
        "largest_round_trip_error": flow.check_invertible(mean),
    }


@torch.no_grad()
def pictures(
    decoder: latentctl.Decoder, flow: LatentFlow, latents: Latents, x: Tensor, *, seed: int = 0
) -> dict[str, bytes]:
    """Reconstructions; samples without and with the flow; interpolations in base noise."""
    through, limits = decoder.through(flow), decoder.value_range
    few = x[:10].to(decoder.device)
    rows = [few, decoder.decode(decoder.encode(few).mean)]
    rows.append(through.decode(through.encode(few).mean))
    plain = decoder.prior if latents.std is not None else Gaussian.fit(latents)
    samples = [decoder.decode(prior.sample(64, seed=seed)) for prior in (plain, flow)]
    left, right = (grid(sample, columns=8, value_range=limits) for sample in samples)
    gap = torch.full((left.shape[0], 12, 3), 255, dtype=torch.uint8)
    ends = through.encode(x[: 2 * min(8, len(x) // 2)]).mean
    start, end = ends[::2, None], ends[1::2, None]
    t = torch.linspace(0, 1, 10, device=ends.device).view(1, -1, *[1] * (ends.ndim - 1))
    lines = torch.lerp(start, end, t).flatten(0, 1)
    return {
        "reconstructions.png": png(grid(torch.cat(rows), columns=len(few), value_range=limits)),
        "samples.png": png(torch.cat([left, gap, right], 1)),
        "interpolation.png": png(grid(through.decode(lines), columns=10, value_range=limits)),
    }
