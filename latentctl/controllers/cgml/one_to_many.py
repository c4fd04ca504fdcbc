r"""cGML's one-to-many prediction: an encoder, a generator and a gate, without an adversary.

For a pair :math:`(x, y)` the latent of this answer is found among `S` fixed starts :math:`s_k`, and
the three networks are trained on it,

.. math::
    h = H(x), \qquad r_k = G(h, s_k) - y, \qquad
    \rho(r) = \sum_d \sqrt{1 + (r_d / b)^2} - 1, \\
    P(k) \propto p_k(h)^{1 - b / b_0} \, e^{-\rho(r_k)}, \qquad
    \min_{H, G} \; \frac{b}{D} \, \rho(r_k), \; k \sim P, \\
    \min_p \; -\textstyle\sum_k P(k) \log p_k(h)

An answer to a new input has the latent :math:`s_k` with the probability :math:`p_k(h)`, which the
gate gives: the share of an answer is its share of the pairs. A start that is no answer to some
inputs has no share there, so that `S` is a few times the number of answers.

Each pair draws a few starts in a step, as in stochastic EM for a mixture of hyperbolic
distributions. Their scale `b` is the mean absolute residual at the nearest start of each pair of
the batch. It begins wide, near the mean absolute deviation :math:`b_0` of the outputs, where all
starts are alike, and narrows as the generator learns, so that starts separate step by step, as in
deterministic annealing. The gate's shares decide between starts that answer equally well. They do
not count at first, where frequent answers would displace rare ones.

An error is squared within the scale and absolute beyond. By an absolute error alone, a start that
two answers share fits the more frequent one, and the rare one is never learned. By a squared error
it fits their mean, from where the smallest difference between starts grows.

In the paper the latent is found by descent from a random start, and an updater learns the steps of
the descents. There two answers may share the region of a start, where no descent separates them,
and frequent answers displace rare ones.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Deterministic Annealing for Clustering and Related Problems (Rose, 1998)
    | https://doi.org/10.1109/5.726788
    | Mixture Density Networks (Bishop, 1994)
    | https://publications.aston.ac.uk/id/eprint/373/
    | Exponentially Decreasing Distributions for the Logarithm of Particle Size
    | (Barndorff-Nielsen, 1977) https://doi.org/10.1098/rspa.1977.0041
"""

from __future__ import annotations

__all__ = ["OneToMany"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, NonFiniteError
from ...nn import Trunk
from ...random import noise
from ...training import Step, train

APART = 4.0  # distance of the nearest two starts, so that the generator tells them apart at once
CANDIDATES = 1024  # of which the starts are chosen
DRAWS = 4  # starts that each pair draws in a step of training
RARE = -12.0  # least log-share of a start in the training
NARROWEST = 1e-4  # least scale, relative to the outputs' mean absolute deviation


class OneToMany(nn.Module):
    """Several answers to one input, each as often as among the pairs.

    Arguments:
        encoder: `H`, from inputs `(B, ...)` to features `(B, K)`, or to a tuple of these and of
            more that the generator takes (the skips of a U-Net).
        generator: `G(h, z)`, from the encoder's output and latents to outputs `(B, ...)`.
        features: Number of features `K`.
        latent_shape: Shape of one latent; a few dimensions are enough.
        width: Units of each layer of the gate.
        depth: Number of its layers.
        starts: Number of starts `S`, at least that of the answers to an input, better a few times
            as many.

    Raises:
        InputError: If `starts` is below 1.

    Example:
        >>> generator = lambda h, z: torch.cat([h[:, :1] * z, h[:, 1:3] * z], dim=1)
        >>> model = OneToMany(nn.Linear(1, 4), generator, 4, (1,), width=8)
        >>> model.predict(torch.zeros(2, 1), count=6).shape  # six answers to each
        torch.Size([2, 6, 3])
    """

    starts: Tensor

    def __init__(
        self,
        encoder: Any,
        generator: Any,
        features: int,
        latent_shape: Sequence[int] = (4,),
        *,
        width: int = 128,
        depth: int = 2,
        starts: int = 16,
    ) -> None:
        super().__init__()
        if starts < 1:
            raise InputError(f"An answer needs a start, and there are {starts}: take 1 or more.")
        self.encoder, self.generator = encoder, generator
        self.latent_shape = tuple(latent_shape)
        head = nn.Linear(width, starts)
        nn.init.zeros_(head.weight)  # all starts have the same share at first
        nn.init.zeros_(head.bias)
        self.gate = nn.Sequential(Trunk((features,), width=width, depth=depth, smooth=True), head)
        self.register_buffer("starts", _far_apart(starts, latent_shape))

    def log_shares(self, h: Any) -> Tensor:
        """The logarithm of the share of each start `(B, S)`, of the encoder's output `h`."""
        logits: Tensor = self.gate(h[0] if isinstance(h, tuple) else h)
        return logits.log_softmax(1)

    @torch.no_grad()
    def predict(self, x: Tensor, count: int = 1, *, seed: int = 0) -> Tensor:
        """Answers `(B, count, ...)` to inputs `(B, ...)`, on the device of `x`.

        The start of each is drawn by `seed` and its row alone.
        """
        z, h = self.find(x, count, seed=seed)
        answers: Tensor = self.generator(h, z).unflatten(0, (len(x), count)).to(x.device)
        return answers

    @torch.no_grad()
    def find(self, x: Tensor, count: int = 1, *, seed: int = 0) -> tuple[Tensor, Any]:
        """The latents of the answers, `(B * count, *latent_shape)`, and `h` of each."""
        home = self.starts.device
        rows = torch.arange(len(x), device=home).repeat_interleave(count)
        h = _rows(self.encoder(x.to(home)), rows)
        size = (len(self.starts),)
        uniform = noise(0, len(rows), size, seed=seed, purpose="starts", uniform=True)
        return self.starts[_drawn(self.log_shares(h), uniform.to(home))], h

    def loss(self, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of all three networks on `step.count` pairs, summed.

        The gate shares no gradient with the others.

        Raises:
            NonFiniteError: If no pair of this step is finite. If some are, the others are left
                out, and counted in the log as `dropped`.
        """
        h = self.encoder(x)
        log_share = self.log_shares(_rows(h, slice(None), detach=True))
        residuals = self._residuals(h, y)
        finite = residuals.isfinite().flatten(1).all(1) & log_share.isfinite().all(1)
        rows = finite.nonzero().flatten()
        if not len(rows):
            raise NonFiniteError(
                "No pair of this step is finite. Check that x and y are, and take a smaller "
                "learning_rate."
            )
        h, y, log_share, residuals = _rows(h, rows), y[rows], log_share[rows], residuals[rows]
        scale, belief = _belief(residuals, y, log_share.detach())
        uniform = step.uniform(DRAWS, len(self.starts), purpose="choice")[rows]
        z = self.starts[_drawn(belief[:, None], uniform).flatten()]
        repeated = torch.arange(len(y), device=y.device).repeat_interleave(DRAWS)
        residual = self.generator(_rows(h, repeated), z) - y[repeated]
        gate = -(belief.exp() * log_share).sum(1).mean()
        error = scale * _hyperbolic(residual / scale).mean()
        dropped = torch.tensor(float(len(x) - len(rows)))
        return gate + error, {"gate": gate, "error": error, "scale": scale, "dropped": dropped}

    @torch.no_grad()
    def _residuals(self, h: Any, y: Tensor) -> Tensor:
        """The residuals of each pair at all starts, `(B, S, D)`."""
        count, starts = len(y), len(self.starts)
        rows = torch.arange(count, device=y.device).repeat_interleave(starts)
        z = self.starts.repeat(count, *[1] * len(self.latent_shape))
        residuals: Tensor = self.generator(_rows(h, rows), z) - y[rows]
        return residuals.view(count, starts, -1)

    def fit(self, data: Any, **options: Any) -> OneToMany:
        """Trains the three networks together on pairs `(x, y)`.

        Arguments:
            data: Gives `(x, y)` batches for `(B,)` integer tensors, as a `TensorDataset` does.
            options: Arguments of `latentctl.training.train`. By default there are 3,000 steps of
                128 pairs; the learning rate of 1e-2 falls to zero, and the weights end as their
                average with a decay of 0.99.
        """

        def batch_loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch
            return self.loss(x, y, step)

        settings: dict[str, Any] = {
            "max_train_steps": 3000,
            "batch_size": 128,
            "learning_rate": 1e-2,
            "ema": 0.99,
        }
        settings |= {"lr_scheduler": "linear", "max_grad_norm": 5.0, **options}
        train(self, batch_loss, data, name="cgml", **settings)
        return self


def _belief(residuals: Tensor, y: Tensor, log_share: Tensor) -> tuple[Tensor, Tensor]:
    """The scale `b`, and `log P` of each start `(B, S)`."""
    widest = (y - y.mean(0)).abs().mean().clamp_min(1e-12)
    nearest = residuals.abs().mean(2).amin(1).mean()
    scale = torch.maximum(nearest, NARROWEST * widest)
    weight = (1 - scale / widest).clamp_min(0)
    cost = _hyperbolic(residuals / scale).sum(2)
    return scale, (weight * log_share.clamp_min(RARE) - cost).log_softmax(1)


def _hyperbolic(residuals: Tensor) -> Tensor:
    return (1 + residuals.square()).sqrt() - 1


def _drawn(log_share: Tensor, uniform: Tensor) -> Tensor:
    """The numbers of starts `(...)`, by log-shares and uniform numbers `(..., S)`."""
    gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
    return (log_share + gumbel).argmax(-1)


def _far_apart(count: int, latent_shape: Sequence[int]) -> Tensor:
    """Latents `(count, *latent_shape)` far from each other, by farthest-point sampling."""
    candidates = noise(0, max(CANDIDATES, count), latent_shape, seed=0, purpose="starts of answers")
    flat = candidates.flatten(1)
    order, far = [0], torch.full((len(flat),), torch.inf)
    while len(order) < count:
        far = torch.minimum(far, (flat - flat[order[-1]]).norm(dim=1))
        order.append(int(far.argmax()))
    nearest = torch.pdist(flat[order]).min() if count > 1 else torch.tensor(APART)
    return candidates[order] * (APART / nearest)


def _rows(h: Any, rows: Any, *, detach: bool = False) -> Any:
    if isinstance(h, tuple):
        return tuple(_rows(part, rows, detach=detach) for part in h)
    return h[rows].detach() if detach else h[rows]
