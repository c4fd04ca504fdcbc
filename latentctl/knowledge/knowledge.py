r"""TzK: conditional flow priors, one knowledge at a time, added to a model that stays as it is.

Knowledge `i` of a latent is its presence :math:`\kappa_i \in \{0, 1\}` and, where it is present, a
characteristic :math:`C_i` of few dimensions. It is read by an encoder, written by a decoder,

.. math::
    p_\mathrm{enc} = p(z) \, p(\kappa \mid z) \, p(C \mid z), \quad
    p_\mathrm{dec} = p(\kappa) \, p(C) \, p(z \mid C)

and both are trained as one model, :math:`\log M = \frac12 (\log p_\mathrm{enc} +
\log p_\mathrm{dec})`, with a multiplier on their disagreement:

.. math:: \max \, \mathbb{E}\,\log M - \lambda \, \mathbb{E}
    \Big[ \log \frac{p_\mathrm{enc}}{p_\mathrm{dec}} \Big]_+

The expectation over :math:`\kappa` is exact: a label where there is one, else the discriminator's
own :math:`p(\kappa \mid z)`, which is frozen there. A missing :math:`C` is drawn from
:math:`p(C \mid z)`, a missing :math:`z` from :math:`p(z \mid C)`. Knowledge types are independent
given the latent, so one is added without touching another.

Three things follow from the base :math:`p(z)` being frozen here, where the paper trains it along.
The discriminator has no weight in common with the rest, so it is trained first, by itself, and
calibrated. Absence has no density of its own: :math:`p(z \mid \kappa = 0) \propto p(z) \,
p(\kappa = 0 \mid z)`. And the disagreement counts on one side only, for where the decoder claims
more than the encoder, what shows is that the frozen prior is a worse density of these latents than
the knowledge; taking that as a fault would make the knowledge worse.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

__all__ = ["Knowledge"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..critics.attributes import AttributeCritic, check_classes
from ..critics.base import Critic
from ..decoder.prior import Flow
from ..errors import InputError
from ..latents import Latents
from ..random import noise, permutation, seeded
from .density import ConditionalDensity, bound, normal
from .training import calibrate, fit_density, standardise

SAMPLES = 32  # of C, in a likelihood
HELD_OUT = 0.1  # share of the latents for calibration and for the choice of the step


class Knowledge(Critic):
    """One thing that is known of latents: a `Critic` of its presence and a `Prior` of its latents.

    Arguments:
        name: What it is called.
        prior: The frozen flow that it stands on.
        latent_shape: Shape of one latent.
        code_size: Dimensions of C.
        sizes: `hidden`, `width` and `blocks` of the density, `critic_width` of the discriminator.

    Example:
        >>> from latentctl import Gaussian
        >>> smiling = Knowledge("Smiling", Gaussian((8,)), (8,), width=16, critic_width=16)
        >>> z = smiling.sample(3, seed=0)
        >>> smiling(z).shape, smiling.log_prob(z).shape  # log-odds; nats
        (torch.Size([3, 1]), torch.Size([3]))
    """

    calibration: Tensor
    unit: Tensor

    def __init__(
        self,
        name: str,
        prior: Flow,
        latent_shape: Sequence[int],
        *,
        code_size: int = 2,
        hidden: int = 70,
        width: int = 128,
        blocks: int = 2,
        critic_width: int = 256,
    ) -> None:
        super().__init__()
        if code_size < 1:
            raise InputError(f"A characteristic has at least one dimension, not {code_size}.")
        self.name, self.names, self.prior = name, (name,), prior
        self.latent_shape = tuple(latent_shape)
        self.config = {
            "name": name,
            "latent_shape": list(latent_shape),
            "code_size": code_size,
            "hidden": hidden,
            "width": width,
            "blocks": blocks,
            "critic_width": critic_width,
        }
        self.presence = AttributeCritic(latent_shape, [name], width=critic_width, dropout=0.3)
        self.density = ConditionalDensity(
            latent_shape, code_size, hidden=hidden, width=width, blocks=blocks
        )
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        # a characteristic that is given has units of its own; inside, it is N(0, I)
        self.register_buffer("unit", torch.tensor([[0.0], [1.0]]).repeat(1, code_size))
        self.eval()

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        replaced = instead_of in (None, self) and self.name in critic.names
        return critic[self.name] if replaced else self

    def forward(self, z: Tensor) -> Tensor:
        """Calibrated log-odds `(B, 1)` of presence in `z (B, *latent_shape)`."""
        slope, offset = self.calibration
        odds: Tensor = self.presence(z) * slope + offset
        return odds

    @torch.no_grad()
    def sample(
        self, count: int, *, seed: int = 0, start: int = 0, c: Tensor | None = None
    ) -> Tensor:
        """Latents with the knowledge, `(count, *latent_shape)`.

        Arguments:
            count: Number of samples.
            seed: Names the sequence.
            start: Its first sample.
            c: Characteristics `(count, C)` or `(1, C)`, in the units of the labels that gave them;
                drawn from N(0, I) if not given.
        """
        home = self.calibration.device
        if c is None:
            c = noise(start, count, (self.density.size,), seed=seed, purpose="characteristic")
        else:
            c = (c.to(home) - self.unit[0]) / self.unit[1]
        eps = noise(start, count, self.latent_shape, seed=seed, purpose="prior").to(home)
        return self.prior.from_base(self.density.decode(c.to(home).expand(count, -1), eps))

    @torch.no_grad()
    def log_prob(self, z: Tensor, *, samples: int = SAMPLES, seed: int = 0) -> Tensor:
        """`log p(z | present)` in nats, `(B,)`: a lower bound that tightens with `samples` of C."""
        e = self.prior.to_base(z)
        eps = noise(0, samples, (self.density.size,), seed=seed, purpose="bound").to(z.device)
        gain = bound(self.density, e, eps[:, None].expand(-1, len(z), -1)) - normal(e.flatten(1))
        return self.prior.log_prob(z) + gain

    def conditional_log_prob(self, z: Tensor, c: Tensor) -> Tensor:
        """`log p(z | C)` in nats, `(B,)`; exact."""
        e, c = self.prior.to_base(z), (c - self.unit[0]) / self.unit[1]
        return self.prior.log_prob(z) + self.density.log_prob(e, c) - normal(e.flatten(1))

    @torch.no_grad()
    def code(self, z: Tensor) -> Tensor:
        """The mean of `p(C | z)`, `(B, C)`."""
        mean, _ = self.density.infer(self.prior.to_base(z))
        return self.unit[0] + self.unit[1] * mean

    @classmethod
    def fit(
        cls,
        name: str,
        prior: Flow,
        latents: Latents,
        *,
        held_out: Latents | None = None,
        code: Sequence[str] = (),
        code_size: int = 2,
        hidden: int = 70,
        width: int = 128,
        blocks: int = 2,
        critic_width: int = 256,
        critic_steps: int = 400,
        max_train_steps: int = 200,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        consistency: float = 10.0,
        sleep_weight: float = 0.1,
        seed: int = 0,
        **options: Any,
    ) -> Knowledge:
        """A new knowledge over a frozen prior, from the label `name` of latents.

        Arguments:
            name: The label: 1 present, 0 absent, NaN unknown; a fraction counts as it stands.
            prior: The frozen flow.
            latents: Encodings of data with that label.
            held_out: Other latents with that label, for the calibration and for the choice of the
                step; a tenth of `latents` if not given. Give them where `latents` hold several
                views of one sample, such as mirror images: a tenth of these is not held out.
            characteristic: Labels that give C itself; then C has one dimension for each, and NaN
                is drawn from `p(C | z)`. None for a C that is found.
            code_size: Dimensions of a C that is found.
            hidden: Units of each layer from C to mean and std.
            width: Units of each layer of couplings and inference.
            blocks: Blocks of two couplings.
            critic_width: Units of each layer of the discriminator.
            critic_steps: Steps of the discriminator.
            max_train_steps: Steps of the density. The best of these on held-out latents is kept.
            batch_size: Latents in a step.
            learning_rate: Of both.
            consistency: The multiplier of the disagreement. Much below 10, a C that says more than
                the data support is not held back, and the density suffers.
            sleep_weight: Weight of the missing `z`: how well C is found again in samples made from it.
            seed: Decides every random number.
            options: Further arguments of `latentctl.training.fit`.

        Raises:
            InputError: If the label has one class only, or `latents` are too few.
            UnknownNameError: If there is no such label.
        """
        check_classes(latents.select([name]))
        if len(latents) < 50:
            raise InputError(
                f"A knowledge is learned from at least 50 latents, these are {len(latents)}: some "
                f"are held out for its calibration. Encode more data."
            )
        sizes = {"hidden": hidden, "width": width, "blocks": blocks, "critic_width": critic_width}
        with seeded(seed, f"knowledge {name}"):
            new = cls(
                name,
                prior,
                latents.latent_shape,
                code_size=len(code) or code_size,
                **sizes,
            )
        if held_out is None:
            order = permutation(len(latents), seed=seed, epoch=0, purpose="held out")
            some, train = order.tensor_split([max(1, round(HELD_OUT * len(latents)))])
            latents, held_out = latents[train], latents[some]
        learn, check = latents.select([name]), held_out.select([name])
        known = check[~torch.isnan(check.column(name))]
        if not bool((known.column(name) > 0.5).any()):
            raise InputError(
                f"{name} is calibrated on {len(check)} latents that are held out: {len(known)} of "
                f"these are labelled, and none has it. Label more, or give `held_out`."
            )
        options = {"progress": False, **options}
        new.presence = AttributeCritic.fit(
            learn[~torch.isnan(learn.column(name))],
            width=critic_width,
            max_train_steps=critic_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            rank=0,
            seed=seed,
            **options,
        )
        calibrate(new, known, seed)
        if max_train_steps:
            given = latents.select(list(code)).labels if code else None
            if given is not None:
                given = standardise(new, given, code)
            fit_density(
                new,
                learn,
                check,
                given,
                consistency=consistency,
                sleep_weight=sleep_weight,
                max_train_steps=max_train_steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
                **options,
            )
        return new.eval()
