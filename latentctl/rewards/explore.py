r"""Zero-shot control: an actor for rules that are Python functions, trained in rounds.

First the prior is sampled, decoded and scored (`prior_rewards`), and a `RewardCritic` is fitted.
Then rounds follow. In each the critic, a realism critic and the actor are trained
(`latentctl.rewards.game`), and the actor's moves from fresh starts are decoded, scored and added to
the critic's data. Where the actor exploits an error of the critic, the rewards correct it.

Every `Round` reports the true rewards of fresh moves, and beside them the critic's predictions.
The actor of the best round is returned. What no sample keeps is given up early
(`latentctl.rewards.reach`).

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Exploration", "Round", "explore"]

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..controllers import Actor
from ..critics import RealismCritic, RewardCritic
from ..critics.reward import satisfied
from ..decoder import Decoder, Prior
from ..errors import InputError
from ..latents import Latents
from ..progress import track
from ..random import generator, seeded
from ..training import Step, fit
from .game import RuleGame
from .labels import BATCH, as_latents, decoded_rewards, prior_rewards
from .reach import Reach
from .reward_calls import CountedRewards, Rules
from .rounds import Round, all_kept, known_labels, means, prior_round, spread, warn
from .statistics import Statistics

logger = logging.getLogger(__name__)

COMPARED = 1024  # samples of the prior whose spread and statistics are the usual ones
GATE_BIAS = -3.0  # of the untrained actor
RECENT = 4  # the last rounds, which are half of the critic's data
GAME_OPTIONS = {field.name for field in fields(RuleGame) if isinstance(field.default, float)}


@dataclass(frozen=True)
class Exploration:
    """What `explore` found."""

    critic: RewardCritic
    """Predicts the rewards of a latent."""

    actor: Actor
    """Moves latents to requests; its `realism` is the realism critic."""

    latents: Latents
    """All scored latents in order, the samples of the prior first."""

    rounds: list[Round]
    """The rounds, the prior first."""

    best: int
    """The round that the actor is of: its `Round.score` is the highest."""

    given_up: dict[tuple[str, ...], str]
    """Rules that no sample keeps, alone or together, each with a sentence that says why."""

    rewards: CountedRewards
    """The rewards, with their number of calls."""


def explore(
    decoder: Decoder,
    rewards: Rules,
    *,
    rounds: int = 40,
    prior_samples: int = 6000,
    moves: int = 1000,
    max_reward_calls: int | None = None,
    prior: Prior | None = None,
    encodings: Latents | Tensor | None = None,
    width: int = 256,
    depth: int = 3,
    first_steps: int = 1000,
    train_steps: int = 300,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Exploration:
    """An actor for rules, alone and together, and the critic that it was trained on.

    Arguments:
        decoder: The decoder; nothing has to be differentiable.
        rewards: One rule, several in a list or by name, or `CountedRewards`.
        rounds: Rounds after the prior.
        prior_samples: Samples of the prior that are scored first; at most a third of the calls.
        moves: Moves that are scored in a round.
        max_reward_calls: Most samples to score; then the rounds end.
        prior: Distribution of the starts, the decoder's prior by default.
        encodings: Encodings of data, or their means. Half of the moves then start there, for
            edits, and the realism critic is trained on them instead of samples of the prior.
        width: Units of each layer of all networks.
        depth: Number of layers.
        first_steps: Steps of the critic on the prior.
        train_steps: Steps in a round, over the three players.
        batch_size: Latents in a step.
        seed: Decides every random number.
        progress: Show a bar on the main process.
        options: `realism_weight`, `learning_rate` (the actor's falls to zero over the rounds) and
            other options of `latentctl.rewards.game.RuleGame`, and further arguments of
            `latentctl.training.fit`.

    Raises:
        InputError: If a rule fails for most samples, or no sample could be scored.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> found = explore(decoder, {"high": lambda x: (x > 0).float().mean(1)}, rounds=1,
        ...                 prior_samples=100, moves=50, width=8, first_steps=5, train_steps=8)
        >>> moved = latentctl.condition(decoder, found.critic, found.actor)
        >>> moved.sample(3, high=True).x.shape, found.rewards.calls
        (torch.Size([3, 12]), 150)
    """
    if min(rounds, prior_samples, moves) < 1:
        raise InputError("rounds, prior_samples and moves must be at least 1.")
    rewards = CountedRewards.of(rewards, max_reward_calls)
    prior = decoder.prior if prior is None else prior
    count = int(min(prior_samples, max(rewards.left // 3, 1)))
    before = rewards.calls
    seen = prior_rewards(decoder, rewards, count, prior=prior, seed=seed, progress=progress)
    record = [prior_round(seen, rewards, before)]
    weights = {key: options.pop(key) for key in GAME_OPTIONS & options.keys()}
    options = {"batch_size": batch_size, "progress": progress, **options}
    sizes = {"width": width, "depth": depth}
    reach, names = Reach(seen.names), seen.names
    reach.see_prior(known_labels(seen))
    shown = seen.mean[:COMPARED]
    x = decoder.decode(shown.to(decoder.device), batch_size=BATCH)
    usual, statistics = spread(x), Statistics(x)
    seen = _with_statistics(seen, statistics(x))
    critic = RewardCritic.fit(seen, max_train_steps=first_steps, seed=seed, **sizes, **options)
    encodings = None if encodings is None else as_latents(encodings)
    real = Latents(seen.mean) if encodings is None else encodings
    actor, realism = _networks(names, real, sizes, seed)
    game = RuleGame(
        actor, critic, realism, real, prior, encodings, given_up=reach.given_up, **weights
    )
    best, averaged = record[0], actor.state_dict()
    for number in track(range(1, rounds + 1), "Explore", "round", progress=progress):
        if reach.nothing_left:
            logger.warning("No rule is left to explore: the rounds end before round %d", number)
            break
        place = generator(seed, number, purpose="round").initial_seed()
        game.slow_down(1 - (number - 1) / rounds)
        data = _half_recent(seen, min(len(seen) - count, RECENT * moves))
        history = fit(game.players, data, max_train_steps=train_steps, seed=place, **options)
        moving, step = history.averaged["actor"], Step(~place, number, 0, moves, moves)
        found, requested, line = _score(decoder, rewards, game, moving, step, statistics, usual)
        reach.see_round(known_labels(found)[:, : len(names)], requested)
        record.append(line)
        logger.info("%s", line)
        if best is record[0] or line.score >= best.score:
            best, averaged = line, moving.state_dict()
        seen = _joined(seen, found)
        if len(found) < moves:
            logger.warning("The calls of the rewards ended in round %d of %d", number, rounds)
            break
    actor.load_state_dict(averaged)
    warn(best)
    if rewards.failed:
        logger.warning("%s", rewards.report())
    actor.realism = realism.eval()
    seen = seen.with_labels(known_labels(seen)[:, : len(names)], names)
    return Exploration(
        critic.select(names).eval(),
        actor.eval(),
        seen,
        record,
        best.number,
        reach.reasons,
        rewards,
    )


def _with_statistics(latents: Latents, found: Tensor) -> Latents:
    """Statistics `(n, S)` of the first latents as further labels; the others have none."""
    missing = torch.full((len(latents) - len(found), found.shape[1]), torch.nan)
    labels = torch.cat([known_labels(latents), torch.cat([found, missing])], 1)
    names = [f"statistic_{number}_held" for number in range(found.shape[1])]
    return latents.with_labels(labels, [*latents.names, *names])


def _networks(
    names: Sequence[str], real: Latents, sizes: dict[str, Any], seed: int
) -> tuple[Actor, RealismCritic]:
    """The untrained actor and realism critic."""
    with seeded(seed, "explore"):
        actor = Actor(real.latent_shape, names, **sizes)
        realism = RealismCritic(real.latent_shape, **sizes)
    # untrained moves are near zero: the usual gate would shrink every latent by an eighth
    nn.init.constant_(actor.net.head.get_parameter("bias")[real.latent_shape[0] :], GATE_BIAS)
    for net in (actor.net, realism.net):
        net.trunk.standardise(*real.moments())
    return actor, realism


def _joined(latents: Latents, others: Latents) -> Latents:
    """All latents with their rewards."""
    if not len(others):
        return latents
    labels = torch.cat([known_labels(latents), known_labels(others)])
    return Latents(torch.cat([latents.mean, others.mean]), labels=labels, names=latents.names)


def _half_recent(latents: Latents, recent: int) -> Latents:
    """The latents, with the last ones repeated until they are about half of all."""
    every = torch.arange(len(latents))
    repeats = len(latents) // recent - 1 if recent else 0
    return latents[torch.cat([every, every[len(latents) - recent :].repeat(max(repeats, 0))])]


@torch.no_grad()
def _score(
    decoder: Decoder,
    rewards: CountedRewards,
    game: RuleGame,
    actor: nn.Module,
    step: Step,
    statistics: Statistics,
    usual: float,
) -> tuple[Latents, Tensor, Round]:
    """Moves from fresh starts with their rewards, what was requested, and their record."""
    device = next(actor.parameters()).device
    start, y = game.starts(step).to(device), game.requests(step).to(device)
    moved = actor(start, y)
    found, held, apart, distinct = decoded_rewards(decoder, rewards, moved, statistics=statistics)
    count, rules = found.shape
    expected = game.critic.probability(moved)[:count, :rules].cpu()
    requested = (y == 1)[:count].cpu()
    kept, some = satisfied(found), requested.any(1)
    line = Round(
        number=step.index,
        calls=rewards.calls,
        reward=means(rewards.names, found, requested),
        satisfied=means(rewards.names, kept, requested),
        expected=means(rewards.names, expected, requested),
        all_satisfied=all_kept(kept[requested.all(1)]),
        kept=all_kept(torch.where(requested, kept, 1.0)[some]),
        realism=float(game.realism.probability(moved).mean()),
        distinct=distinct,
        variety=apart / max(usual, 1e-12),
        shift=float((moved - start).square().mean().sqrt()),
    )
    labels = torch.cat([found, held], 1)
    latents = Latents(moved[:count].cpu(), labels=labels, names=game.critic.names)
    return latents, requested, line
