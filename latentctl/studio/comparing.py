"""One request by several controllers."""

from __future__ import annotations

__all__ = ["Vector", "compare", "methods"]

import dataclasses
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ..conditional import Conditional
from ..controllers import Ascent, Controller, Request
from ..controllers.base import Move, refuse_where
from ..critics import Critic
from ..critics.log_odds import cross_entropy
from ..errors import InputError, LatentctlError
from ..latents import Latents
from .session import Result
from .source import Source

SCALES = 33  # lengths of the vector that are tried
FARTHEST = 4.0  # standard deviations of the encodings along it


class Vector(Controller):
    r"""A step along one direction, the baseline: :math:`\mathrm{Cov}(z, P(a_k \mid z))`.

    Its length is the one among `SCALES` that agrees best with the targets; nothing is held.

    Arguments:
        critic: The attributes.
        latents: Encodings.
    """

    directions: Tensor

    def __init__(self, critic: Critic, latents: Latents) -> None:
        super().__init__()
        self.attributes = critic
        z = latents.mean
        centred = (z - z.mean(0)).flatten(1)
        directions = critic.score(z).sigmoid().T @ centred
        along = (centred @ directions.T).std(0) / directions.norm(dim=1).clamp_min(1e-12)
        unit = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.register_buffer("directions", unit * along[:, None])

    @torch.no_grad()
    def search(self, z: Tensor, request: Request) -> Move:
        """The best of `SCALES` steps from each of `z (B, *latent_shape)`."""
        refuse_where(self, request.where)
        critic, target = self.attributes, request.target
        if critic is None or target is None:
            raise InputError("The vector takes targets of attributes. Move a slider.")
        now = critic.score(z).sigmoid()
        signs = torch.nan_to_num(target - now).sign()
        step = (signs @ self.directions.to(z)).view_as(z)
        moved = torch.stack([z + s * step for s in torch.linspace(0, FARTHEST, SCALES).tolist()])
        logits = critic(moved.flatten(0, 1))
        missed = cross_entropy(logits, target.repeat(SCALES, 1)).sum(1).view(SCALES, len(z))
        best = missed.argmin(0)
        evaluations = torch.full((len(z),), SCALES + 1, device=z.device)
        return Move(moved[best, torch.arange(len(z))], evaluations)


def methods(faces: Conditional, source: Source) -> list[tuple[str, Controller]]:
    """What can carry out a request, each with its name."""
    found = [("The pack's editor: " + type(faces.editor).__name__, faces.editor)]
    others = [faces.controller, source.faces.controller]
    for other in others:
        known = all(other is not mover for _, mover in found)
        names = getattr(other, "names", faces.names)
        if known and type(other) is not Ascent and tuple(names) == faces.names:
            found.append((type(other).__name__, other))
    found.append(("Ascent on the critic alone", Ascent(faces.critic)))
    found.append(("A plain vector", Vector(faces.critic, source.encodings)))
    return found


def compare(result: Result, source: Source) -> Iterator[tuple[str, Result | str]]:
    """The request of a result by each method: its result, or why it cannot.

    Raises:
        InputError: If nothing is requested.
    """
    if result.demand.is_empty:
        raise InputError("Nothing is requested yet. Move a slider in the first tab.")
    for name, controller in methods(result.faces, source):
        faces = dataclasses.replace(result.faces, editor=controller)
        began = time.perf_counter()
        try:
            outcome = result.demand.carried_out(faces, result.start.z)
        except LatentctlError as problem:
            yield name, str(problem)
            continue
        seconds = time.perf_counter() - began
        yield name, dataclasses.replace(result, outcome=outcome, faces=faces, seconds=seconds)
