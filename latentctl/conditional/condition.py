"""`condition`: makes a `Conditional` of a decoder, a critic and a controller."""

from __future__ import annotations

__all__ = ["condition"]

from ..controllers import Controller
from ..critics import Critic, PixelCritic, RealismCritic
from ..decoder import Decoder, Prior
from .conditional import Conditional
from .parts import fitting_parts


def condition(
    decoder: Decoder,
    critic: Critic,
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
        critic: Any `Critic`, such as an `AttributeCritic` or a `KnowledgeBase`.
        controller: Moves the latents of samples; gradient ascent on the critics if not given, by
            `SphericalAscent` where latents are noise, as those of a diffusion pipeline.
        editor: Moves the latents of edits; `Ascent.for_edits(critic)`, or `SphericalAscent(critic)`
            of noise, if not given, whatever the controller is. A controller that is made for edits,
            such as that of `controllers.amortise`, is passed here.
        refine_with: Networks on samples, of the same attributes, on which edits are refined after
            the fast move (`controllers.Refined`): slower and better.
        evaluator: Networks on samples, of the same attributes, that no edit ascends. The receipt
            then has their scores instead of the critic's.
        realism: The critic of realism for the default controller; a given one has its own.
        prior: Distribution of the starts of samples; the decoder's prior if not given.
        threshold: Probability, in (0, 1), at which a request counts as satisfied. By default it is
            the evaluator's, which `teach` chooses on edits, or 0.8 where none was chosen; without
            an evaluator 0.95, and results are claimed by the critic.

    Raises:
        ShapeError: If one of them is over latents of another shape.
        InputError: If they do not have the same attributes in the same order, or `threshold` is
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
    parts = fitting_parts(
        decoder,
        critic,
        controller,
        editor=editor,
        refine_with=refine_with,
        evaluator=evaluator,
        realism=realism,
        prior=prior,
        threshold=threshold,
    )
    return Conditional(**parts)
