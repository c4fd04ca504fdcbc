r"""Edits along a conditional flow: back under the attributes of a latent, forward under others.

With the flow :math:`\phi_y` of `FlowMatching`, which carries noise to latents with attributes
:math:`y`,

.. math:: z' = \phi_{y'}(\phi_y^{-1}(z))

keeps what the flow does not know of: the noise that stands for everything but the attributes. The
result is where data with the new attributes lie, also for an attribute that changes much of the
sample. Turning round on the way, before the noise is reached, keeps more of the input, and the new
direction is extrapolated from the old one (`Matching.carried`). From there a short ascent on the
critic corrects what it still rejects.

References:
    | StyleFlow: Attribute-Conditioned Exploration of StyleGAN-Generated Images Using Conditional
      Continuous Normalizing Flows (Abdal et al., 2020)
    | https://arxiv.org/abs/2008.02401
    | SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (Meng et
      al., 2021): turning round on the way
    | https://arxiv.org/abs/2108.01073
"""

from __future__ import annotations

__all__ = ["FlowEdit"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..critics import Critic
from ..errors import InputError
from ..priors.matching import CARRIED_ROUNDS
from ..storage import register_to_config
from .ascent import Ascent
from .base import Controller, Move
from .flow_matching import FlowMatching
from .request import Request, target_context


class FlowEdit(Controller, kind="flow-edit"):
    """Moves latents along a conditional flow, then by a short ascent.

    Requests with `where`, a region or a probability between 0 and 1 are made by the ascent of
    `Ascent.for_edits` alone.

    Arguments:
        attributes: The critic, which also reads the attributes before the edit.
        flow: A flow of the same attributes.
        start: Share of the flow's path, from the noise on, that is kept; 0 goes back to the noise.
        guidance: Factor on the change of direction; 1 is the flow itself.
        steps: Steps of the ascent after the flow.

    Raises:
        InputError: If the flow has other attributes, or `start` is not in [0, 1).

    Example:
        >>> from latentctl import AttributeCritic, FlowMatching
        >>> critic = AttributeCritic((8,), ["Smiling"], width=16)
        >>> flow = FlowMatching((8,), ["Smiling"], width=16)
        >>> FlowEdit(critic, flow)(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    @register_to_config
    def __init__(
        self,
        attributes: Critic,
        flow: FlowMatching,
        *,
        start: float = 0.375,
        guidance: float = 1.5,
        steps: int = 20,
    ) -> None:
        super().__init__()
        if not flow.names or flow.names != attributes.names:
            raise InputError(
                f"The flow has the attributes {', '.join(flow.names) or 'none'}, the critic "
                f"{', '.join(attributes.names)}. Fit both on the same labels in the same order."
            )
        if not 0 <= start < 1:
            raise InputError(f"start is in [0, 1), it was given as {start:g}.")
        self.attributes, self.flow = attributes, flow
        self.names = flow.names
        self.start, self.guidance, self.steps = start, guidance, steps

    def parts(self) -> dict[str, nn.Module | None]:
        return {"attributes": self.attributes, "flow": self.flow}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> FlowEdit:
        return cls(**parts, **config)

    def search(self, z: Tensor, request: Request) -> Move:
        target, ascent = request.target, Ascent.for_edits(self.attributes)
        if target is None or request.where is not None or request.region is not None:
            return ascent.search(z, request)
        graded = ((target > 0) & (target < 1)).any(1)
        moved, evaluations = z.clone(), torch.zeros(len(z), dtype=torch.long, device=z.device)
        for rows, search in ((graded, ascent.search), (~graded, self._along_flow)):
            if bool(rows.any()):
                part = search(z[rows], request.rows(rows))
                moved[rows], evaluations[rows] = part.z, part.evaluations
        return Move(moved, evaluations)

    def _along_flow(self, z: Tensor, request: Request) -> Move:
        assert self.attributes is not None
        with torch.no_grad():
            current = self.attributes.probability(z)
        request = dataclasses.replace(request, current=current)
        before = target_context(z, current, self.names)
        after = target_context(z, request.values, self.names)
        assert before is not None and after is not None  # the flow has names
        net = self.flow.net
        first = round(self.start * net.steps)
        near = net.carried(z, before, after, first=first, guidance=self.guidance)
        corrections = Ascent.for_edits(self.attributes, steps=self.steps)
        far = corrections.climb(near, near, request)
        # two evaluations of the flow a round back, and two or four a step forward
        each = 2 * CARRIED_ROUNDS + (2 if self.guidance == 1 else 4)
        return Move(far.z, far.evaluations + 1 + each * (net.steps - first))
