"""The seal of a cache: every shard is verified, and the manifest written."""

from __future__ import annotations

__all__ = ["commit", "intact_entries"]

import functools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import CacheError, InputError
from ..latents.manifest import is_unchanged, read_manifest, write_manifest
from ..latents.shards import Entry, Key, read_entry, read_notes
from ..storage.files import MANIFEST
from .dataset import BadSample

logger = logging.getLogger(__name__)

HASHING = 8  # threads


def intact_entries(
    folder: Path, found: Mapping[Key, list[Path]], grown: bool
) -> dict[Key, Entry | None]:
    """The entry of each shard, None if no file of it is intact; such files are removed.

    Arguments:
        folder: The cache.
        found: The files of each shard.
        grown: Whether the cache was sealed before; what was sealed and has the listed size and
            time is not hashed again.
    """
    intact = functools.partial(_first_intact, _sealed(folder) if grown else {})
    with ThreadPoolExecutor(HASHING) as pool:
        return dict(zip(found, pool.map(intact, found.values()), strict=True))


def _sealed(folder: Path) -> dict[str, str]:
    """Name and hash of the shards that are listed and unchanged."""
    try:
        _, listing = read_manifest(folder)
    except CacheError:
        return {}
    unchanged = [shard for shard in range(len(listing)) if is_unchanged(folder, listing, shard)]
    return {listing.file(shard): listing.sha256(shard) for shard in unchanged}


def _first_intact(sealed: Mapping[str, str], paths: list[Path]) -> Entry | None:
    """The entry of the first file that is sealed, or whose bytes have the hash in its name."""
    for path in paths:
        if (sha256 := sealed.get(path.name)) and (notes := read_notes(path)):
            return {**notes, "sha256": sha256}
        if entry := read_entry(path):
            return entry
        logger.warning("%s is truncated or corrupted: it is encoded again.", path)
        path.unlink(missing_ok=True)
    return None


def commit(
    folder: Path,
    shards: Sequence[Entry],
    identity: Mapping[str, Any],
    length: int | None,
    skip: bool,
) -> None:
    """Write the manifest of a cache.

    Arguments:
        folder: The cache.
        shards: Its shards, in order.
        identity: That of the encoding.
        length: Samples of the data set, if known.
        skip: Whether samples may be left out.

    Raises:
        BadSample: If one was left out and may not be.
        CacheError: If the shards have another number of samples than the data set.
        InputError: If no sample can be used.
    """
    total, entries, skipped = 0, list[Entry](), list[dict[str, Any]]()
    for entry in shards:
        start = total
        total += entry["stop"] - entry["start"]
        for record in entry["skipped"]:
            skipped.append({**record, "index": start + record["index"] - entry["start"]})
        entries.append({**entry, "start": start, "stop": total})
    if length is not None and total != length:
        raise CacheError(
            f"The data set has {length} samples now, and the shards of {folder} end at {total}: "
            f"it changed in between. Delete this cache."
        )
    if skipped and not skip:
        raise BadSample(**skipped[0])
    if not any(entry["rows"] for entry in entries):
        raise InputError(
            f"None of the {total} samples can be used. "
            + (f"Sample {skipped[0]['index']}: {skipped[0]['reason']}" if skipped else "")
        )
    if skipped:
        message = "%d of %d samples were skipped; %s lists them."
        logger.warning(message, len(skipped), total, folder / MANIFEST)
    errors = [entry["errors"] for entry in shards]
    bound = {key: max(e.get(key, 0.0) for e in errors) for key in sorted(set().union(*errors))}
    content = {**identity, "length": total, "skipped": skipped, "errors": bound}
    write_manifest(folder, entries, content)
