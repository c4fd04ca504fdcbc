"""The report of the main job: pictures, tables and costs of one run, in one file."""

from __future__ import annotations

__all__ = ["write_report"]

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import latentctl
from latentctl import Ascent, Gaussian, Latents
from latentctl.controllers import Controller
from latentctl.decoder import Prior
from latentctl.evaluation import multilabel_scores

from ..face_evaluation import Judged, Judges, cost, decode, edit_row, encode, sample_row
from ..faces import Faces
from ..report import Report, face_sheet
from .pictures import Pictures

if TYPE_CHECKING:
    from celeba_attrs import Flags, Trained

SAMPLE_COLUMNS = {
    "name": "images",
    "fid": "Frechet distance",
    "accuracy": "accuracy",
    "f1": "macro F1",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "faces": "faces found",
    "shift": "shift",
    "milliseconds": "ms each",
}
EDIT_COLUMNS = {
    "name": "method",
    "success": "success",
    "leakage": "leakage",
    "identity": "identity",
    "faces": "faces found",
    "shift": "shift",
    "evaluations": "evaluations",
    "milliseconds": "ms each",
    "satisfied": "critic says satisfied",
}


def write_report(
    folder: Path,
    flags: Flags,
    trained: Trained,
    latents: Latents,
    faces: dict[str, Faces],
    judges: Judges,
    seconds: dict[str, float],
) -> Path:
    """Measures, draws and writes everything that the run leaves besides its pack."""
    began = time.monotonic()
    conditional, test = trained.conditional, faces["test"]
    decoder = conditional.decoder
    report = Report(
        "Attributes for a frozen decoder",
        f"{decoder.name}, latent {decoder.latent_shape}, {len(latents)} cached encodings, "
        f"{len(test)} held-out faces, seed {flags.run.seed}",
    )
    pictures = Pictures(folder, report)

    report.section("Samples", "Each row starts from the same ten samples of the prior.")
    pictures.samples(trained, test)
    report.section(
        "One identity, one change at a time",
        "The same sample of the prior under a sequence of targets; each column changes one "
        "attribute of the column before it.",
    )
    pictures.walk(conditional)

    real = judges(test.pixels())
    mean = encode(decoder, test)
    reconstructed = judges(decode(decoder, mean))
    rows = sample_rows(trained, latents, test, judges, real, reconstructed, mean)
    report.section(
        "What the judges say of samples",
        f"The attribute judge never saw a latent. On the real faces its accuracy is "
        f"{rows[0]['accuracy']:.3f} and its macro F1 {rows[0]['f1']:.3f}; on their "
        f"reconstructions {rows[1]['accuracy']:.3f} and {rows[1]['f1']:.3f}: what follows cannot "
        f"be judged more finely than that. Precision, recall, density and coverage are against "
        f"the reconstructions. Reconstructions show the very people that they are compared with; "
        f"reconstructions of other people show what a perfect sampler would get.",
    )
    report.table(*table(rows, SAMPLE_COLUMNS))

    word = "taught by a network on pixels, which is not the judge"
    if flags.teach.teacher_train_seconds <= 0:
        word = "fitted to encodings alone; `--teacher_train_seconds 60` has it taught by pixels"
    report.section(
        "Edits of held-out faces",
        f"Each attribute of {min(flags.num_edits, len(test))} faces is flipped, one at a time, "
        f"from what the judge sees in the reconstruction. Success: the judge sees the flip. "
        f"Leakage: share of the other attributes that the judge sees change. Identity: cosine of "
        f"the {judges.identity_name} to the reconstruction. Every attribute that is not asked for "
        f"is held. The critic that is climbed, and that calls an edit satisfied, was {word}.",
    )
    edits, sheet = edit_rows(trained, latents, test, judges, flags.num_edits)
    report.table(*table(edits, EDIT_COLUMNS))
    pictures.add(
        "edits.png",
        sheet,
        "Held-out faces: the reconstruction, then one flip a column. "
        "A green frame: the critic calls the edit satisfied. A red one: it does not.",
    )

    report.section(
        "What the critics see",
        "Probability over the two most used latent dimensions, through the mean of the data; "
        "dots are encodings.",
    )
    pictures.contours(trained, latents)
    report.section("Training")
    pictures.curves()
    report.section("Cost")
    seconds["measure and draw"] = time.monotonic() - began
    report.table(["part", "seconds"], [[k, round(v, 1)] for k, v in seconds.items()])
    report.settings(dataclasses.asdict(flags))
    (folder / "results.json").write_text(
        json.dumps({"samples": rows, "edits": edits, "seconds": seconds}, indent=2)
    )
    return report.save(folder / "report.html")


def reference_rows(
    decoder: latentctl.Decoder,
    latents: Latents,
    test: Faces,
    judges: Judges,
    real: Judged,
    reconstructed: Judged,
    mean: Tensor,
    prior: Prior | None = None,
) -> list[dict[str, Any]]:
    """What samples are to be held against; as many of each as held-out faces."""
    count, prior = len(test), prior or decoder.prior

    def row(name: str, z: Tensor, targets: Tensor | None = None) -> dict[str, Any]:
        return sample_row(name, judges(decode(decoder, z)), targets, real, reconstructed)

    scores = multilabel_scores(real.probability, test.labels)
    others = latents[torch.randperm(len(latents), generator=latentctl.random.generator(0))[:count]]
    matched = Gaussian.fit(latents).sample(count, seed=3).to(decoder.device)
    return [
        {"name": "real held-out faces", "accuracy": scores.accuracy, "f1": scores.f1},
        row("their reconstructions", mean, test.labels),
        row("reconstructions of other people", others.mean.to(decoder.device), others.labels),
        row("the prior", prior.sample(count, seed=3).to(decoder.device)),
        row("a Gaussian with the data's moments", matched),
    ]


def sample_rows(
    trained: Trained,
    latents: Latents,
    test: Faces,
    judges: Judges,
    real: Judged,
    reconstructed: Judged,
    mean: Tensor,
) -> list[dict[str, Any]]:
    """The references, and a row for each way to sample."""
    conditional = trained.conditional
    decoder, count = conditional.decoder, len(test)
    rows = reference_rows(
        decoder, latents, test, judges, real, reconstructed, mean, conditional.prior
    )
    z = conditional.prior.sample(count, seed=3).to(decoder.device)
    started = time.monotonic()
    moved = trained.realism_actor(z)
    x = decode(decoder, moved)
    spent = cost(z, moved, started)
    rows.append(sample_row("realism alone", judges(x), None, real, reconstructed, **spent))
    started = time.monotonic()
    out = conditional.sample(count, y=test.labels, seed=3)
    spent = cost(z, out.z, started)
    name = f"conditional: {type(conditional.controller).__name__}"
    rows.append(sample_row(name, judges(out.x), test.labels, real, reconstructed, **spent))
    return rows


def edit_rows(
    trained: Trained,
    latents: Latents,
    test: Faces,
    judges: Judges,
    count: int,
    editors: Mapping[str, Controller] | None = None,
) -> tuple[list[dict[str, Any]], bytes]:
    """Flips every attribute of `count` faces, by controllers and by the vector they have to beat.

    Arguments:
        trained: What was trained.
        latents: Where the vector comes from.
        test: Faces to edit.
        judges: See the edits and never a latent.
        count: Number of faces.
        editors: Controllers by name; gentle ascent, and the paper's, if not given. The sheet is
            drawn of the first.
    """
    conditional = trained.conditional
    decoder, names = conditional.decoder, conditional.names
    x = test.pixels(slice(count)).to(decoder.device)
    z = encode(decoder, test)[: len(x)]
    before = judges(decode(decoder, z), identity=True)
    stays = torch.full((len(x), len(names)), torch.nan)
    requests = []
    for column in range(len(names)):
        y = stays.clone()
        y[:, column] = (before.probability[:, column] <= 0.5).float()
        requests.append(y)
    requested = torch.cat(requests)
    repeated = Judged(
        *(
            None if part is None else part.repeat(len(names), *[1] * (part.ndim - 1))
            for part in dataclasses.astuple(before)
        )
    )
    rows = []
    vectors = attribute_vectors(latents)
    signs = torch.where(torch.isnan(requested), 0.0, 2 * requested - 1)
    for strength in (1.0, 2.0):
        started = time.monotonic()
        origin = torch.cat([z] * len(names))
        moved = origin + strength * torch.einsum("bk,k...->b...", signs, vectors).to(z.device)
        images = decode(decoder, moved)
        spent = cost(origin, moved, started)
        rows.append(
            edit_row(
                f"attribute vector x{strength:g}",
                repeated,
                judges(images, identity=True),
                requested,
                evaluations=0,
                satisfied=None,
                **spent,
            )
        )
    ascents = {
        "gentle ascent, others held": Ascent.for_edits(trained.attributes),
        "the paper's ascent, others held": Ascent(trained.attributes, conditional.realism),
    }
    outcomes = []
    for name, controller in (editors or ascents).items():
        editor = latentctl.condition(decoder, trained.attributes, controller)
        started = time.monotonic()
        outcomes.append(editor.edit(x.repeat(len(names), 1, 1, 1), y=requested))
        outcome = outcomes[-1]
        rows.append(
            edit_row(
                name,
                repeated,
                judges(outcome.x, identity=True),
                requested,
                evaluations=outcome.evaluations.float().mean().item(),
                satisfied=outcome.satisfied.float().mean().item(),
                **cost(outcome.start, outcome.z, started),
            )
        )
    outcome = outcomes[0]
    shown = min(8, len(x))
    grid = outcome.x.view(len(names), len(x), *x.shape[1:])[:, :shown].transpose(0, 1)
    grid = torch.cat([decode(decoder, z[:shown])[:, None], grid.cpu()], dim=1)
    satisfied = outcome.satisfied.view(len(names), len(x))[:, :shown].T.cpu()
    marks = torch.cat([torch.full((shown, 1), torch.nan), satisfied.float()], dim=1)
    sheet = face_sheet(
        grid.clamp(0, 1),
        scale=1.5,
        row_labels=[""] * shown,
        column_labels=["as it is", *names],
        marked=marks,
    )
    return rows, sheet


def attribute_vectors(latents: Latents) -> Tensor:
    """Mean encoding with each attribute minus mean encoding without it, `(K, *latent_shape)`."""
    mean, labels = latents.mean, latents.labels
    if labels is None:
        return mean.new_empty(0, *mean.shape[1:])
    with_it, without = (
        torch.einsum("bk,b...->k...", holds / holds.sum(0).clamp_min(1), mean)
        for holds in ((labels > 0.5).float(), (labels <= 0.5).float())
    )
    return with_it - without


def table(
    rows: list[dict[str, Any]], columns: dict[str, str]
) -> tuple[list[str], list[list[object]]]:
    """Headings and cells, without columns in which nothing was measured."""
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    return [columns[key] for key in keys], [[row.get(key) for key in keys] for row in rows]
