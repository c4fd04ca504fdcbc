r"""The amortised actor of Latent Constraints: one network moves any latent to any target.

The actor :math:`G(z, y)` and the realism critic :math:`D(z, y)` play

.. math::
    L_G = \mathbb{E}_{p(z)}\big[-\log D(G(z, y), y) - w \log P(y \mid G(z, y))
        + \lambda L_\mathrm{dist}(G(z, y), z)\big]

with targets :math:`y` from the data, part of them freed at random. With a distance penalty the
actor also learns from encodings of data under their own attributes, so that it leaves alone what
is right already.

Two things are not in the paper. The term in :math:`w` is of an attribute critic fitted beforehand;
with `w = 0` the conditional critic alone speaks of attributes. And since the game begins slowly,
an actor may first clone a `teacher`, any other controller, by least squares.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Actor", "players"]

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import AttributeCritic, RealismCritic
from ..critics.base import cross_entropy
from ..decoder import Gaussian, Prior
from ..errors import InputError
from ..latents import Latents
from ..nn.trunk import GatedResidual
from ..random import generator, seeded
from ..training import Player, Step, fit
from .ascent import distance
from .base import Controller, Move, refuse_where
from .imitation import DEMONSTRATIONS, clone
from .request import Request, draw_targets, prior_starts, target_context


class Actor(Controller, kind="actor"):
    """One forward pass to any target, free attributes included.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes; none for an actor that moves towards realism alone.
        width: Units of each layer: 2048 in the paper, 256 for its small model.
        depth: Number of layers: 4 in the paper, 3 for its small model.

    Example:
        >>> actor = Actor((8,), ["Smiling", "Male"], width=16)
        >>> actor(torch.zeros(3, 8), torch.tensor([[1.0, torch.nan]])).shape
        torch.Size([3, 8])
    """

    learned = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        width: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), tuple(names)
        self.config = {
            "latent_shape": list(latent_shape),
            "names": list(names),
            "width": width,
            "depth": depth,
        }
        self.net = GatedResidual(latent_shape, context=2 * len(names), width=width, depth=depth)

    def search(self, z: Tensor, request: Request) -> Move:
        refuse_where(self, request.where)
        moved: Tensor = self.net(z, target_context(z, request.values, self.names))
        return Move(moved, torch.ones(len(z), dtype=torch.long, device=z.device))

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> Actor:
        actor = cls(**config)
        actor.realism = parts.get("realism")
        return actor

    @classmethod
    def fit(
        cls,
        latents: Latents,
        *,
        attributes: AttributeCritic | None = None,
        prior: Prior | None = None,
        width: int = 512,
        depth: int = 4,
        attribute_weight: float = 0.0,
        distance_weight: float = 0.0,
        teacher: Controller | None = None,
        demonstration_steps: int = 2000,
        critic_warmup_steps: int = 150,
        max_train_steps: int = 3000,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        seed: int = 0,
        output_dir: str | Path | None = None,
        **options: Any,
    ) -> Actor:
        """An actor for the labels of `latents`, and its critic as `actor.realism`.

        Arguments:
            latents: Encodings of data, with labels for a conditional actor.
            attributes: A trained attribute critic, used if `attribute_weight` is positive.
            prior: Where moves start, N(0, I) by default.
            width: Units of each layer.
            depth: Number of layers.
            attribute_weight: Weight of the attribute critic in the actor's loss; 0 in the paper.
            distance_weight: Weight of the distance penalty; 0 or 0.1 in the paper.
            teacher: A controller whose moves are cloned before the adversarial training, such as
                a `FlowMatching`. The paper has none, and trains for 200,000 steps.
            demonstration_steps: Steps of that cloning.
            critic_warmup_steps: Steps of the realism critic alone after the cloning.
            max_train_steps: Steps of the adversarial training, over both players; 0 for cloning
                alone.
            batch_size: Latents in a step.
            learning_rate: Of both players.
            seed: Decides every random number.
            output_dir: Gets the logs and checkpoints of `demonstrations`, `critic_warmup` and
                `game`, a folder each.
            options: Further arguments of `players` and of `latentctl.training.fit`.
        """
        names = latents.names if latents.labels is not None else ()
        with seeded(seed, "actor"):
            actor = cls(latents.latent_shape, names, width=width, depth=depth)
            realism = RealismCritic(latents.latent_shape, names, width=width, depth=depth)
        for net in (actor.net, realism.net):
            net.trunk.standardise(*latents.moments())
        chosen = {key: options.pop(key) for key in list(options) if key in PLAYER_OPTIONS}
        where = None if output_dir is None else Path(output_dir)
        options = {"progress": False, **options}
        if teacher is not None and demonstration_steps:
            clone(
                actor,
                teacher,
                latents,
                prior=prior,
                distance_weight=distance_weight,
                demonstrations=min(DEMONSTRATIONS, demonstration_steps * batch_size),
                max_train_steps=demonstration_steps,
                batch_size=batch_size,
                seed=seed,
                output_dir=where and where / "demonstrations",
                **options,
            )
        game = players(
            actor,
            realism,
            latents,
            attributes=attributes,
            prior=prior,
            attribute_weight=attribute_weight,
            distance_weight=distance_weight,
            learning_rate=learning_rate,
            **chosen,
        )
        options = {"batch_size": batch_size, "seed": seed, **options}
        if teacher is not None and critic_warmup_steps:
            folder = where and where / "critic_warmup"
            fit(game[0], latents, max_train_steps=critic_warmup_steps, output_dir=folder, **options)
        if max_train_steps:
            folder = where and where / "game"
            history = fit(
                game, latents, max_train_steps=max_train_steps, output_dir=folder, **options
            )
            if "actor" in history.averaged:
                actor.load_state_dict(history.averaged["actor"].state_dict())
        actor.realism = realism.eval()
        return actor.eval()


PLAYER_OPTIONS = frozenset(
    {"actor_learning_rate", "critic_turns", "actor_turns", "ema", "prior_share", "free_share"}
)


def players(
    actor: Actor,
    realism: RealismCritic,
    latents: Latents,
    *,
    attributes: AttributeCritic | None = None,
    prior: Prior | None = None,
    attribute_weight: float = 0.0,
    distance_weight: float = 0.0,
    learning_rate: float = 3e-4,
    actor_learning_rate: float | None = None,
    critic_turns: int = 5,
    actor_turns: int = 1,
    ema: float | None = 0.99,
    prior_share: float = 0.1,
    free_share: float = 0.25,
) -> list[Player]:
    """The two players of the game, for `latentctl.training.fit`.

    Arguments:
        actor: The actor.
        realism: The critic that it plays against.
        latents: Encodings of data with labels.
        attributes: A trained attribute critic, used if `attribute_weight` is positive.
        prior: Where moves start, N(0, I) by default.
        attribute_weight: Weight of the attribute critic in the actor's loss; 0 in the paper.
        distance_weight: Weight of the distance penalty; 0 or 0.1 in the paper.
        learning_rate: Of both; 1e-4 in the paper.
        actor_learning_rate: Of the actor, where it is another one: a taught actor plays gently.
        critic_turns: Consecutive steps of the critic in a round; 10 in the paper.
        actor_turns: Consecutive steps of the actor in a round.
        ema: Decay of the actor's average, or None.
        prior_share: Share of the critic's steps whose fakes are raw prior samples.
        free_share: Share of rows whose targets are partly freed.
    """
    if attribute_weight and (attributes is None or attributes.names != actor.names):
        known = "none" if attributes is None else ", ".join(attributes.names)
        raise InputError(
            f"attribute_weight needs a critic of the actor's attributes "
            f"({', '.join(actor.names)}), in that order; the one given knows: {known}."
        )
    start = prior if prior is not None else Gaussian(latents.latent_shape)
    used = latents.posterior_std()

    def targets(batch: Latents, step: Step) -> Tensor | None:
        return draw_targets(batch.labels, step, free_share) if actor.names else None

    def critic_loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor | float]]:
        real = batch.sample(step.normal(*actor.latent_shape))
        fake, y, other = prior_starts(start, step), targets(batch, step), None
        raw = torch.rand((), generator=generator(step.seed, step.index, purpose="raw prior"))
        if raw.item() >= prior_share:
            with torch.no_grad():
                fake = actor(fake, y)
        if y is not None:
            rows = step.integers(len(latents), purpose="mismatch")
            other = latents[rows.cpu()].labels
            other = None if other is None else other.to(real.device)
        alpha = step.uniform(*actor.latent_shape, purpose="alpha")
        loss, logs = realism.loss(real, fake, alpha, y, other)
        return loss, dict(logs)

    def actor_loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor | float]]:
        z, y = prior_starts(start, step), targets(batch, step)
        if distance_weight and y is not None:
            z = torch.cat([z, batch.sample(step.normal(*actor.latent_shape))])
            y = torch.cat([y, y])
        moved = actor(z, y)
        real = F.softplus(-realism(moved, y)).mean()
        loss, logs = real, {"realism": real}
        if attribute_weight and attributes is not None and y is not None:
            wrong = cross_entropy(attributes(moved), y).mean()
            loss, logs["attributes"] = loss + attribute_weight * wrong, wrong
        if distance_weight:
            far = distance(moved, z, used.to(z.device)).mean()
            loss, logs["distance"] = loss + distance_weight * far, far
        return loss, dict(logs)

    adam = partial(torch.optim.Adam, lr=learning_rate, betas=(0.0, 0.9))
    return [
        Player(
            "critic",
            realism,
            critic_loss,
            adam(realism.parameters()),
            turns=critic_turns,
        ),
        Player(
            "actor",
            actor,
            actor_loss,
            adam(actor.net.parameters(), lr=actor_learning_rate or learning_rate),
            turns=actor_turns,
            ema=ema,
        ),
    ]
