r"""TzK: conditional flow priors for one knowledge at a time, over a frozen flow.

Knowledge `i` of a latent is its presence :math:`\kappa_i \in \{0, 1\}` and, where it is present, a
code :math:`C_i` of few dimensions. An encoder and a decoder model them jointly with the latent,

.. math::
    p_\mathrm{enc} = p(z) \, p(\kappa \mid z) \, p(C \mid z), \quad
    p_\mathrm{dec} = p(\kappa) \, p(C) \, p(z \mid C)

and both are trained as one model, :math:`\log M = \frac12 (\log p_\mathrm{enc} +
\log p_\mathrm{dec})`, with a multiplier on their disagreement:

.. math:: \max \, \mathbb{E}\,\log M - \lambda \, \mathbb{E}
    \Big[ \log \frac{p_\mathrm{enc}}{p_\mathrm{dec}} \Big]_+

The expectation over :math:`\kappa` is exact: a label where there is one, else the discriminator's
:math:`p(\kappa \mid z)`, which is frozen there. A missing :math:`C` is sampled from
:math:`p(C \mid z)`, a missing :math:`z` from :math:`p(z \mid C)`. Knowledge types are independent
given the latent, so that adding one changes no other.

In the paper the base :math:`p(z)` is trained too. With the frozen base the discriminator shares no
weight with the densities, so it is trained first and calibrated. Absence needs no density:
:math:`p(z \mid \kappa = 0) \propto p(z) \, p(\kappa = 0 \mid z)`. The disagreement is one-sided:
where the decoder's density exceeds the encoder's, the frozen prior is the worse density.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

__all__ = ["Knowledge"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..critics import AttributeCritic, Critic
from ..critics.attributes import check_classes
from ..critics.calibration import platt_scaling
from ..decoder.prior import Flow
from ..errors import InputError
from ..latents import Latents, require_latents
from ..random import generator, noise, permutation, seeded
from ..storage import pack_modules, save_folder
from .density import ConditionalDensity, bound, normal
from .training import BATCH, PRESENT, fit_density, standardise

SAMPLES = 32  # of C, in a likelihood
PRESENCE: dict[str, Any] = {"dropout": 0.3, "smooth": False}
SIZES = ("code_size", "hidden", "width", "blocks", "critic_width")
HELD_OUT = 0.1  # share of the latents for calibration and for the choice of the step


class Knowledge(Critic, kind="knowledge"):
    """One attribute of latents: a `Critic` of its presence and a `Prior` of latents with it.

    Arguments:
        name: The attribute.
        prior: The frozen flow.
        latent_shape: Shape of one latent.
        code_size: Dimensions of C.
        hidden: Units of each layer from C to mean and std.
        width: Units of each layer of couplings and inference.
        blocks: Blocks of two couplings.
        critic_width: Units of each layer of the discriminator.

    Example:
        >>> from latentctl import Gaussian
        >>> smiling = Knowledge("Smiling", Gaussian((8,)), (8,), width=16, critic_width=16)
        >>> z = smiling.sample(3, seed=0)
        >>> smiling(z).shape, smiling.log_prob(z).shape  # log-odds; nats
        (torch.Size([3, 1]), torch.Size([3]))
    """

    latent_shape: tuple[int, ...]
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
            raise InputError(f"A code has at least one dimension, not {code_size}.")
        self.name, self.names, self.prior = name, (name,), prior
        self.latent_shape = tuple(latent_shape)
        sizes = {"hidden": hidden, "width": width, "blocks": blocks}
        self.config = {"name": name, "latent_shape": list(latent_shape), "code_size": code_size}
        self.config |= {**sizes, "critic_width": critic_width}
        self.presence = AttributeCritic(latent_shape, [name], width=critic_width, **PRESENCE)
        self.density = ConditionalDensity(latent_shape, code_size, **sizes)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        # mean and std of a code given by labels; inside, it is N(0, I)
        self.register_buffer("unit", torch.tensor([[0.0], [1.0]]).repeat(1, code_size))
        self.eval()

    def parts(self) -> dict[str, nn.Module | None]:
        return {"prior": cast(nn.Module, self.prior)}

    def save(self, path: str | Path) -> Path:
        """Writes all but the prior; `Knowledge.load(path, prior=...)` takes the same one again."""
        given = {"prior": cast(nn.Module, self.prior)}
        return save_folder(path, *pack_modules({self.saved_as: self}, given))

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        replaced = instead_of is None or any(part is self for part in instead_of.modules())
        return critic[self.name] if replaced and self.name in critic.names else self

    def forward(self, z: Tensor) -> Tensor:
        """Calibrated log-odds `(B, 1)` of presence in `z (B, *latent_shape)`."""
        slope, offset = self.calibration
        odds: Tensor = self.presence(z) * slope + offset
        return odds

    @torch.no_grad()
    def sample(
        self, count: int, *, seed: int = 0, start: int = 0, c: Tensor | None = None
    ) -> Tensor:
        """Latents with the knowledge `start ... start + count - 1`, `(count, *latent_shape)`.

        Codes `c` are `(count, C)` or `(1, C)`, in the units of the labels that gave them; by
        default they are sampled from N(0, I).
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
        critic_steps: int = 400,
        max_train_steps: int = 200,
        consistency: float = 10.0,
        sleep_weight: float = 0.1,
        seed: int = 0,
        **options: Any,
    ) -> Knowledge:
        """A new knowledge over a frozen prior, from the label `name` of latents.

        Arguments:
            name: The label: 1 present, 0 absent, NaN unknown; a fraction is a probability.
            prior: The frozen flow.
            latents: Encodings of data with that label.
            held_out: Other latents with that label, for the calibration and for the choice of the
                step; a tenth of `latents` by default. Required where `latents` have several views
                of one sample, such as mirror images.
            code: Labels that give C, one for each dimension; where they are NaN it is sampled from
                `p(C | z)`. By default C is latent.
            critic_steps: Training steps of the discriminator.
            max_train_steps: Training steps of the density. The step that is best on held-out
                latents is kept.
            consistency: The multiplier of the disagreement. Much below 10 the density overfits C.
            sleep_weight: Weight of the wake-sleep term: `log p(C | z)` of samples `z` of C.
            seed: Decides every random number.
            options: Sizes as of `Knowledge`, and further arguments of `latentctl.training.train`,
                by default 256 latents in a step and a learning rate of 1e-3.

        Raises:
            InputError: If the label has one class only, or `latents` are too few.
            UnknownNameError: If there is no such label.
        """
        require_latents(latents)
        check_classes(latents.select([name]))
        if len(latents) < 50:
            raise InputError(
                f"A knowledge is learned from at least 50 latents, these are {len(latents)}: some "
                f"are held out for its calibration. Encode more data."
            )
        sizes = {key: options.pop(key) for key in SIZES if key in options}
        if code:
            sizes["code_size"] = len(code)
        with seeded(seed, f"knowledge {name}"):
            new = cls(name, prior, latents.latent_shape, **sizes)
        home = prior.sample(1).device
        if held_out is None:
            order = permutation(len(latents), seed=seed, epoch=0, purpose="held out")
            some, train = order.tensor_split([max(1, round(HELD_OUT * len(latents)))])
            latents, held_out = latents[train], latents[some]
        learn, check = latents.select([name]), held_out.select([name])
        known = check[~torch.isnan(check.column(name))]
        labels = known.column(name)[:, None]
        if not bool((labels > 0.5).any()):
            raise InputError(
                f"{name} is calibrated on {len(check)} latents that are held out: {len(known)} of "
                f"these are labelled, and none has it. Label more, or give `held_out`."
            )
        options = {"batch_size": 256, "learning_rate": 1e-3, "seed": seed, **options}
        new.presence = AttributeCritic.fit(
            learn[~torch.isnan(learn.column(name))],
            width=new.config["critic_width"],
            max_train_steps=critic_steps,
            rank=0,
            robustness=0.0,
            **{**PRESENCE, **options},
        )
        new.to(home)  # fits end on the device that they are trained on
        if bool((labels <= 0.5).any()):
            logits = new.presence.score(_sampled(known, seed))
            new.calibration.copy_(torch.cat(platt_scaling(logits, labels)))
        if max_train_steps:
            codes = latents.select(list(code)).labels if code else None
            if codes is not None:
                codes, moments = standardise(codes, code)
                new.unit.copy_(moments)
            e, share, odds = new._read(learn, seed)
            seen, present, _ = new._read(check, seed)
            fit_density(
                new.density,
                *(e, share, odds, codes, seen[present > PRESENT]),
                consistency=consistency,
                sleep_weight=sleep_weight,
                max_train_steps=max_train_steps,
                **options,
            )
        return new.to(home).eval()

    @torch.no_grad()
    def _read(self, latents: Latents, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Base noise `(N, ...)`, share of presence `(N,)` and its log-odds `(N,)`.

        The noise is 0 where the knowledge is absent, which is not trained on.
        """
        z = latents.mean if latents.std is None else _sampled(latents, seed)
        odds, label = self.score(z, batch_size=BATCH)[:, 0], latents.column(self.name)
        share = torch.where(torch.isnan(label), odds.sigmoid(), label)
        e = torch.zeros_like(z)
        for rows in (share > PRESENT).nonzero()[:, 0].split(BATCH):
            e[rows] = self.prior.to_base(z[rows].to(self.device)).to(z)
        return e, share, odds


def _sampled(latents: Latents, seed: int) -> Tensor:
    """One sample of each posterior, `(N, *latent_shape)`."""
    shape = (len(latents), *latents.latent_shape)
    eps = torch.randn(shape, generator=generator(seed, purpose="knowledge"))
    return latents.sample(eps.to(latents.mean.device))
