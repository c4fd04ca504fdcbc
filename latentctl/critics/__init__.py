"""Log-odds that a latent satisfies something: the algebra, and one file a kind of critic."""

from __future__ import annotations

__all__ = [
    "AttributeCritic",
    "Critic",
    "ExampleCritic",
    "NamedCritics",
    "PixelCritics",
    "RealismCritic",
    "RewardCritic",
]

from .attributes import AttributeCritic
from .base import Critic
from .examples import ExampleCritic
from .named import NamedCritics
from .pixel import PixelCritics
from .realism import RealismCritic
from .reward import RewardCritic
