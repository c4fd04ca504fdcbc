"""A frozen decoder with attributes: samples and edits, each with a receipt.

A `Conditional` joins a decoder, a critic and a controller. Every result is an `Outcome`: the
samples, and for each of them whether the request is satisfied, the probability of each attribute,
the change of held attributes, the shift of the latent, and the number of evaluations.
"""

from __future__ import annotations

__all__ = ["Conditional"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..controllers import Controller, Request
from ..controllers.cgml.completion import Completion, complete
from ..critics import AttributeCritic, Critic, JoinedCritic, PixelCritic, RealismCritic
from ..critics.ties import ties_in
from ..decoder import Decoder, Prior, read_samples
from ..display import Described
from ..knowledge import KnowledgeBase
from ..latents import Latents, require_latents
from .apply import carry_out
from .compose import Term
from .facts import facts
from .guarantee import Guarantee
from .inputs import as_text, read_count, read_inputs, read_mask, read_where
from .outcome import Outcome
from .packed import Packed
from .parts import check_extensible
from .request import Value, held_attributes, latent_region, requested_targets
from .response import DoseResponse

BATCH = 64  # samples encoded at once


@dataclass(eq=False, repr=False)
class Conditional(Packed, Described):
    """Made by `latentctl.condition`, which documents the parts and checks that they fit."""

    decoder: Decoder
    critic: Critic
    controller: Controller
    editor: Controller
    realism: RealismCritic | None
    evaluator: PixelCritic | None
    prior: Prior
    threshold: float
    guarantee: Guarantee | None = None
    """What is promised of the verdicts of edits: `conditional.calibrate` makes it."""
    doses: Sequence[DoseResponse] = ()
    """What each attribute does with the strength: `evaluation.dose_response` measures it."""
    terms: tuple[Term, ...] = ()
    """The packs of a sum."""

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, in the order of the columns."""
        return self.critic.names

    def facts(self) -> dict[str, Any]:
        return facts(**self.parts)

    def to(self, device: torch.device | str) -> Conditional:
        """Moves every part to a device, in place, as modules do; returns itself."""
        every = [self.parts, *(term.parts for term in self.terms)]
        for part in (part for parts in every for part in parts.values()):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def sample(
        self,
        count: int,
        *,
        y: Any = None,
        where: Critic | str | None = None,
        strength: float = 1.0,
        seed: int = 0,
        start: int = 0,
        **attributes: Value,
    ) -> Outcome:
        """Samples with attributes; attributes that are not named are free.

        Arguments:
            count: Number of samples.
            y: Targets `(count, K)` or `(1, K)` in [0, 1], NaN = free, instead of names.
            where: A critic to satisfy, such as `critic["Smiling"] | ~critic["Male"]`, or the same
                as text, `"Smiling | ~Male"` (`critics.expression.parse`).
            strength: Share of the move: 0 is the prior, 1 the whole move.
            seed: Seed of the prior's noise.
            start: Index of the first sample in the sequence of this seed.
            attributes: A value for each named attribute: True, False, a target probability, None
                for free, or a sequence with one for each sample.

        Raises:
            UnknownNameError: If an attribute is not known.
            InputError: If a value is out of [0, 1], or the request contradicts itself.
        """
        count, start, goal = read_count(count), read_count(start), read_where(where, self.critic)
        target = requested_targets(self.names, count, y, goal, attributes)
        request = Request(
            target=target,
            where=goal,
            strength=strength,
            threshold=self.threshold,
            seed=seed,
            index=torch.arange(start, start + count),
        )
        z = self.prior.sample(count, seed=seed, start=start).to(self.decoder.device)
        return carry_out("sample", self.parts, z, request, where=as_text(where))

    def edit(
        self,
        x: Any,
        *,
        y: Any = None,
        where: Critic | str | None = None,
        hold: bool | str | Iterable[str] = "untied",
        mask: Any = None,
        strength: float = 1.0,
        seed: int = 0,
        **attributes: Value,
    ) -> Outcome:
        """Real inputs with some attributes changed and the others held.

        An input that satisfies the request is returned as its reconstruction, bit for bit.

        Arguments:
            x: Inputs, `(B, *sample_shape)`: a tensor, or pictures, paths, arrays and lists of
                these, see `latentctl.decoder.read_samples`; or `Latents`, whose means are edited.
            y: Targets `(B, K)` or `(1, K)`, NaN = not named, instead of names.
            where: A critic to satisfy, or text.
            hold: `"untied"` for all attributes but those that are tied to what is requested
                (`Critic.ties`), True for all, False for none, or names. What is requested is not
                held, so that one list serves all edits.
            mask: 1, True or white where the input may change, `(h, w)`, `(1, h, w)` or
                `(B, 1, h, w)` in pixels, for spatial latents. A cell moves if half of its pixels
                may; the other cells stay bit for bit, and pixels outside the mask change only
                within the decoder's receptive field.
            strength: Share of the move: 0 is the reconstruction.
            seed: Seed of the controller's noise, if it uses any.
            attributes: As in `sample`.

        Raises:
            ShapeError: If `x` has another shape than the decoder's samples.
            UnknownNameError: If an attribute is not known.
            InputError: If a value is out of [0, 1], the request contradicts itself, or `x` cannot
                be read, is not finite or not in the decoder's range.
        """
        x, goal = read_inputs(x, self.decoder), read_where(where, self.critic)
        target = requested_targets(self.names, len(x), y, goal, attributes)
        z = self._encoded(x)
        request = Request(
            target=target,
            hold=held_attributes(self.critic, target, goal, hold),
            where=goal,
            region=None if mask is None else latent_region(mask, self.decoder, len(z)),
            strength=strength,
            threshold=self.threshold,
            seed=seed,
        )
        inputs = None if isinstance(x, Latents) else x
        return carry_out("edit", self.parts, z, request, where=as_text(where), inputs=inputs)

    @torch.no_grad()
    def score(self, x: Any) -> Tensor:
        """Probability of each attribute of inputs `x`, as `edit` takes them, `(B, K)`."""
        z = self._encoded(read_inputs(x, self.decoder))
        return self.critic.probability(z) if self.names else z.new_empty(len(z), 0)

    def _encoded(self, x: Latents | Tensor) -> Tensor:
        """The latents of inputs, `(B, *latent_shape)`."""
        if isinstance(x, Latents):
            return x.mean.to(self.decoder.device)
        return self.decoder.encode(x, batch_size=BATCH).mean

    def complete(self, x: Any, mask: Any, **options: Any) -> Completion:
        """Several completions of partly observed inputs, from samples of the prior.

        Arguments:
            x: Inputs, `(B, *sample_shape)`, as `edit` takes them; hidden values are ignored.
            mask: 1, True or white where `x` is observed; broadcasts to `(B, *sample_shape)`.
            options: `count`, `updater`, `steps` and `seed` of `controllers.cgml.complete`.
        """
        x, mask = read_samples(x, self.decoder), read_mask(mask)
        return complete(self.decoder, x, mask, prior=self.prior, **options)

    def add(self, name: str, latents: Latents, **options: Any) -> Critic:
        """Fits one more attribute, in seconds, without a change of any other output.

        A `KnowledgeBase` fits a `Knowledge`; another critic is joined with an `AttributeCritic`.

        Arguments:
            name: The attribute, a label of `latents`.
            latents: Encodings of data with that label.
            options: As in `Knowledge.fit` or `AttributeCritic.fit`.

        Returns:
            The critic of the new attribute.

        Raises:
            InputError: If there is an attribute of that name, or if the controller, the editor or
                the evaluator is limited to the older attributes.
        """
        require_latents(latents)
        check_extensible(name, self.names, self.evaluator, self.controller, self.editor)
        if isinstance(self.critic, KnowledgeBase):
            self.critic.add(name, latents, **options)
        else:
            new = AttributeCritic.fit(latents.select([name]), **options)
            older = self.critic if isinstance(self.critic, JoinedCritic) else [self.critic]
            ties = self.critic.ties
            self.critic = JoinedCritic(*older, new.to(self.critic.device)).eval()
            self.critic.ties = (*ties, *(t for t in ties_in(latents, self.critic) if name in t))
        self.critic.to(self.decoder.device)
        for mover in (self.controller, self.editor):
            mover.attributes = self.critic
        # terms are those of the joined critic, and doses were measured without the new attribute
        self.terms, self.doses = (), ()
        return self.critic[name]
