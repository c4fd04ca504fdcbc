"""Encode once, train on the cache ever after."""

from __future__ import annotations

__all__ = [
    "CountedRewards",
    "Covariance",
    "Latents",
    "encode_dataset",
    "encoding_rewards",
    "prior_rewards",
]

from .cache import Latents
from .counted import CountedRewards
from .covariance import Covariance
from .encode import encode_dataset
from .rewarded import encoding_rewards, prior_rewards
