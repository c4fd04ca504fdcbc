"""Log-odds that a latent satisfies something: the algebra, and one file a kind of critic."""

from __future__ import annotations

__all__ = [
    "AttributeCritic",
    "Critic",
    "ExampleCritic",
    "JoinedCritic",
    "JoinedPixelCritic",
    "MeanCritic",
    "Member",
    "PixelCritic",
    "RealismCritic",
    "RewardCritic",
    "prior_labels",
]

from .attributes import AttributeCritic
from .base import Critic
from .examples import ExampleCritic
from .joined import JoinedCritic, JoinedPixelCritic, Member
from .mean import MeanCritic
from .pixel import PixelCritic
from .prior_labels import prior_labels
from .realism import RealismCritic
from .reward import RewardCritic
