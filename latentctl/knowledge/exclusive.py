r"""Groups of knowledge types that exclude each other, such as the classes of a data set.

Given a latent, the members are independent but for the condition that at most one is present. With
the log-odds :math:`l_i` of each,

.. math::
    p(\text{only } i \mid z) = \frac{e^{l_i}}{1 + \sum_j e^{l_j}}, \quad
    p(\text{none} \mid z) = \frac{1}{1 + \sum_j e^{l_j}}

In an exhaustive group, of which one is always present, the 1 is left out. Different groups, and
knowledge in no group, are independent.
"""

from __future__ import annotations

__all__ = ["Group", "joint_log_prob"]

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Group:
    """Names of knowledge types of which at most one is present; exactly one if `exhaustive`."""

    names: tuple[str, ...]
    exhaustive: bool = False

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(2, len(self.names)):
            raise InputError(
                f"An exclusive group has two or more different names, this one has "
                f"{', '.join(map(repr, self.names)) or 'none'}."
            )

    def check(self, present: Collection[str], absent: Collection[str]) -> None:
        """Raises an `InputError` for a request that no sample can satisfy."""
        both = [name for name in self.names if name in present]
        members = ", ".join(self.names)
        if len(both) > 1:
            raise InputError(
                f"{' and '.join(both)} cannot be present at once: {members} were declared "
                f"exclusive. Ask for one of them."
            )
        if self.exhaustive and set(self.names) <= set(absent):
            raise InputError(
                f"{members} cannot all be absent: they were declared exhaustive, so one is always "
                f"present. Leave one out of `absent`."
            )

    def without(self, name: str) -> Group | None:
        """The group after `name` was removed, not exhaustive any more; None if one is left."""
        if name not in self.names:
            return self
        left = tuple(other for other in self.names if other != name)
        return Group(left) if len(left) > 1 else None

    def joined(self, others: Iterable[Group]) -> list[Group]:
        """`others` with this one, which takes the place of groups that it contains.

        Raises:
            InputError: If it shares a name with a group that it does not contain.
        """
        kept = []
        for other in others:
            shared = set(self.names) & set(other.names)
            if shared and not set(other.names) <= set(self.names):
                missing = [name for name in other.names if name not in self.names]
                raise InputError(
                    f"{', '.join(sorted(shared))} exclude {', '.join(missing)} already, and a "
                    f"knowledge is in one group only. Name all members of the larger group."
                )
            if not shared:
                kept.append(other)
        return [*kept, self]


def joint_log_prob(
    odds: Tensor, group: Group, present: Collection[str], absent: Collection[str]
) -> Tensor:
    """Log-probability `(B,)` of a request to a group, from the log-odds `(B, members)`."""
    asked = set(group.names) & set(present)
    wanted = asked or set(group.names) - set(absent)
    allowed = [name in wanted for name in group.names]
    if not group.exhaustive:
        odds = torch.cat([odds, odds.new_zeros(len(odds), 1)], 1)  # none of them
        allowed.append(not asked)
    return odds.log_softmax(1)[:, allowed].logsumexp(1)
