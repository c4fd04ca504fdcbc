r"""Any number of knowledge types over one frozen flow, together and apart.

What several of them say at once, or say is absent, is a product in which the prior counts once,

.. math:: p(z \mid \kappa) \propto p(z) \prod_i p(\kappa_i \mid z)

Samples of it are made by importance resampling: each takes one of many candidates, drawn from the
prior and from the densities of what is present, with the weight :math:`p(z) \prod_i p(\kappa_i
\mid z) / q(z)` for the mixture :math:`q` that they were drawn from. The decoder is not called.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

__all__ = ["KnowledgeBase"]

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..critics import Critic
from ..decoder.prior import Flow
from ..errors import CheckpointError, FingerprintError, InputError, UnknownNameError
from ..latents import Latents
from ..random import noise
from ..storage.folder import load_folder, save_folder
from ..storage.weights import fingerprint, load_strict
from .knowledge import Knowledge

CANDIDATES = 64  # from which a sample is taken
BOUND_SAMPLES = 8  # of C, for the density of a candidate
BATCH = 2048


class KnowledgeBase(Critic):
    """Knowledge types by name, over one frozen prior. Adding one changes no older answer.

    Arguments:
        prior: A `LatentFlow`, or the `Gaussian` prior of a decoder. It is not trained.
        latent_shape: Shape of one latent.

    Example:
        >>> from latentctl import Gaussian
        >>> base = KnowledgeBase(Gaussian((4,)), (4,))
        >>> z = torch.randn(200, 4)
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

    def __init__(self, prior: Flow, latent_shape: Sequence[int]) -> None:
        super().__init__()
        if not all(hasattr(prior, name) for name in ("to_base", "from_base", "log_prob")):
            raise InputError(
                f"Knowledge stands on a flow, which has to_base, from_base and log_prob; a "
                f"{type(prior).__name__} has not. Use LatentFlow.fit(latents), or a Gaussian."
            )
        self.prior: Any = prior
        self.latent_shape = tuple(latent_shape)
        self.known = nn.ModuleList()
        self.names = ()
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    def __iter__(self) -> Iterator[Knowledge]:
        return iter(self.known)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, name: str) -> Knowledge:
        """One knowledge; `UnknownNameError` with the nearest names otherwise."""
        for knowledge in self:
            if knowledge.name == name:
                return knowledge
        raise UnknownNameError("knowledge", name, self.names)

    def add(self, name: str, latents: Latents, **options: Any) -> Knowledge:
        """Learns a new knowledge from the label `name` of `latents`, and touches no other.

        Arguments:
            name: The label.
            latents: Encodings of data with that label, NaN where it is unknown.
            options: As in `Knowledge.fit`.

        Raises:
            InputError: If there is one of that name, or the label has one class only.
        """
        if name in self.names:
            raise InputError(
                f"There is a knowledge named {name!r} already. Give the new one another name, or "
                f"take the old one out with `remove`."
            )
        new = Knowledge.fit(name, self.prior, latents, **options)
        self._append(new)
        return new

    def remove(self, name: str) -> Knowledge:
        """Takes a knowledge out, and returns it."""
        gone = self[name]
        self.known = nn.ModuleList(k for k in self if k is not gone)
        self.names = tuple(k.name for k in self)
        return gone

    def _append(self, new: Knowledge) -> None:
        if not self.names:
            self.posterior_std.copy_(new.presence.posterior_std)
        self.known.append(new)
        self.names = (*self.names, new.name)

    def forward(self, z: Tensor) -> Tensor:
        """Calibrated log-odds `(B, K)` of each knowledge in `z (B, *latent_shape)`."""
        odds = [knowledge(z) for knowledge in self]
        return torch.cat(odds, 1) if odds else z.new_empty(len(z), 0)

    @torch.no_grad()
    def log_weight(
        self, z: Tensor, present: Iterable[str] = (), absent: Iterable[str] = ()
    ) -> Tensor:
        r""":math:`\sum_i \log p(\kappa_i \mid z)`, `(B,)`: how well `z` fits the request."""
        total = z.new_zeros(len(z))
        for name in present:
            total = total + nn.functional.logsigmoid(self[name](z)[:, 0])
        for name in absent:
            total = total + nn.functional.logsigmoid(-self[name](z)[:, 0])
        return total

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
        `candidates`, samples fulfil it only in part: `log_weight` tells.

        Raises:
            UnknownNameError: If a name is not known.
            InputError: If a name is asked both present and absent.
        """
        present, absent = list(present), list(absent)
        if both := sorted({self[n].name for n in present} & {self[n].name for n in absent}):
            raise InputError(f"{', '.join(both)} cannot be both present and absent.")
        if not present and not absent:
            plain: Tensor = self.prior.sample(count, seed=seed, start=start)
            return plain
        sources: list[Any] = [self[name] for name in present] or [self.prior]
        each = math.ceil(candidates / len(sources))
        drawn = [s.sample(count * each, seed=seed, start=start * each) for s in sources]
        z = torch.stack([d.view(count, each, *self.latent_shape) for d in drawn], 1).flatten(1, 2)
        flat = z.flatten(0, 1)
        weight = torch.cat(
            [self._log_importance(part, present, absent) for part in flat.split(BATCH)]
        ).view(count, -1)
        uniform = noise(
            start, count, (weight.shape[1],), seed=seed, purpose="resampling", uniform=True
        ).to(weight.device)
        gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
        return z[torch.arange(count), (weight + gumbel).argmax(1)]

    def _log_importance(self, z: Tensor, present: list[str], absent: list[str]) -> Tensor:
        weight = self.log_weight(z, present, absent)
        if not present:
            return weight  # candidates of the prior itself
        drawn_from = torch.stack(
            [self[name].log_prob(z, samples=BOUND_SAMPLES) for name in present]
        ).logsumexp(0)
        density: Tensor = self.prior.log_prob(z)
        return weight + density - drawn_from

    def save(self, path: str | Path) -> Path:
        """Writes all knowledge as a folder; the prior is not in it, its fingerprint is."""
        tensors = {
            f"knowledge-{number}": {
                key: value
                for key, value in knowledge.state_dict().items()
                if not key.startswith("prior.")
            }
            for number, knowledge in enumerate(self)
        }
        state = {
            "prior": fingerprint(self.prior),
            "latent_shape": list(self.latent_shape),
            "knowledge": [knowledge.config for knowledge in self],
        }
        return save_folder(path, tensors, state)

    @classmethod
    def load(cls, path: str | Path, prior: Any) -> KnowledgeBase:
        """The folder that `save` wrote, on the prior that it was learned over.

        Raises:
            CheckpointError: If the folder is missing, cut, altered, or no knowledge base.
            FingerprintError: If it was learned over another prior.
        """
        tensors, state = load_folder(path)
        if "knowledge" not in state:
            raise CheckpointError(f"{path} is no knowledge base. Write one by KnowledgeBase.save.")
        if state["prior"] != fingerprint(prior):
            raise FingerprintError(
                f"The knowledge base at {path} was learned over a prior with fingerprint "
                f"{state['prior'][:12]}, this one has {fingerprint(prior)[:12]}. Load the prior "
                f"it was learned over, or add the knowledge again on this one."
            )
        base = cls(prior, state["latent_shape"])
        for number, config in enumerate(state["knowledge"]):
            options = {key: value for key, value in config.items() if key != "name"}
            shape = options.pop("latent_shape")
            knowledge = Knowledge(config["name"], prior, shape, **options)
            own = {key: value for key, value in knowledge.state_dict().items() if "prior." in key}
            saved = tensors.get(f"knowledge-{number}", {})
            load_strict(knowledge, {**own, **saved}, f"knowledge {config['name']!r}")
            base._append(knowledge.eval())
        return base
