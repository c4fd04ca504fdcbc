r"""The amortised actor of Latent Constraints: one network moves any latent to any target.

The actor :math:`G(z, y)` and the realism critic :math:`D(z, y)` play

.. math::
    L_G = \mathbb{E}_{p(z)}\big[-\log D(G(z, y), y) - w \log P(y \mid G(z, y))
        + \lambda L_\mathrm{dist}(G(z, y), z)\big]

with targets :math:`y` from the data, part of them freed at random. With a distance penalty the
actor is also trained on encodings of data with their own attributes as targets, so that it does not
change attributes that are right already.

Two things are not in the paper. The term in :math:`w` is of an attribute critic fitted beforehand;
with `w = 0` only the conditional critic depends on attributes. And since adversarial training is
slow at first, an actor may first clone another controller, the `teacher`, by least squares.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Actor", "players"]

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import AttributeCritic, RealismCritic
from ..critics.log_odds import cross_entropy
from ..decoder import Gaussian, Prior
from ..errors import InputError
from ..latents import Latents, require_latents
from ..latents.names import attribute_names
from ..nn.trunk import GatedResidual
from ..random import generator, seeded
from ..storage import register_to_config
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

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        width: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), attribute_names(names)
        self.net = GatedResidual(
            latent_shape, context=2 * len(self.names), width=width, depth=depth
        )

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
        demonstration_steps: int | None = None,
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
            prior: Distribution of the starts, N(0, I) by default.
            width: Units of each layer.
            depth: Number of layers.
            attribute_weight: Weight of the attribute critic in the actor's loss; 0 in the paper.
            distance_weight: Weight of the distance penalty; 0 or 0.1 in the paper.
            teacher: A controller whose moves are cloned before the adversarial training, such as
                a `FlowMatching`. The paper has none, and trains for 200,000 steps.
            demonstration_steps: Steps of that cloning. By default two thirds of `max_train_steps`,
                at most 2000, and 2000 for cloning alone. The teacher makes one move for each latent
                of these steps, at most 20,000.
            critic_warmup_steps: Steps of the realism critic alone after the cloning.
            max_train_steps: Steps of the adversarial training, over both players; 0 for cloning
                alone.
            batch_size: Latents in a step.
            learning_rate: Of both players; 1e-4 in the paper.
            seed: Decides every random number.
            output_dir: Folder of the logs and checkpoints of `demonstrations`, `critic_warmup` and
                `game`, a folder each.
            options: Further arguments of `players` and of `latentctl.training.fit`.
        """
        require_latents(latents)
        names = latents.names if latents.labels is not None else ()
        if demonstration_steps is None:
            demonstration_steps = min(2000, math.ceil(max_train_steps * 2 / 3)) or 2000
        with seeded(seed, "actor"):
            actor = cls(latents.latent_shape, names, width=width, depth=depth)
            realism = RealismCritic(latents.latent_shape, names, width=width, depth=depth)
        for net in (actor.net, realism.net):
            net.trunk.standardise(*latents.moments())
        own = {key: options.pop(key) for key in PLAYER_OPTIONS & options.keys()}
        options = {"batch_size": batch_size, "seed": seed, **options}

        def stage(name: str, steps: int) -> dict[str, Any]:
            folder = None if output_dir is None else Path(output_dir) / name
            return {"max_train_steps": steps, "output_dir": folder, **options}

        if teacher is not None and demonstration_steps:
            clone(
                actor,
                teacher,
                latents,
                prior=prior,
                distance_weight=distance_weight,
                demonstrations=min(DEMONSTRATIONS, demonstration_steps * batch_size),
                **stage("demonstrations", demonstration_steps),
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
            **own,
        )
        if teacher is not None and critic_warmup_steps:
            fit(game[0], latents, **stage("critic_warmup", critic_warmup_steps))
        if max_train_steps:
            history = fit(game, latents, **stage("game", max_train_steps))
            if "actor" in history.averaged:
                actor.load_state_dict(history.averaged["actor"].state_dict())
        actor.realism = realism.eval()
        return actor.eval()


PLAYER_OPTIONS = {
    "actor_learning_rate",
    "critic_turns",
    "actor_turns",
    "ema",
    "prior_share",
    "free_share",
}


def players(
    actor: Actor,
    realism: RealismCritic,
    latents: Latents,
    *,
    attributes: AttributeCritic | None,
    prior: Prior | None,
    attribute_weight: float,
    distance_weight: float,
    learning_rate: float,
    actor_learning_rate: float | None = None,
    critic_turns: int = 5,
    actor_turns: int = 1,
    ema: float | None = 0.99,
    prior_share: float = 0.1,
    free_share: float = 0.25,
) -> list[Player]:
    """The two players, for `latentctl.training.fit`.

    Arguments:
        actor: The actor.
        realism: The critic that it is trained against.
        latents: Encodings of data with labels.
        attributes: As in `Actor.fit`.
        prior: As in `Actor.fit`.
        attribute_weight: As in `Actor.fit`.
        distance_weight: As in `Actor.fit`.
        learning_rate: As in `Actor.fit`.
        actor_learning_rate: Of the actor, `learning_rate` by default; lower for a cloned actor.
        critic_turns: Consecutive steps of the critic in a round; 10 in the paper.
        actor_turns: Consecutive steps of the actor in a round.
        ema: Decay of the actor's average, or None.
        prior_share: Share of the critic's steps whose fakes are raw prior samples.
        free_share: Share of rows whose targets are partly freed.
    """
    if attribute_weight and (attributes is None or attributes.names != actor.names):
        found = "none" if attributes is None else ", ".join(attributes.names)
        raise InputError(
            f"attribute_weight needs a critic of the actor's attributes "
            f"({', '.join(actor.names)}), in that order; found: {found}. Fit both on the same "
            f"labels."
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

    adam = partial(torch.optim.Adam, betas=(0.0, 0.9))
    on_critic = adam(realism.parameters(), lr=learning_rate)
    on_actor = adam(actor.net.parameters(), lr=actor_learning_rate or learning_rate)
    return [
        Player("critic", realism, critic_loss, on_critic, turns=critic_turns),
        Player("actor", actor, actor_loss, on_actor, turns=actor_turns, ema=ema),
    ]
