r"""The critic: log-odds that latents satisfy K >= 1 conditions, and the algebra of critics.

A critic maps `z (B, *latent_shape)` to log-odds `(B, K)`. Critics of one output combine as
independent events,

.. math::
    P(a \wedge b) &= P(a) P(b) \\
    P(\neg a) &= 1 - P(a) \\
    P(a \vee b) &= 1 - (1 - P(a)) (1 - P(b))

and `a * w` tempers a critic, :math:`\mathrm{logit} \mapsto w \, \mathrm{logit}`. All of it is
computed on log-odds, so that gradients do not vanish where probabilities round to 0 or 1.
"""

from __future__ import annotations

__all__ = ["Critic", "Scored"]

import abc
import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ShapeError, UnknownNameError, check_kind
from ..latents import Covariance
from ..latents.names import attribute_names
from ..progress import track
from ..storage import Saved, register_to_config
from .log_odds import cross_entropy, log_odds
from .ties import Tie, read_ties


class Critic(Saved, abc.ABC):
    """Log-odds `(B, K)` that latents `(B, *latent_shape)` satisfy K conditions.

    The outputs of a critic of attributes have names. A critic without names has one output.

    Example:
        >>> class Positive(Critic):
        ...     def forward(self, z):
        ...         return z.sum(1, keepdim=True)
        >>> a, z = Positive(), torch.tensor([[2.0], [-1.0]])
        >>> p = a.probability(z)
        >>> torch.allclose((a & ~a).probability(z), p * (1 - p))
        True
        >>> torch.equal((~~a)(z), a(z))
        True
    """

    names: tuple[str, ...] = ()
    """The attributes, in the order of the outputs; none for a single unnamed output."""
    latent_shape: tuple[int, ...] = ()
    """Shape of one latent; empty if it may be any."""
    posterior_std: Tensor
    """Mean posterior std of the latents it was fitted on, `latent_shape`; None if it was not."""
    covariance: Covariance | None
    """Covariance of those latents; None for the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.covariance = None
        self.register_buffer("posterior_std", None)

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""

    def probability(self, z: Tensor) -> Tensor:
        """Probabilities `(B, K)` in [0, 1]."""
        return torch.sigmoid(self(z))

    @torch.no_grad()
    def score(self, z: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Log-odds `(N, K)` of many latents `z (N, *latent_shape)`, on their device, no gradients.

        `batch_size` latents at once, or all.
        """
        check_kind(z, Tensor, "z=", "Encode samples first: decoder.encode(x).mean.")
        if z.ndim < 2:
            raise ShapeError(f"Latents are (B, *latent_shape), these are {tuple(z.shape)}.")
        parts = track(z.split(batch_size or max(1, len(z))), "Score", "batch")
        return torch.cat([self(part.to(self.device)) for part in parts]).to(z.device)

    @property
    def device(self) -> torch.device:
        """Device of the weights and buffers."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def facts(self) -> dict[str, Any]:
        """Its attributes, latents and weights."""
        weights = sum(p.numel() for p in self.parameters())
        return {
            "attributes": self.names or sorted(self.attributes) or "unnamed",
            "ties": ", ".join(str(tie) for tie in self.ties) or None,
            "latent": self.latent_shape or None,
            "weights": f"{weights:,} on {self.device}",
        }

    def index(self, name: str) -> int:
        """Column of an attribute; `UnknownNameError` with the nearest names otherwise."""
        if name not in self.names:
            raise UnknownNameError("attribute", name, self.names)
        return self.names.index(name)

    def __getitem__(self, name: str) -> Critic:
        """The critic of one attribute."""
        return _Columns(self, [name])

    def select(self, names: Sequence[str]) -> Critic:
        """The critic of some of the attributes, in this order, with the ties among them."""
        return _Columns(self, names)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Pairs of attributes that go together or exclude each other (`latentctl.critics.ties`).

        Where they contradict a request, `Conditional.edit` does not hold them. Assign pairs of
        names to override them: `critic.ties = [("Smiling", "High_Cheekbones")]`, or none.
        """
        return tuple(Tie(*tie) for tie in getattr(self, "config", {}).get("ties") or ())

    @ties.setter
    def ties(self, ties: Iterable[Sequence[Any]]) -> None:
        read = [list(tie) for tie in read_ties(ties, self.names)]
        self.config = {**getattr(self, "config", {}), "ties": read}

    def match(self, y: Tensor) -> Critic:
        r"""The critic of a whole target `y (B, K)` or `(1, K)`, NaN = free.

        .. math:: \log P = \sum_k y_k \log p_k + (1 - y_k) \log (1 - p_k)

        For targets 0 and 1 this is the conjunction.
        """
        if y.ndim != 2 or y.shape[1] != len(self.names):
            raise ShapeError(
                f"A target has a column for each of the {len(self.names)} attributes, this one "
                f"is {tuple(y.shape)}."
            )
        return _Match(self, y)

    @property
    def weights(self) -> tuple[float, ...]:
        """By how much each attribute counts in the loss of moves, 1 but for weighted packs."""
        return (1.0,) * len(self.names)

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that this critic depends on."""
        return frozenset(self.names).union(*(c.attributes for c in self._operands().values()))

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        """The same expression over another critic of the same names, such as an evaluator.

        Arguments:
            critic: The other critic.
            instead_of: The critic whose attributes are replaced; any if not given.
        """
        if instead_of is self:
            return critic
        parts = {name: c.of(critic, instead_of) for name, c in self._operands().items()}
        if not parts:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, **parts}
        return other

    def _operands(self) -> dict[str, Critic]:
        """The critics that this one is a function of."""
        return {name: c for name, c in self.named_children() if isinstance(c, Critic)}

    def parts(self) -> dict[str, nn.Module | None]:
        return dict(self._operands())

    def __and__(self, other: Critic) -> Critic:
        return _And(self, other)

    def __or__(self, other: Critic) -> Critic:
        return ~(~self & ~other)

    def __invert__(self) -> Critic:
        return self * -1.0

    def __mul__(self, weight: float) -> Critic:
        return _Weighted(self, weight)

    __rmul__ = __mul__


class _Expression(Critic):
    """A function of the log-odds of critics of one output."""

    def __init__(self, *critics: Critic) -> None:
        super().__init__()
        for critic in critics:
            if len(critic.names) > 1:
                raise InputError(
                    f"Critics of one output combine; this {type(critic).__name__} has "
                    f"{len(critic.names)}. Name one, as in critic[{critic.names[0]!r}], or use "
                    f"critic.match(y)."
                )


class _And(_Expression, kind="and"):
    @register_to_config
    def __init__(self, left: Critic, right: Critic) -> None:
        super().__init__(left, right)
        self.left, self.right = left, right

    def forward(self, z: Tensor) -> Tensor:
        a, b = self.left(z), self.right(z)
        # 1 / P - 1 = (1 + exp(-a)) (1 + exp(-b)) - 1, which neither rounds nor saturates
        return -torch.logsumexp(torch.stack([-a, -b, -(a + b)]), dim=0)


class _Weighted(_Expression, kind="weighted"):
    @register_to_config
    def __init__(self, critic: Critic, weight: float) -> None:
        super().__init__(critic)
        self.critic, self.weight = critic, weight

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.weight * self.critic(z)
        return out


class _Columns(Critic, kind="columns"):
    """Some attributes of a critic."""

    @register_to_config
    def __init__(
        self, critic: Critic, names: Sequence[str], ties: Sequence[Sequence[Any]] | None = None
    ) -> None:
        super().__init__()
        self.columns = [critic.index(name) for name in names]
        self.critic, self.names = critic, attribute_names(names)
        self.latent_shape = critic.latent_shape
        # the critic's own, which are saved with it
        self.register_buffer("posterior_std", critic.posterior_std, persistent=False)
        vars(self)["covariance"] = critic.covariance
        if ties is None:
            ties = [t for t in critic.ties if {t.first, t.second} <= {*self.names}]
        self.ties = ties

    @property
    def attributes(self) -> frozenset[str]:
        return frozenset(self.names)

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        replaced = instead_of in (None, self.critic) and {*self.names} <= {*critic.names}
        return critic.select(self.names) if replaced else self

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.critic(z)
        return logits[:, self.columns]


class _Match(Critic, kind="match"):
    """A whole target of a critic of attributes."""

    def __init__(self, critic: Critic, y: Tensor) -> None:
        super().__init__()
        self.critic, self.y = critic, y
        self.config = {"y": [[None if v != v else v for v in row] for row in y.tolist()]}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> _Match:
        rows = [[torch.nan if v is None else v for v in row] for row in config["y"]]
        return cls(parts["critic"], torch.tensor(rows))

    @property
    def attributes(self) -> frozenset[str]:
        requested = (~torch.isnan(self.y)).any(0)
        return frozenset(n for n, r in zip(self.critic.names, requested, strict=True) if r)

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        replaced = instead_of in (None, self.critic) and critic.names == self.critic.names
        return critic.match(self.y) if replaced else self

    def forward(self, z: Tensor) -> Tensor:
        return log_odds(-cross_entropy(self.critic(z), self.y.to(z.device)).sum(1, keepdim=True))


class Scored(Critic):
    """Log-odds `(B, K)` that were evaluated before, whatever latents are given.

    An expression over it (`Critic.of`) costs no evaluation of the critic that it stands for.
    """

    def __init__(self, names: Sequence[str], logits: Tensor) -> None:
        super().__init__()
        self.names, self.logits = tuple(names), logits

    def forward(self, z: Tensor) -> Tensor:
        return self.logits
