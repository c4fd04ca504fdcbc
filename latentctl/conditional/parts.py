"""The parts of a `Conditional`: defaults and checks."""

from __future__ import annotations

__all__ = ["check_extensible", "fitting_parts"]

from numbers import Real
from typing import Any

from ..controllers import Ascent, Controller, Refined, SphericalAscent
from ..controllers.gradient import GradientController
from ..controllers.request import THRESHOLD
from ..critics import Critic, PixelCritic, RealismCritic
from ..decoder import Decoder, Prior
from ..errors import InputError, ShapeError, check_kind
from ..latents.names import attribute_names

EVALUATOR_THRESHOLD = 0.8  # where none was chosen


def fitting_parts(
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
) -> dict[str, Any]:
    """The fields of a `Conditional`; arguments and errors as in `latentctl.condition`."""
    check_kind(decoder, Decoder, "decoder=", "Wrap your model: latentctl.wrap(model).")
    check_kind(critic, Critic, "critic=", "Fit one: latentctl.AttributeCritic.fit(latents).")
    given = {
        "controller": (controller, Controller),
        "editor": (editor, Controller),
        "refine_with": (refine_with, Critic),
        "evaluator": (evaluator, PixelCritic),
        "realism": (realism, RealismCritic),
    }
    for name, (part, kind) in given.items():
        if part is not None:
            check_kind(part, kind, f"{name}=", f"Leave out {name}=, or pass one.")
    if prior is not None and not (hasattr(prior, "sample") and hasattr(prior, "log_prob")):
        raise InputError(
            f"prior= has sample and log_prob, such as a latentctl.Gaussian; found a "
            f"{type(prior).__name__}."
        )
    if threshold is None:
        threshold = THRESHOLD if evaluator is None else evaluator.threshold or EVALUATOR_THRESHOLD
    if not isinstance(threshold, Real) or not 0 < threshold < 1:
        raise InputError(f"threshold is a probability in (0, 1), it was given as {threshold}.")
    attribute_names(critic.names)
    critic.to(decoder.device).eval()
    climbed = critic if critic.names else None
    if controller is None:
        kind = SphericalAscent if decoder.latents_are_noise else Ascent
        controller = kind(climbed, realism)
    if editor is None:
        noise = decoder.latents_are_noise
        editor = SphericalAscent(climbed) if noise else Ascent.for_edits(climbed)
    if realism is None:
        realism = controller.realism
    elif isinstance(controller, GradientController) and controller.realism is not realism:
        raise InputError(
            f"The {type(controller).__name__} does not use this realism critic. Pass it to the "
            f"controller, as {type(controller).__name__}(attributes, realism)."
        )
    parts = [critic, realism, refine_with, evaluator, controller, editor]
    for part in [*parts, controller.attributes, editor.attributes]:
        _check_fit(part, decoder, critic)
    if refine_with is not None:
        editor = Refined(editor, refine_with)
    for mover in (controller, editor):
        mover.to(decoder.device).eval()
    return {
        "decoder": decoder,
        "critic": critic,
        "controller": controller,
        "editor": editor,
        "realism": realism,
        "evaluator": evaluator,
        "prior": prior if prior is not None else decoder.prior,
        "threshold": threshold,
    }


def check_extensible(
    name: str, names: tuple[str, ...], evaluator: PixelCritic | None, *movers: Controller
) -> None:
    """Raises an `InputError` if an evaluator or a controller is limited to the older `names`."""
    if evaluator is not None:
        raise InputError(
            f"The evaluator has the attributes {', '.join(names)}, not {name}. Leave out "
            f"evaluator=, or pass one that has all attributes."
        )
    for mover in movers:
        if mover.is_limited or isinstance(mover, Refined):
            raise InputError(
                f"The {type(mover).__name__} was made for {', '.join(names)}. Use the default "
                f"controller and editor, which ascend any critic."
            )


def _check_fit(part: Any, decoder: Decoder, critic: Critic) -> None:
    kind, shape = type(part).__name__, getattr(part, "latent_shape", ())
    if shape and shape != decoder.latent_shape:
        raise ShapeError(
            f"The {kind} is over latents {shape}, {decoder.name} has {decoder.latent_shape}. "
            f"It was made for another decoder."
        )
    names = getattr(part, "context_names", getattr(part, "names", ()))
    if names and names != critic.names:
        raise InputError(
            f"The {kind} has the attributes {', '.join(names)}, the critic "
            f"{', '.join(critic.names) or 'no names'}. Fit both on the same labels in the same "
            f"order: latents.select(names)."
        )
