"""Verifies a saved picture: makes it again from its receipt, and says what was changed.

The receipt in the picture, the one beside it, the pixels, the decoder and the pack are compared.
Then the request is carried out again from the recorded latents or seed, and pixels and figures are
compared with the recorded ones. A file is data: nothing in it is run, and no name in it is opened.

A receipt has no key. Whoever has the pack and the decoder can make another picture with another
true receipt; `verify` says that this request to this pack and this decoder gives this picture.
"""

from __future__ import annotations

__all__ = ["Verdict", "verify"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..critics.expression import parse
from ..decoder import Decoder
from ..display import grid
from ..errors import CheckpointError, FingerprintError, InputError, LatentctlError
from ..storage.files import well_formed
from .apply import carry_out
from .conditional import Conditional
from .origin import Maker
from .outcome import Outcome
from .pack import read_pack
from .reading import SavedPicture, read_saved
from .receipt import input_hashes, request_of, unpacked

PARTS = ("metadata", "pixels", "decoder", "pack")
MOST, MEAN = 8, 0.5  # levels of 255 by which recomputed pixels may differ, at most and on average
ABSOLUTE, RELATIVE = 0.02, 0.05  # by which recomputed figures may differ


@dataclass
class Verdict:
    """What `verify` found."""

    changed: dict[str, str] = field(default_factory=dict)
    """What was changed, of "metadata", "pixels", "decoder" and "pack", with the evidence."""
    notes: list[str] = field(default_factory=list)
    """What was not compared, and foreign signatures."""
    recomputed: bool = False
    """Whether the picture was made again."""
    difference: int | None = None
    """Largest difference of a recomputed pixel, in levels of 255."""

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, and the picture was made again."""
        return not self.changed and self.recomputed

    def __str__(self) -> str:
        parts = [part for part in PARTS if part in self.changed]
        if parts:
            reasons = "; ".join(self.changed[part] for part in parts)
            text = f"Changed: {', '.join(parts)} ({reasons})."
        elif self.recomputed:
            text = f"Intact: recomputed, and pixels differ by at most {self.difference} of 255."
        else:
            text = "Nothing that was compared is changed, but the picture was not recomputed."
        return " ".join([text, *self.notes])


def verify(
    path: str | Path,
    pack: Conditional | str | Path,
    decoder: Decoder | nn.Module | None = None,
    *,
    inputs: Tensor | None = None,
) -> Verdict:
    """What was changed of a picture that `Outcome.save` wrote, its receipt, its pack and decoder.

    Arguments:
        path: The PNG file; the receipt beside it is compared, if it is there.
        pack: The `Conditional` that made it, with its evaluator, or the folder of its pack.
        decoder: The decoder, if `pack` is a folder.
        inputs: Samples `(N, *sample_shape)` among which the inputs of an edit should be.

    Raises:
        InputError: If the file is no PNG picture, or has no receipt, nor one beside it.

    Example:
        >>> import tempfile, latentctl
        >>> decoder = latentctl.wrap(nn.Linear(4, 48), decode="forward", show=(3, 4, 4))
        >>> critic = latentctl.AttributeCritic((4,), ["Smiling"], width=16)
        >>> faces = latentctl.condition(decoder, critic)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(verify(faces.sample(2, Smiling=True).save(f"{folder}/a.png"), faces))
        Intact: recomputed, and pixels differ by at most 0 of 255.
    """
    saved = read_saved(Path(path))
    verdict = Verdict(saved.changed, saved.notes)
    if not saved.receipt:
        return verdict
    if decoder is None and not isinstance(pack, Conditional):
        raise InputError("A folder of a pack needs its decoder: verify(path, pack, decoder).")
    try:
        with well_formed("The receipt", CheckpointError):
            faces = _compare_parts(pack, decoder, saved.receipt, verdict)
            recorded = {row["input"] for row in saved.receipt["samples"]}
            if inputs is not None and not recorded <= set(input_hashes(inputs)):
                verdict.notes.append("Its inputs are not among those that were given.")
            if faces is not None and "metadata" not in verdict.changed:
                _compare_again(faces, saved, verdict)
    except LatentctlError as error:  # a receipt that asks for what cannot be
        verdict.changed.setdefault("metadata", f"the receipt cannot be used: {error}".rstrip("."))
    return verdict


def _compare_parts(
    pack: Conditional | str | Path,
    decoder: Any,
    receipt: dict[str, Any],
    verdict: Verdict,
) -> Conditional | None:
    """The conditional that can make the picture again, if it is the recorded one."""
    recorded, faces = receipt["decoder"]["fingerprint"], None
    if isinstance(pack, Conditional):
        faces, found = pack, pack.decoder.fingerprint()
    else:
        try:
            state, decoder = read_pack(pack, decoder)[1:]
            made_for, found = state["decoder"]["fingerprint"], decoder.fingerprint()
            if made_for != recorded:
                verdict.changed["pack"] = f"it is for the decoder {made_for[:12]}"
            elif made_for == found:
                faces = Conditional.from_pretrained(pack, decoder)
        except (CheckpointError, FingerprintError) as error:
            verdict.changed["pack"], found = str(error).rstrip("."), recorded
    if found != recorded:
        verdict.changed["decoder"] = f"its weights are {found[:12]}, recorded is {recorded[:12]}"
        return None
    return faces if faces is not None and _same_parts(faces, receipt, verdict) else None


def _same_parts(faces: Conditional, receipt: dict[str, Any], verdict: Verdict) -> bool:
    """Whether the picture can be made again by these parts."""
    facts, same = Maker(faces.parts).facts, True
    pack, recorded = facts["pack"]["fingerprint"], receipt["pack"]["fingerprint"]
    if recorded is None:
        verdict.notes.append("The pack had no fingerprint, since one of its parts is not saved.")
    elif pack != recorded:
        found = "one that cannot be saved" if pack is None else pack[:12]
        verdict.changed["pack"] = f"it is {found}, recorded is {recorded[:12]}"
        same = False
    for name, argument in (("evaluator", "evaluator"), ("refined_with", "refine_with")):
        one, other = facts[name], receipt[name]
        if one is None or other is None:
            equal = one is other
        else:
            equal = one["fingerprint"] == other.get("fingerprint")
        if not equal:
            verdict.notes.append(
                f"The {argument} is not the one of the receipt: load the pack with {argument}=."
            )
            same = False
    if not receipt["request"]["where_is_text"]:
        verdict.notes.append("`where` was a critic, not an expression, and is not recorded.")
        same = False
    return same


def _compare_again(faces: Conditional, saved: SavedPicture, verdict: Verdict) -> None:
    """Makes the picture again, and compares pixels and figures."""
    out, recorded = _again(faces, saved), saved.receipt["samples"]
    pairs = zip(out.receipts(), recorded, strict=True)
    wrong = sorted({key for row, old in pairs for key in row if not _close(row[key], old[key])})
    if saved.receipt["request"]["threshold"] != faces.threshold:
        wrong.append("threshold")
    promised = None if out.guarantee is None else out.guarantee.facts()
    if saved.receipt["guarantee"] != promised:
        wrong.append("guarantee")
    again = _picture(out, saved)
    verdict.recomputed, alike = True, again.shape == saved.pixels.shape
    if alike:
        levels = (again.int() - saved.pixels.int()).abs()
        verdict.difference = int(levels.max())
        alike = verdict.difference <= MOST and float(levels.float().mean()) <= MEAN
    if wrong:
        verdict.changed["metadata"] = f"{', '.join(wrong[:4])} is not what the request gives"
    elif not alike:
        verdict.changed.setdefault("pixels", "they are not what the request gives")


def _picture(out: Outcome, saved: SavedPicture) -> Tensor:
    """The samples in the layout of the receipt, `(H, W, 3)` bytes."""
    layout, drawn = saved.receipt["picture"], out.display(out.x)
    columns, margin = layout["columns"], layout["margin"]
    width = (columns or 1) * (drawn.shape[-1] + margin)
    if not 0 < width <= saved.pixels.shape[1] or margin < 0:
        raise CheckpointError(f"columns {columns} and margin {margin} do not fit the picture.")
    return grid(drawn, columns=columns, margin=margin)


def _again(faces: Conditional, saved: SavedPicture) -> Outcome:
    """The samples of a receipt, made again."""
    receipt = saved.receipt
    if len(receipt["samples"]) > saved.pixels.shape[0] * saved.pixels.shape[1]:
        raise CheckpointError("it has more samples than the picture has pixels.")
    where = receipt["request"]["where"]
    goal = None if where is None else parse(where, faces.critic)
    request, index = request_of(receipt, faces.names, goal)
    if receipt["kind"] == "edit":
        z = unpacked(receipt["start"])
    else:
        z = torch.cat([faces.prior.sample(1, seed=request.seed, start=i) for i in index])
    z = z.to(faces.decoder.device)
    return carry_out(receipt["kind"], faces.parts, z, request, where=where)


def _close(value: Any, recorded: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return bool(value is recorded) if value is None else bool(value == recorded)
    if isinstance(recorded, bool) or not isinstance(recorded, int | float):
        return False
    return abs(value - recorded) <= ABSOLUTE + RELATIVE * abs(value)
