"""Seconds of an edit of 64 images with the default editor, on one thread.

It imports nothing but `latentctl` and an adapter, so that the same loop measures another checkout:

    python benchmarks/systems/edit_time.py
    PYTHONPATH=OTHER:OTHER/adapters python benchmarks/systems/edit_time.py

The decoder and the critic are untrained. Prints a JSON object: `cpu` and `wall`, median seconds of
an edit, and `critic_evaluations_at_start`, how often the critic is evaluated at the latents of the
inputs without a gradient.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

import torch
from latentctl_adapters.conv_vae import ConvVAE

import latentctl
from latentctl.random import noise, seeded

IMAGES, ROUNDS = 64, 9


def edit_time() -> dict[str, float]:
    """Median seconds of an edit, and the evaluations of the critic at the start."""
    names = [f"attribute_{number}" for number in range(10)]
    with seeded(0):
        decoder = latentctl.wrap(ConvVAE(latent_size=256))
        critic = latentctl.AttributeCritic(decoder.latent_shape, names).eval()
    x = noise(0, IMAGES, decoder.sample_shape, seed=0, uniform=True)
    editor = latentctl.condition(decoder, critic)
    points: list[torch.Tensor] = []

    def watch(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not torch.is_grad_enabled():
            points.append(inputs[0])

    handle = critic.register_forward_hook(watch)
    start = editor.edit(x, attribute_0=True).start
    handle.remove()
    found = {"critic_evaluations_at_start": sum(torch.equal(z, start) for z in points)}
    times = []
    for _ in range(ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        editor.edit(x, attribute_0=True)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (median(spent) for spent in zip(*times, strict=True))
    return {"cpu": cpu, "wall": wall, **found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(edit_time()))
