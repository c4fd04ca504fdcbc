"""Faults drawn by a seed: `LATENTCTL_FAULT_SEED` changes them, the default is that of CI."""

from __future__ import annotations

import copy
import json
import os
import random

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
JUNK = (
    *(None, True, -1, 0, 3, 10**7, 30000, 10**30, 0.5, -1e300, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/dev/zero", "*", "x" * 100_000, [], {}, [1, 2], [[]]),
    *({"kind": "ascent"}, {"same": "x"}, {"given": []}, [[[[[[[[[[[0]]]]]]]]]]], [0.1] * 70_000),
)


def draws(purpose: str) -> random.Random:
    """A generator for one test."""
    return random.Random(f"{SEED} {purpose}")


def places(tree, path=()):
    """Every place in a JSON tree, as a path of keys."""
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield (*path, key)
            yield from places(tree[key], (*path, key))


def mutated(tree, draw: random.Random):
    """The tree with one place deleted, replaced by junk, doubled or renamed."""
    tree = copy.deepcopy(tree)
    *path, last = draw.choice(list(places(tree)))
    parent = tree
    for key in path:
        parent = parent[key]
    kind = draw.choice(("replace", "replace", "replace", "delete", "add", "rename"))
    if kind == "delete":
        del parent[last]
    elif kind == "add" and isinstance(parent, dict):
        parent[draw.choice(("heads", "width", "depth", "..", "kind"))] = draw.choice(JUNK)
    elif kind == "rename" and isinstance(parent, dict):
        parent[str(last)[::-1]] = parent.pop(last)
    else:
        parent[last] = draw.choice(JUNK)
    return json.loads(json.dumps(tree))
