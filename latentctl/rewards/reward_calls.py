"""Rewards of samples by Python functions: counted, limited, and cached by content."""

from __future__ import annotations

__all__ = ["CountedRewards", "Rules", "content_key"]

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import BudgetError, InputError, UnknownNameError
from ..latents.names import attribute_names
from .rule import Fault, Reward, Rule

logger = logging.getLogger(__name__)


class CountedRewards:
    """Rewards of samples; a sample is scored once, and cached by its content.

    A reward takes a batch `(B, *sample_shape)` and returns B numbers, or takes one sample and
    returns one number. Without `vectorised` a trial on the first samples decides which; its calls
    are not counted. A sample for which a reward raises, or returns anything but a number in
    [0, 1], has no reward (NaN), is counted in `failed`, and reported in `errors` and, the first
    time, by a warning.

    Arguments:
        rewards: One function, several in a list, named by their `__name__`, or several by name.
        max_calls: Most samples to score; None for no limit.
        vectorised: Whether the rewards take a batch; None decides it for each by a trial.

    Raises:
        InputError: If something is not a function, or a name cannot be requested.

    Example:
        >>> even = CountedRewards({"even": lambda x: (x % 2 == 0).float().mean(1)})
        >>> even(torch.tensor([[1, 2], [2, 4], [1, 2]])), even.calls, even.hits
        (tensor([[0.5000],
                [1.0000],
                [0.5000]]), 2, 1)
    """

    def __init__(
        self,
        rewards: Reward | Sequence[Reward] | Mapping[str, Reward],
        *,
        max_calls: int | None = None,
        vectorised: bool | None = None,
    ) -> None:
        named = _by_name(rewards)
        if max_calls is not None and max_calls < 1:
            raise InputError(f"max_calls must be at least 1, it was given as {max_calls}.")
        self.names = tuple(named)
        self.max_calls = max_calls
        self.calls = 0
        """Samples that were scored."""
        self.hits = 0
        """Samples that were found in the cache."""
        self.failed = 0
        """Samples for which a reward failed."""
        self.errors: Counter[str] = Counter()
        """The first message of each kind of failure, with the number of samples."""
        self._rules = [Rule(name, reward, vectorised) for name, reward in named.items()]
        self._messages: dict[tuple[str, str], str] = {}
        self._known: dict[bytes, Tensor] = {}

    @classmethod
    def of(cls, rewards: Rules, max_calls: int | None = None) -> CountedRewards:
        """`rewards` themselves if they are counted already; `InputError` for a second limit."""
        if not isinstance(rewards, CountedRewards):
            return cls(rewards, max_calls=max_calls)
        if max_calls is not None:
            raise InputError("CountedRewards have their own limit: pass max_calls to them.")
        return rewards

    @property
    def left(self) -> float:
        """Calls that may still be made; infinity without a limit."""
        return torch.inf if self.max_calls is None else self.max_calls - self.calls

    def requested(self, rules: str | Sequence[str] | None) -> list[str]:
        """The names of the rules that are asked for; all for None.

        Raises:
            UnknownNameError: If there is no rule of a name.
        """
        names = self.names if rules is None else [rules] if isinstance(rules, str) else rules
        for name in names:
            if name not in self.names:
                raise UnknownNameError("rule", name, self.names)
        return list(names)

    def __call__(self, x: Tensor) -> Tensor:
        """Rewards `(B, K)` in [0, 1] of samples `x (B, *sample_shape)`; NaN where one failed.

        Raises:
            BudgetError: If `max_calls` does not suffice. The first n < B samples are scored, and
                the error has their rewards as `found (n, K)`.
            InputError: If a reward fails for all samples so far, or for most of many, or does not
                give a sample the same reward in a batch and alone.
        """
        x = x.detach().cpu().contiguous()
        keys = [content_key(row) for row in x]
        new: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if key not in self._known:
                new.setdefault(key, place)
        places = list(new.values())
        allowed = int(min(len(places), self.left))
        stop = len(x) if allowed == len(places) else places[allowed]
        scored = places[:allowed]
        if scored:
            scores = self._score(x[scored])
            self.calls += len(scored)
            self._known.update(zip((keys[place] for place in scored), scores, strict=True))
        self.hits += stop - len(scored)
        rows = [self._known[key] for key in keys[:stop]]
        found = torch.stack(rows) if rows else torch.empty(0, len(self.names))
        if stop < len(x):
            raise BudgetError(
                f"{self.calls} samples were scored and max_calls is {self.max_calls}, so "
                f"{len(x) - stop} samples are not scored. Raise max_calls, or use what was found.",
                found,
            )
        return found

    def report(self) -> str:
        """How many samples have no reward and why, in a sentence; empty if all have one."""
        if not self.failed:
            return ""
        return f"{self.failed} of {self.calls} samples have no reward: {_counted(self.errors)}."

    def _score(self, x: Tensor) -> Tensor:
        """Rewards `(B, K)` of samples that are all new."""
        columns, failed, errors = [], set[int](), Counter[str]()
        for rule in self._rules:
            values, faults = rule(x)
            columns.append(values)
            failed |= faults.keys()
            errors.update(self._message(rule.name, fault) for fault in faults.values())
        self.failed += len(failed)
        if new := {text: count for text, count in errors.items() if text not in self.errors}:
            logger.warning(
                "%d of %d samples have no reward and are left out: %s. Further ones are counted.",
                len(failed),
                len(x),
                _counted(new),
            )
        self.errors += errors
        return torch.stack(columns, 1)

    def _message(self, name: str, fault: Fault) -> str:
        return self._messages.setdefault((name, fault.kind), f"{name!r}: {fault.message}")


Rules: TypeAlias = CountedRewards | Reward | Sequence[Reward] | Mapping[str, Reward]
"""What functions on rules take."""


def _by_name(rewards: Reward | Sequence[Reward] | Mapping[str, Reward]) -> dict[str, Reward]:
    """Functions by name."""
    if isinstance(rewards, Mapping):
        pairs = list(rewards.items())
    elif callable(rewards):
        pairs = [(_name_of(rewards), rewards)]
    elif isinstance(rewards, (list, tuple)):
        pairs = [(_name_of(reward), reward) for reward in rewards]
    else:
        pairs = []
    if not pairs:
        raise InputError(
            f"Rewards are a function, several in a list, or several by name in a mapping; found "
            f"{rewards!r}."
        )
    if wrong := [reward for _, reward in pairs if not callable(reward)]:
        raise InputError(f"A reward is a function; {', '.join(map(repr, wrong))} is not.")
    names = attribute_names([name for name, _ in pairs], "rule")
    return dict(zip(names, (reward for _, reward in pairs), strict=True))


def _name_of(reward: Reward) -> str:
    name = getattr(reward, "__name__", "")
    return name if name.isidentifier() else "reward"


def _counted(errors: Mapping[str, int]) -> str:
    return "; ".join(f"{text} ({count} times)" for text, count in errors.items())


def content_key(row: Tensor) -> bytes:
    """What two samples on the CPU have in common if and only if they are equal."""
    content = row.reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(content.tobytes(), digest_size=16).digest()
