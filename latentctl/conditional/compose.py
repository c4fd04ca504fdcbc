r"""Sums of packs: attributes of several packs on one decoder, made by anyone at any time.

A sum is the joint critic of its packs. Its moves descend the loss of all attributes,

.. math:: L(z') = \sum_p w_p L_p(z') + \rho \|z' - z\|^2

so that what one pack asks is held against the others, too. Controllers of the packs, such as an
actor, were trained for the attributes of one pack alone: a sum moves by gradient ascent instead,
samples by `Ascent` and edits by `Ascent.for_edits`, without a critic of realism.

The columns are ordered by name, so that every order of additions gives the same bits.
"""

from __future__ import annotations

__all__ = ["Term", "joined_parts", "named", "split", "without"]

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..controllers.request import THRESHOLD
from ..critics import Critic, JoinedCritic, JoinedPixelCritic, Member
from ..decoder import Decoder, Prior
from ..errors import FingerprintError, InputError, UnknownNameError, check_positive
from ..latents.names import attribute_names
from ..storage import fingerprint
from .parts import fitting_parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Term:
    """A pack in a sum."""

    parts: Mapping[str, Any]
    """The fields of its `Conditional`."""
    weight: float = 1.0
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Its attributes in the sum."""
        return tuple(self.renamed.get(name, name) for name in self.parts["critic"].names)

    @property
    def ties(self) -> list[tuple[Any, ...]]:
        """The ties of its attributes, by their names in the sum."""
        new = dict(zip(self.parts["critic"].names, self.names, strict=True))
        return [(new[t.first], new[t.second], t.odds) for t in self.parts["critic"].ties]

    def times(self, weight: float) -> Term:
        """The same with a weight that is multiplied."""
        weight = check_positive("The weight of a pack", weight)
        return dataclasses.replace(self, weight=self.weight * weight)

    def rename(self, names: Mapping[str, str]) -> Term:
        """The same with other names for those of its attributes that are in `names`."""
        old = zip(self.parts["critic"].names, self.names, strict=True)
        new = {own: names.get(now, now) for own, now in old}
        attribute_names(new.values())
        return dataclasses.replace(self, renamed={o: n for o, n in new.items() if o != n})

    @property
    def plain(self) -> bool:
        """Whether it is the pack as it was."""
        return self.weight == 1 and not self.renamed

    def critics(self) -> list[Critic]:
        """Its critics in the sum: one, or those of a sum that was saved."""
        own: Critic = self.parts["critic"]
        found: list[Critic] = []
        for critic in own if isinstance(own, JoinedCritic) else [own]:
            names = [self.renamed.get(name, name) for name in critic.names]
            weight = self.weight
            if isinstance(critic, Member):  # of a sum in the sum
                weight *= float(critic.weight)
                critic = critic.critic
            plain = weight == 1 and names == [*critic.names]
            found.append(critic if plain else Member(critic, names, weight))
        return found

    def same_critic(self, other: Term) -> bool:
        """Whether both are the same pack, whatever its weight and its names in the sum."""
        one, two = self.parts["critic"], other.parts["critic"]
        return one is two or (one.names == two.names and fingerprint(one) == fingerprint(two))


def joined_parts(terms: Sequence[Term]) -> dict[str, Any]:
    """The fields of the `Conditional` of a sum; of a single plain pack its own.

    Raises:
        FingerprintError: If the packs are of different decoders.
        InputError: If two have an attribute of the same name, or one has no names.
    """
    if len(terms) == 1 and terms[0].plain:
        return dict(terms[0].parts)
    decoder: Decoder = terms[0].parts["decoder"]
    _check_decoders([term.parts["decoder"] for term in terms])
    _check_names(terms)
    critics = sorted((c for term in terms for c in term.critics()), key=lambda c: c.names)
    critic = JoinedCritic(*critics) if len(critics) > 1 else critics[0]
    ties = [tie for term in terms for tie in term.ties]
    critic.ties = sorted(ties, key=lambda tie: (tie[0], tie[1]))
    evaluators = [term.parts["evaluator"] for term in terms]
    evaluator = None
    if all(evaluators):
        names = [name for term in terms for name in term.names]
        evaluator = JoinedPixelCritic(evaluators, names, critic.names)
    elif any(evaluators):
        logger.warning("Not all packs of the sum have an evaluator: its receipts are the critic's.")
    if learned := {
        type(mover).__name__
        for term in terms
        for mover in (term.parts["controller"], term.parts["editor"])
        if mover.is_limited
    }:
        logger.warning(
            "The sum of packs moves by gradient ascent on the joint critic: %s was trained for the "
            "attributes of one pack.",
            ", ".join(sorted(learned)),
        )
    threshold = max(term.parts["threshold"] for term in terms)
    return fitting_parts(
        decoder,
        critic,
        evaluator=evaluator,
        prior=_prior(terms),
        threshold=threshold if evaluator is not None else max(threshold, THRESHOLD),
    )


def split(parts: Mapping[str, Any]) -> list[Term]:
    """The terms of a sum that was saved, each moved by gradient ascent; of another pack itself."""
    critic, decoder = parts["critic"], parts["decoder"]
    if not isinstance(critic, JoinedCritic):
        return [Term(parts)]
    kept = {key: parts[key] for key in ("prior", "threshold")}
    return [Term(fitting_parts(decoder, one, **kept)) for one in critic]


def without(terms: Sequence[Term], removed: Iterable[Term]) -> list[Term]:
    """The other terms.

    Raises:
        InputError: If one of the removed is not in the sum, or none would be left.
    """
    left = list(terms)
    for term in removed:
        found = [t for t in left if t.same_critic(term)]
        if not found:
            names = "; ".join(", ".join(t.names) for t in left)
            raise InputError(
                f"The pack of {', '.join(term.names)} is not in this sum, whose packs have "
                f"{names}. Remove one of these."
            )
        left.remove(found[0])
    if not left:
        raise InputError("Nothing would be left of the sum. Use one of its packs by itself.")
    return left


def named(terms: Sequence[Term], names: Sequence[str]) -> list[Term]:
    """The terms that have these attributes, and no others.

    Raises:
        UnknownNameError: If an attribute is in none.
        InputError: If a pack has others, too.
    """
    known = [name for term in terms for name in term.names]
    for name in names:
        if name not in known:
            raise UnknownNameError("attribute", name, known)
    found = [term for term in terms if {*term.names} & {*names}]
    for term in found:
        if rest := {*term.names} - {*names}:
            raise InputError(
                f"{', '.join(sorted({*term.names} & {*names}))} is of a pack that has "
                f"{', '.join(sorted(rest))}, too. Packs are removed as a whole: name these as "
                f"well, or take some attributes of a critic: critic.select(names)."
            )
    return found


def _check_decoders(decoders: Sequence[Decoder]) -> None:
    first = decoders[0]
    for other in decoders[1:]:
        if other is not first and other.fingerprint() != first.fingerprint():
            raise FingerprintError(
                f"Packs of one decoder are added: these are for {first.name} with fingerprint "
                f"{first.fingerprint()[:12]} and {other.name} with {other.fingerprint()[:12]}. "
                f"Load both on the same decoder."
            )


def _check_names(terms: Sequence[Term]) -> None:
    names = [name for term in terms for name in term.names]
    if not all(term.names for term in terms):
        raise InputError("Packs that are added need names of attributes. Name their outputs.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        new = f"{twice[0]}_2"
        raise InputError(
            f"More than one pack has {', '.join(twice)}. Rename it in one of them: "
            f"other.renamed({{{twice[0]!r}: {new!r}}})."
        )


def _prior(terms: Sequence[Term]) -> Prior:
    """The prior of all packs; the decoder's own where they differ."""
    decoder: Decoder = terms[0].parts["decoder"]
    found = [term.parts["prior"] for term in terms]
    own = [term.parts["prior"] is term.parts["decoder"].prior for term in terms]
    if all(own):
        return decoder.prior
    if not any(own) and len({_identity(prior) for prior in found}) == 1:
        return found[0]  # type: ignore[no-any-return]
    logger.warning("The packs of the sum have different priors: it samples the decoder's own.")
    return decoder.prior


def _identity(prior: Prior) -> Any:
    return fingerprint(prior, type(prior).__name__) if isinstance(prior, nn.Module) else id(prior)
