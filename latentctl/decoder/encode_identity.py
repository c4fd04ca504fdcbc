"""The identity of an encoding: what must agree for a cache, or a shard, to be of this job.

It is plain JSON in every shard and in the manifest: the decoder's fingerprint, the names of the
labels, the length of the data set if known, a hash of its first sample and, unless it is a stream,
of its last one, the type in which numbers are stored, the size of a shard, the number of parts of a
stream, and what the cache had before it grew. A cache of another identity is never overwritten.
"""

from __future__ import annotations

__all__ = ["DIVISION", "OtherJobError", "differences", "identify"]

import hashlib
from collections.abc import Sequence
from typing import Any

from ..errors import CacheError
from ..latents.shards import FORMAT
from .dataset import BadSample, SampleReader

DIVISION = ("shard_size", "parts")  # what says how the shards are divided


class OtherJobError(CacheError):
    """An intact cache of another identity."""


def identify(
    reader: SampleReader, shard_size: int, dtype: str, pieces: Sequence[int] = ()
) -> dict[str, Any]:
    """The identity of an encoding, of a cache that had `pieces` rows or parts before it grew."""
    parts, length, hashes = reader.source.parts, reader.source.length, {}
    reader = reader.of_part(0) if reader.source.parts > 1 else reader
    ends = [] if length is None else [*(size - 1 for size in pieces), length - 1]
    for index in sorted({0, *ends}):
        try:
            sample = reader(index)
        except BadSample:
            hashes[str(index)] = "bad"
            continue
        digest = hashlib.sha256(f"{sample.x.dtype}{tuple(sample.x.shape)}".encode())
        for values in (sample.x.contiguous(), sample.labels):
            digest.update(values.cpu().numpy().tobytes())
        hashes[str(index)] = digest.hexdigest()[:16]
    identity = {
        "format": FORMAT,
        "fingerprint": reader.decoder.fingerprint(),
        "names": list(reader.names),
        "length": length,
        "samples": hashes,
        "dtype": dtype,
        "shard_size": shard_size,
        "parts": parts,
    }
    return {**identity, "pieces": list(pieces)} if pieces else identity


def differences(found: dict[str, Any], job: dict[str, Any]) -> str:
    """What of a cache is not of this job, in words; empty if all is."""
    if not found.keys() >= job.keys() or found["format"] != job["format"]:
        return "it was not made by encode_dataset of this version"
    parts = []
    if found["fingerprint"] != job["fingerprint"]:
        parts.append("it was made by another decoder")
    if found["names"] != job["names"]:
        parts.append(f"it has labels {found['names']} and this call asks for {job['names']}")
    lengths = found["length"], job["length"]
    if None not in lengths and lengths[0] != lengths[1]:
        parts.append(f"it has {lengths[0]} samples and this data set {lengths[1]}")
        if lengths[0] < lengths[1]:
            parts[-1] += " (with grow=True rows are added, if these are its first)"
    if any(found["samples"].get(key, hashed) != hashed for key, hashed in job["samples"].items()):
        parts.append("its samples or labels differ (another data set or transform)")
    if found["dtype"] != job["dtype"]:
        parts.append(f"it is stored in {found['dtype']} and this call asks for {job['dtype']}")
    if found["shard_size"] != job["shard_size"]:
        parts.append(f"it was begun with shard_size={found['shard_size']}, not {job['shard_size']}")
    if found["parts"] != job["parts"]:
        parts.append(f"it was begun from a stream in {found['parts']} parts, not {job['parts']}")
    return "; ".join(parts)
