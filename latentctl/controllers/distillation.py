r"""Distillation: a fast critic of latents is fitted to a slow one, values and gradients.

A critic that is fitted to encodings alone has adversarial directions off the data manifold, which
ascent follows: most edits it accepts are rejected by independent classifiers. A network on samples,
through the decoder, is harder to exploit, but costs the decoder at every step. Here it is distilled
once into a critic on latents: on encodings, encodings moved along attribute vectors and samples of
the prior, and then, in rounds, on edits that are made with the student.

Each distillation sample has the teacher's log-odds and the gradient of one of them:

.. math::
    L(\theta) = \frac{1}{K} \sum_k \frac{(s_k(z) - t_k(z))^2}{\mathrm{var}\, t_k}
        + w \frac{\| \nabla_z s_j(z) - \nabla_z t_j(z) \|^2}{\mathbb{E} \| \nabla_z t_j \|^2},
    \quad j \sim U(1, K)

A gradient costs one backward pass and has `d` components, which determine the direction of ascent.
On grids both gradients are compared in whitened coordinates (`latentctl.latents.Covariance`), in
which ascent steps. No labels of data are needed.

References:
    | Sobolev Training for Neural Networks (Czarnecki et al., 2017)
    | https://arxiv.org/abs/1706.04859
"""

from __future__ import annotations

__all__ = ["distill"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..critics import AttributeCritic, Critic
from ..critics.ties import ties_in
from ..decoder import Gaussian, Prior
from ..errors import InputError
from ..latents import Latents, require_latents
from ..latents.covariance import default_rank
from ..progress import track
from ..random import seeded
from ..training import Step, train
from .ascent import Ascent
from .request import flips

PART = 128  # latents at once
KINDS = (0.35, 0.85)  # encodings, moved encodings up to here; the rest are samples of the prior
SHIFT_WEIGHTS = (0.0, 0.005, 0.015, 0.03)  # of the edits of a round
TRAINING: dict[str, Any] = {
    "max_train_steps": 2000,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 100,
}


def distill(
    teacher: Critic,
    latents: Latents,
    *,
    prior: Prior | None = None,
    samples: int = 12_000,
    rounds: int = 1,
    samples_per_round: int = 6_000,
    gradient_weight: float = 1.0,
    width: int = 512,
    depth: int = 3,
    rank: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> AttributeCritic:
    """A fast critic of latents, distilled from a slow one.

    Arguments:
        teacher: A critic of the same latents, differentiable in them, such as a `PixelCritic`.
        latents: Encodings; the ties of attributes are found in their labels, if there are any,
            and in probabilities by the student otherwise.
        prior: Where further latents are sampled; by default N(0, I), or of a grid the normal
            with the moments of `latents`.
        samples: Latents of the first round.
        rounds: Further rounds, on edits made with the student.
        samples_per_round: Edits in each of them.
        gradient_weight: Weight of the gradients in the loss; 0 for log-odds alone.
        width: Units of each layer.
        depth: Number of layers.
        rank: Leading directions of the latents' covariance, in whose whitened coordinates gradients
            are compared and edits measured; 512 for a grid by default, and 0 for a vector.
        seed: Decides every random number.
        output_dir: Folder of the logs and checkpoints of each round, a folder each.
        progress: Show bars on the main process.
        options: Further arguments of `latentctl.training.train` for each round; by default 2000
            steps of AdamW on 256 distillation samples, with weight decay 1e-2 and a learning rate
            of 1e-3 that falls by a cosine after 100 steps.

    Raises:
        ShapeError: If the teacher is over latents of another shape.
        InputError: If it is not differentiable.

    Example:
        >>> from latentctl import AttributeCritic, Latents
        >>> from latentctl.random import noise
        >>> teacher = AttributeCritic((4,), ["Smiling"], width=16)
        >>> student = distill(teacher, Latents(noise(0, 64, (4,), seed=0)), samples=64,
        ...                   samples_per_round=32, width=16, max_train_steps=5)
        >>> student.names, student(torch.zeros(2, 4)).shape
        (('Smiling',), torch.Size([2, 1]))
    """
    require_latents(latents)
    teacher.eval()
    shape, names = latents.latent_shape, teacher.names
    rank = default_rank(shape) if rank is None else rank
    with seeded(seed, "pupil"):
        student = AttributeCritic(shape, names, width=width, depth=depth, smooth=True, rank=rank)
    student.fit_statistics(latents, seed=seed)
    data: list[Tensor] = []
    for number in range(rounds + 1):
        count = samples_per_round if number else samples
        step = Step(seed, number, 0, count, count)
        if number:
            z = _edits(student, latents, step, progress)
        else:
            z = _first_latents(teacher, student, latents, prior, step)
        column = step.integers(len(names), purpose="column").cpu()
        new = [z, *_teacher_outputs(teacher, z, column, progress), column]
        data = [torch.cat(pair) for pair in zip(data, new, strict=True)] if data else new
        loss = _loss(student, data, gradient_weight)
        folder = None if output_dir is None else Path(output_dir) / f"round-{number}"
        settings = {"seed": seed + number, "output_dir": folder, **TRAINING, **options}
        settings |= {"progress": progress, "derived_from": [latents, teacher]}
        train(student, loss, TensorDataset(*data), name="student", **settings)
    student.ties = ties_in(latents, student)
    return student


def _loss(student: AttributeCritic, data: Sequence[Tensor], gradient_weight: float) -> Any:
    spread = data[1].var(0).clamp_min(1e-6)
    metric = student.covariance
    gradients = data[2] if metric is None else metric.color(data[2].to(student.posterior_std))
    scale = gradients.square().mean().clamp_min(1e-30).cpu()

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        z, logits, gradient, column = batch
        with torch.enable_grad():
            z = z.requires_grad_(gradient_weight > 0)
            predicted = student(z)
            value = ((predicted - logits).square() / spread.to(z.device)).mean()
            if not gradient_weight:
                return value, {"value": value}
            chosen = predicted.gather(1, column[:, None]).sum()
            (own,) = torch.autograd.grad(chosen, z, create_graph=True)
        difference = own - gradient if metric is None else metric.color(own - gradient)
        error = difference.square().mean() / scale.to(z.device)
        return value + gradient_weight * error, {"value": value, "gradient": error}

    return loss


def _teacher_outputs(
    teacher: Critic, z: Tensor, column: Tensor, progress: bool
) -> tuple[Tensor, Tensor]:
    """Log-odds `(N, K)`, and the gradient of those in `column`, `(N, *latent_shape)`."""
    values, gradients = [], []
    pairs = list(zip(z.split(PART), column.split(PART), strict=True))
    for part, chosen in track(pairs, "Teacher", "batch", progress=progress):
        with torch.enable_grad():
            here = part.to(teacher.device).requires_grad_()
            logits = teacher(here)
            if not logits.requires_grad:
                raise InputError(
                    f"The {type(teacher).__name__} is not differentiable, and distillation needs "
                    f"its gradients. Use a differentiable network, or for a plain function of "
                    f"samples prior_rewards and a RewardCritic."
                )
            picked = logits.gather(1, chosen.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(picked, here)
        values.append(logits.detach().cpu())
        gradients.append(gradient.cpu())
    return torch.cat(values), torch.cat(gradients)


def _first_latents(
    teacher: Critic, student: AttributeCritic, latents: Latents, prior: Prior | None, step: Step
) -> Tensor:
    """Latents of the first round: encodings, moved encodings, samples of the prior."""
    shape = latents.latent_shape

    data = latents[step.integers(len(latents), purpose="lesson")].to("cpu")
    z = data.sample(step.normal(*shape, purpose="posterior"))
    kind = _rows(step.uniform(1, purpose="kind"), z)
    part = z[: max(1, round(KINDS[0] * len(z)))]
    vectors = _mean_differences(part, teacher.score(part, batch_size=PART).sigmoid())
    first, second = (step.integers(len(vectors), purpose=p).cpu() for p in ("first", "second"))
    sign = torch.where(step.uniform(1, purpose="sign") < 0.5, -1.0, 1.0)
    length = 3 * sign * step.uniform(1, purpose="length")
    also = 2 * step.normal(1, purpose="also") * (step.uniform(1, purpose="both") < 0.3)
    noise = 0.25 * _rows(step.uniform(1, purpose="noise"), z)
    noise = noise * step.normal(*shape, purpose="jitter")
    moved = z + _rows(length, z) * vectors[first] + _rows(also, z) * vectors[second]
    z = torch.where(kind < KINDS[0], z, moved + _colored(student, noise))
    if prior is not None:
        drawn = prior.sample(len(z), seed=~step.seed).cpu()
    else:
        drawn = Gaussian(shape).sample(len(z), seed=~step.seed)
        if student.covariance is not None:
            drawn = latents.moments()[0].cpu() + _colored(student, drawn)
    return torch.where(kind > KINDS[1], drawn, z)


def _rows(values: Tensor, z: Tensor) -> Tensor:
    """One value for each latent, in a shape that broadcasts to `z`."""
    return values.cpu().view(-1, *[1] * (z.ndim - 1))


def _colored(student: AttributeCritic, whitened: Tensor) -> Tensor:
    """Moves in latent coordinates, from whitened ones if the student has a covariance."""
    if student.covariance is None:
        return whitened.cpu()
    return student.covariance.color(whitened.to(student.posterior_std)).cpu()


def _mean_differences(z: Tensor, probability: Tensor) -> Tensor:
    """Mean latent with each attribute minus the mean without it, `(K, *latent_shape)`."""
    present, absent = (
        torch.einsum("nk,n...->k...", p, z) / _rows(p.sum(0).clamp_min(1), z)
        for p in (probability, 1 - probability)
    )
    return present - absent


def _edits(student: AttributeCritic, latents: Latents, step: Step, progress: bool) -> Tensor:
    """Edits made with the student, scaled by 0.4 to 1.2, at several weights of the shift."""
    data = latents[step.integers(len(latents), purpose="edited")].to("cpu")
    z = data.sample(0.5 * step.normal(*latents.latent_shape, purpose="posterior"))
    current = student.score(z).sigmoid()
    request = flips(current, step.integers(current.shape[1], purpose="flipped"))
    moved = []
    size = -(-len(z) // len(SHIFT_WEIGHTS))
    pairs = list(zip(SHIFT_WEIGHTS, torch.arange(len(z)).split(size), strict=False))
    for weight, rows in track(pairs, "Edits of the student", "batch", progress=progress):
        ascent = Ascent.for_edits(student, shift_weight=weight)
        moved.append(ascent.move(z[rows].to(student.device), request.rows(rows)).z.cpu())
    share = 0.4 + 0.8 * _rows(step.uniform(1, purpose="share"), z)
    jitter = 0.05 * step.normal(*latents.latent_shape, purpose="jitter")
    return torch.lerp(z, torch.cat(moved), share) + _colored(student, jitter)
