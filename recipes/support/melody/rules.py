"""The rules of `melody_rewards`: the paper's two, or functions of the user's."""

from __future__ import annotations

__all__ = ["RuleFlags", "rules_of"]

import math
from dataclasses import dataclass
from functools import partial

from latentctl_adapters.melody_rewards import c_major, density, onsets
from torch import Tensor

from latentctl.cli import load_function
from latentctl.errors import InputError
from latentctl.rewards import Reward

DENSE = 0.9  # quantile of the number of notes that the second rule requires


@dataclass
class RuleFlags:
    """The rules, and the budget of their evaluation."""

    reward: tuple[str, ...] = ()
    """Rules of your own, FILE.py:FUNCTION or MODULE:FUNCTION; C major and density by default."""
    dense_notes: int | None = None  # Notes of the rule of density; else the data's 90 % quantile.
    max_reward_calls: int = 80_000  # Melodies that are scored by the rules in training.
    rounds: int | None = None
    """Rounds of exploration; defaults of this and the next flags as in `latentctl.explore`."""
    prior_samples: int | None = None  # Samples of the prior that are scored first.
    moves: int | None = None  # Moves that are scored in a round.
    first_steps: int | None = None  # Training steps of the critic on the prior.
    train_steps: int | None = None  # Training steps in a round.
    realism_weight: float | None = None  # Weight of realism in the actor's loss.
    evaluations: int = 100  # Of `latentctl.sample_by_rule`, beside the actor; 0 for none.
    edit_samples: int = 24_000  # Encodings that are scored for the critic of edits.
    edit_train_steps: int = 1200  # Training steps of the critic of edits.


def rules_of(flags: RuleFlags, real: Tensor) -> dict[str, Reward]:
    """The rules by name; the default density is that of melodies `real (N, T)`.

    Raises:
        InputError: If two rules have one name, or a rule is not found.
    """
    if not flags.reward:
        notes = flags.dense_notes
        if notes is None:
            notes = math.ceil(onsets(real).sum(1).float().quantile(DENSE))
        return {"c_major": c_major, "dense": partial(density, notes=notes)}
    rules = {
        source.rpartition(":")[2]: load_function(source, "--reward") for source in flags.reward
    }
    if len(rules) < len(flags.reward):
        raise InputError(f"Two rules of {', '.join(flags.reward)} have one name: rename one.")
    return rules
