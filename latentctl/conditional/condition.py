"""Joins a decoder, a critic and a controller, and checks that they fit each other."""

from __future__ import annotations

__all__ = ["condition"]

from typing import Any

from ..controllers import Actor, Ascent, Controller, Refined, Transport
from ..controllers.base import THRESHOLD
from ..critics import Critic, PixelCritic, RealismCritic
from ..decoder import Decoder, Prior
from ..errors import InputError, ShapeError
from .conditional import Conditional

EVALUATOR_THRESHOLD = 0.8


def condition(
    decoder: Decoder,
    critic: Critic | Critic,
    controller: Controller | None = None,
    *,
    editor: Controller | None = None,
    refine_with: PixelCritic | None = None,
    evaluator: PixelCritic | None = None,
    realism: RealismCritic | None = None,
    prior: Prior | None = None,
    threshold: float | None = None,
) -> Conditional:
    """A frozen decoder that samples and edits by the attributes of a critic.

    Arguments:
        decoder: The decoder, from `latentctl.wrap` or `latentctl.load`. It is not changed.
        critic: An `AttributeCritic`, a `KnowledgeBase`, or any single `Critic`.
        controller: How latents move; gradient ascent on the critics if not given.
        editor: How edits move, if otherwise: by `Ascent.for_edits`, which stays near, where no
            controller is given, else by the controller.
        refine_with: Networks on samples of the same attributes, on which edits are refined after the
            quick move (`controllers.Refined`): dearer and better.
        evaluator: Networks on samples of the same attributes that no edit has climbed. Receipts then
            are their word, not the critic's own.
        realism: The critic of realism for the default controller; a controller given here brings
            its own.
        prior: Where samples start; the decoder's prior if not given.
        threshold: Probability with which a request must hold to count as satisfied, in (0, 1):
            0.95 if not given, or 0.8 if an evaluator says it, who was not climbed on.

    Raises:
        ShapeError: If one of them is over latents of another shape.
        InputError: If they do not know the same attributes in the same order, or `threshold` is
            no probability.

    Example:
        >>> import torch
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> critic = latentctl.AttributeCritic((4,), ["Smiling", "Male"], width=16)
        >>> faces = condition(decoder, critic)
        >>> faces.sample(3, Smiling=True).probability.shape
        torch.Size([3, 2])
    """
    if threshold is None:
        threshold = THRESHOLD if evaluator is None else EVALUATOR_THRESHOLD
    if not 0 < threshold < 1:
        raise InputError(f"threshold is a probability in (0, 1), it was given as {threshold}.")
    critic.to(decoder.device).eval()
    attributes = critic if isinstance(critic, Critic) else None
    if controller is None:
        controller = Ascent(attributes, realism)
        editor = editor if editor is not None else Ascent.for_edits(attributes)
    editor = editor if editor is not None else controller
    if isinstance(controller, Ascent | Transport) and realism is not None:
        if controller.realism is not realism:
            raise InputError(
                f"The {type(controller).__name__} would not use this realism critic. Give it "
                f"to the controller, as {type(controller).__name__}(attributes, realism)."
            )
    elif isinstance(controller, Actor | Ascent | Transport) and realism is None:
        realism = controller.realism
    parts: list[Any] = [critic, realism, refine_with, evaluator]
    for mover in (controller, editor):
        parts += [mover, getattr(mover, "attributes", None)]
    for part in parts:
        _check_fit(part, decoder, critic)
    if refine_with is not None:
        editor = Refined(editor, refine_with)
    for mover in (controller, editor):
        mover.to(decoder.device).eval()
    return Conditional(
        decoder=decoder,
        critic=critic,
        controller=controller,
        editor=editor,
        realism=realism,
        evaluator=evaluator,
        prior=prior if prior is not None else decoder.prior,
        threshold=threshold,
    )


def _check_fit(part: Any, decoder: Decoder, critic: Critic | Critic) -> None:
    learned = isinstance(part, Controller) and part.learned
    if not (learned or isinstance(part, Critic | RealismCritic)):
        return
    kind = type(part).__name__
    if part.latent_shape != decoder.latent_shape:
        raise ShapeError(
            f"The {kind} is over latents {part.latent_shape}, {decoder.name} has "
            f"{decoder.latent_shape}. It was made for another decoder."
        )
    names = critic.names if isinstance(critic, Critic) else ()
    if part.names and part.names != names and part is not critic:
        raise InputError(
            f"The {kind} knows {', '.join(part.names)}, the critic "
            f"{', '.join(names) or 'no names'}. Fit both on the same labels in the same "
            f"order: latents.select(names)."
        )
