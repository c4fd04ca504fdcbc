"""Packs: the trained parts of a `Conditional` as a folder, without the decoder's weights.

A pack holds the critics, the controllers and, where it is not the decoder's own, the prior, with
the fingerprint of the decoder that they were made for; it cannot be loaded on another decoder.
Of a decoder made by `Decoder.through` it also holds the flow, and loads on the bare decoder, too.
Networks on samples that refine or evaluate edits are the user's own: a pack records that there
were some, and loading takes them as arguments.
"""

from __future__ import annotations

__all__ = ["load_pack", "pack_fingerprint", "push_pack", "read_pack", "save_pack"]

import contextlib
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..controllers import Controller, Refined
from ..critics import Critic, PixelCritic, RealismCritic
from ..decoder import Decoder, wrap
from ..errors import AdapterError, CheckpointError, FingerprintError
from ..storage import (
    Saved,
    fingerprint_tensors,
    load_folder,
    pack_modules,
    save_folder,
    unpack_modules,
)
from ..storage.files import well_formed
from .card import card_of
from .facts import for_card
from .guarantee import Guarantee
from .hub import push
from .measured import measured_tensors, read_doses, read_guarantee

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

KINDS: dict[str, type] = {
    "critic": Critic,
    "realism": RealismCritic,
    "controller": Controller,
    "editor": Controller,
    "prior": nn.Module,
}
DECODER_PRIOR = "the decoder's prior"
KEYS = {"base", "card", "decoder", "flows", "modules", "threshold"}  # of the state of a pack


def save_pack(path: str | Path, decoder: Decoder, **parts: Any) -> Path:
    """Writes the parts of a `Conditional`, as documented for `Conditional.save_pretrained`."""
    modules, refinement = _saved(parts)
    tensors, state = pack_modules(modules, _given(decoder))
    base, flows = _flows(decoder)
    flow_tensors, flow_state = pack_modules({f"flow.{n}": flow for n, flow in enumerate(flows)})
    tensors |= flow_tensors | measured_tensors(**parts)
    state |= {
        "decoder": _described(decoder),
        "base": _described(base),
        "flows": flow_state["modules"],
        "threshold": parts["threshold"],
        "refinement": refinement,
        "evaluated": parts["evaluator"] is not None,
        "card": for_card(decoder, **parts),
    }
    return save_folder(path, tensors, state)


def pack_fingerprint(decoder: Decoder, **parts: Any) -> str:
    """SHA-256 over what a pack of these parts holds: kinds, configurations, weights, the decoder.

    Weights in half precision count as the same in single precision, in which they are loaded. The
    evaluator and networks that refine edits are not in a pack. What was measured does not count.

    Raises:
        InputError: If a part cannot be saved.
    """
    tensors, state = pack_modules(_saved(parts)[0], _given(decoder))
    state |= {"decoder": decoder.fingerprint(), "threshold": float(parts["threshold"])}
    flat = {f"{name}/{key}": t for name, group in tensors.items() for key, t in group.items()}
    return fingerprint_tensors(
        {n: t.float() if t.is_floating_point() and t.itemsize < 4 else t for n, t in flat.items()},
        json.dumps(state, sort_keys=True),
    )


def _saved(parts: Mapping[str, Any]) -> tuple[dict[str, nn.Module], Any]:
    """The modules of a pack by name, and the configuration of the refinement, if there is one."""
    refinement, editor = None, parts["editor"]
    if isinstance(editor, Refined):
        refinement, editor = editor.second.config, editor.first
    saved = {name: parts[name] for name in ("critic", "realism", "controller")}
    saved |= {"editor": editor, "prior": parts["prior"]}
    return {name: module for name, module in saved.items() if module is not None}, refinement


def load_pack(
    path: str | Path,
    decoder: Decoder | nn.Module,
    *,
    refine_with: PixelCritic | None = None,
    evaluator: PixelCritic | None = None,
) -> dict[str, Any]:
    """The parts that `save_pack` wrote, as arguments of `latentctl.condition`."""
    tensors, state, decoder = read_pack(path, decoder)
    with well_formed(path, CheckpointError):
        return _load(path, tensors, state, decoder, refine_with, evaluator)


def read_pack(
    path: str | Path, decoder: Decoder | nn.Module
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], Decoder]:
    """The tensors and the state of a pack, and the decoder, with the pack's flows if it lacks them.

    The decoder may be another one than the pack was made for.

    Raises:
        CheckpointError: If the pack is damaged.
        AdapterError: If a bare model cannot be wrapped.
    """
    tensors, state = load_folder(path)
    with well_formed(path, CheckpointError):
        _pack_state(path, state)
        if not isinstance(decoder, Decoder):
            decoder = _wrapped(decoder, state["base"])
        if state["flows"] and decoder.fingerprint() == state["base"]["fingerprint"]:
            flows = unpack_modules(tensors, {"modules": state["flows"]})
            for number in range(len(flows)):
                decoder = decoder.through(flows[f"flow.{number}"])
    return tensors, state, decoder


def _load(
    path: str | Path,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    decoder: Decoder,
    refine_with: PixelCritic | None,
    evaluator: PixelCritic | None,
) -> dict[str, Any]:
    made_for, found = state["decoder"], decoder.fingerprint()
    if made_for["fingerprint"] != found:
        raise FingerprintError(
            f"The pack at {path} was made for {made_for['name']} with fingerprint "
            f"{made_for['fingerprint'][:12]}, this decoder is {decoder.name} with "
            f"{found[:12]}. Load the weights it was made for, or fit new critics on this one."
        )
    parts = unpack_modules(tensors, state, _given(decoder))
    _check_kinds(path, parts)
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
    return {
        **parts,
        "decoder": decoder,
        "evaluator": evaluator,
        "threshold": float(state["threshold"]),
        "doses": read_doses(tensors, parts["critic"].names),
        "guarantee": read_guarantee(path, tensors, evaluator, parts.get("editor")),
    }


def push_pack(
    path: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    **options: Any,
) -> CommitInfo:
    """Pushes the pack in a folder to the model hub, without its decoder.

    Arguments:
        path: A folder that `save_pretrained` wrote.
        repo_id: `"name"` or `"owner/name"`.
        license: As in `model_card`.
        base_model: As in `model_card`.
        options: `private`, `token`, `revision` and `commit_message` of `hub.push`.

    Raises:
        CheckpointError: If the pack is damaged, or the hub cannot be reached, or refuses.
        InputError: If the repository holds something else than a pack.
    """
    tensors, state = load_folder(path)
    _pack_state(path, state)
    with well_formed(path, CheckpointError), tempfile.TemporaryDirectory() as temporary:
        known: dict[str, Any] = {"license": license, "base_model": base_model}
        known["doses"] = read_doses(tensors, state["card"]["names"])
        if "guarantee" in tensors:
            known["guarantee"] = Guarantee.from_tensors(tensors["guarantee"])
        return push(
            Path(shutil.copytree(path, Path(temporary) / "pack")),
            repo_id,
            card=lambda name: card_of(name, state["card"], **known),
            **options,
        )


def _pack_state(path: str | Path, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a pack; an error for other folders."""
    if missing := KEYS - state.keys():
        raise CheckpointError(
            f"{path} is not a pack: it has no {', '.join(sorted(missing))}. Packs are written by "
            f"save_pretrained; a checkpoint of a run is for resume_from_checkpoint."
        )
    return state


def _check_kinds(path: str | Path, parts: dict[str, Any]) -> None:
    missing = {"critic", "controller"} - parts.keys()
    wrong = {name for name, part in parts.items() if not isinstance(part, KINDS.get(name, ()))}
    if missing | wrong:
        raise CheckpointError(
            f"{path} is malformed: its {', '.join(sorted(missing | wrong))[:200]} is missing or of "
            f"another kind. Save it again by save_pretrained."
        )


def _given(decoder: Decoder) -> dict[str, nn.Module]:
    """Modules of the decoder that are not saved, by name."""
    return {DECODER_PRIOR: decoder.prior} if isinstance(decoder.prior, nn.Module) else {}


def _flows(decoder: Decoder) -> tuple[Decoder, list[nn.Module]]:
    """The bare decoder, and the flows that it was composed with, the first one first.

    A composition with a flow that cannot be saved counts as bare.
    """
    if decoder.composed_of is None or not isinstance(decoder.composed_of[1], Saved):
        return decoder, []
    base, flows = _flows(decoder.composed_of[0])
    return base, [*flows, decoder.composed_of[1]]


def _described(decoder: Decoder) -> dict[str, Any]:
    return {
        "name": decoder.name,
        "fingerprint": decoder.fingerprint(),
        "latent_shape": list(decoder.latent_shape),
        "value_range": None if decoder.value_range is None else list(decoder.value_range),
    }


def _wrapped(model: Any, described: dict[str, Any]) -> Decoder:
    """The decoder of a bare model, with the shape and the range of the one that was described."""
    shape, values = tuple(described["latent_shape"]), described["value_range"]
    limits = None if values is None else tuple(values)
    with contextlib.suppress(AdapterError):  # of a module whose shapes a trial does not find
        decoder = wrap(model)
        if (decoder.latent_shape, decoder.value_range) == (shape, limits):
            return decoder
    return wrap(model, latent_shape=shape, value_range=limits or (-math.inf, math.inf))
