r"""A second VAE over the latents of the first: the two-stage VAE.

Its decoder has a learned variance :math:`\gamma`, as in the paper, so that the second stage learns
how exactly latents can be predicted. Sampling goes through both: :math:`u \sim \mathcal{N}(0, I)`,
:math:`z \sim \mathcal{N}(g(u), \gamma I)`, then the first decoder.

References:
    | Diagnosing and Enhancing VAE Models (Dai and Wipf, 2019)
    | https://arxiv.org/abs/1903.05789
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from latentctl import Latents
from latentctl.priors.whitening import Whitening
from latentctl.random import noise, seeded
from latentctl.training import Step, train


class SecondStage(nn.Module):
    """A small VAE over latents `(B, size)`, whitened first."""

    def __init__(self, size: int, width: int = 512) -> None:
        super().__init__()
        self.whitening = Whitening((size,))
        self.encoder = _layers(size, width, 2 * size)
        self.decoder = _layers(size, width, size)
        self.log_gamma = nn.Parameter(torch.zeros(()))

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative evidence lower bound."""
        size = len(self.whitening.mean)
        z = self.whitening(batch.sample(step.normal(size)))
        mean, raw = self.encoder(z).chunk(2, 1)
        q = Normal(mean, nn.functional.softplus(raw) + 1e-4)
        u = q.mean + q.stddev * step.normal(size, purpose="second")
        nll = -Normal(self.decoder(u), self.log_gamma.exp()).log_prob(z).sum(1).mean()
        prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        return nll + kl_divergence(q, prior).sum(1).mean(), {"gamma": self.log_gamma.exp()}

    @classmethod
    def fit(cls, latents: Latents, *, max_train_steps: int, seed: int) -> SecondStage:
        with seeded(seed, "second stage"):
            model = cls(latents.latent_shape[0])
        model.whitening = Whitening.fit(latents)
        train(
            model,
            model.loss,
            latents,
            name="second",
            learning_rate=1e-3,
            max_train_steps=max_train_steps,
            batch_size=256,
            lr_scheduler="cosine",
            seed=seed,
        )
        return model

    @torch.no_grad()
    def sample(self, count: int, *, seed: int) -> Tensor:
        shape = (len(self.whitening.mean),)
        u, eps = (noise(0, count, shape, seed=seed, purpose=word) for word in ("prior", "second"))
        return self.whitening.inverse(self.decoder(u) + self.log_gamma.exp() * eps)


def _layers(size: int, width: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
