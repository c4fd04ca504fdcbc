"""Other ways to edit a latent, each over its own strengths, for `benchmarks/edits/run.py`.

All of them get the same encodings and the labels of the data. The directions of support vector
machines are projected so that the other nine boundaries are not crossed (InterFaceGAN). The mean
differences of "LEACE" have the subspace that linearly predicts the other nine projected away by the
oblique projection of least-squares concept erasure. The ODE is that of latent energies (LACE),
whose implementation has a non-commercial licence, so that `controllers.Transport` is measured.

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

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from benchmarks.edits.setting import Asked, Flips
from benchmarks.shared.run import Row, timed
from latentctl import Actor, Ascent, AttributeCritic, Latents
from latentctl.controllers import Transport
from recipes.support.celeba_attrs.report import attribute_vectors

SVM_SAMPLES = 12_000
REALISM_STEPS = 660  # ten of the critic for one of the actor


@dataclass(frozen=True)
class Method:
    """A way to edit; `move(asked, strength)` gives the edited latents."""

    name: str
    strengths: Sequence[float]
    move: Callable[[Asked, float], Tensor]


def for_edits(
    name: str, critic: AttributeCritic, weights: Sequence[float], **options: Any
) -> Method:
    """`Ascent.for_edits` at several weights of the shift."""

    def move(asked: Asked, weight: float) -> Tensor:
        ascent = Ascent.for_edits(critic, shift_weight=weight, **options)
        return ascent.move(asked.z, asked.request).z

    return Method(name, weights, move)


def plain_ascent(name: str, ascent: Ascent, thresholds: Sequence[float]) -> Method:
    """An ascent that stops at several thresholds."""

    def move(asked: Asked, threshold: float) -> Tensor:
        request = dataclasses.replace(asked.request, threshold=threshold)
        return ascent.move(asked.z, request).z

    return Method(name, thresholds, move)


def along(name: str, directions: Tensor, strengths: Sequence[float]) -> Method:
    """Moves along a direction for each attribute, `(K, *latent_shape)`."""
    return Method(name, strengths, lambda asked, strength: asked.along(directions, strength))


def sweep(
    test: Flips, methods: Iterable[Method], extra: Callable[[Tensor], Row] = lambda z: {}
) -> tuple[dict[str, list[Row]], dict[str, dict[float, Tensor]]]:
    """Rows and latents of every method at its strengths; `extra` adds columns."""
    rows: dict[str, list[Row]] = {}
    moved: dict[str, dict[float, Tensor]] = {}
    for method in methods:
        rows[method.name], moved[method.name] = [], {}
        for strength in method.strengths:
            z, seconds = timed(method.move, test, strength)
            more = {"strength": strength, "cpu_seconds": seconds / len(z), **extra(z)}
            rows[method.name].append(test.judge(f"{method.name} {strength:g}", z, **more))
            moved[method.name][strength] = z
    return rows, moved


def baselines(latents: Latents, seed: int) -> list[Method]:
    """All baselines, fitted on labelled encodings."""
    critic = AttributeCritic.fit(
        latents, robustness=0, smooth=False, max_train_steps=1500, seed=seed
    )
    realism = Actor.fit(latents.select([]), max_train_steps=REALISM_STEPS, seed=seed).realism

    def ode(asked: Asked, strength: float) -> Tensor:
        request = dataclasses.replace(asked.request, strength=strength)
        return Transport(critic).move(asked.z, request).z

    vectors, normals = attribute_vectors(latents), svm_directions(latents, seed)
    thresholds, weights = (0.9, 0.99, 0.9999, 0.999999), (0.03, 0.015, 0.007, 0.004, 0.002)
    return [
        along("attribute vectors", vectors, (0.5, 1, 1.5, 2, 3)),
        along("SVM, conditional projection", normals, (1, 2, 3, 4, 6, 8)),
        along("LEACE-projected vectors", erased(latents, vectors), (0.5, 1, 2, 3, 4, 6)),
        Method("LACE's ODE", (0.1, 0.2, 0.35, 0.5, 0.75, 1), ode),
        plain_ascent("plain ascent, realism 0.05", Ascent(critic, realism), thresholds),
        for_edits("Ascent.for_edits, critic of labels", critic, weights),
    ]


def svm_directions(latents: Latents, seed: int) -> Tensor:
    """Unit normals of linear boundaries, each made orthogonal to the others, `(K, D)`."""
    z, y = latents.mean, latents.labels
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


def erased(latents: Latents, vectors: Tensor) -> Tensor:
    """Mean differences after the linear erasure of all other attributes, `(K, D)`."""
    z, y = latents.mean, latents.labels
    values, basis = torch.linalg.eigh(torch.cov(z.T))
    whiten = basis @ torch.diag(values.clamp_min(1e-6).rsqrt()) @ basis.T
    color = basis @ torch.diag(values.clamp_min(1e-6).sqrt()) @ basis.T
    centered, labels = z - z.mean(0), y - y.mean(0)
    out = []
    for number, vector in enumerate(vectors):
        others = torch.cat([labels[:, :number], labels[:, number + 1 :]], 1)
        shared = torch.linalg.qr(whiten @ (centered.T @ others) / len(z)).Q
        out.append(vector - color @ (shared @ (shared.T @ (whiten @ vector))))
    return torch.stack(out)
