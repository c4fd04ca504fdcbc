"""Encode once, train on the cache ever after."""

from __future__ import annotations

__all__ = ["CountedRewards", "Latents", "encode_dataset", "encoding_rewards", "prior_rewards"]

from .cache import Latents
from .encode import encode_dataset
from .rewarded import CountedRewards, encoding_rewards, prior_rewards
