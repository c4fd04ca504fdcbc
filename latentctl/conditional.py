"""A frozen decoder that takes orders: `condition`, and what it answers.

A `Conditional` joins a decoder, a critic and a controller. Every answer is an `Outcome`: the
samples, and a receipt that says of each one whether the request is satisfied, how probable each
attribute is now, how far the attributes that should have stayed have moved, how far the latent
went, and what it cost. The receipt speaks of what was achieved, never of what was asked.
"""

from __future__ import annotations

__all__ = ["Conditional", "Outcome", "condition"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .checkpoint import load_strict
from .controllers import Actor, Ascent, Controller, Transport
from .controllers.base import THRESHOLD, scaled
from .critics import AttributeCritic, Critic, RealismCritic
from .decoder import Decoder
from .errors import FingerprintError, InputError, ShapeError
from .folder import load_folder, save_folder
from .picture import grid, png
from .priors import Prior

BATCH = 64  # samples decoded at once

Value: TypeAlias = bool | float | Sequence[bool | float | None] | Tensor | None
"""What a user gives to an attribute: one value for all samples, or one each."""


@dataclass(frozen=True)
class Outcome:
    """Samples with their receipt."""

    x: Tensor
    """The samples, `(B, *sample_shape)`."""

    z: Tensor
    """Their latents, `(B, *latent_shape)`."""

    start: Tensor
    """The latents before the move, `(B, *latent_shape)`."""

    satisfied: Tensor
    """Whether all that was asked holds with the probability asked for, `(B,)` booleans."""

    probability: Tensor
    """Probability of each attribute now, by the critic, `(B, K)`."""

    leakage: Tensor
    """Change of probability of each attribute that was held, `(B, K)`; NaN where none was."""

    shift: Tensor
    """Root mean square move of a latent dimension, `(B,)`, in latent units."""

    evaluations: Tensor
    """Evaluations of the controller's networks, `(B,)` integers; 0 if nothing had to be done."""

    names: tuple[str, ...]
    """The attributes, in the order of the columns."""

    value_range: tuple[float, float] | None = (0.0, 1.0)
    """Lowest and highest value of a sample."""

    def __len__(self) -> int:
        return len(self.x)

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Writes the samples as one PNG picture, making its folder where needed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._repr_png_(columns))
        return path

    def _repr_png_(self, columns: int | None = None) -> bytes:
        return png(grid(self.x, columns=columns, value_range=self.value_range or (0.0, 1.0)))

    def __repr__(self) -> str:
        return (
            f"Outcome({len(self)} samples, {int(self.satisfied.sum())} satisfied, "
            f"leakage {self.leakage.nanmean():.3f}, shift {self.shift.mean():.3f}, "
            f"{self.evaluations.float().mean():.1f} evaluations a sample)"
        )


def condition(
    decoder: Decoder,
    critic: AttributeCritic | Critic,
    controller: Controller | None = None,
    *,
    realism: RealismCritic | None = None,
    prior: Prior | None = None,
    threshold: float = THRESHOLD,
) -> Conditional:
    """A frozen decoder that samples and edits by the attributes of a critic.

    Arguments:
        decoder: The decoder, from `latentctl.wrap` or `latentctl.load`. It is not changed.
        critic: An `AttributeCritic`, or any single `Critic`.
        controller: How latents move; gradient ascent on the critics if not given.
        realism: The critic of realism; the actor's own one where the controller is an `Actor`.
        prior: Where samples start; the decoder's prior if not given.
        threshold: Probability with which a request must hold to count as satisfied, in (0, 1).

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> critic = AttributeCritic((4,), ["Smiling", "Male"], width=16)
        >>> faces = condition(decoder, critic)
        >>> faces.sample(3, Smiling=True).probability.shape
        torch.Size([3, 2])
    """
    return Conditional(
        decoder, critic, controller, realism=realism, prior=prior, threshold=threshold
    )


class Conditional:
    """Made by `condition`, which says what the arguments are."""

    def __init__(
        self,
        decoder: Decoder,
        critic: AttributeCritic | Critic,
        controller: Controller | None = None,
        *,
        realism: RealismCritic | None = None,
        prior: Prior | None = None,
        threshold: float = THRESHOLD,
    ) -> None:
        if not 0 < threshold < 1:
            raise InputError(f"threshold is a probability in (0, 1), it was given as {threshold}.")
        if isinstance(critic, AttributeCritic) and critic.latent_shape != decoder.latent_shape:
            raise ShapeError(
                f"The critic is over latents {critic.latent_shape}, {decoder.name} has "
                f"{decoder.latent_shape}. It was made for another decoder."
            )
        self.decoder = decoder
        self.critic = critic.to(decoder.device).eval()
        self.attributes = critic if isinstance(critic, AttributeCritic) else None
        self.names = self.attributes.names if self.attributes is not None else ()
        if realism is None and isinstance(controller, Actor):
            realism = controller.realism
        self.realism = realism
        self.controller = controller or Ascent(self.attributes, realism)
        self.controller.to(decoder.device).eval()
        self.prior = prior if prior is not None else decoder.prior
        self.threshold = threshold

    def sample(
        self,
        count: int,
        *,
        y: Tensor | None = None,
        where: Critic | None = None,
        strength: float = 1.0,
        seed: int = 0,
        start: int = 0,
        **attributes: Value,
    ) -> Outcome:
        """Samples with attributes; those not named are free.

        Arguments:
            count: Number of samples.
            y: Targets `(count, K)` or `(1, K)` in [0, 1], NaN = free, instead of names.
            where: A critic to satisfy, such as `critic["Smiling"] | ~critic["Male"]`.
            strength: Share of the move: 0 is the prior, 1 the whole move.
            seed: Seed of the prior's noise.
            start: Index of the first sample in the sequence that `seed` names.
            attributes: A value for each named attribute: True, False, a probability to aim at,
                None for free, or a sequence with one for each sample.

        Raises:
            UnknownNameError: If an attribute is not known.
            InputError: If a value is out of [0, 1], or the request contradicts itself.
        """
        asked = self._targets(count, y, where, attributes)
        z = self.prior.sample(count, seed=seed, start=start).to(self.decoder.device)
        held = torch.zeros_like(asked, dtype=torch.bool)
        return self._move(z, asked, held, where, strength, seed, start)

    def edit(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        where: Critic | None = None,
        hold: bool | Iterable[str] = True,
        strength: float = 1.0,
        seed: int = 0,
        **attributes: Value,
    ) -> Outcome:
        """Real inputs with some attributes changed and all others held.

        An input that has what is asked already comes back as its reconstruction, bit for bit.

        Arguments:
            x: Inputs, `(B, *sample_shape)`.
            y: Targets `(B, K)` or `(1, K)`, NaN = not named, instead of names.
            where: A critic to satisfy.
            hold: Whether attributes that are not named are held where they are, or their names.
            strength: Share of the move: 0 is the reconstruction, 1 the whole move.
            seed: Seed of the controller's noise, if it uses any.
            attributes: As in `sample`.

        Raises:
            ShapeError: If `x` has another shape than the decoder's samples.
            UnknownNameError: If an attribute is not known.
            InputError: If a value is out of [0, 1], the request contradicts itself, or `x` is not
                finite or in the decoder's range.
        """
        asked = self._targets(len(x), y, where, attributes)
        held = self._held(asked, where, hold)
        z = torch.cat([self.decoder.encode(part).mean for part in x.split(BATCH)])
        return self._move(z, asked, held, where, strength, seed, 0)

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        """Probability of each attribute of inputs `x (B, *sample_shape)`, `(B, K)`."""
        z = torch.cat([self.decoder.encode(part).mean for part in x.split(BATCH)])
        return self._probability(z)

    def _probability(self, z: Tensor) -> Tensor:
        if self.attributes is not None:
            return self.attributes.probability(z)
        return z.new_empty(len(z), 0)

    @torch.no_grad()
    def _move(
        self,
        z: Tensor,
        asked: Tensor,
        held: Tensor,
        where: Critic | None,
        strength: float,
        seed: int,
        start: int,
    ) -> Outcome:
        if where is None and isinstance(self.critic, Critic):
            where = self.critic
        before = self._probability(z)
        y = torch.where(held, before, asked)
        todo = ~self._satisfied(z, before, asked, where)
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        moved = z
        if strength != 0 and bool(todo.any()):
            move = self.controller.move(
                z[todo],
                y[todo],
                where=where,
                threshold=self.threshold,
                seed=seed,
                index=start + todo.nonzero().flatten(),
            )
            moved = z.clone()
            moved[todo] = scaled(z[todo], move.z, strength)
            evaluations[todo] = move.evaluations
        after = self._probability(moved)
        return Outcome(
            x=torch.cat([self.decoder.decode(part) for part in moved.split(BATCH)]),
            z=moved,
            start=z,
            satisfied=self._satisfied(moved, after, asked, where),
            probability=after,
            leakage=torch.where(held, (after - before).abs(), torch.nan),
            shift=(moved - z).flatten(1).square().mean(1).sqrt(),
            evaluations=evaluations,
            names=self.names,
            value_range=self.decoder.value_range,
        )

    def _satisfied(
        self, z: Tensor, probability: Tensor, asked: Tensor, where: Critic | None
    ) -> Tensor:
        near = (probability - asked).abs() <= 1 - self.threshold
        satisfied = (near | torch.isnan(asked)).all(1)
        if where is not None:
            satisfied &= where.probability(z) >= self.threshold
        return satisfied

    def _targets(
        self, count: int, y: Tensor | None, where: Critic | None, named: Mapping[str, Value]
    ) -> Tensor:
        device = self.decoder.device
        if y is not None and named:
            raise InputError("Give targets as `y` or by name, not both.")
        if y is not None:
            if y.ndim != 2 or y.shape[1] != len(self.names) or len(y) not in (1, count):
                raise ShapeError(
                    f"Targets `y` for {count} samples are ({count}, {len(self.names)}) or "
                    f"(1, {len(self.names)}), these are {tuple(y.shape)}. Columns: "
                    f"{', '.join(self.names)}."
                )
            asked = y.to(device, torch.float32).expand(count, -1).clone()
        else:
            asked = torch.full((count, len(self.names)), torch.nan, device=device)
        for name, value in named.items():
            if self.attributes is None:
                raise InputError(f"{name} was asked of a critic without named attributes.")
            asked[:, self.attributes.index(name)] = _column(name, value, count).to(device)
        if bool(((asked < 0) | (asked > 1)).any()):
            raise InputError("Targets are probabilities in [0, 1]; True and False are 1 and 0.")
        if where is not None:
            asked_names = {
                n for n, a in zip(self.names, (~torch.isnan(asked)).any(0), strict=True) if a
            }
            if both := asked_names & where.attributes:
                raise InputError(
                    f"{', '.join(sorted(both))} is asked by name and in `where`: the request may "
                    f"contradict itself. Say it once."
                )
        return asked

    def _held(self, asked: Tensor, where: Critic | None, hold: bool | Iterable[str]) -> Tensor:
        free = torch.isnan(asked)
        if isinstance(hold, bool):
            held = free & hold
            for name in where.attributes if where is not None else ():
                if self.attributes is not None and name in self.names:
                    held[:, self.attributes.index(name)] = False
            return held
        held = torch.zeros_like(free)
        for name in hold:
            if self.attributes is None:
                raise InputError(f"{name} was to be held by a critic without named attributes.")
            column = self.attributes.index(name)
            if not bool(free[:, column].all()) or (where and name in where.attributes):
                raise InputError(f"{name} is to be changed and to be held: ask for one of both.")
            held[:, column] = True
        return held

    def save_pretrained(self, path: str | Path) -> Path:
        """Saves what was learned as a pack: a folder without the decoder's weights.

        Raises:
            InputError: If the critic or the controller is not one of latentctl's own.
        """
        kinds = {kind: name for name, kind in CONTROLLERS.items()}
        if self.attributes is None or type(self.controller) not in kinds:
            raise InputError(
                f"A pack holds an AttributeCritic and one of {', '.join(CONTROLLERS)}; this one "
                f"has a {type(self.critic).__name__} and a {type(self.controller).__name__}. "
                f"Save those yourself."
            )
        tensors = {"attributes": self.attributes.state_dict()}
        config: dict[str, Any] = {"attributes": self.attributes.config}
        if self.realism is not None:
            tensors["realism"] = self.realism.state_dict()
            config["realism"] = self.realism.config
        if isinstance(self.controller, Actor):
            tensors["actor"] = self.controller.net.state_dict()
        state = {
            "decoder": {"name": self.decoder.name, "fingerprint": self.decoder.fingerprint()},
            "threshold": self.threshold,
            "controller": {
                "kind": kinds[type(self.controller)],
                "config": self.controller.config,
            },
            "config": config,
        }
        return save_folder(path, tensors, state)

    @classmethod
    def from_pretrained(cls, path: str | Path, decoder: Decoder) -> Conditional:
        """The pack at `path`, on the decoder that it was made for.

        Raises:
            CheckpointError: If the pack is missing, cut, altered, or from a later format.
            FingerprintError: If it was made for another decoder.
        """
        tensors, state = load_folder(path)
        made_for = state["decoder"]
        found = decoder.fingerprint()
        if made_for["fingerprint"] != found:
            raise FingerprintError(
                f"The pack at {path} was made for {made_for['name']} with fingerprint "
                f"{made_for['fingerprint'][:12]}, this decoder is {decoder.name} with "
                f"{found[:12]}. Load the weights it was made for, or fit new critics on this one."
            )
        config = state["config"]
        attributes = AttributeCritic(**config["attributes"])
        load_strict(attributes, tensors["attributes"], "attribute critic")
        realism = None
        if "realism" in config:
            realism = RealismCritic(**config["realism"])
            load_strict(realism, tensors["realism"], "realism critic")
        kind, options = CONTROLLERS[state["controller"]["kind"]], state["controller"]["config"]
        controller: Controller
        if kind is Actor:
            controller = actor = Actor(**options)
            load_strict(actor.net, tensors["actor"], "actor")
            actor.realism = realism
        else:
            controller = kind(attributes, realism, **options)
        return cls(decoder, attributes, controller, realism=realism, threshold=state["threshold"])


CONTROLLERS: dict[str, Any] = {"actor": Actor, "ascent": Ascent, "transport": Transport}


def _column(name: str, value: Value, count: int) -> Tensor:
    """One attribute's targets, `(count,)`."""
    values = [value] if value is None or isinstance(value, bool | int | float) else list(value)
    column = torch.tensor([torch.nan if v is None else float(v) for v in values])
    if len(column) not in (1, count):
        raise InputError(
            f"{name} was given {len(column)} values for {count} samples. Give one, or one each."
        )
    return column.expand(count)
