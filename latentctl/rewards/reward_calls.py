"""Rewards of samples by Python functions: counted, limited, and cached by content."""

from __future__ import annotations

__all__ = ["CountedRewards", "Reward"]

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import BudgetError, InputError

logger = logging.getLogger(__name__)

ROUNDING = 1e-6  # tolerance of [0, 1]
REPORTED = 8  # error messages of rewards that are kept

Reward: TypeAlias = Callable[[Any], Any]
"""From samples `(B, *sample_shape)` to rewards `(B,)`, or from one sample to its reward."""


class CountedRewards:
    """Rewards of samples; a sample is scored once, and cached by its content.

    A reward takes a batch `(B, *sample_shape)` and returns B numbers, or takes one sample and
    returns one number. Without `vectorised` a trial on the first two samples decides which; the
    trial is not counted. A sample for which a reward raises has no reward (NaN), is counted in
    `failed` and reported in `errors` and by a warning.

    Arguments:
        rewards: One reward, named by its `__name__`, or several by name.
        max_calls: Most samples to score; None for no limit.
        vectorised: Whether the rewards take a batch; None decides it for each by a trial.

    Example:
        >>> even = CountedRewards({"even": lambda x: (x % 2 == 0).float().mean(1)})
        >>> even(torch.tensor([[1, 2], [2, 4], [1, 2]])), even.calls, even.hits
        (tensor([[0.5000],
                [1.0000],
                [0.5000]]), 2, 1)
    """

    def __init__(
        self,
        rewards: Reward | Mapping[str, Reward],
        *,
        max_calls: int | None = None,
        vectorised: bool | None = None,
    ) -> None:
        if callable(rewards):
            rewards = {getattr(rewards, "__name__", "reward"): rewards}
        if not isinstance(rewards, Mapping) or not rewards:
            raise InputError(
                f"Rewards are a function, or several by name in a mapping; found {rewards!r}."
            )
        if wrong := [name for name, reward in rewards.items() if not callable(reward)]:
            raise InputError(f"A reward is a function; {', '.join(map(repr, wrong))} is not.")
        if max_calls is not None and max_calls < 1:
            raise InputError(f"max_calls must be at least 1, it was given as {max_calls}.")
        self.rewards, self.names = dict(rewards), tuple(rewards)
        self.max_calls = max_calls
        self.calls = 0
        """Samples that were scored."""
        self.hits = 0
        """Samples that were found in the cache."""
        self.failed = 0
        """Samples for which a reward raised."""
        self.errors: list[str] = []
        """The first of these errors."""
        self._batched = dict.fromkeys(self.names, vectorised)
        self._known: dict[bytes, Tensor] = {}

    @classmethod
    def of(
        cls, rewards: CountedRewards | Reward | Mapping[str, Reward], max_calls: int | None = None
    ) -> CountedRewards:
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

    def __call__(self, x: Tensor) -> Tensor:
        """Rewards `(B, K)` in [0, 1] of samples `x (B, *sample_shape)`; NaN where one raised.

        Raises:
            BudgetError: If `max_calls` does not suffice. The first n < B samples are scored, and
                the error has their rewards as `found (n, K)`.
            InputError: If a reward returns a NaN, a number out of [0, 1] or not one for each
                sample, or raises for every sample of the first batch.
        """
        x = x.detach().cpu().contiguous()
        keys = [_content(row) for row in x]
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

    def _score(self, x: Tensor) -> Tensor:
        """Rewards `(B, K)` of samples that are all new."""
        errors: dict[int, str] = {}
        scores = torch.full((len(x), len(self.names)), torch.nan)
        for column, name in enumerate(self.names):
            values = self._column(name, x, errors)
            known = ~torch.isnan(values)
            scores[known, column] = values[known].float()
        if errors:
            self.failed += len(errors)
            new = list(errors.values())[: REPORTED - len(self.errors)]
            self.errors += new
            logger.warning(
                "%d of %d samples have no reward and are left out, %d so far. %s",
                len(errors),
                len(x),
                self.failed,
                " | ".join(new),
            )
        return scores

    def _column(self, name: str, x: Tensor, errors: dict[int, str]) -> Tensor:
        """One reward of each sample, `(B,)`; NaN and an entry in `errors` if it raises."""
        reward = self.rewards[name]
        if self._batched[name] is None:
            self._batched[name] = _takes_batch(name, reward, x)
        if self._batched[name]:
            try:
                output = reward(x)
            except Exception:
                logger.debug("%r raised for a batch: its samples are scored one by one", name)
            else:
                return _checked(name, output, len(x))
        values = []
        for place, row in enumerate(x):
            try:
                output = reward(row[None] if self._batched[name] else row)
            except Exception as error:  # whatever a user's function raises
                errors.setdefault(place, f"{name!r}: {type(error).__name__}: {error}")
                values.append(torch.tensor([torch.nan], dtype=torch.float64))
            else:
                values.append(_checked(name, output, 1))
        return torch.cat(values)


def _content(row: Tensor) -> bytes:
    return hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest()


def _takes_batch(name: str, reward: Reward, x: Tensor) -> bool:
    """Whether a reward takes a batch, by a trial; on further samples where it raises."""
    failure, output = "", None
    for pair in x.split(2):
        for given, batched in ((pair, True), (pair[0], False)):
            try:
                output = reward(given)
            except Exception as error:  # whatever a user's function raises
                failure = failure or f"{type(error).__name__}: {error}"
                continue
            shape = _shape(output)
            if shape == ((len(pair),) if batched else ()):
                return batched
    found = f"it returned {_shape(output)}" if failure == "" else f"it raised {failure}"
    raise InputError(
        f"The reward {name!r} returns no number for a sample, nor one for each of a batch: {found}."
    )


def _shape(output: Any) -> tuple[int, ...] | str:
    """Shape of what a reward returned; its type where that is no array of numbers."""
    try:
        return tuple(torch.as_tensor(output).shape)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(output).__name__}"


def _checked(name: str, output: Any, count: int) -> Tensor:
    """Rewards `(count,)` in float64, checked."""
    shape = _shape(output)
    if shape != (count,) and not (count == 1 and shape == ()):
        raise InputError(
            f"The reward {name!r} returned {shape} for {count} samples, not ({count},)."
        )
    values = torch.as_tensor(output).detach().cpu().double().reshape(count)
    wrong = ~((values >= -ROUNDING) & (values <= 1 + ROUNDING))  # a NaN is wrong, too
    if bool(wrong.any()):
        raise InputError(
            f"A reward is in [0, 1], and {name!r} returned {values[wrong][0]:g} for "
            f"{int(wrong.sum())} of {count} samples. Scale it; for a sample that it cannot score "
            f"let it raise."
        )
    return values.clamp(0, 1)
