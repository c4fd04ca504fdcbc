"""Other ways to edit a latent, each swept over its own strength, for `benchmarks/edits.py`.

All of them see the same encodings and the labels of the data. The directions of support vector
machines are projected so that the other nine boundaries are not crossed (InterFaceGAN); the mean
differences of "LEACE" have the subspace that linearly tells the other nine projected away by the
oblique projection of least-squares concept erasure; the ODE is that of latent energies (LACE),
whose implementation may not be used here and is `controllers.Transport`, from the paper's equation.

References:
    | Interpreting the Latent Space of GANs for Semantic Face Editing (Shen et al., 2020)
    | https://arxiv.org/abs/1907.10786
    | LEACE: Perfect linear concept erasure in closed form (Belrose et al., 2023)
    | https://arxiv.org/abs/2306.03819
    | Controllable and Compositional Generation with Latent-Space Energy-Based Models
      (Nie et al., 2021)
    | https://arxiv.org/abs/2110.10873
"""

from __future__ import annotations

__all__ = ["Rival", "rivals"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from latentctl import Actor, Ascent, AttributeCritic, Latents
from latentctl.controllers import Transport
from latentctl.controllers.base import scaled

SVM_SAMPLES = 12_000
REALISM_STEPS = 660  # ten of the critic for one of the actor


@dataclass(frozen=True)
class Rival:
    """`move(flips, sign (B, K), strength)` gives the edited latents."""

    name: str
    strengths: Sequence[float]
    move: Callable[[Any, Tensor, float], Tensor]


def rivals(latents: Latents, seed: int) -> list[Rival]:
    """All rivals, fitted on labelled encodings."""
    z, y = latents.mean, latents.labels
    vectors = mean_differences(z, y)
    critic = AttributeCritic.fit(latents, max_train_steps=1500, seed=seed)
    realism = Actor.fit(latents.select([]), max_train_steps=REALISM_STEPS, seed=seed).realism

    def along(directions: Tensor) -> Callable[[Any, Tensor, float], Tensor]:
        return lambda flips, sign, strength: flips.z + strength * sign @ directions

    def climb(flips: Any, sign: Tensor, threshold: float) -> Tensor:
        ascent = Ascent(critic, realism, steps=100)
        return ascent.move(flips.z, flips.targets(critic), threshold=threshold).z

    def near(flips: Any, sign: Tensor, weight: float) -> Tensor:
        return Ascent.for_edits(critic, shift_weight=weight).move(flips.z, flips.targets(critic)).z

    def ode(flips: Any, sign: Tensor, strength: float) -> Tensor:
        moved = Transport(critic).move(flips.z, flips.targets(critic)).z
        return scaled(flips.z, moved, strength)

    return [
        Rival("attribute vectors", (0.5, 1, 1.5, 2, 3), along(vectors)),
        Rival("SVM, conditional projection", (1, 2, 3, 4, 6, 8), along(svm_directions(z, y, seed))),
        Rival("LEACE-projected vectors", (0.5, 1, 2, 3, 4, 6), along(erased(z, y, vectors))),
        Rival("LACE's ODE", (0.1, 0.2, 0.35, 0.5, 0.75, 1), ode),
        Rival("plain ascent, realism 0.05", (0.9, 0.99, 0.9999, 0.999999), climb),
        Rival("gentle ascent, critic not taught", (0.03, 0.015, 0.007, 0.004, 0.002), near),
    ]


def mean_differences(z: Tensor, y: Tensor) -> Tensor:
    """Mean latent with each attribute minus without it, `(K, D)`."""
    return torch.stack(
        [z[column > 0.5].mean(0) - z[column <= 0.5].mean(0) for column in y.unbind(1)]
    )


def svm_directions(z: Tensor, y: Tensor, seed: int) -> Tensor:
    """Unit normals of linear boundaries, each made orthogonal to the others, `(K, D)`."""
    rows = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:SVM_SAMPLES]
    normals = []
    for column in y.unbind(1):
        machine = LinearSVC(class_weight="balanced", C=0.01, random_state=seed, max_iter=3000)
        machine.fit(z[rows].numpy(), (column[rows] > 0.5).numpy())
        normals.append(torch.from_numpy(machine.coef_[0]).float())
    normals = torch.nn.functional.normalize(torch.stack(normals), dim=1)
    out = []
    for number, normal in enumerate(normals):
        others = torch.cat([normals[:number], normals[number + 1 :]])
        basis = torch.linalg.qr(others.T).Q
        free = normal - basis @ (basis.T @ normal)
        out.append(free / free.norm())
    return torch.stack(out)


def erased(z: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    """Mean differences after the linear erasure of all other attributes, `(K, D)`."""
    values, basis = torch.linalg.eigh(torch.cov(z.T))
    whiten = basis @ torch.diag(values.clamp_min(1e-6).rsqrt()) @ basis.T
    colour = basis @ torch.diag(values.clamp_min(1e-6).sqrt()) @ basis.T
    centred, labels = z - z.mean(0), y - y.mean(0)
    out = []
    for number, vector in enumerate(vectors):
        others = torch.cat([labels[:, :number], labels[:, number + 1 :]], 1)
        shared = torch.linalg.qr(whiten @ (centred.T @ others) / len(z)).Q
        out.append(vector - colour @ (shared @ (shared.T @ (whiten @ vector))))
    return torch.stack(out)
