r"""A scheduler of diffusers as a table: states are linear in the noise and the network's outputs.

Without added noise and without clipping, every state of a scheduler is a linear combination of the
starting noise and of what the network has returned so far,

.. math:: x_k = S_{k0} z + \sum_{j<k} S_{k,j+1} m_j, \quad m_j = v(u_j, t_j), \quad u_j = c_j x_j

whether it makes steps of first order (DDIM, Euler), of second (Heun) or remembers earlier outputs
(DPM-Solver, UniPC). The coefficients are found by running the scheduler itself once on the basis
vectors of this space, so that it is neither imitated nor run again later.
"""

from __future__ import annotations

__all__ = ["Schedule", "mix"]

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentctl.errors import AdapterError

CLIPS = ("clip_sample", "thresholding", "clip_denoised")  # switches in configurations
LINEAR = 1e-3  # largest deviation from the table that is taken for rounding
INVERTIBLE = 0.02  # smallest share of a state that is left in the next one

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """The steps of one scheduler.

    Arguments:
        states: Coefficients of the state before each of the K calls of the network and after the
            last, float64 `(K + 1, K + 1)`.
        inputs: Coefficients of what the network gets in each call, `(K, K + 1)`.
        timesteps: The time of each call, `(K,)`.
        steps: Steps of the scheduler.
        build: Makes the same schedule with another number of steps.
    """

    states: Tensor
    inputs: Tensor
    timesteps: Tensor
    steps: int
    build: Callable[[int], Schedule]

    @classmethod
    def of(cls, scheduler: Any, steps: int, tokens: int = 0) -> Schedule:
        """The schedule of a scheduler of diffusers, which is not changed.

        Arguments:
            scheduler: The scheduler; DDIM is taken in place of `DDPMScheduler`, which draws noise.
            steps: Number of inference steps.
            tokens: Number of tokens of an image, on which some schedulers' steps depend.

        Raises:
            AdapterError: If it draws noise, or its states are not linear in the outputs.
        """
        fresh = _without_clipping(scheduler)
        name = type(fresh).__name__
        try:
            states, inputs, timesteps = _probe(fresh, steps, tokens)
            same = _probe(fresh, steps, tokens, seed=1)[0]
        except Exception as error:
            raise AdapterError(
                f"{name} does not make {steps} steps ({type(error).__name__}: {error}). Pass "
                f"another number of steps=, or scheduler=, such as DDIMScheduler or "
                f"FlowMatchEulerDiscreteScheduler with the configuration of the model."
            ) from error
        if not torch.equal(states, same):
            raise AdapterError(
                f"{name} draws noise in its {steps} steps, so that a sample is no function of its "
                f"starting noise. Pass a deterministic one: scheduler=DDIMScheduler.from_config("
                f"pipe.scheduler.config), or steps=1 for a model that was distilled to one step."
            )
        build = partial(cls.of, scheduler, tokens=tokens)
        found = cls(states, inputs, timesteps, steps, build)
        found._check_linear(fresh, steps, tokens)
        return found

    @property
    def calls(self) -> int:
        """How often the network is called."""
        return len(self.timesteps)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Calls `(first, last + 1)` from one state to the next on which alone the rest depends.

        One call each for steps of first order, two for Heun's, all for a scheduler that remembers.
        """
        found, start = [], 0
        for stop in range(1, self.calls + 1):
            if self._depends_only_on(stop, start):
                found.append((start, stop))
                start = stop
        return found

    @property
    def is_invertible(self) -> bool:
        """Whether each block keeps enough of the state before it to be inverted."""
        return bool(self.blocks) and all(
            abs(float(self.block(start, stop)[0][0])) > INVERTIBLE for start, stop in self.blocks
        )

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A block as a function of the state `x` before it and of its own outputs.

        Returns:
            The coefficients of `x` and of the outputs, `(stop - start + 1,)`, in the state after
            the block, and `(stop - start, stop - start + 1)` in the input of each of its calls.
        """
        base = self.states[start, : start + 1]
        rows = torch.cat([self.states[stop : stop + 1], self.inputs[start:stop]])
        own = rows[:, start + 1 : stop + 1]
        own = torch.cat([(rows[:, : start + 1] @ base / (base @ base))[:, None], own], 1)
        return own[0], own[1:]

    def _depends_only_on(self, stop: int, start: int) -> bool:
        """Whether state `stop` and all later inputs see what was before `start` in one mixture."""
        rows = torch.cat([self.states[stop : stop + 1], self.inputs[start + 1 : stop]])
        base = self.states[start, : start + 1]
        if stop < self.calls:  # what follows must need state `stop` alone
            follows = torch.cat([self.inputs[stop:], self.states[stop + 1 :]])[:, : stop + 1]
            if not _parallel(follows, self.states[stop, : stop + 1]):
                return False
        return _parallel(rows[:, : start + 1], base)

    def _check_linear(self, scheduler: Any, steps: int, tokens: int) -> None:
        def toy(u: Tensor, t: float) -> Tensor:
            return torch.tanh(3 * u + 0.01 * t) - u / 2

        z = torch.linspace(-2, 2, 8, dtype=torch.float64).view(1, 8, 1, 1)
        outputs: list[Tensor] = []
        for row, t in zip(self.inputs, self.timesteps.tolist(), strict=True):
            outputs.append(toy(mix(row, [z, *outputs]), t))
        mine = mix(self.states[-1], [z, *outputs])
        its = _run(scheduler, steps, tokens, z, lambda number, u, t: toy(u, t))[-1]
        if not torch.allclose(mine, its, rtol=LINEAR, atol=LINEAR):
            raise AdapterError(
                f"The states of {type(scheduler).__name__} are not linear in the outputs of the "
                f"network, as where it clips predictions. Pass another one, such as "
                f"scheduler=DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)."
            )


def mix(row: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """`sum_i row_i parts_i`, over as many as there are parts; there is at least one."""
    pairs = [(float(c), part) for c, part in zip(row, parts, strict=False) if c != 0]
    if not pairs:
        return torch.zeros_like(parts[0])
    first, *others = (c * part for c, part in pairs)
    return sum(others, first)


def _parallel(rows: Tensor, base: Tensor) -> bool:
    """Whether each row is a multiple of `base`, to the precision of float32."""
    rest = rows - (rows @ base)[:, None] * base / (base @ base)
    return bool((rest.abs().amax(1) <= 1e-5 * rows.abs().amax(1).clamp_min(1)).all())


def _probe(scheduler: Any, steps: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States, inputs and times, by a run on basis vectors."""
    inputs: list[Tensor] = []
    times: list[float] = []
    count = _calls(scheduler, steps, tokens)

    def output(number: int, u: Tensor, t: float) -> Tensor:
        inputs.append(u.flatten())
        times.append(t)
        return torch.eye(count + 1, dtype=torch.float64)[number + 1].view_as(u)

    start = torch.eye(count + 1, dtype=torch.float64)[0].view(1, -1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        states = _run(scheduler, steps, tokens, start, output)
    return (
        torch.stack([state.flatten() for state in states]),
        torch.stack(inputs),
        torch.tensor(times, dtype=torch.float64),
    )


def _calls(scheduler: Any, steps: int, tokens: int) -> int:
    return len(_fresh(scheduler, steps, tokens).timesteps)


def _run(
    scheduler: Any,
    steps: int,
    tokens: int,
    z: Tensor,
    network: Callable[[int, Tensor, float], Tensor],
) -> list[Tensor]:
    """All states of a run from the noise `z` (unit variance)."""
    own = _fresh(scheduler, steps, tokens)
    states = [z * float(getattr(own, "init_noise_sigma", 1.0))]
    for number, t in enumerate(own.timesteps):
        x = states[-1]
        u = own.scale_model_input(x, t) if hasattr(own, "scale_model_input") else x
        output = network(number, u.double(), float(t))
        states.append(own.step(output, t, x, return_dict=False)[0].double())
    return states


def _fresh(scheduler: Any, steps: int, tokens: int) -> Any:
    """A scheduler of the same configuration, at the start of its steps."""
    own = type(scheduler).from_config(_settings(scheduler))
    known = inspect.signature(own.set_timesteps).parameters
    options: dict[str, Any] = {}
    if "sigmas" in known and type(own).__name__.startswith("FlowMatch"):
        # as in pipelines: the last step ends at 0 instead of starting near it
        options["sigmas"] = [1 - k / steps for k in range(steps)]
    if "mu" in known and own.config.get("use_dynamic_shifting"):
        options["mu"] = _shift(own.config, tokens)
    own.set_timesteps(steps, **options)
    return own


def _shift(config: Any, tokens: int) -> float:
    """The shift of the time, linear in the number of tokens, as in pipelines."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(least + (most - least) * (tokens - low) / (high - low))


def _settings(scheduler: Any) -> dict[str, Any]:
    """Its configuration. Pipelines change what diffusers lists as a default, and would restore."""
    found = dict(scheduler.config)
    found.pop("_use_default_values", None)
    return found


def _without_clipping(scheduler: Any) -> Any:
    """The scheduler without clipping, and DDIM in place of DDPM."""
    kind, config = type(scheduler), _settings(scheduler)
    if kind.__name__ == "DDPMScheduler":
        from diffusers import DDIMScheduler

        kind = DDIMScheduler
        logger.info("DDIMScheduler takes the place of DDPMScheduler, which draws noise.")
    switched = {name: False for name in CLIPS if config.get(name)}
    if switched:
        logger.warning(
            "%s clips its predictions (%s). That is switched off here, since what is clipped has "
            "no gradient and no inverse; samples differ a little from those of the pipeline.",
            *(kind.__name__, ", ".join(switched)),
        )
    return kind.from_config(config, **switched)
