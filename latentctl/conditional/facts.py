"""What a `Conditional` is made of, for its `repr`, its table in a notebook and its model card."""

from __future__ import annotations

__all__ = ["facts", "for_card"]

from collections.abc import Sequence
from typing import Any

from ..controllers import Controller
from ..critics import Critic, PixelCritic, RealismCritic
from ..decoder import Decoder, Prior
from ..decoder.prior import describe_prior
from .card import card_facts
from .guarantee import Guarantee
from .response import DoseResponse, reach_in_words


def _settings(
    decoder: Decoder,
    critic: Critic,
    controller: Controller,
    editor: Controller,
    realism: RealismCritic | None,
    evaluator: PixelCritic | None,
    prior: Prior,
    threshold: float,
    **measured: Any,
) -> dict[str, Any]:
    """The parts of a `Conditional` by name, in words."""
    own = prior is decoder.prior
    return {
        "critic": type(critic).__name__,
        "controller": type(controller).__name__,
        "editor": type(editor).__name__,
        "realism critic": "none" if realism is None else type(realism).__name__,
        "evaluator": "none, the critic itself" if evaluator is None else type(evaluator).__name__,
        "prior": f"{describe_prior(prior)}, the decoder's own" if own else describe_prior(prior),
        "threshold": threshold,
    }


def facts(
    decoder: Decoder,
    critic: Critic,
    guarantee: Guarantee | None,
    doses: Sequence[DoseResponse],
    **parts: Any,
) -> dict[str, Any]:
    """The same, with the decoder, the attributes and what was measured."""
    known = decoder.facts()
    return {
        "decoder": known["model"],
        **{key: known[key] for key in ("latent", "sample", "values", "encoder")},
        "decoder's weights": known["weights"],
        "attributes": critic.names or "unnamed",
        **_settings(decoder, critic, **parts),
        "guarantee": None if guarantee is None else guarantee.promise,
        "reach at strength 1": reach_in_words(doses) if doses else None,
    }


def for_card(decoder: Decoder, critic: Critic, **parts: Any) -> dict[str, Any]:
    """The facts of a model card, which a pack records, too."""
    config: Any = parts["controller"].config
    rows = _settings(decoder, critic, **parts)
    rows["ties"] = ", ".join(str(tie) for tie in critic.ties) or "none"
    rows |= {key: config[key] for key in config if key not in ("latent_shape", "names")}
    return card_facts(decoder, critic.names, rows)
