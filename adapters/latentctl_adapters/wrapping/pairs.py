r"""What the second of two tensors of an encoder is: a log-variance, or a logarithm of the std.

Their values do not tell. Two things do: the model's own `forward`, if it draws

.. math:: z = \mu + \sigma \epsilon

so that a trial with known :math:`\epsilon` shows which :math:`\sigma` it takes; and the names in
its code. Where neither says, the model is refused, because a hierarchy of two latents of one shape,
or a draw and its mean, look the same.
"""

from __future__ import annotations

__all__ = ["pair_of", "second_of"]

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from latentctl.random import seeded

from .outputs import SECONDS

HALVED = r"exp\(0?\.5\b|\.mul\(0?\.5\)|exp\([^()]*/ ?2\)"
NAMED = {
    "log-variance": rf"log_?var|log_?cov|log_?sigma_?(2|sq)|{HALVED}",
    "log-std": r"log_?std|log_?sd\b|log_?scale|log_?sigma(?!_?(2|sq))",
}


def pair_of(out: Any) -> tuple[Tensor, Tensor] | None:
    """The two tensors of one shape in an encoder's output, if it is no more than that."""
    named = hasattr(out, "_fields")
    if named or not isinstance(out, tuple | list) or len(out) != 2:
        return None
    first, second = out
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return None
    return (first, second) if first.shape == second.shape else None


@torch.no_grad()
def second_of(
    view: nn.Module, x: Tensor, pair: tuple[Tensor, Tensor], decode: Callable[[Tensor], Tensor]
) -> str | None:
    """One of `SECONDS`, or None where neither a trial nor the code of the model says.

    Arguments:
        view: A frozen view of the model.
        x: Samples.
        pair: What its encoder makes of them.
        decode: From latents to samples.
    """
    if torch.equal(*pair):  # a draw without noise, and its mean
        return None
    return _by_trial(view, x, pair, decode) or _by_name(view)


def _by_trial(
    view: nn.Module, x: Tensor, pair: tuple[Tensor, Tensor], decode: Callable[[Tensor], Tensor]
) -> str | None:
    """By what `forward` reconstructs from known noise."""
    mean, second = pair
    try:
        with seeded(0, "trial"):
            outputs = [part for part in _tensors(view(x.clone())) if len(part) == len(x)]
        with seeded(0, "trial"):
            eps = torch.randn_like(mean)
        matches = []
        for name, factor in SECONDS.items():
            back = decode(mean + eps * torch.exp(factor * second)).flatten(1)
            close = (part.flatten(1) for part in outputs if part[0].numel() == back[0].numel())
            if any(torch.allclose(part, back, rtol=1e-3, atol=1e-4) for part in close):
                matches.append(name)
    except Exception:  # forward takes other arguments, or does something else
        return None
    return matches[0] if len(matches) == 1 else None


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, tuple | list):
        for part in out:
            yield from _tensors(part)
    elif isinstance(out, dict) or hasattr(out, "__dict__"):
        yield from _tensors(list((out if isinstance(out, dict) else vars(out)).values()))


def _by_name(view: nn.Module) -> str | None:
    """By the names of layers and the source of the model, if they say one thing only."""
    words = [name for name, _ in view.named_modules()]
    for module in view.modules():
        owner = getattr(module, "function", type(module))
        if not str(getattr(owner, "__module__", "")).startswith(("torch.", "latentctl")):
            try:
                words.append(inspect.getsource(owner))
            except (OSError, TypeError):  # typed at a prompt, or not written in Python
                continue
    text = "\n".join(words).lower()
    found = [kind for kind, pattern in NAMED.items() if re.search(pattern, text)]
    return found[0] if len(found) == 1 else None
