"""The arithmetic of packs: `faces + other`, `faces - other`, `0.5 * faces`, and other names."""

from __future__ import annotations

__all__ = ["Sums"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..critics import Critic
from ..errors import check_kind
from .compose import Term, joined_parts, named, split, without
from .pack import pack_fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self


class Sums:
    """What makes a `Conditional` a term of sums, as `conditional.compose` says."""

    critic: Critic
    terms: tuple[Term, ...]

    @property
    def parts(self) -> dict[str, Any]:
        """The fields by name, without the terms of a sum."""
        return {key: value for key, value in vars(self).items() if key != "terms"}

    def fingerprint(self) -> str:
        """SHA-256 over what `save_pretrained` writes, and receipts record as the pack.

        Raises:
            InputError: If a part cannot be saved.
        """
        return pack_fingerprint(**self.parts)

    def __add__(self, other: Self) -> Self:
        """The attributes of both packs, which are for one decoder; see `conditional.compose`.

        Every order of additions gives the same bits, and `faces + other - other` gives `faces`.
        The sum moves by gradient ascent on the joint critic; `save_pretrained` saves it as a pack.

        Raises:
            FingerprintError: If the packs are of different decoders.
            InputError: If both have an attribute of the same name.
        """
        check_kind(other, Sums, "What is added to a pack", "Load it on the same decoder.")
        return self._sum([*self._terms(), *other._terms()])

    def __sub__(self, other: Self) -> Self:
        """The sum without the packs of `other`.

        Raises:
            InputError: If one of them is not in it, or nothing would be left.
        """
        check_kind(other, Sums, "What is removed", "Or remove it by name: without(names).")
        terms, removed = self._terms(), other._terms()
        if not all(any(t.same_critic(term) for t in terms) for term in removed):
            terms = [one for term in terms for one in split(term.parts)]
        return self._sum(without(terms, removed))

    def __mul__(self, weight: float) -> Self:
        """The pack with a weight: its attributes count as much in the loss of moves."""
        return self._sum([term.times(weight) for term in self._terms()])

    __rmul__ = __mul__

    def without(self, *names: str) -> Self:
        """The sum without the packs of these attributes.

        Raises:
            UnknownNameError: If an attribute is not known.
            InputError: If it is of a pack with further attributes, or nothing would be left.
        """
        terms = list(self.terms or split(self.parts))
        return self._sum(without(terms, named(terms, names)))

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The pack with other names, old to new, for sums of packs; it moves as a sum does.

        Raises:
            UnknownNameError: If an attribute is not known.
            InputError: If a name is taken.
        """
        for name in names:
            self.critic.index(name)
        return self._sum([term.rename(names) for term in self._terms()])

    def _terms(self) -> list[Term]:
        return list(self.terms) or [Term(self.parts)]

    def _sum(self, terms: list[Term]) -> Self:
        whole = len(terms) == 1 and terms[0].plain
        made: Any = type(self)
        return made(**joined_parts(terms), terms=() if whole else tuple(terms))  # type: ignore[no-any-return]
