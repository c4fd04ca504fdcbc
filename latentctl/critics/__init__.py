"""Log-odds that a latent satisfies something: the algebra, and one file a kind of critic."""

from __future__ import annotations

__all__ = [
    "AttributeCritic",
    "Critic",
    "ExampleCritic",
    "PixelCritic",
    "RealismCritic",
    "RewardCritic",
]

from .attributes import AttributeCritic
from .base import Critic
from .examples import ExampleCritic
from .pixel import PixelCritic
from .realism import RealismCritic
from .reward import RewardCritic
