"""latentctl: control a frozen generator from its latent space."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Ascent",
    "AttributeCritic",
    "Conditional",
    "Controller",
    "CountedRewards",
    "Critic",
    "Decoder",
    "ExampleCritic",
    "Exploration",
    "FlowMatching",
    "Gaussian",
    "GaussianMixture",
    "Inversion",
    "Knowledge",
    "KnowledgeBase",
    "LatentFlow",
    "Latents",
    "Outcome",
    "PixelCritics",
    "Posterior",
    "RealismCritic",
    "RewardCritic",
    "RuleEdit",
    "Transport",
    "Updater",
    "available",
    "condition",
    "edit_by_rule",
    "encode_dataset",
    "encoding_rewards",
    "errors",
    "explore",
    "generator",
    "invert",
    "invertible",
    "load",
    "prior_rewards",
    "rewards",
    "teach",
    "wrap",
]

from . import errors, rewards
from .conditional import Conditional
from .conditioning import condition
from .controllers import Actor, Ascent, Controller, FlowMatching, Transport, Updater
from .critics import (
    AttributeCritic,
    Critic,
    ExampleCritic,
    PixelCritics,
    RealismCritic,
    RewardCritic,
)
from .decoder import Decoder, Posterior
from .exploration import Exploration, explore
from .inversion import Inversion, invert, invertible
from .latents import CountedRewards, Latents, encode_dataset, encoding_rewards, prior_rewards
from .outcome import Outcome
from .priors import Gaussian, GaussianMixture, LatentFlow
from .priors.knowledge import Knowledge
from .priors.knowledge_base import KnowledgeBase
from .random import generator
from .registry import available, load, wrap
from .rule_edit import RuleEdit, edit_by_rule
from .teaching import teach
