r"""cGML as in the paper: an encoder, a generator and an updater for one-to-many prediction.

For a pair :math:`(x, y)` and a start :math:`z_0`, descent through the generator finds the latent of
this answer, and the three networks are trained on the path,

.. math::
    h = H(x), \qquad z_{p+1} = \text{descent step on } |G(h, z_p) - y|_1 \quad (p = 0 ... M - 1), \\
    \min_Z \; L_Z(h, z_p, z_{p+1}), \qquad
    \min_{H, G} \; |G(h, z_M) - y|_1 + \lambda_G |G(h + \epsilon', z_M + \epsilon) - G(h, z_M)|_1.

Answers are never averaged: each has its own region of the latent space. At inference the updater
walks there from a start, without :math:`y`; other starts give other answers. There is no adversary.

Starts that are drawn independently of :math:`y` send paths of different answers through the same
latents, where :math:`Z` can only follow the majority. With `assign_starts`, which the paper lacks,
each pair of a batch gets one of its starts by the permutation

.. math:: \min_\pi \sum_i |G(h_i, z_{\pi(i)}) - y_i|_1

up to swaps of two. As each start is used once, the share of the starts that lead to an answer is
its share of the pairs.

The paper updates :math:`Z` after every step of a batch. Here one update takes the gradients of the
whole path as one large batch.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Multisample Flow Matching (Pooladian et al., 2023)
    | https://arxiv.org/abs/2304.14772
"""

from __future__ import annotations

__all__ = ["OneToMany", "assign"]

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...decoder.descent import descend, start_points
from ...errors import InputError, NonFiniteError
from ...training import Step, train
from .network import UpdaterNetwork


class OneToMany(nn.Module):
    """Several answers to one input.

    Arguments:
        encoder: `H`, from inputs `(B, ...)` to features `(B, K)`, or to a tuple of these and of
            more that the generator takes (the skips of a U-Net).
        generator: `G(h, z)`, from the encoder's output and latents to outputs `(B, ...)`.
        updater: `Z`, over `K` features.
        squared: Whether the descent is on the squared error instead of the absolute one.
        assign_starts: Whether the starts of a batch are assigned to its pairs; each process
            assigns its own.
        descent: Arguments of `descend`: `learning_rate`, `steps`, `momentum`, `adam`, `anneal`.

    Raises:
        InputError: If `descent` has `steps` below 1.

    Example:
        >>> from latentctl import Updater
        >>> encoder = nn.Linear(1, 4)
        >>> updater = Updater((1,), context=4, width=8, steps=5, domain="ball")
        >>> generator = lambda h, z: torch.cat([h[:, :1] * z, h[:, 1:3] * z], dim=1)
        >>> model = OneToMany(encoder, generator, updater)
        >>> model.predict(torch.zeros(2, 1), count=6).shape  # six answers to each
        torch.Size([2, 6, 3])
    """

    def __init__(
        self,
        encoder: Any,
        generator: Any,
        updater: UpdaterNetwork,
        *,
        squared: bool = False,
        assign_starts: bool = False,
        **descent: Any,
    ) -> None:
        super().__init__()
        self.encoder, self.generator, self.updater = encoder, generator, updater
        self.squared, self.assign_starts = squared, assign_starts
        self.descent = {"steps": 20, "learning_rate": 0.1, "adam": True, "momentum": 0.5, **descent}
        self.descent["domain"] = updater.domain
        if self.descent["steps"] < 1:
            raise InputError(f"The descent needs M >= 1 steps, it has {self.descent['steps']}.")

    @torch.no_grad()
    def predict(
        self, x: Tensor, count: int = 1, *, steps: int | None = None, seed: int = 0
    ) -> Tensor:
        """Answers `(B, count, ...)` to inputs `(B, ...)`, each from its own start by `seed`.

        The updater's own number of `steps` is the default. Answers are on the device of `x`.
        """
        z, h = self.find(x, count, steps=steps, seed=seed)
        answers: Tensor = self.generator(h, z).unflatten(0, (len(x), count)).to(x.device)
        return answers

    @torch.no_grad()
    def find(
        self, x: Tensor, count: int = 1, *, steps: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Any]:
        """The latents of the answers, `(B * count, *latent_shape)`, and `h` of each."""
        x = x.to(next(self.parameters()).device)
        h = _rows(self.encoder(x), torch.arange(len(x), device=x.device).repeat_interleave(count))
        shape, domain = self.updater.latent_shape, self.updater.domain
        z = start_points(len(x) * count, shape, domain, seed=~seed).to(x.device)
        path, _ = self.updater.walk(_features(h), z, steps=steps)
        return path[-1], h

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        step: Step,
        *,
        lipschitz: float = 1e-3,
        generator_lipschitz: float = 1e-2,
        generator_noise: float = 0.1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of all three networks on pairs, summed: they share no gradient.

        `lipschitz` and `generator_lipschitz` weigh the last terms of `Z` and `G`. The latter is per
        unit of noise, whose standard deviation is `generator_noise`. B is `step.count`.

        Raises:
            NonFiniteError: If the descent is finite from no start. If it is from some, the others
                are left out, and counted in the log as `dropped`.
        """
        h = self.encoder(x)
        fixed = _rows(h, slice(None), detach=True)
        shape, domain = self.updater.latent_shape, self.updater.domain
        first = step.index * step.total + step.start
        z = start_points(len(x), shape, domain, seed=step.seed, start=first).to(x.device)
        if self.assign_starts:
            z = z[assign(self._costs(fixed, z, y))]
        path = descend(lambda z: self._cost(self.generator(fixed, z), y), z, **self.descent)
        finite = torch.isfinite(path).flatten(2).all(2).all(0)
        for part in (y, _features(fixed)):
            finite &= torch.isfinite(part).flatten(1).all(1)
        rows = finite.nonzero().flatten()
        if not len(rows):
            raise NonFiniteError(
                "The descent is finite from no start of this step. Check that x and y are, and "
                "take a smaller learning_rate of the descent."
            )
        path, h, y = path[:, rows], _rows(h, rows), y[rows]
        steps, count = len(path) - 1, len(rows)
        flat = Step(
            step.seed, step.index, step.start * steps, count * steps, step.total * steps, x.device
        )
        features = _features(_rows(fixed, rows)).repeat(steps, 1)
        origin, goal = path[:-1].flatten(0, 1), path[1:].flatten(0, 1)
        descent, logs = self.updater.loss(features, origin, goal, flat, lipschitz=lipschitz)
        drawn = self.generator(h, path[-1])
        error = _error(drawn, y).mean()
        nearby = generator_noise * step.normal(*shape, purpose="beside z of G")[rows]
        jump = F.l1_loss(self.generator(h, path[-1] + nearby), drawn) / generator_noise
        total = descent + error + generator_lipschitz * jump
        logs["dropped"] = torch.tensor(float(len(x) - count))
        return total, {"updater": descent, "error": error, "jump": jump, **logs}

    @torch.no_grad()
    def _costs(self, h: Any, z: Tensor, y: Tensor) -> Tensor:
        """Costs `(B, B)` of each pair at each start."""
        count = len(z)
        pairs = torch.arange(count, device=z.device).repeat_interleave(count)
        drawn = self.generator(_rows(h, pairs), z.repeat(count, *[1] * (z.ndim - 1)))
        return self._cost(drawn, y[pairs]).view(count, count)

    def _cost(self, drawn: Tensor, y: Tensor) -> Tensor:
        return (drawn - y).flatten(1).square().mean(1) if self.squared else _error(drawn, y)

    def fit(self, data: Any, *, loss: dict[str, float] | None = None, **options: Any) -> OneToMany:
        """Trains the three networks together on pairs `(x, y)`.

        Arguments:
            data: Gives `(x, y)` batches for `(B,)` integer tensors, as a `TensorDataset` does.
            loss: Further arguments of `loss`.
            options: Arguments of `latentctl.training.train`. By default there are 5,000 steps of 64
                pairs, with a whole descent in each; the learning rate of 1e-3 falls to zero, and
                the weights end as their average with a decay of 0.99.
        """

        def batch_loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch
            return self.loss(x, y, step, **(loss or {}))

        settings: dict[str, Any] = {
            "max_train_steps": 5000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "ema": 0.99,
        }
        settings |= {"lr_scheduler": "linear", "max_grad_norm": 5.0, **options}
        train(self, batch_loss, data, name="cgml", **settings)
        return self


def assign(costs: Tensor) -> Tensor:
    """Which start each pair gets, `(B,)`: a permutation that no swap of two makes cheaper.

    Arguments:
        costs: Of each pair at each start, `(B, B)`. If one is not finite, the order is kept.

    Example:
        >>> assign(torch.tensor([[5.0, 1.0, 4.0], [1.0, 5.0, 4.0], [2.0, 2.0, 3.0]]))
        tensor([1, 0, 2])
    """
    starts = torch.arange(len(costs), device=costs.device)
    if not bool(torch.isfinite(costs).all()):
        return starts
    least = 1e-6 * float(costs.abs().max())  # a smaller gain may be rounding
    costs = costs.clone()
    while len(costs) > 1:
        own = costs.diagonal()
        gain = own[:, None] + own - costs - costs.mT
        i, j = divmod(int(gain.argmax()), len(costs))
        if not gain[i, j] > least:
            break
        costs[:, [i, j]], starts[[i, j]] = costs[:, [j, i]], starts[[j, i]]
    return starts


def _features(h: Any) -> Tensor:
    features: Tensor = h[0] if isinstance(h, tuple) else h
    return features


def _rows(h: Any, rows: Any, *, detach: bool = False) -> Any:
    if isinstance(h, tuple):
        return tuple(_rows(part, rows, detach=detach) for part in h)
    return h[rows].detach() if detach else h[rows]


def _error(drawn: Tensor, y: Tensor) -> Tensor:
    return (drawn - y).flatten(1).abs().mean(1)
