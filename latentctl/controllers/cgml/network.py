r"""cGML's network `Z`: it predicts the step that gradient descent would take.

For a cost :math:`c(z)` of a request, gradient descent moves :math:`z` to :math:`z^+`. From the
encoded request :math:`h` the network :math:`Z(h, z) = (\hat z, \hat\rho)` is trained to predict

.. math::
    \hat z \approx z^+, \quad \hat\rho \approx \|z^+ - z\|, \qquad
    L_Z = |\hat z - z^+|_1 + |\hat\rho - \|z^+ - z\||_1
        + \lambda\, |Z(h + \epsilon', z + \epsilon) - Z(h, z)|_1

At inference it walks without the cost, and different starts lead to different modes,

.. math:: z \leftarrow z + \hat\rho \, \frac{\hat z - z}{\|\hat z - z\|}.

Where the steps to two modes average to zero, :math:`\hat z` alone has a spurious fixed point
between them; the separately learned length :math:`\hat\rho` moves past it. The last term bounds the
Lipschitz constant of :math:`Z`. Lengths are root mean squares over the dimensions here.

Not in the paper: one evaluation may replace many steps of descent, and with `gradient_input` the
network also sees the gradient of the cost.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
"""

from __future__ import annotations

__all__ = ["UpdaterNetwork"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...decoder.descent import LatentCost, append_dims, gradient_of, project, rms
from ...errors import InputError, ShapeError
from ...latents.names import attribute_names
from ...nn import Trunk, encode_targets
from ...nn.grids import layer
from ...progress import track
from ...training import Step
from ..base import Controller, Move, refuse_where
from ..request import Request

NOISE = 1e-3  # std of the Lipschitz term
NEAR = 1e-12  # a shorter vector has no direction


class UpdaterNetwork(Controller):
    """`Z`, its walk and its loss; see `Updater` for the arguments.

    In all methods `z (B, *latent_shape)` are latents and `h (B, context)` is the encoded request,
    None if `context` is 0. With `gradient_input`, `gradient` is that of the cost at `z`.
    """

    learned = True
    dropped: int
    """Starts that the last training left out because their cost was not finite."""

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        context: int | None = None,
        context_encoder: nn.Module | None = None,
        width: int = 512,
        depth: int = 4,
        steps: int = 5,
        final_jumps: int = 0,
        tolerance: float = 0.0,
        domain: str = "space",
        gradient_input: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"A walk needs steps >= 1, it was given {steps}.")
        self.latent_shape, self.names = tuple(latent_shape), attribute_names(names)
        self.context = context = 2 * len(self.names) if context is None else context
        self.steps, self.final_jumps, self.tolerance = steps, final_jumps, tolerance
        self.domain, self.gradient_input = domain, gradient_input
        shapes = {"latent_shape": list(latent_shape), "names": list(self.names), "context": context}
        sizes = {"width": width, "depth": depth, "steps": steps, "final_jumps": final_jumps}
        walk = {"tolerance": tolerance, "domain": domain, "gradient_input": gradient_input}
        self.config = {**shapes, **sizes, **walk}
        self.context_encoder = context_encoder
        self.dropped = 0
        channels, inputs = latent_shape[0], 2 if gradient_input else 1
        shape = (inputs * channels, *latent_shape[1:])
        self.trunk = Trunk(shape, context + gradient_input, width=width, depth=depth, grid="unet")
        features, outputs = self.trunk.features, inputs * channels
        self.away = layer(self.trunk.axes, features, outputs)
        if gradient_input:  # untrained, it is gradient descent with steps of constant length
            nn.init.zeros_(self.away.get_parameter("weight"))
            nn.init.zeros_(self.away.get_parameter("bias"))
        self.length = nn.Linear(features, 1)
        nn.init.constant_(self.length.bias, -2.0)

    def parts(self) -> dict[str, nn.Module | None]:
        return {**super().parts(), "context_encoder": self.context_encoder}

    def encode_request(
        self, asked: Tensor | None, z: Tensor, origin: Tensor | None = None
    ) -> Tensor | None:
        """The context of targets `(B, K)` or `(1, K)`, or of the input of the `context_encoder`.

        A `context_encoder` also gets the starts of the walks, `origin`; `z` by default.
        """
        if self.context_encoder is not None:
            h: Tensor = self.context_encoder(asked, z if origin is None else origin)
            return h
        if not self.context:
            return None
        if asked is None:
            asked = torch.full((1, len(self.names)), torch.nan)
        return encode_targets(asked.to(z.device)).expand(len(z), -1)

    def predict(
        self, h: Tensor | None, z: Tensor, gradient: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The predictions `z^ (B, *latent_shape)` and `rho^ (B,)`.

        Raises:
            ShapeError: If `h` has another width.
            InputError: If the gradient is missing.
        """
        if self.context and (h is None or h.shape != (len(z), self.context)):
            found = "nothing" if h is None else str(tuple(h.shape))
            raise ShapeError(
                f"This updater takes a context h ({len(z)}, {self.context}), it was given {found}."
            )
        if not self.gradient_input:
            features = self.trunk(z, h)
            return z + self.away(features), self._length(features)
        if gradient is None:
            raise InputError("An updater with gradient_input sees the gradient: pass `cost`.")
        size = rms(gradient).clamp_min(NEAR)
        slope = gradient / append_dims(size, z)
        context = size.log()[:, None] if h is None else torch.cat([h, size.log()[:, None]], dim=1)
        features = self.trunk(torch.cat([z, slope], dim=1), context)
        away, scale = self.away(features).chunk(2, dim=1)
        return z + away - slope * scale.exp(), self._length(features)

    def _length(self, features: Tensor) -> Tensor:
        pooled = features.flatten(2).mean(2) if self.trunk.spatial else features
        return F.softplus(self.length(pooled)[:, 0])

    def stride(self, z: Tensor, hat: Tensor, length: Tensor) -> Tensor:
        """The latents after one step of the walk, from what `predict` returned."""
        away = hat - z
        size = rms(away)
        factor = torch.where(size > NEAR, length / size.clamp_min(NEAR), torch.zeros_like(size))
        return project(z + append_dims(factor, z) * away, self.domain)

    @torch.no_grad()
    def walk(
        self,
        h: Tensor | None,
        z: Tensor,
        *,
        steps: int | None = None,
        cost: LatentCost | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All latents of a walk `(steps + 1, B, *latent_shape)`, and the evaluations `(B,)`.

        With `gradient_input` it needs the `cost` of the B latents. The updater's own `steps` are
        the default.
        """
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        active = torch.ones(len(z), dtype=torch.bool, device=z.device)
        path = [z]
        steps = self.steps if steps is None else steps
        for step in track(range(steps), "Walk", "step"):
            hat, length = self.predict(h, z, gradient_of(cost, z)[1] if cost is not None else None)
            evaluations += active
            active = active & (length >= self.tolerance)
            moved = self.stride(z, hat, length)
            if step >= steps - self.final_jumps:
                moved = project(hat, self.domain)
            z = torch.where(append_dims(active, z), moved, z)
            path.append(z)
        return torch.stack(path), evaluations

    @torch.no_grad()
    def search(self, z: Tensor, request: Request) -> Move:
        refuse_where(self, request.where)
        if self.gradient_input:
            raise InputError(
                "An updater with gradient_input walks by a cost: use `walk(h, z, cost=...)`."
            )
        path, evaluations = self.walk(self.encode_request(request.values, z), z)
        return Move(path[-1], evaluations)

    def loss(
        self,
        h: Tensor | None,
        z: Tensor,
        goal: Tensor,
        step: Step,
        *,
        gradient: Tensor | None = None,
        lipschitz: float = 0.01,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`L_Z` with the weight `lipschitz`, and what is logged.

        The `goal (B, *latent_shape)` are the latents after the step of descent; B is `step.count`.
        """
        hat, length = self.predict(h, z, gradient)
        far = rms(goal - z)
        error = F.l1_loss(hat, goal) + F.l1_loss(length, far)
        if not lipschitz:
            return error, {"length": far}
        nearby = z + NOISE * step.normal(*self.latent_shape, purpose="beside z")
        if h is not None:
            h = h + NOISE * step.normal(self.context, purpose="beside h")
        hat2, length2 = self.predict(h, nearby, gradient)
        jump = F.l1_loss(hat2, hat) + F.l1_loss(length2, length)
        return error + lipschitz * jump / NOISE, {"length": far, "jump": jump / NOISE}
