r"""cGML as in the paper: an encoder, a generator and an updater learn one-to-many prediction.

For a pair :math:`(x, y)` and a start :math:`z_0`, descent through the generator finds the latent of
*its* answer, and then the three networks learn from the path,

.. math::
    h = H(x), \qquad z_{p+1} = \text{descent step on } |G(h, z_p) - y|_1 \quad (p = 0 ... M - 1), \\
    \min_Z \; L_Z(h, z_p, z_{p+1}), \qquad
    \min_{H, G} \; |G(h, z_M) - y|_1 + \lambda_G |G(h + \epsilon', z_M + \epsilon) - G(h, z_M)|_1.

No two answers are ever averaged: each has its place in the latent space. To predict, the updater
walks there from a start, without :math:`y`; other starts give other answers. There is no adversary.

Starts that are drawn without regard to :math:`y` send paths of different answers through the same
places, where :math:`Z` can only follow the most of them. With `assign_starts`, each pair of a batch gets
one of its starts by the permutation

.. math:: \min_\pi \sum_i |G(h_i, z_{\pi(i)}) - y_i|_1

up to swaps of two. As every start is assign_starts once, an answer that is taught in a share of the pairs
gets that share of the starts, and it is the start that decides. The paper deals nothing.

The paper updates :math:`Z` after every step of a batch; here it learns from the whole path at once,
which is the same gradients in one large batch.

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
from ...training import Player, Step, fit
from .updater import Updater


class OneToMany(nn.Module):
    """Several answers to one input.

    Arguments:
        encoder: `H`, from inputs `(B, ...)` to features `(B, K)`, or to a tuple of these and of
            more that the generator takes (the skips of a U-Net).
        generator: `G(h, z)`, from what the encoder gives and latents to outputs `(B, ...)`.
        updater: `Z`, over `K` features.
        squared: Whether the descent is on the squared error, which comes to rest at its optimum,
            instead of the absolute one.
        assign_starts: Whether each start is assign_starts to the pair of the batch that it suits. In several
            processes each deals its own.
        descent: Arguments of `descend`: `learning_rate`, `steps`, `momentum`, `adam`, `anneal`.

    Raises:
        InputError: If `descent` has no step to make.

    Example:
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
        updater: Updater,
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
        """Answers `(B, count, ...)` to inputs `(B, ...)`, each from its own start.

        Arguments:
            x: Inputs.
            count: Answers to each.
            steps: Evaluations of the updater; its own number by default.
            seed: Of the starts.
        """
        z, h = self.find(x, count, steps=steps, seed=seed)
        y: Tensor = self.generator(h, z)
        answers: Tensor = y.unflatten(0, (len(x), count))
        return answers

    @torch.no_grad()
    def find(
        self, x: Tensor, count: int = 1, *, steps: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Any]:
        """The latents of the answers, `(B * count, *latent_shape)`, and `h` of each."""
        h = _rows(self.encoder(x), torch.arange(len(x), device=x.device).repeat_interleave(count))
        z = start_points(
            len(x) * count, self.updater.latent_shape, self.updater.domain, seed=~seed
        ).to(x.device)
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
        """The losses of all three networks on a batch, summed: they share no gradient.

        Arguments:
            x: Inputs `(B, ...)`; B is `step.count`.
            y: One answer to each, `(B, ...)`.
            step: Where the training is.
            lipschitz: The weight of the noise term of `Z`.
            generator_lipschitz: The weight of the noise term of `G`, per unit of noise.
            generator_noise: Its standard deviation.

        Raises:
            NonFiniteError: If the descent is finite from no start. Where it is so from some, the
                others are left out, and counted in the log as `dropped`.
        """
        h = self.encoder(x)
        still = _rows(h, slice(None), detach=True)
        shape, domain = self.updater.latent_shape, self.updater.domain
        first = step.index * step.total + step.start
        z = start_points(len(x), shape, domain, seed=step.seed, start=first).to(x.device)
        if self.assign_starts:
            z = z[assign(self._costs(still, z, y))]
        path = descend(lambda z: self._cost(self.generator(still, z), y), z, **self.descent)
        # a start whose cost is not finite would spoil the weights of all
        finite = torch.isfinite(path).flatten(2).all(2).all(0)
        for part in (y, _features(still)):
            finite &= torch.isfinite(part).flatten(1).all(1)
        rows = finite.nonzero().flatten()
        if not len(rows):
            raise NonFiniteError(
                "The descent is finite from no start of this step. Check that x and y are, and "
                "take a smaller learning_rate of the descent."
            )
        path, h, y = path[:, rows], _rows(h, rows), y[rows]
        steps, count = len(path) - 1, len(rows)
        lessons = Step(
            step.seed, step.index, step.start * steps, count * steps, step.total * steps, x.device
        )
        features = _features(_rows(still, rows)).repeat(steps, 1)
        origin, goal = path[:-1].flatten(0, 1), path[1:].flatten(0, 1)
        imitation, logs = self.updater.loss(features, origin, goal, lessons, lipschitz=lipschitz)
        drawn = self.generator(h, path[-1])
        error = _error(drawn, y).mean()
        rough = generator_noise * step.normal(*shape, purpose="beside z of G")[rows]
        jump = F.l1_loss(self.generator(h, path[-1] + rough), drawn) / generator_noise
        total = imitation + error + generator_lipschitz * jump
        logs["dropped"] = torch.tensor(float(len(x) - count))
        return total, {"updater": imitation, "error": error, "jump": jump, **logs}

    @torch.no_grad()
    def _costs(self, h: Any, z: Tensor, y: Tensor) -> Tensor:
        """Costs `(B, B)` of each pair at each start."""
        count = len(z)
        pairs = torch.arange(count, device=z.device).repeat_interleave(count)
        drawn = self.generator(_rows(h, pairs), z.repeat(count, *[1] * (z.ndim - 1)))
        return self._cost(drawn, y[pairs]).view(count, count)

    def _cost(self, drawn: Tensor, y: Tensor) -> Tensor:
        return (drawn - y).flatten(1).square().mean(1) if self.squared else _error(drawn, y)

    def fit(
        self,
        data: Any,
        *,
        max_train_steps: int = 5000,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        ema: float | None = 0.99,
        seed: int = 0,
        loss: dict[str, float] | None = None,
        **options: Any,
    ) -> OneToMany:
        """Trains the three networks together on a data set of pairs `(x, y)`.

        Arguments:
            data: Gives `(x, y)` batches for `(B,)` integer tensors, as a `TensorDataset` does.
            max_train_steps: Steps of training, each with a whole descent.
            batch_size: Pairs in a step.
            learning_rate: Peak of Adam's learning rate; it falls to zero.
            ema: Decay of the average of the weights, which is what is kept.
            seed: Decides every random number.
            loss: Further arguments of `loss`.
            options: Further arguments of `latentctl.training.fit`.
        """

        def whole(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch
            return self.loss(x, y, step, **(loss or {}))

        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        options = {"progress": False, "lr_scheduler": "linear", "max_grad_norm": 5.0, **options}
        history = fit(
            Player("cgml", self, whole, optimizer, ema=ema),
            data,
            max_train_steps=max_train_steps,
            batch_size=batch_size,
            seed=seed,
            **options,
        )
        if "cgml" in history.averaged:
            self.load_state_dict(history.averaged["cgml"].state_dict())
        return self.eval()


def assign(costs: Tensor) -> Tensor:
    """Which start each pair gets, `(B,)`: a permutation that no swap of two makes cheaper.

    Arguments:
        costs: Of each pair at each start, `(B, B)`; where one is not finite, nothing is assign_starts.

    Example:
        >>> assign(torch.tensor([[5.0, 1.0, 4.0], [1.0, 5.0, 4.0], [2.0, 2.0, 3.0]]))
        tensor([1, 0, 2])
    """
    assign_starts = torch.arange(len(costs), device=costs.device)
    if not bool(torch.isfinite(costs).all()):
        return assign_starts
    least = 1e-6 * float(costs.abs().max())  # what a swap gains, not a matter of rounding
    costs = costs.clone()
    while len(costs) > 1:
        own = costs.diagonal()
        gain = own[:, None] + own - costs - costs.mT
        best = int(gain.argmax())
        i, j = divmod(best, len(costs))
        if not gain[i, j] > least:
            break
        costs[:, [i, j]], assign_starts[[i, j]] = costs[:, [j, i]], assign_starts[[j, i]]
    return assign_starts


def _features(h: Any) -> Tensor:
    features: Tensor = h[0] if isinstance(h, tuple) else h
    return features


def _rows(h: Any, rows: Any, *, detach: bool = False) -> Any:
    if isinstance(h, tuple):
        return tuple(_rows(part, rows, detach=detach) for part in h)
    return h[rows].detach() if detach else h[rows]


def _error(drawn: Tensor, y: Tensor) -> Tensor:
    return (drawn - y).flatten(1).abs().mean(1)
