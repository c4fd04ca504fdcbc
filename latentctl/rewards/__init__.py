"""Zero-shot rules: any Python function of a decoded sample as an attribute."""

from __future__ import annotations

__all__ = [
    "CountedRewards",
    "Exploration",
    "Reward",
    "RuleEdit",
    "RuleSamples",
    "edit_by_rule",
    "encoding_rewards",
    "explore",
    "prior_rewards",
    "sample_by_rule",
]

from .edit import RuleEdit, edit_by_rule
from .explore import Exploration, explore
from .labels import encoding_rewards, prior_rewards
from .reward_calls import CountedRewards
from .rule import Reward
from .sample import RuleSamples, sample_by_rule
