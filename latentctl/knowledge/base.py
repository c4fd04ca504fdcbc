r"""Any number of knowledge types over one frozen flow, alone and combined.

The density of latents for several of them, present or absent, is a product in which the prior
counts once,

.. math:: p(z \mid \kappa) \propto p(z) \prod_i p(\kappa_i \mid z)

It is sampled by importance resampling: each sample is one of many candidates from the prior and
from the densities of what is present, chosen with the weight :math:`r(z) p(z) \prod_i p(\kappa_i
\mid z) / q(z)` for the mixture :math:`q` of the candidates. The decoder is not evaluated.

A flow also has density between classes, where there are no data and where the discriminators
extrapolate. So the first addition fits the ratio :math:`r = p_\mathrm{data} / p` of densities, by
a calibrated classifier of encodings and samples of the prior, and samples follow
:math:`r(z) p(z)` in the place of the prior.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

__all__ = ["KnowledgeBase"]

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..critics import Critic
from ..critics.ties import ties_in
from ..decoder.prior import Flow
from ..errors import InputError, UnknownNameError
from ..latents import Latents
from ..latents.names import attribute_names
from ..random import noise
from ..storage import pack_modules, save_folder
from .exclusive import Group, joint_log_prob
from .knowledge import Knowledge

CANDIDATES = 64  # for each sample
BOUND_SAMPLES = 8  # of C, for the density of a candidate
BATCH = 2048


class KnowledgeBase(Critic, kind="knowledge-base"):
    """Knowledge types by name, over one frozen prior. Adding one changes no older output.

    Arguments:
        prior: A `LatentFlow`, or the `Gaussian` prior of a decoder. It is not trained.
        latent_shape: Shape of one latent.

    Example:
        >>> from latentctl import Gaussian, random
        >>> base = KnowledgeBase(Gaussian((4,)), (4,))
        >>> z = random.noise(0, 200, (4,), seed=0)
        >>> labels = torch.stack([z[:, 0] > 0, z[:, 1] > 0], 1).float()
        >>> data = Latents(z, None, labels, ["Smiling", "Male"])
        >>> quick = {"max_train_steps": 10, "critic_steps": 30, "width": 16, "critic_width": 16}
        >>> for name in data.names:
        ...     _ = base.add(name, data, **quick)
        >>> base(z).shape, base.names
        (torch.Size([200, 2]), ('Smiling', 'Male'))
        >>> base.sample(5, present=["Smiling"], absent=["Male"]).shape
        torch.Size([5, 4])
    """

    latent_shape: tuple[int, ...]
    posterior_std: Tensor
    realism: Knowledge | None
    """Log-odds of encodings against samples of the prior; None before the first addition."""

    def __init__(self, prior: Flow, latent_shape: Sequence[int]) -> None:
        super().__init__()
        if not all(hasattr(prior, name) for name in ("to_base", "from_base", "log_prob")):
            raise InputError(
                f"A KnowledgeBase needs a flow, which has to_base, from_base and log_prob; a "
                f"{type(prior).__name__} has not. Use LatentFlow.fit(latents), or a Gaussian."
            )
        self.prior: Any = prior
        self.latent_shape = tuple(latent_shape)
        self.groups: list[Group] = []
        self.config = {"latent_shape": list(latent_shape), "exclusive": [], "ties": []}
        self.realism = None
        self.known = nn.ModuleList()
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    def __iter__(self) -> Iterator[Knowledge]:
        return iter(self.known)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.known)

    def __bool__(self) -> bool:
        return True  # an empty one is a critic, too

    def __getitem__(self, name: str) -> Knowledge:
        """One knowledge; `UnknownNameError` with the nearest names otherwise."""
        for knowledge in self:
            if knowledge.name == name:
                return knowledge
        raise UnknownNameError("knowledge", name, self.names)

    def add(self, name: str, latents: Latents, **options: Any) -> Knowledge:
        """Fits a new knowledge to the label `name` of `latents`, and changes no other.

        The `options` are those of `Knowledge.fit`.

        Raises:
            InputError: If there is one of that name, or the label has one class only.
        """
        if name in self.names:
            raise InputError(
                f"There is a knowledge named {name!r} already. Give the new one another name, or "
                f"take the old one out with `remove`."
            )
        new = Knowledge.fit(name, self.prior, latents, **options)
        if self.realism is None:
            self.posterior_std.copy_(new.presence.posterior_std)
            self.realism = _fit_realism(self.prior, latents, **options)
        self._hold([*self, new])
        self.ties = (*self.ties, *(tie for tie in ties_in(latents, self) if name in tie))
        return new

    def remove(self, name: str) -> Knowledge:
        """Takes a knowledge out, and returns it."""
        gone = self[name]
        self._hold([knowledge for knowledge in self if knowledge is not gone])
        self._group(left for group in self.groups if (left := group.without(name)))
        self.ties = [tie for tie in self.ties if name not in tie]
        return gone

    def declare_exclusive(self, names: Iterable[str], *, exhaustive: bool = False) -> None:
        """Declares knowledge types of which at most one is present, such as classes.

        Requests to `sample` and `log_weight` then follow the joint presence of the group: a member
        that is present excludes the others, and what is left when some are absent is one of the
        others or none. Log-odds, densities and samples of each knowledge stay as they are. To let
        a new knowledge join, declare the larger group, which takes the place of the smaller.

        Arguments:
            names: Two or more names.
            exhaustive: Exactly one of them is present in every latent.

        Raises:
            UnknownNameError: If there is no knowledge of a name.
            InputError: If there are less than two names, or one excludes a knowledge that is not
                among them.

        Example:
            >>> from latentctl import Gaussian, random
            >>> z = random.noise(0, 400, (4,), seed=0)
            >>> data = Latents(z, None, (z[:, :1] * torch.tensor([-1, 1]) > 1).float(), ["a", "b"])
            >>> base = KnowledgeBase(Gaussian((4,)), (4,))
            >>> quick = {"max_train_steps": 0, "critic_steps": 30, "critic_width": 16}
            >>> for name in data.names:
            ...     _ = base.add(name, data, **quick)
            >>> base.declare_exclusive(["a", "b"])
            >>> chance = [base.log_weight(z, present=[name]) for name in "ab"]
            >>> none = base.log_weight(z, absent=["a", "b"])
            >>> total = torch.stack([*chance, none]).exp().sum(0)
            >>> torch.allclose(total, torch.ones(400), atol=1e-5)
            True
        """
        group = Group(tuple(self[name].name for name in attribute_names(names)), exhaustive)
        self._group(group.joined(self.groups))

    def _group(self, groups: Iterable[Group]) -> None:
        self.groups = list(groups)
        self.config["exclusive"] = [
            {"names": list(group.names), "exhaustive": group.exhaustive} for group in self.groups
        ]

    def _hold(self, known: Iterable[Knowledge]) -> None:
        self.known = nn.ModuleList(known)
        self.names = tuple(knowledge.name for knowledge in self)

    def parts(self) -> dict[str, nn.Module | None]:
        known = {f"known.{n}": part for n, part in enumerate(self)}
        return {"prior": self.prior, "realism": self.realism, **known}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> KnowledgeBase:
        base = cls(parts["prior"], config["latent_shape"])
        base.realism = parts.get("realism")
        base._hold(part for name, part in parts.items() if name.startswith("known."))
        for group in config["exclusive"]:
            base.declare_exclusive(group["names"], exhaustive=group["exhaustive"])
        base.ties = config["ties"]
        return base

    def save(self, path: str | Path) -> Path:
        """Writes all but the prior; `KnowledgeBase.load(path, prior=...)` takes the same again."""
        return save_folder(path, *pack_modules({self.saved_as: self}, {"prior": self.prior}))

    def forward(self, z: Tensor) -> Tensor:
        """Calibrated log-odds `(B, K)` of each knowledge in `z (B, *latent_shape)`."""
        odds = [knowledge(z) for knowledge in self]
        return torch.cat(odds, 1) if odds else z.new_empty(len(z), 0)

    @torch.no_grad()
    def log_weight(
        self, z: Tensor, present: Iterable[str] = (), absent: Iterable[str] = ()
    ) -> Tensor:
        r""":math:`\log p(\kappa \mid z)` of a request, `(B,)`.

        It is the sum over knowledge types, and over exclusive groups jointly.

        Raises:
            UnknownNameError: If there is no knowledge of a name.
            InputError: If the request contradicts itself or an exclusive group.
        """
        present, absent = self._request(present, absent)
        total = z.new_zeros(len(z))
        for group in self.groups:
            if any(name in present + absent for name in group.names):
                odds = torch.cat([self[name](z) for name in group.names], 1)
                total = total + joint_log_prob(odds, group, present, absent)
        grouped = {name for group in self.groups for name in group.names}
        for names, sign in ((present, 1), (absent, -1)):
            for name in names:
                if name not in grouped:
                    total = total + nn.functional.logsigmoid(sign * self[name](z)[:, 0])
        return total

    def _request(
        self, present: Iterable[str], absent: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """The names of a request that can be satisfied."""
        present, absent = (
            [self[name].name for name in attribute_names(names)] for names in (present, absent)
        )
        if both := sorted(set(present) & set(absent)):
            raise InputError(f"{', '.join(both)} cannot be both present and absent.")
        for group in self.groups:
            group.check(present, absent)
        return present, absent

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        present: Iterable[str] = (),
        absent: Iterable[str] = (),
        seed: int = 0,
        start: int = 0,
        candidates: int = CANDIDATES,
    ) -> Tensor:
        """Latents with some knowledge present and some absent, `(count, *latent_shape)`.

        Sample `i` depends on `(seed, start + i)` alone. Where a request is rarer than one in
        `candidates`, not all samples satisfy it; see `log_weight`.

        Raises:
            UnknownNameError: If there is no knowledge of a name.
            InputError: If the request contradicts itself or an exclusive group.
        """
        present, absent = self._request(present, absent)
        if not present and not absent:
            plain: Tensor = self.prior.sample(count, seed=seed, start=start)
            return plain
        sources: list[Any] = [self[name] for name in present] or [self.prior]
        each = math.ceil(candidates / len(sources))
        drawn = [s.sample(count * each, seed=seed, start=start * each) for s in sources]
        z = torch.stack([d.view(count, each, *self.latent_shape) for d in drawn], 1).flatten(1, 2)
        parts = z.flatten(0, 1).split(BATCH)
        weight = torch.cat([self._log_importance(part, present, absent) for part in parts])
        weight = weight.view(count, -1)
        uniform = noise(
            start, count, (weight.shape[1],), seed=seed, purpose="resampling", uniform=True
        ).to(weight.device)
        gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
        return z[torch.arange(count), (weight + gumbel).argmax(1)]

    def _log_importance(self, z: Tensor, present: list[str], absent: list[str]) -> Tensor:
        weight = self.log_weight(z, present, absent)
        if self.realism is not None:
            weight = weight + self.realism(z)[:, 0]
        if not present:
            return weight  # the candidates are samples of the prior
        proposal = [self[name].log_prob(z, samples=BOUND_SAMPLES) for name in present]
        density: Tensor = self.prior.log_prob(z)
        return weight + density - torch.stack(proposal).logsumexp(0)


def _fit_realism(prior: Any, latents: Latents, *, seed: int = 0, **options: Any) -> Knowledge:
    """The calibrated log-odds of encodings against as many samples of the prior."""
    z = prior.sample(len(latents), seed=seed).to(latents.mean)
    std = latents.std if latents.std is None else torch.cat([latents.std, torch.zeros_like(z)])
    real = torch.arange(2 * len(latents), device=z.device) < len(latents)
    both = Latents(torch.cat([latents.mean, z]), std, real[:, None].float(), ["real"])
    no_density = {"code": (), "held_out": None, "max_train_steps": 0, "blocks": 0}
    no_density |= {"code_size": 1, "hidden": 1, "width": 1}
    return Knowledge.fit("real", prior, both, seed=seed, **{**options, **no_density})
