"""The result of the main job's training, and the pictures of its report."""

from __future__ import annotations

__all__ = ["Pictures", "Trained"]

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from latentctl import Actor, AttributeCritic, Conditional, Latents
from latentctl.critics import Critic

from ..face_evaluation import decode
from ..report import Report, critic_contours, face_sheet, loss_curves

LOGS = (
    *("vae", "attributes", "distillation/round-0", "distillation/round-1", "realism_teacher"),
    *("realism/game", "teacher", "actor/demonstrations", "actor/game"),
)


@dataclass
class Trained:
    """What the run trained, and the seconds of each part."""

    attributes: AttributeCritic
    realism_actor: Actor
    conditional: Conditional
    seconds: dict[str, float]


class Pictures:
    """Draws the pictures of a run, into the report and as files beside it."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder, self.report = folder, report

    def add(self, name: str, image: bytes, caption: str) -> None:
        (self.folder / name).write_bytes(image)
        self.report.picture(image, caption)

    def samples(self, trained: Trained) -> None:
        """The prior, realism alone, and for each attribute samples with its rarer value."""
        conditional = trained.conditional
        decoder = conditional.decoder
        z = conditional.prior.sample(10, seed=1).to(decoder.device)
        rows = [decode(decoder, z), decode(decoder, trained.realism_actor(z))]
        labels = ["prior", "realism alone"]
        for name in conditional.names:
            value = name not in ("Young", "No_Beard")
            rows.append(conditional.sample(10, seed=1, **{name: value}).x.cpu().clamp(0, 1))
            labels.append(name if value else f"not {name}")
        sheet = face_sheet(torch.stack(rows), row_labels=labels)
        caption = "The prior, the prior moved by realism alone, and samples with one attribute."
        self.add("samples.png", sheet, caption)

    def walk(self, conditional: Conditional) -> None:
        """Four samples of the prior under a sequence of targets."""
        names, decoder = conditional.names, conditional.decoder
        y = torch.zeros(1, len(names))
        for name in ("Young", "No_Beard", "Brown_Hair"):
            if name in names:
                y[0, names.index(name)] = 1
        targets, labels = [y], ["start"]
        for column, name in enumerate(names):
            y = y.clone()
            y[0, column] = 1 - y[0, column]
            if name.endswith("_Hair") and y[0, column]:  # one hair colour at a time
                for other, title in enumerate(names):
                    if title.endswith("_Hair") and other != column:
                        y[0, other] = 0
            targets.append(y)
            labels.append(("+ " if y[0, column] else "- ") + name)
        wanted = torch.cat(targets).to(decoder.device)
        rows = []
        for identity in range(4):
            z = conditional.prior.sample(1, seed=2, start=identity).to(decoder.device)
            z = z.expand(len(wanted), *decoder.latent_shape)
            rows.append(decode(decoder, conditional.controller(z, wanted)))
        sheet = face_sheet(torch.stack(rows), column_labels=labels)
        self.add("walk.png", sheet, "Four samples of the prior, one a row.")

    def contours(self, trained: Trained, latents: Latents) -> None:
        """Maps of some critics over the two dimensions of smallest posterior std."""
        if len(latents.latent_shape) != 1:
            return
        used = latents.posterior_std().argsort()[:2].tolist()
        center, points = latents.moments()[0], latents[slice(0, 400)].mean
        critic, realism = trained.attributes, trained.realism_actor.realism
        scores: dict[str, Critic] = {} if realism is None else {"P(real)": realism}
        scores |= {f"P({name})": critic[name] for name in critic.names[:3]}
        for number, (title, score) in enumerate(scores.items()):
            image = critic_contours(
                score.score, center, (used[0], used[1]), points=points, title=title
            )
            self.add(f"contour_{number}.png", image, title)

    def curves(self) -> None:
        """The losses of all parts of the run, and their logs in one file."""
        lines = []
        for part in LOGS:
            path = self.folder / part / "metrics.jsonl"
            if path.exists():
                log = [json.loads(line) for line in path.read_text().splitlines()]
                lines += [json.dumps({"part": part, **line}) + "\n" for line in log]
                name = f"loss_{part.replace('/', '_')}.png"
                self.add(name, loss_curves(log), f"Losses: {part}.")
        (self.folder / "metrics.jsonl").write_text("".join(lines))
