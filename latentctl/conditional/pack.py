"""Packs: the trained parts of a `Conditional` as a folder, without the decoder's weights.

A pack holds the critics, the controllers and, where it is not the decoder's own, the prior, with
the fingerprint of the decoder that they were made for; it cannot be loaded on another decoder.
Networks on samples that refine or evaluate edits are the user's own: a pack records that there
were some, and loading takes them as arguments.
"""

from __future__ import annotations

__all__ = ["load_pack", "save_pack"]

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ..controllers import Refined
from ..critics import PixelCritic
from ..decoder import Decoder
from ..errors import CheckpointError, FingerprintError
from ..storage import load_folder, pack_modules, save_folder, unpack_modules

logger = logging.getLogger(__name__)

DECODER_PRIOR = "the decoder's prior"


def save_pack(path: str | Path, decoder: Decoder, **parts: Any) -> Path:
    """Writes the parts of a `Conditional`, as documented for `Conditional.save_pretrained`."""
    refinement, editor = None, parts["editor"]
    if isinstance(editor, Refined):
        refinement, editor = editor.second.config, editor.first
    saved = {name: parts[name] for name in ("critic", "realism", "controller")}
    saved |= {"editor": editor, "prior": parts["prior"]}
    modules = {name: module for name, module in saved.items() if module is not None}
    tensors, state = pack_modules(modules, _given(decoder))
    state |= {
        "decoder": {"name": decoder.name, "fingerprint": decoder.fingerprint()},
        "threshold": parts["threshold"],
        "refinement": refinement,
        "evaluated": parts["evaluator"] is not None,
    }
    return save_folder(path, tensors, state)


def load_pack(
    path: str | Path,
    decoder: Decoder,
    *,
    refine_with: PixelCritic | None = None,
    evaluator: PixelCritic | None = None,
) -> dict[str, Any]:
    """The parts that `save_pack` wrote, as arguments of `latentctl.condition`."""
    tensors, state = load_folder(path)
    if missing := {"decoder", "threshold", "modules"} - state.keys():
        raise CheckpointError(
            f"{path} is not a pack: it has no {', '.join(sorted(missing))}. Packs are written by "
            f"save_pretrained; a checkpoint of a run is for resume_from_checkpoint."
        )
    made_for, found = state["decoder"], decoder.fingerprint()
    if made_for["fingerprint"] != found:
        raise FingerprintError(
            f"The pack at {path} was made for {made_for['name']} with fingerprint "
            f"{made_for['fingerprint'][:12]}, this decoder is {decoder.name} with "
            f"{found[:12]}. Load the weights it was made for, or fit new critics on this one."
        )
    parts = unpack_modules(tensors, state, _given(decoder))
    for given, key, argument in (
        (refine_with, "refinement", "refine_with"),
        (evaluator, "evaluated", "evaluator"),
    ):
        if given is None and state[key]:
            logger.warning(
                "The pack at %s was saved with networks on samples, which it does not hold: pass "
                "%s= for the same results.",
                path,
                argument,
            )
    if refine_with is not None:
        parts["editor"] = Refined(parts["editor"], refine_with, **(state["refinement"] or {}))
    return {**parts, "evaluator": evaluator, "threshold": state["threshold"]}


def _given(decoder: Decoder) -> dict[str, nn.Module]:
    """Modules of the decoder that are not saved, by name."""
    return {DECODER_PRIOR: decoder.prior} if isinstance(decoder.prior, nn.Module) else {}
