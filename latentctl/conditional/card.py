"""The model card of a pack, by huggingface_hub's own tools and a template of ours."""

from __future__ import annotations

__all__ = ["Scores", "card_facts", "card_of", "found_base_model", "model_card"]

import json
import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from ..decoder import Decoder
from .guarantee import Guarantee
from .response import DoseResponse

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

Scores: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[str, Any]

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
KEY = "_name_or_path"
NOT_STATED = "not stated"


def model_card(
    repo_id: str,
    decoder: Decoder,
    *,
    names: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    license: str | None = None,
    base_model: str | None = None,
    base_license: str | None = None,
    scores: Scores | None = None,
    measured_on: str | None = None,
) -> ModelCard:
    """The card of a pack: its decoder, attributes, settings, scores and limits.

    `card.data` is the front matter and `card.text` the rest; both may be changed before a push.

    Arguments:
        repo_id: Repository of the pack, for the lines of code that load it.
        decoder: The decoder that the pack was made for.
        names: The attributes.
        settings: Rows of the table of settings: controller, critic, prior and threshold.
        license: Identifier of the pack's own licence on the hub, such as `"mit"`.
        base_model: Id of the decoder on the hub; read from its config where it was loaded by id.
        base_license: Licence of the decoder.
        scores: Figures to show: rows as `[{"attribute": "Smiling", "accuracy": 0.98}, ...]`,
            values by name, or either of them by title, as in the `results.json` of a recipe.
            Finite numbers also become `EvalResult`s in the front matter.
        measured_on: Data and evaluator of the scores.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(nn.Linear(4, 12), decode="forward")
        >>> card = model_card("me/faces", decoder, names=["Smiling"], license="mit")
        >>> card.data.library_name, card.data.license
        ('latentctl', 'mit')
        >>> "No scores were given" in card.text
        True
    """
    return card_of(
        repo_id,
        card_facts(decoder, names, settings or {}),
        license=license,
        base_model=base_model,
        base_license=base_license,
        scores=scores,
        measured_on=measured_on,
    )


def card_facts(
    decoder: Decoder, names: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a card says of a decoder and of a pack for it, as JSON can hold it."""
    base = {
        "fingerprint (SHA-256)": f"`{decoder.fingerprint()}`",
        "latent shape": decoder.latent_shape,
        "sample shape": decoder.sample_shape,
        "range of values": decoder.value_range or "any",
    }
    return {
        "name": decoder.name,
        "base_model": found_base_model(decoder.model),
        "base": base,
        "names": list(names),
        "settings": dict(settings),
    }


def card_of(
    repo_id: str,
    facts: Mapping[str, Any],
    *,
    license: str | None = None,
    base_model: str | None = None,
    base_license: str | None = None,
    scores: Scores | None = None,
    measured_on: str | None = None,
    guarantee: Guarantee | None = None,
    doses: Sequence[DoseResponse] = (),
) -> ModelCard:
    """The card of `card_facts` and of what was measured; other arguments are of `model_card`."""
    from huggingface_hub import ModelCard, ModelCardData

    names, base_model = facts["names"], base_model or facts["base_model"]
    title = repo_id.rsplit("/", 1)[-1]
    results = _eval_results(scores or {}, measured_on or NOT_STATED)
    base = {
        "name": facts["name"],
        "on the hub": base_model or NOT_STATED,
        "licence": base_license or NOT_STATED,
        **facts["base"],
    }
    figures = "No scores were given for this card."
    if scores:
        figures = f"Measured on: {measured_on or NOT_STATED}.\n\n{_scores(scores)}"
    data = ModelCardData(
        library_name="latentctl",
        license=license,
        base_model=base_model,
        # without it the hub would show the pack as fine-tuned weights
        base_model_relation=base_model and "adapter",
        tags=["latentctl", "latent-space", "conditional-generation"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        title=title,
        repo_id=repo_id,
        decoder_name=facts["name"],
        base=_table(_rows(base)),
        attributes=", ".join(f"`{name}`" for name in names) or "None by name.",
        settings=_table(_rows(facts["settings"], "setting")),
        figures=figures,
        request=_request(names),
        guarantee=_promised(guarantee),
        doses=_table(one.row for one in doses) if doses else "Not measured.",
        strengths=", ".join(f"{s:g}" for s in doses[0].strengths) if doses else "",
    )
    return card


def found_base_model(model: nn.Module) -> str | None:
    """The hub id that diffusers and transformers note in a model's config.

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


def _promised(guarantee: Guarantee | None) -> str:
    """A table of what is promised, and the assumption."""
    if guarantee is None:
        return "None: verdicts were not calibrated."
    found = guarantee.facts()
    rows = [
        {"verdict": name, "at most wrong": f"{100 * found['alpha']:g} %", "not called": share}
        for name, share in found["not_called"].items()
    ]
    return (
        f"{_table(rows)}\n\nBy {guarantee.edits} calibration edits and a judge that no method "
        f"uses; clean is a change of held attributes of at most {guarantee.leakage:g}. It assumes "
        f"that {found['assumes']}."
    )


def _request(names: Sequence[str]) -> str:
    """The keyword argument that asks for the first attribute."""
    if not names:
        return ""
    if names[0].isidentifier() and not keyword.iskeyword(names[0]):
        return f"{names[0]}=True, "
    return f"**{{{names[0]!r}: True}}, "


def _eval_results(scores: Any, measured_on: str, title: str = "") -> list[EvalResult]:
    from huggingface_hub import EvalResult

    results: list[EvalResult] = []
    if not isinstance(scores, Mapping):
        for row in scores:
            labels = [value for value in row.values() if isinstance(value, str)]
            results += _eval_results(row, measured_on, " ".join([title, *labels]))
        return results
    for key, value in scores.items():
        name = f"{title} {key}".strip()
        if _nested(value):
            results += _eval_results(value, measured_on, name)
        elif isinstance(value, int | float) and math.isfinite(value):
            results.append(
                EvalResult(
                    task_type="conditional-generation",
                    dataset_type="other",
                    dataset_name=measured_on,
                    metric_type=key,
                    metric_name=name,
                    metric_value=value,
                )
            )
    return results


def _scores(scores: Any) -> str:
    """Tables of rows, of values by name, or of either by title."""
    if not isinstance(scores, Mapping):
        return _table(scores)
    single = {key: value for key, value in scores.items() if not _nested(value)}
    blocks = [_table(_rows(single))] if single else []
    blocks += [f"### {t}\n\n{_scores(value)}" for t, value in scores.items() if _nested(value)]
    return "\n\n".join(blocks)


def _nested(value: Any) -> bool:
    rows = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return isinstance(value, Mapping) or (rows and all(isinstance(row, Mapping) for row in value))


def _rows(values: Mapping[str, Any], title: str = "") -> list[dict[str, Any]]:
    return [{title: key, "value": value} for key, value in values.items()]


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[_cell(column) for column in columns], ["---"] * len(columns)]
    lines += [[_cell(row[c]) if c in row else "" for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.replace("|", "\\|").replace("\n", " ")
