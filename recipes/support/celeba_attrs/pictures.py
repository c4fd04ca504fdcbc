"""The result of the main job's training, and the pictures of its report."""

from __future__ import annotations

__all__ = ["Pictures", "Trained", "first_picture"]

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from latentctl_adapters.embedded.counterfactuals import counterfactuals
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, ProceduralFaces

from latentctl import Actor, AttributeCritic, Conditional

from ..face_evaluation import decode
from ..report import Report, face_sheet, loss_curves

LOGS = (
    *("vae", "attributes"),
    *("teach/labels", "teach/distillation/round-0", "teach/distillation/round-1"),
    *("realism_teacher", "realism/game", "flow_matching"),
    *("actor/demonstrations", "actor/game"),
)
FIRST = ("Smiling", "Eyeglasses", "Wearing_Hat", "Bald", "Blond_Hair", "Young")


@dataclass
class Trained:
    """What the run trained."""

    attributes: AttributeCritic
    realism_actor: Actor | None
    conditional: Conditional


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
        rows, labels = [decode(decoder, z)], ["prior"]
        if trained.realism_actor is not None:
            rows.append(decode(decoder, trained.realism_actor(z)))
            labels.append("realism alone")
        for name in conditional.names:
            value = name not in ("Young", "No_Beard")
            rows.append(conditional.sample(10, seed=1, **{name: value}).x.cpu().clamp(0, 1))
            labels.append(name if value else f"not {name}")
        sheet = face_sheet(torch.stack(rows), row_labels=labels)
        caption = "Samples of the prior, and the same samples moved to one attribute each."
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

    def truth(self, trained: Trained, seed: int) -> None:
        """Edits beside the same people drawn with the attribute changed."""
        decoder, names = trained.conditional.decoder, trained.conditional.names
        people = ProceduralFaces.split("test", 6, seed, decoder.sample_shape[-1])
        x = people.images(0, len(people)).float() / 255
        rows = torch.stack([x, decode(decoder, decoder.encode(x).mean)], 1)
        labels, columns = ["drawn", "reconstruction"], [rows]
        for name in [name for name in names if name in ATTRIBUTES]:
            pairs = counterfactuals(people, name, fair=False)
            target = torch.full((len(x), len(names)), torch.nan)
            target[:, names.index(name)] = pairs.value.float()
            edited = trained.conditional.edit(x, y=target).x.cpu().clamp(0, 1)
            columns.append(torch.stack([edited, pairs.truth.float() / 255], 1))
            labels += [name, "truth"]
        self.report.section(
            "Beside the truth",
            "Drawn faces have a true answer to an edit: the same person, drawn with that attribute "
            "changed. Each edit stands beside it.",
        )
        sheet = face_sheet(torch.cat(columns, 1), column_labels=labels)
        self.add("truth.png", sheet, "Held-out faces, their edits, and the true answers.")

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


def first_picture(pack: Conditional, seed: int) -> bytes:
    """Six faces that were not in training, their reconstructions, and edits by a pack."""
    faces = ProceduralFaces.split("test", 6, seed).tensors()[0].float() / 255
    columns = [faces, pack.edit(faces).x.cpu()]
    names = [name for name in FIRST if name in pack.names]
    for name in names:
        flipped = (pack.score(faces)[:, pack.names.index(name)] < 0.5).float()
        target = torch.full((len(faces), len(pack.names)), torch.nan)
        target[:, pack.names.index(name)] = flipped.cpu()
        columns.append(pack.edit(faces, y=target).x.cpu())
    labels = ["drawn", "reconstruction", *(f"{name} flipped" for name in names)]
    return face_sheet(torch.stack(columns, 1).clamp(0, 1), scale=1.5, column_labels=labels)
