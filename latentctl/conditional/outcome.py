"""The result of a `Conditional`: samples with a receipt."""

from __future__ import annotations

__all__ = ["Outcome"]

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..display import Display, grid, html_table, png, thumbnails
from ..latents import typicality
from ..storage.files import sealed
from .guarantee import Guarantee
from .origin import Origin
from .receipt import fields_of, receipt_of, sidecar

SHOWN = 16  # rows of a notebook's table
# fields that are not tensors of B rows
KEEPS = ("names", "display", "judged_by", "origin", "guarantee")
EVALUATOR = "the evaluator"
CLIMBED = "the critic that was climbed"
CRITIC = "the critic, no evaluator"
CHANGES = ("leakage", "tied", "free")  # of attributes that are held, tied to the request, or free


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """Samples with their receipt.

    An index or a slice gives the outcome of some rows, an int a batch of one.
    """

    x: Tensor
    """The samples, `(B, *sample_shape)`."""

    z: Tensor
    """Their latents, `(B, *latent_shape)`."""

    start: Tensor
    """The latents before the move, `(B, *latent_shape)`."""

    target: Tensor
    """The requested probability of each attribute, `(B, K)`; NaN where none was requested."""

    satisfied: Tensor
    """Whether the request holds with at least the threshold's probability, `(B,)` booleans; with a
    guarantee, its threshold's."""

    unreachable: Tensor
    """Whether the request has a probability below 0.5 after a whole move, `(B,)` booleans; with a
    guarantee, whether that is promised."""

    probability: Tensor
    """Probability of each attribute after the move, by the evaluator if there is one, `(B, K)`."""

    leakage: Tensor
    """Change of that probability of each held attribute, `(B, K)`; NaN for the others."""

    tied: Tensor
    """The same of each attribute that is tied to the request and not held (`Critic.ties`)."""

    free: Tensor
    """The same of each attribute that is neither requested, held nor tied; NaN of samples."""

    shift: Tensor
    """Root mean square move of a latent dimension, `(B,)`, in latent units."""

    evaluations: Tensor
    """Evaluations of the controller's networks, `(B,)` integers; 0 if there was no move."""

    names: tuple[str, ...]
    """The attributes, in the order of the columns."""

    display: Display
    """Draws samples as pictures."""

    judged_by: str
    """Whose probabilities these are: `EVALUATOR`, or a critic, which only claims: `CLIMBED` if
    the controller follows its gradient, and `CRITIC` otherwise."""

    before: Tensor | None = None
    """The inputs of an edit, `(B, *sample_shape)`; None for samples and for edits of latents."""

    origin: Origin | None = None
    """How it was made, for the receipt of a saved picture; None of one that was made by hand."""

    guarantee: Guarantee | None = None
    """What is promised of `satisfied`, `unreachable` and `clean`, and what it assumes; None without
    one, and where it does not cover the request."""

    clean: Tensor | None = None
    """Whether it is promised that no held attribute changes by more than the guarantee's leakage,
    `(B,)` booleans; None without a guarantee."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def undecided(self) -> Tensor:
        """Whether nothing is promised of the request, `(B,)` booleans; none without a guarantee."""
        promised = self.satisfied | self.unreachable
        return torch.zeros_like(promised) if self.guarantee is None else ~promised

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Outcome:
        rows = torch.arange(len(self))
        rows = rows[index if isinstance(index, slice) else torch.as_tensor(index).cpu()]
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = {
            name: value[rows.reshape(-1).to(value.device)]
            for name, value in values.items()
            if name not in KEEPS and value is not None
        }
        if self.origin is not None:
            parts["origin"] = self.origin.rows(rows.reshape(-1).to(self.x.device))
        return dataclasses.replace(self, **parts)

    @property
    def typicality(self) -> Tensor:
        """The p-value of each latent under N(0, I), `(B,)`: small where it is not like noise.

        For decoders whose latents follow N(0, I), such as diffusion pipelines and GANs; encodings
        of an autoencoder need not. See `latentctl.latents.typicality`.
        """
        return typicality(self.z)

    def receipts(self) -> list[dict[str, Any]]:
        """A row for each sample, as JSON and CSV hold it; what does not apply is None.

        The columns are `satisfied`, `unreachable`, `undecided`, `clean`, `shift`, `evaluations` and
        `judged_by`, and for
        each attribute `requested_NAME`, `probability_NAME`, `leakage_NAME`, `tied_NAME` and
        `free_NAME`.
        """
        scalars = ("satisfied", "unreachable", "undecided", "shift", "evaluations")
        columns: dict[str, list[Any]] = {name: getattr(self, name).tolist() for name in scalars}
        columns["clean"] = [None] * len(self) if self.clean is None else self.clean.tolist()
        columns["judged_by"] = [self.judged_by] * len(self)
        parts = {"requested": self.target, "probability": self.probability}
        parts |= {change: getattr(self, change) for change in CHANGES}
        for number, name in enumerate(self.names):
            for kind, values in parts.items():
                column = values[:, number].tolist()
                columns[f"{kind}_{name}"] = [None if math.isnan(v) else v for v in column]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def save(self, path: str | Path, *, columns: int | None = None, margin: int = 2) -> Path:
        """Writes the samples as one PNG image with its receipt, and makes its folder where needed.

        The receipt is in the metadata of the image and in `NAME.png.json`; `verify` reads it.

        Arguments:
            path: The file.
            columns: Samples in a row; as near to a square as it gets if not given.
            margin: White pixels between samples.

        Raises:
            InputError: If the samples cannot be shown as pictures.
        """
        path, layout = Path(path), {"columns": columns, "margin": margin}
        picture = grid(self.display(self.x), columns=columns, margin=margin)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.origin is None:
            path.write_bytes(png(picture))
            return path
        receipt = receipt_of(
            *(self.origin, self.names, self.receipts(), self.start, self.before, picture, layout),
            self.guarantee,
        )
        sidecar(path).write_bytes(sealed(receipt))
        path.write_bytes(png(picture, fields_of(receipt)))
        return path

    def facts(self) -> dict[str, Any]:
        """Means over the samples."""
        if not len(self):
            return {"samples": 0}
        changes = {change: float(getattr(self, change).nanmean()) for change in CHANGES}
        return {
            "satisfied": f"{int(self.satisfied.sum())} of {len(self)}, {self._verdict}",
            "unreachable": int(self.unreachable.sum()) or None,
            "undecided": int(self.undecided.sum()) or None,
            "clean": None if self.clean is None else f"{int(self.clean.sum())} of {len(self)}",
            "guarantee": None if self.guarantee is None else self.guarantee.promise,
            **{key: None if math.isnan(mean) else f"{mean:.3f}" for key, mean in changes.items()},
            "shift": f"{float(self.shift.mean()):.3f}",
            "evaluations a sample": f"{float(self.evaluations.float().mean()):.1f}",
        }

    @property
    def _verdict(self) -> str:
        words = "judged" if self.judged_by == EVALUATOR else "claimed"
        return f"{words} by {self.judged_by}"

    def __repr__(self) -> str:
        parts = [f"{len(self)} samples", f"{int(self.satisfied.sum())} satisfied, {self._verdict}"]
        means = self.facts()
        parts += [f"{means[k]} {k}" for k in ("undecided", "unreachable", "clean") if means.get(k)]
        parts += [self.guarantee.promise] if self.guarantee is not None else []
        parts += [f"{key} {means[key]}" for key in (*CHANGES, "shift") if means.get(key)]
        if len(self):
            parts.append(f"{means['evaluations a sample']} evaluations a sample")
        return f"Outcome({', '.join(parts)})"

    def _repr_html_(self) -> str:
        some = self[:SHOWN]
        pictures = {"before": some.before, "after": some.x}
        drawn = {key: thumbnails(self.display, x) for key, x in pictures.items() if x is not None}
        rows = []
        for number, row in enumerate(some.receipts()):
            cells = {"": number, **{key: parts[number] for key, parts in drawn.items()}}
            rows.append({**cells, **_marks(row, self.names)})
        left = len(self) - len(rows)
        note = f"{left} more are not shown: out[{len(rows)}:]." if left > 0 else ""
        return html_table(f"Outcome of {len(self)} samples", self.facts(), rows, note)


def _marks(row: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The cells of a receipt: a mark for the request, and what became of each attribute."""
    claimed = "" if row["judged_by"] == EVALUATOR else ", claimed"
    verdict = f"✓ satisfied{claimed}" if row["satisfied"] else "✗ not satisfied"
    verdict = "? undecided" if row["undecided"] else verdict
    verdict = "✗ unreachable" if row["unreachable"] else verdict
    cells = {"request": f"{verdict}, clean" if row["clean"] else verdict}
    for name in names:
        text = f"{row[f'probability_{name}']:.2f}"
        if row[f"requested_{name}"] is not None:
            text += f", requested {row[f'requested_{name}']:g}"
        for change, role in zip(CHANGES, ("held", "tied", "free"), strict=True):
            if row[f"{change}_{name}"] is not None:
                text += f", {role}, Δ {row[f'{change}_{name}']:.2f}"
        cells[name] = text
    return {**cells, "shift": f"{row['shift']:.2f}", "evaluations": str(row["evaluations"])}
