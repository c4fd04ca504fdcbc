"""What a cache was made of, so that it is never taken for the cache of something else.

A job is plain JSON, kept in every shard and in the manifest: the decoder's fingerprint, the names
of the labels, the length of the data set where it is known, a hash of its first sample and, unless
it streams, of its last one, and the size of a shard.
"""

from __future__ import annotations

__all__ = ["differences", "sample_hashes"]

import hashlib
from typing import Any

from .dataset import BadSample, SampleReader


def sample_hashes(reader: SampleReader) -> dict[str, str]:
    """What tells this data set from another: its first sample and, unless it streams, its last."""
    found = {}
    for index in {0, 0 if reader.source.length is None else reader.source.length - 1}:
        try:
            sample = reader(index)
        except BadSample:
            found[str(index)] = "bad"
            continue
        digest = hashlib.sha256(f"{sample.x.dtype}{tuple(sample.x.shape)}".encode())
        digest.update(sample.x.contiguous().numpy().tobytes() + sample.labels.numpy().tobytes())
        found[str(index)] = digest.hexdigest()[:16]
    return found


def differences(found: dict[str, Any], job: dict[str, Any]) -> str:
    """In what a cache on disk is not what is asked for; empty if it is."""
    parts = []
    if not found.keys() >= job.keys() or found["format"] != job["format"]:
        return "it was not made by encode_dataset of this version"
    if found["fingerprint"] != job["fingerprint"]:
        parts.append("it was made by another decoder")
    if found["names"] != job["names"]:
        parts.append(f"it has labels {found['names']} and this call asks {job['names']}")
    lengths = found["length"], job["length"]
    if None not in lengths and lengths[0] != lengths[1]:
        parts.append(f"it has {lengths[0]} samples and this data set {lengths[1]}")
    if any(found["samples"].get(key, hashed) != hashed for key, hashed in job["samples"].items()):
        parts.append("its samples or labels are others (another data set or transform)")
    if found["shard_size"] != job["shard_size"]:
        parts.append(
            f"it was begun with shard_size={found['shard_size']} and this call has "
            f"{job['shard_size']}"
        )
    return "; ".join(parts)
