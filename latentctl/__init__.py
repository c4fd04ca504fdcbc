"""latentctl: control a frozen generator from its latent space."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Ascent",
    "AttributeCritic",
    "Conditional",
    "Controller",
    "Critic",
    "Decoder",
    "FlowMatching",
    "Gaussian",
    "GaussianMixture",
    "Knowledge",
    "KnowledgeBase",
    "LatentFlow",
    "Latents",
    "Outcome",
    "Posterior",
    "RealismCritic",
    "Transport",
    "Updater",
    "available",
    "condition",
    "encode_dataset",
    "errors",
    "generator",
    "load",
    "wrap",
]

from . import errors
from .conditional import Conditional, Outcome, condition
from .controllers import Actor, Ascent, Controller, FlowMatching, Transport, Updater
from .critics import AttributeCritic, Critic, RealismCritic
from .decoder import Decoder, Posterior
from .latents import Latents, encode_dataset
from .priors import Gaussian, GaussianMixture, LatentFlow
from .priors.knowledge import Knowledge
from .priors.knowledge_base import KnowledgeBase
from .random import generator
from .registry import available, load, wrap
