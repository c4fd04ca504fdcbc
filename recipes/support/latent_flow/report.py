"""What `latent_flow` measures and draws at the end, and the network of its perceptual loss."""

from __future__ import annotations

__all__ = ["evaluate", "perceptual_network", "pictures", "save_flow"]

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latentctl
from latentctl import Latents
from latentctl.conditional.picture import grid, png
from latentctl.decoder import Gaussian
from latentctl.errors import InputError
from latentctl.priors import LatentFlow
from latentctl.random import noise

SCORED = {"coupling": 2000, "spline": 2000, "matching": 64}  # latents whose density is taken
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def evaluate(decoder: latentctl.Decoder, flow: LatentFlow, x: Tensor) -> dict[str, float]:
    """Held-out density, and whether the decoder is the same one through the flow."""
    through = decoder.through(flow)
    plain, bent, latents = [], [], []
    for part in x.split(256):
        q = decoder.encode(part)
        plain.append(decoder.decode(q.mean).cpu())
        bent.append(through.decode(through.encode(part).mean).cpu())
        latents.append(Latents(q.mean, q.std))
    plain_x, bent_x = torch.cat(plain), torch.cat(bent)
    mean = torch.cat([part.mean for part in latents])[: SCORED[flow.kind]]
    z = mean
    if latents[0].std is not None:
        std = torch.cat([part.std for part in latents if part.std is not None])[: len(mean)]
        z = mean + std * noise(0, len(mean), mean.shape[1:], seed=0).to(mean.device)
    gaussian = Gaussian(decoder.latent_shape, z.mean(0), z.std(0)).to(z.device)
    size = z[0].numel()
    return {
        "nats_per_dimension": -flow.log_prob(z).mean().item() / size,
        "nats_per_dimension_of_a_gaussian": -gaussian.log_prob(z).mean().item() / size,
        "reconstruction_error": (plain_x - x.cpu()).square().mean().item(),
        "reconstruction_error_through_the_flow": (bent_x - x.cpu()).square().mean().item(),
        "largest_change_of_a_pixel": (bent_x - plain_x).abs().max().item(),
        "largest_round_trip_error": flow.check_invertible(mean),
    }


@torch.no_grad()
def pictures(
    decoder: latentctl.Decoder, flow: LatentFlow, latents: Latents, x: Tensor, *, seed: int = 0
) -> dict[str, bytes]:
    """Reconstructions; samples without and with the flow; straight lines in base noise."""
    through, limits = decoder.through(flow), decoder.value_range
    few = x[:10].to(decoder.device)
    rows = [few, decoder.decode(decoder.encode(few).mean)]
    rows.append(through.decode(through.encode(few).mean))
    plain = decoder.prior if latents.std is not None else Gaussian.fit(latents)
    samples = [prior.sample(64, seed=seed).to(decoder.device) for prior in (plain, flow)]
    beside = [grid(decoder.decode(z), columns=8, value_range=limits) for z in samples]
    gap = torch.full((beside[0].shape[0], 12, 3), 255, dtype=torch.uint8)
    ends = through.encode(x[: 2 * min(8, len(x) // 2)].to(decoder.device)).mean
    start, end = ends[::2, None], ends[1::2, None]
    t = torch.linspace(0, 1, 10, device=ends.device).view(1, -1, *[1] * (ends.ndim - 1))
    lines = torch.lerp(start, end, t).flatten(0, 1)
    return {
        "reconstructions.png": png(grid(torch.cat(rows), columns=len(few), value_range=limits)),
        "samples.png": png(torch.cat([beside[0], gap, beside[1]], 1)),
        "interpolation.png": png(grid(through.decode(lines), columns=10, value_range=limits)),
    }


def save_flow(flow: LatentFlow, decoder: latentctl.Decoder, folder: Path) -> None:
    """`LatentFlow(**config["flow"])` takes the weights; `decoder` says whose latents they fit."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    save_file(state, str(folder / "model.safetensors"))
    config = {"flow": flow.config, "decoder": decoder.fingerprint()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


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
    """Maps of the first four levels of a pretrained timm network, of images in [0, 1].

    Raises:
        InputError: If there is no such network, or its weights cannot be had.
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
    except Exception as error:  # timm, the hub and the file system each have their own
        raise InputError(
            f"--perceptual {name}: the pretrained network cannot be had ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}). "
            f"Check its name and the network, pass a local file as --perceptual_weights, or leave "
            f"--perceptual out."
        ) from error
    return _Features(net)
