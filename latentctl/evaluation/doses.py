"""What each attribute of a `Conditional` does with the strength of an edit, on a few encodings.

Every attribute is flipped in every encoding, and the move is walked from nothing to beyond its end.
The evaluator, or the critic if there is none, gives the response at each strength: of the attribute
that was asked for, and of those that are neither asked for nor tied to it. A picture breaks where
the encoder no longer finds the latent that it was decoded from: the error of the round trip is
twice what 99 of 100 encodings have.
"""

from __future__ import annotations

__all__ = ["dose_response"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..conditional import Conditional, DoseResponse
from ..critics.ties import tied_to
from ..errors import InputError
from ..latents import Latents, require_latents
from ..progress import track

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BATCH = 64


@torch.no_grad()
def dose_response(
    faces: Conditional, latents: Latents, *, strengths: Sequence[float] = STRENGTHS
) -> list[DoseResponse]:
    """The response of each attribute to the strength of an edit.

    `faces.doses = dose_response(faces, latents)` keeps it in the pack and on its card.

    Arguments:
        faces: With an evaluator, or the responses are the critic's claims.
        latents: Encodings, a hundred are enough.
        strengths: Increasing, from 0 on, with 1 among them.

    Raises:
        InputError: If the strengths do not increase from 0 and pass 1.

    Example:
        >>> import latentctl
        >>> from latentctl.random import noise
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> critic = latentctl.AttributeCritic((4,), ["Smiling", "Male"], width=16)
        >>> latents = Latents(noise(0, 8, (4,), seed=0))
        >>> found = dose_response(latentctl.condition(decoder, critic), latents)
        >>> [one.name for one in found], len(found[0].response)
        (['Smiling', 'Male'], 8)
    """
    require_latents(latents)
    strengths = tuple(float(strength) for strength in strengths)
    if strengths != tuple(sorted({0.0, 1.0, *strengths})) or strengths[0] != 0:
        raise InputError(f"strengths increase from 0 on, with 1 among them; found {strengths}.")
    z = latents.mean.to(faces.decoder.device)
    before, error = _seen(faces, z)
    limit = None if error is None else 2 * float(error.cpu().quantile(0.99)) + 1e-3
    found = []
    for column, name in enumerate(track(faces.names, "Measure", "attribute")):
        target = torch.full_like(before, torch.nan)
        target[:, column] = 1 - before[:, column].round()
        end = faces.edit(latents, y=target).z
        others = ~tied_to(~target.isnan(), faces.critic.ties, faces.names)
        others[:, column] = False
        points = [_seen(faces, torch.lerp(z, end, strength)) for strength in strengths]
        asked = [1 - (p[:, column] - target[:, column]).abs() for p, _ in points]
        moved = [(p - before).abs()[others] for p, _ in points]
        drift = [float(m.mean()) if len(m) else 0.0 for m in moved]
        full = strengths.index(1.0)
        gain = float((asked[full] - asked[0]).mean())
        broken = [
            strength
            for strength, (_, cycle) in zip(strengths, points, strict=True)
            if cycle is not None and limit is not None and float(cycle.median()) > limit
        ]
        found.append(
            DoseResponse(
                name=name,
                strengths=strengths,
                response=tuple(float(p.mean()) for p in asked),
                others=tuple(drift),
                reach=float((asked[full] >= 0.5).float().mean()),
                selectivity=gain / max(drift[full], 1e-3),
                breaks_at=broken[0] if broken else None,
            )
        )
    return found


def _seen(faces: Conditional, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """Probabilities `(N, K)`, and the error of the round trip `(N,)`, None without an encoder."""
    probabilities, errors = [], []
    for part in z.split(BATCH):
        x = faces.decoder.decode(part)
        scorer = faces.evaluator
        logits = faces.critic.score(part) if scorer is None else scorer.score_samples(x)
        probabilities.append(logits.sigmoid())
        if faces.decoder.can_encode:
            again = faces.decoder.encode(x).mean
            errors.append((again - part).flatten(1).square().mean(1).sqrt())
    return torch.cat(probabilities), torch.cat(errors) if errors else None
