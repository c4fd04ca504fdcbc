"""Packs: what was learned for a decoder, as a folder without the decoder's weights.

A pack holds the critics, the controller and, where it is not the decoder's own, the prior, with
the fingerprint of the decoder that they were made for; on any other decoder it refuses to load.
Networks on samples that refined edits or evaluated them are the user's own: a pack says that there
were some, and takes them again when it is loaded.
"""

from __future__ import annotations

__all__ = ["load_pack", "save_pack"]

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ..controllers import Actor, Ascent, Controller, FlowMatching, Refined, Transport, Updater
from ..critics import (
    AttributeCritic,
    Critic,
    PixelCritic,
    RealismCritic,
    RewardCritic,
)
from ..decoder import Decoder, Gaussian, Prior
from ..errors import CheckpointError, FingerprintError, InputError
from ..storage.folder import load_folder, save_folder
from ..storage.weights import load_strict

logger = logging.getLogger(__name__)

CONTROLLERS: dict[str, Any] = {
    "actor": Actor,
    "ascent": Ascent,
    "flow-matching": FlowMatching,
    "transport": Transport,
    "updater": Updater,
}
CRITICS: dict[str, Any] = {"attributes": AttributeCritic, "rewards": RewardCritic}
PARTS = {"decoder", "threshold", "controller", "config"}


def save_pack(
    path: str | Path,
    decoder: Decoder,
    critic: Critic | Critic,
    controller: Controller,
    editor: Controller,
    *,
    evaluated: bool,
    realism: RealismCritic | None,
    prior: Prior,
    threshold: float,
) -> Path:
    """Writes the parts of a `Conditional`, as `Conditional.save_pretrained` says."""
    kinds = {kind: name for name, kind in CONTROLLERS.items()}
    refinement = None
    if isinstance(editor, Refined):
        refinement, editor = editor.second.config, editor.first
    own_prior = prior is decoder.prior
    if (
        not isinstance(critic, AttributeCritic | RewardCritic)
        or not {type(controller), type(editor)} <= kinds.keys()
        or not (own_prior or isinstance(prior, Gaussian))
    ):
        raise InputError(
            f"A pack holds an AttributeCritic or a RewardCritic, one of {', '.join(CONTROLLERS)} "
            f"and a Gaussian or the decoder's own prior; here are a {type(critic).__name__}, a "
            f"{type(controller).__name__} and a {type(prior).__name__}. Save those yourself."
        )
    strangers = [m for m in (controller, editor) if getattr(m, "attributes", critic) is not critic]
    if strangers:
        raise InputError(
            f"The {type(strangers[0]).__name__} climbs another critic than the one that judges, "
            f"and a pack holds one. Build the controller on the critic given to `condition`."
        )
    if any(isinstance(m, Updater) and m.context_encoder is not None for m in (controller, editor)):
        raise InputError(
            "A pack holds no Updater with an context_encoder of its own, such as a completer. Save its "
            "state_dict yourself."
        )
    tensors = {"attributes": critic.state_dict()}
    config: dict[str, Any] = {"attributes": critic.config}
    if realism is not None:
        tensors["realism"] = realism.state_dict()
        config["realism"] = realism.config
    if controller.learned:
        tensors["controller"] = _network(controller).state_dict()
    if isinstance(prior, Gaussian) and not own_prior:
        tensors["prior"] = prior.state_dict()
    state = {
        "decoder": {"name": decoder.name, "fingerprint": decoder.fingerprint()},
        "threshold": threshold,
        "critic": "rewards" if isinstance(critic, RewardCritic) else "attributes",
        "controller": {"kind": kinds[type(controller)], "config": controller.config},
        "config": config,
    }
    if editor is not controller:
        state["editor"] = {"kind": kinds[type(editor)], "config": editor.config}
        if editor.learned:
            tensors["editor"] = _network(editor).state_dict()
    if refinement is not None:
        state["refinement"] = refinement
    if evaluated:
        state["evaluated"] = True
    return save_folder(path, tensors, state)


def _network(controller: Any) -> nn.Module:
    """What of a learned controller is saved; an actor's critic is saved by itself."""
    network: nn.Module = controller if isinstance(controller, Updater) else controller.net
    return network


def load_pack(
    path: str | Path,
    decoder: Decoder,
    *,
    refine_with: PixelCritic | None = None,
    evaluator: PixelCritic | None = None,
) -> dict[str, Any]:
    """The parts that `save_pack` wrote, as arguments of `Conditional`."""
    tensors, state = load_folder(path)
    if missing := PARTS - state.keys():
        raise CheckpointError(
            f"{path} is not a pack, for it has no {', '.join(sorted(missing))}. Packs are written "
            f"by save_pretrained; a checkpoint of a run is for resume_from_checkpoint."
        )
    made_for, found = state["decoder"], decoder.fingerprint()
    if made_for["fingerprint"] != found:
        raise FingerprintError(
            f"The pack at {path} was made for {made_for['name']} with fingerprint "
            f"{made_for['fingerprint'][:12]}, this decoder is {decoder.name} with "
            f"{found[:12]}. Load the weights it was made for, or fit new critics on this one."
        )
    config = state["config"]
    for part in ("controller", "editor"):
        kind = state.get(part, {}).get("kind", "ascent")
        if kind not in CONTROLLERS:
            raise CheckpointError(
                f"The pack at {path} has a controller of kind {kind!r}; this latentctl knows "
                f"{', '.join(CONTROLLERS)}. Upgrade latentctl."
            )
    kind = state.get("critic", "attributes")  # older packs know of one kind, and name none
    if kind not in CRITICS:
        raise CheckpointError(
            f"The pack at {path} has a critic of kind {kind!r}; this latentctl knows "
            f"{', '.join(CRITICS)}. Upgrade latentctl."
        )
    attributes = CRITICS[kind](**config["attributes"])
    load_strict(attributes, tensors.get("attributes", {}), "attribute critic")
    realism = prior = None
    if "realism" in config:
        realism = RealismCritic(**config["realism"])
        load_strict(realism, tensors.get("realism", {}), "realism critic")
    if "prior" in tensors:
        prior = Gaussian(decoder.latent_shape, **tensors["prior"]).to(decoder.device)

    def build(part: str) -> Any:
        options, kind = state[part]["config"], CONTROLLERS[state[part]["kind"]]
        if not kind.learned:
            # the realism critic is the controller's; a gentle editor has none
            return kind(attributes, realism if part == "controller" else None, **options)
        built = kind(**options)
        load_strict(_network(built), tensors.get(part, {}), part)
        return built

    for given, key, what in (
        (refine_with, "refinement", "refine_with"),
        (evaluator, "evaluated", "evaluator"),
    ):
        if given is None and key in state:
            logger.warning(
                "The pack at %s was saved with networks on samples, which are not in it: pass "
                "%s= again for the same answers.",
                path,
                what,
            )
    controller = build("controller")
    editor = build("editor") if "editor" in state else None
    if refine_with is not None:
        editor = Refined(editor or controller, refine_with, **state.get("refinement", {}))
    if isinstance(controller, Actor):
        controller.realism = realism
    return {
        "critic": attributes,
        "controller": controller,
        "editor": editor,
        "evaluator": evaluator,
        "realism": realism,
        "prior": prior,
        "threshold": state["threshold"],
    }
