"""latentctl: control a frozen generator from its latent space."""

from __future__ import annotations

from . import errors
from .conditional import Conditional, condition, teach
from .controllers import Actor, Ascent, FlowMatching, Updater, distill
from .controllers.cgml import OneToMany
from .critics import AttributeCritic, ExampleCritic, PixelCritic, RealismCritic, RewardCritic
from .decoder import Decoder, Gaussian, available, encode_dataset, load, with_inversion, wrap
from .knowledge import KnowledgeBase
from .latents import Latents
from .priors import LatentFlow
from .rewards import edit_by_rule, encoding_rewards, explore, sample_by_rule
from .storage import VERSION as __version__

__all__ = [
    "Actor",
    "Ascent",
    "AttributeCritic",
    "Conditional",
    "Decoder",
    "ExampleCritic",
    "FlowMatching",
    "Gaussian",
    "KnowledgeBase",
    "LatentFlow",
    "Latents",
    "OneToMany",
    "PixelCritic",
    "RealismCritic",
    "RewardCritic",
    "Updater",
    "__version__",
    "available",
    "condition",
    "distill",
    "edit_by_rule",
    "encode_dataset",
    "encoding_rewards",
    "errors",
    "explore",
    "load",
    "sample_by_rule",
    "teach",
    "with_inversion",
    "wrap",
]
