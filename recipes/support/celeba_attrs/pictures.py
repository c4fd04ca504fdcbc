"""The pictures of the main job's report."""

from __future__ import annotations

__all__ = ["Pictures"]

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentctl import Conditional, Latents

from ..face_evaluation import decode
from ..faces import Faces
from ..report import Report, critic_contours, face_sheet, loss_curves

if TYPE_CHECKING:
    from celeba_attrs import Trained


class Pictures:
    """Draws the pictures of a run, into the report and as files beside it."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder, self.report = folder, report

    def add(self, name: str, image: bytes, caption: str) -> None:
        (self.folder / name).write_bytes(image)
        self.report.picture(image, caption)

    def samples(self, trained: Trained, test: Faces) -> None:
        conditional = trained.conditional
        decoder = conditional.decoder
        z = conditional.prior.sample(10, seed=1).to(decoder.device)
        rows = [decode(decoder, z), decode(decoder, trained.realism_actor(z))]
        labels = ["prior", "realism alone"]
        for name, value in wishes(conditional.names):
            rows.append(conditional.sample(10, seed=1, **{name: value}).x.clamp(0, 1))
            labels.append(name if value else f"not {name}")
        sheet = face_sheet(torch.stack(rows), row_labels=labels, column_labels=[""] * 10)
        self.add(
            "samples.png",
            sheet,
            "The prior, the prior moved by realism alone, and samples "
            "with one attribute asked for.",
        )

    def walk(self, conditional: Conditional) -> None:
        names = conditional.names
        y = torch.zeros(1, len(names))
        for name in ("Young", "No_Beard", "Brown_Hair"):
            if name in names:
                y[0, names.index(name)] = 1
        targets, labels = [y], ["start"]
        for name in names:
            y = y.clone()
            column = names.index(name)
            y[0, column] = 1 - y[0, column]
            if name.endswith("_Hair") and y[0, column]:  # one hair colour at a time
                for other, title in enumerate(names):
                    if title.endswith("_Hair") and other != column:
                        y[0, other] = 0
            targets.append(y)
            labels.append(("+ " if y[0, column] else "- ") + name)
        wanted = torch.cat(targets)
        rows = []
        for identity in range(4):
            z = conditional.prior.sample(1, seed=2, start=identity).expand(
                len(wanted), *[-1] * len(conditional.decoder.latent_shape)
            )
            z = z.to(conditional.decoder.device)
            moved = conditional.controller(z, wanted.to(z.device))
            rows.append(decode(conditional.decoder, moved))
        sheet = face_sheet(torch.stack(rows), row_labels=[""] * 4, column_labels=labels)
        self.add("walk.png", sheet, "Four samples of the prior, one a row.")

    def contours(self, trained: Trained, latents: Latents) -> None:
        if len(latents.latent_shape) != 1:
            return
        used = latents.posterior_std().argsort()[:2].tolist()
        center, points = latents.moments()[0], latents[slice(0, 400)].mean
        scores: dict[str, Callable[[Tensor], Tensor]] = {
            f"P({name})": trained.attributes[name] for name in trained.attributes.names[:3]
        }
        if trained.realism_actor.realism is not None:
            scores = {"P(real)": trained.realism_actor.realism, **scores}
        for number, (title, score) in enumerate(scores.items()):
            image = critic_contours(score, center, (used[0], used[1]), points=points, title=title)
            self.add(f"contour_{number}.png", image, title)

    def curves(self) -> None:
        everything = []
        parts = (
            "vae",
            "attributes",
            "taught/round-0",
            "taught/round-1",
            "realism_teacher",
            "realism/game",
            "teacher",
            "actor/lessons",
            "actor/game",
        )
        for part in parts:
            path = self.folder / part / "metrics.jsonl"
            if not path.exists():
                continue
            log = [json.loads(line) for line in path.read_text().splitlines()]
            everything += [{"part": part, **line} for line in log]
            image = loss_curves(log)
            self.add(f"loss_{part.replace('/', '_')}.png", image, f"Losses: {part}.")
        lines = "".join(json.dumps(line) + "\n" for line in everything)
        (self.folder / "metrics.jsonl").write_text(lines)


def wishes(names: tuple[str, ...]) -> list[tuple[str, bool]]:
    """A request for each attribute, the rare value of it."""
    return [(name, name not in ("Young", "No_Beard")) for name in names]
