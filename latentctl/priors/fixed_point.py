r"""Anderson acceleration: solves `u + change(u) = goal` for many rows at once.

Plain iterations, `u = goal - change(u)`, converge linearly where the change is a contraction, and
diverge where it is not. Anderson acceleration takes the affine combination of the last few iterates
whose residual would vanish if the change were linear:

.. math::
    u_{k+1} = u_k - r_k - (\Delta U - \Delta R) \gamma, \quad
    \gamma = \arg\min_\gamma \| r_k - \Delta R \, \gamma \|^2

References:
    | Anderson Acceleration for Fixed-Point Iterations (Walker & Ni, 2011)
    | https://doi.org/10.1137/10078356X
"""

from __future__ import annotations

__all__ = ["fixed_point"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..nn.precision import double_precision

MEMORY = 7  # iterates that are combined
RIDGE = 1e-8


def fixed_point(
    change: Callable[[Tensor], Tensor], goal: Tensor, *, rounds: int, close: float
) -> tuple[Tensor, Tensor]:
    """The solutions `u (B, ...)` and their relative errors `(B,)`.

    The error is the largest entry of the residual, relative to the largest entry of the goal, or
    to 1 if that is larger.

    Arguments:
        change: Of points `(B, ...)`, row by row.
        goal: The right-hand side, `(B, ...)`.
        rounds: Maximum number of evaluations of `change`.
        close: Error of all rows at which the iteration ends.

    Example:
        >>> goal = torch.tensor([[1.0, 2.0]])
        >>> u, error = fixed_point(lambda u: 3 * u, goal, rounds=20, close=1e-6)
        >>> torch.allclose(u, goal / 4), bool(error < 1e-6)
        (True, True)
    """
    size = _double(goal).abs().amax(1).clamp_min(1)
    points: list[Tensor] = []
    errors: list[Tensor] = []
    u = goal
    for _ in range(rounds):
        points = [*points, _double(u)][-MEMORY:]
        errors = [*errors, _double(u + change(u) - goal)][-MEMORY:]
        missed = errors[-1].abs().amax(1) / size
        if bool((missed <= close).all()):
            break
        u = _mixture(points, errors).to(goal).view_as(goal)
    return points[-1].to(goal).view_as(goal), missed.to(goal)


def _double(values: Tensor) -> Tensor:
    """Rows `(B, D)` in float64."""
    return double_precision(values.flatten(1))


def _mixture(points: list[Tensor], errors: list[Tensor]) -> Tensor:
    """The next iterates `(B, D)`."""
    new = points[-1] - errors[-1]
    if len(points) == 1:
        return new
    moves, changes = (torch.stack(v, 2).diff(dim=2) for v in (points, errors))
    gram = changes.mT @ changes
    pull = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)
    gram = gram + pull[:, None, None] * torch.eye(gram.shape[1]).to(gram)
    share = torch.linalg.solve_ex(gram, changes.mT @ errors[-1][:, :, None]).result
    share = share.nan_to_num(0, 0, 0)  # of rows that have converged
    mixed: Tensor = new - ((moves - changes) @ share)[:, :, 0]
    return mixed
