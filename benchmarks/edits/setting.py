"""What the benchmarks of edits share: the judges, the flips that are requested, and the limits.

Every attribute of every face is flipped from what the judge sees in its reconstruction. Success:
the judge sees the flip. Leakage: share of the other nine attributes that the judge sees change.
Identity: cosine of MobileFaceNet embeddings to the reconstruction. No method uses either network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from benchmarks.edits.distill import load_student, training_latents
from benchmarks.shared.base import decode, encode, pixels
from benchmarks.shared.face_base import ATTRIBUTES, load_faces
from benchmarks.shared.face_networks import judge_images, load_evaluator, load_judges, load_teachers
from benchmarks.shared.run import Row, SeededFlags, report, write
from latentctl import AttributeCritic, Decoder, Latents, PixelCritic
from latentctl.controllers import Request
from recipes.support.report import face_sheet

K = len(ATTRIBUTES)
LEAKAGE, IDENTITY = 0.05, 0.75


@dataclass
class EditFlags(SeededFlags):
    faces: int = 500  # Test faces, each with all ten flips.


class Asked:
    """Latents, each with one attribute to flip and all others to hold.

    Arguments:
        z: The latents, `(B, *latent_shape)`.
        column: The attribute of each, `(B,)`.
        wanted: Its new value, `(B,)`, 0 or 1.
        count: Number of attributes.
    """

    def __init__(self, z: Tensor, column: Tensor, wanted: Tensor, count: int) -> None:
        self.z, self.column, self.wanted, self.count = z, column, wanted, count
        self.target = torch.full((len(z), count), torch.nan)
        self.target.scatter_(1, column[:, None], wanted[:, None])
        self.sign = torch.nan_to_num(2 * self.target - 1)
        self.request = Request(target=self.target, hold=self.target.isnan())

    def part(self, rows: Tensor) -> Asked:
        """Some of the latents, by a mask or by indices, `rows (M,)`."""
        return Asked(self.z[rows], self.column[rows], self.wanted[rows], self.count)

    def along(self, directions: Tensor, strength: float) -> Tensor:
        """Latents moved along a direction for each attribute, `(K, *latent_shape)`."""
        return self.z + strength * (self.sign @ directions.flatten(1)).view_as(self.z)


class Flips(Asked):
    """Every attribute of some faces flipped, one at a time, `(K * faces)` in attribute order."""

    def __init__(self, setting: Setting, images: Tensor) -> None:
        self.see, self.x = setting.see, pixels(images)
        self.faces = encode(setting.decoder, self.x).mean
        self.repeated = self.x.repeat(K, 1, 1, 1)
        self.before, self.embedding = (part.repeat(K, 1) for part in self.see(self.faces))
        self.column = torch.arange(K).repeat_interleave(len(images))
        wanted = 1 - self.of_column(self.before).round()
        z = self.faces.repeat(K, *[1] * (self.faces.ndim - 1))
        super().__init__(z, self.column, wanted, K)

    def of_column(self, values: Tensor) -> Tensor:
        """The value of the attribute that is flipped, `(K * faces,)`."""
        return values.gather(1, self.column[:, None])[:, 0]

    def judge(
        self, name: str, z: Tensor, seen: tuple[Tensor, Tensor] | None = None, **more: Any
    ) -> Row:
        """Success, leakage, identity and shift of edited latents, overall and by attribute.

        `seen` is `see(z)`, if it was evaluated already, `more` are further columns.
        """
        probability, embedding = seen or self.see(z)
        done = self.of_column(probability).round() == self.wanted
        changed = ((probability > 0.5) != (self.before > 0.5)).float()
        changed.scatter_(1, self.column[:, None], 0)
        parts = {
            "success": done.float(),
            "leakage": changed.sum(1) / (K - 1),
            "identity": (embedding * self.embedding).sum(1),
            "shift": (z - self.z).flatten(1).square().mean(1).sqrt(),
        }
        each = {k: v.view(K, -1).mean(1).tolist() for k, v in parts.items()}
        row = {"name": name, **{k: v.mean().item() for k, v in parts.items()}, **more}
        row["worst"] = min(each["success"])
        row["attributes"] = {a: {k: each[k][i] for k in each} for i, a in enumerate(ATTRIBUTES)}
        return report(row)


def within_limits(rows: list[Row]) -> Row:
    """The row of greatest success within the limits; the nearest to them if there is none."""
    good = [r for r in rows if r["leakage"] <= LEAKAGE and r["identity"] >= IDENTITY]
    if good:
        return max(good, key=lambda r: r["success"])
    return min(
        rows,
        key=lambda r: max(0, r["leakage"] / LEAKAGE - 1) + max(0, 1 - r["identity"] / IDENTITY),
    )


class Setting:
    """The decoder, the networks on pixels, the distilled critic, and where results go."""

    def __init__(self, flags: EditFlags, decoder: Decoder, folder: Path) -> None:
        self.flags, self.decoder, self.folder = flags, decoder, folder
        self.judges = load_judges()
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def latents(self) -> Latents:
        """Encodings of training faces, with labels."""
        return training_latents(self.decoder)

    @cached_property
    def student(self) -> AttributeCritic:
        """The critic that `distill` wrote."""
        return load_student(self.folder, self.flags.seed)

    @cached_property
    def teachers(self) -> PixelCritic:
        return load_teachers(self.decoder)

    @cached_property
    def evaluator(self) -> PixelCritic:
        return load_evaluator(self.decoder)

    @cached_property
    def test(self) -> Flips:
        """The flips of the test faces."""
        return Flips(self, load_faces("test")[0][: self.flags.faces])

    def see(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The judge's probabilities `(B, K)` and embeddings of length 1 of latents."""
        return judge_images(self.judges, decode(self.decoder, z))

    def editor(self, controller: latentctl.controllers.Controller | None = None) -> Any:
        """A `Conditional` on the distilled critic with the evaluator's receipts."""
        return latentctl.condition(
            self.decoder, self.student, editor=controller, evaluator=self.evaluator
        )

    def save(self, name: str, result: Any) -> None:
        write(self.folder / f"{name}-{self.flags.seed}.json", result)

    def sheet(self, name: str, rows: Tensor, row_labels: list[str], columns: list[str]) -> None:
        """Draws faces `(rows, columns, 3, h, w)` as one picture."""
        sheet = face_sheet(rows.clamp(0, 1), row_labels=row_labels, column_labels=columns)
        (self.folder / f"{name}.png").write_bytes(sheet)
