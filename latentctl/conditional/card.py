"""What a model card says of a pack, in Markdown: taken from the pack, or said to be not known."""

from __future__ import annotations

__all__ = ["Scores", "card_text", "found_base_model"]

import json
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from ..decoder import Gaussian, Prior

if TYPE_CHECKING:
    from .conditional import Conditional

Scores: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any]

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
KEY = "_name_or_path"
NOT_STATED = "not stated"
LIMITS = """\
It is meant for sampling and editing with this one decoder; on any other weights it refuses to load.

- The attributes are what the labels or rules meant that the critics learned from, with their errors
  and biases. They are looks of samples, not facts about anything or anyone that is shown.
- Whatever the decoder cannot make, this cannot make either, and the decoder's licence and limits
  hold for every sample.
- `satisfied`, `probability` and `leakage` of an outcome are the word of the very critics that the
  moves were made with. They are no independent judgement: have one before you rely on it.
- An attribute that was not named may change all the same, above all where the data hardly show the
  two apart; attributes without a label are not held by anything.
- Where samples show people: an edit of a real person's picture needs that person's consent, and
  must not pass for a photograph. It is not for identifying or judging anyone."""


def card_text(
    conditional: Conditional,
    repo_id: str,
    *,
    base_model: str | None,
    base_license: str | None,
    scores: Scores | None,
    measured_on: str | None,
) -> str:
    """The card below its front matter, as `latentctl.conditional.hub.model_card` says."""
    decoder, names = conditional.decoder, conditional.names
    controller: Any = conditional.controller
    base = {
        "name": decoder.name,
        "on the hub": base_model or NOT_STATED,
        "licence": base_license or NOT_STATED,
        "fingerprint (SHA-256)": f"`{decoder.fingerprint()}`",
        "latent shape": decoder.latent_shape,
        "sample shape": decoder.sample_shape,
        "range of values": decoder.value_range or "any",
    }
    known = ("latent_shape", "names")
    parts = {
        "controller": type(controller).__name__,
        **{key: value for key, value in controller.config.items() if key not in known},
        "critic": type(conditional.critic).__name__,
        "realism critic": "yes" if conditional.realism is not None else "none",
        "prior": _prior(conditional.prior, decoder.prior),
        "threshold": conditional.threshold,
    }
    if scores:
        figures = f"Measured on: {measured_on or NOT_STATED}.\n\n{_scores(scores)}"
    else:
        figures = "No scores were given for this card. Take it that nothing was measured."
    title = repo_id.rsplit("/", 1)[-1]
    return f"""\
# {title}

What latentctl learned in the latent space of a frozen decoder, {decoder.name}, so that it samples
and edits by attributes. **The decoder's weights are not in here**; bring them yourself.

## Base decoder

{_table([{"": key, "value": value} for key, value in base.items()])}

## Attributes

{", ".join(f"`{name}`" for name in names) or "None by name."}

## Controller and settings

{_table([{"setting": key, "value": value} for key, value in parts.items()])}

## Scores

{figures}

## Intended use and limits

{LIMITS}

## How to load it

```python
import latentctl

decoder = ...  # latentctl.wrap(...) or latentctl.load(...): the weights with that fingerprint
conditional = latentctl.Conditional.from_pretrained("{repo_id}", decoder)
out = conditional.sample(16, {_asked(names)}seed=0)
out.x, out.satisfied, out.probability
```
"""


def found_base_model(model: nn.Module) -> str | None:
    """The id on the hub that diffusers and transformers note in a model's config.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model.config = {"_name_or_path": "somebody/tiny-autoencoder"}
        >>> found_base_model(nn.Sequential(model))
        'somebody/tiny-autoencoder'
        >>> found_base_model(nn.Linear(1, 1)) is None
        True
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        mapping = isinstance(config, Mapping)
        name = config.get(KEY) if mapping else getattr(config, KEY, None)
        if isinstance(name, str) and REPO_ID.fullmatch(name) and not Path(name).exists():
            return name
    return None


def _prior(prior: Prior, own: Prior) -> str:
    if prior is own:
        return "the decoder's own"
    return "a Gaussian, in the pack" if isinstance(prior, Gaussian) else type(prior).__name__


def _asked(names: Sequence[str]) -> str:
    if not names:
        return ""
    name = names[0]
    if name.isidentifier() and not keyword.iskeyword(name):
        return f"{name}=True, "
    return f"**{{{name!r}: True}}, "


def _scores(scores: Any) -> str:
    """Tables of rows, of values by name, or of either by title."""
    if not isinstance(scores, Mapping):
        return _table(scores)
    blocks = []
    single = {key: value for key, value in scores.items() if not _nested(value)}
    if single:
        blocks.append(_table([{"": key, "value": value} for key, value in single.items()]))
    for title, value in scores.items():
        if _nested(value):
            blocks.append(f"### {title}\n\n{_scores(value)}")
    return "\n\n".join(blocks)


def _nested(value: Any) -> bool:
    rows = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return isinstance(value, Mapping) or (rows and all(isinstance(row, Mapping) for row in value))


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[_cell(column) for column in columns], ["---"] * len(columns)]
    lines += [[_cell(row[c]) if c in row else "" for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, default=str)
    return text.replace("|", "\\|").replace("\n", " ")
