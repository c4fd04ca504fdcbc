"""The report of the main job: pictures, tables and costs of one run, in one file."""

from __future__ import annotations

__all__ = ["edit_rows", "reference_rows", "write_report"]

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from latentctl import Ascent, Gaussian, Latents
from latentctl.controllers import Controller, FlowEdit
from latentctl.decoder import Prior
from latentctl.evaluation import multilabel_scores

from ..face_evaluation import Judged, Judges, cost, decode, edit_row, encode, sample_row
from ..faces import Faces
from ..parts import Parts
from ..report import Report, face_sheet
from ..run import write_json
from .pictures import Pictures, Trained

EDITORS: dict[type[Controller], str] = {
    FlowEdit: "the flow, and an ascent",
    Ascent: "ascent with a shift penalty",
}
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
    "satisfied": "satisfied, by the receipt",
}


def write_report(
    folder: Path,
    settings: Mapping[str, Any],
    trained: Trained,
    latents: Latents,
    faces: dict[str, Faces],
    judges: Judges,
    parts: Parts,
) -> Path:
    """Evaluates, draws and writes `report.html`, its pictures and `results.json`.

    The `settings` are the flags of the run, by group.
    """
    conditional, test, count = trained.conditional, faces["test"], settings["num_edits"]
    decoder = conditional.decoder
    report = Report(
        "Attributes for a frozen decoder",
        f"{decoder.name}, latent {decoder.latent_shape}, {len(latents)} cached encodings, "
        f"{len(test)} held-out faces, seed {settings['run']['seed']}",
    )
    pictures = Pictures(folder, report)
    with parts("evaluate and draw"):
        report.section("Samples", "Each row starts from the same ten samples of the prior.")
        pictures.samples(trained)
        report.section(
            "One identity, one change at a time",
            "The same sample of the prior under a sequence of targets; each column changes one "
            "attribute of the column before it.",
        )
        pictures.walk(conditional)

        rows = sample_rows(trained, latents, test, judges)
        report.section(
            "Evaluation of samples",
            f"The attribute judge was trained on pixels alone. Its accuracy is "
            f"{rows[0]['accuracy']:.3f} and its macro F1 {rows[0]['f1']:.3f} on the real faces, "
            f"{rows[1]['accuracy']:.3f} and {rows[1]['f1']:.3f} on their reconstructions; these "
            f"limit the scores of samples. Precision, recall, density and coverage are against "
            f"the reconstructions. Reconstructions show the very faces of the reference set; the "
            f"row of other people is what a perfect sampler would reach.",
        )
        report.table(*table(rows, SAMPLE_COLUMNS))

        critic = "trained on labels and networks on pixels, none of which is the judge"
        receipt = "an evaluator that no edit follows" if conditional.evaluator else "the critic"
        if settings["teach"]["teachers"] == 0:
            critic = "trained on the labels of encodings"
        report.section(
            "Edits of held-out faces",
            f"Each attribute of {min(count, len(test))} faces is flipped, one at a time, from the "
            f"judge's value for the reconstruction. Success: share of edits in which the judge "
            f"finds the flip. Leakage: share of the other attributes whose value changes for the "
            f"judge. Identity: cosine of the {judges.identity_name} to the reconstruction. All "
            f"attributes that are not requested are held. The critic whose gradient edits follow "
            f"was {critic}. Receipts are those of {receipt}.",
        )
        edits, sheet = edit_rows(trained, latents, test, judges, count)
        report.table(*table(edits, EDIT_COLUMNS))
        pictures.add(
            "edits.png",
            sheet,
            "Held-out faces: the reconstruction, then one flip a column, with its direction below. "
            "A green frame: satisfied, by the receipt. A red frame: not satisfied.",
        )
        if settings["data"]["train_data_dir"] is None and settings["data"]["dataset_name"] is None:
            pictures.truth(trained, settings["run"]["seed"])
        report.section("Training")
        pictures.curves()
    report.section("Cost")
    report.table(["part", "seconds"], [[k, round(v, 1)] for k, v in parts.seconds.items()])
    report.settings(settings)
    results = {"samples": rows, "edits": edits, "seconds": parts.seconds}
    write_json(folder / "results.json", results)
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
    """Baselines and upper bounds for samples; as many of each as held-out faces."""
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
    trained: Trained, latents: Latents, test: Faces, judges: Judges
) -> list[dict[str, Any]]:
    """The references, and a row for each way to sample."""
    conditional = trained.conditional
    decoder, prior, count = conditional.decoder, conditional.prior, len(test)
    real, mean = judges(test.pixels()), encode(decoder, test)
    reconstructed = judges(decode(decoder, mean))
    rows = reference_rows(decoder, latents, test, judges, real, reconstructed, mean, prior)
    z = prior.sample(count, seed=3).to(decoder.device)
    if trained.realism_actor is not None:
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
    """Flips every attribute of `count` faces, by controllers and by attribute vectors.

    The attribute vectors are those of `latents`. The `editors` are controllers by name, by default
    the editor of the pack and two kinds of ascent; the sheet shows the edits of the first.
    """
    conditional, rows = trained.conditional, []
    decoder, names = conditional.decoder, conditional.names
    x = test.pixels(slice(count)).to(decoder.device)
    z = encode(decoder, test)[: len(x)]
    before = judges(decode(decoder, z), identity=True)
    requested = torch.full((len(names), len(x), len(names)), torch.nan)
    for column in range(len(names)):
        requested[column, :, column] = (before.probability[:, column] <= 0.5).float()
    requested = requested.flatten(0, 1)
    parts = (getattr(before, field.name) for field in dataclasses.fields(Judged))
    repeated = Judged(
        *(None if p is None else p.repeat(len(names), *[1] * (p.ndim - 1)) for p in parts)
    )

    def add(name: str, images: Tensor, **more: Any) -> None:
        after = judges(images, identity=True)
        rows.append(edit_row(name, repeated, after, requested, **more))

    vectors = attribute_vectors(latents)
    signs = torch.where(torch.isnan(requested), 0.0, 2 * requested - 1)
    for strength in (1.0, 2.0):
        started = time.monotonic()
        origin = torch.cat([z] * len(names))
        moved = origin + strength * torch.einsum("bk,k...->b...", signs, vectors).to(z.device)
        images = decode(decoder, moved)
        spent = cost(origin, moved, started)
        add(f"attribute vector x{strength:g}", images, evaluations=0, satisfied=None, **spent)
    kind = type(conditional.editor)
    ascents = {
        EDITORS.get(kind, kind.__name__): conditional.editor,
        EDITORS[Ascent]: Ascent.for_edits(trained.attributes),
        "the paper's ascent": Ascent(trained.attributes, conditional.realism),
    }
    outcomes = []
    for name, controller in (editors or ascents).items():
        editor = latentctl.condition(
            decoder, trained.attributes, editor=controller, evaluator=conditional.evaluator
        )
        started = time.monotonic()
        out = editor.edit(x.repeat(len(names), 1, 1, 1), y=requested)
        spent = cost(out.start, out.z, started)
        spent["evaluations"] = out.evaluations.float().mean().item()
        add(name, out.x, satisfied=out.satisfied.float().mean().item(), **spent)
        outcomes.append(out)
    shown, first = min(8, len(x)), outcomes[0]
    edited = first.x.view(len(names), len(x), *x.shape[1:])[:, :shown].transpose(0, 1).cpu()
    asked = (before.probability[:shown] <= 0.5).tolist()
    satisfied = first.satisfied.view(len(names), len(x))[:, :shown].T.cpu()
    sheet = face_sheet(
        torch.cat([decode(decoder, z[:shown])[:, None], edited], dim=1).clamp(0, 1),
        scale=1.5,
        column_labels=["reconstruction", *names],
        marked=torch.cat([torch.full((shown, 1), torch.nan), satisfied.float()], dim=1),
        notes=[["", *("→ yes" if value else "→ no" for value in row)] for row in asked],
    )
    return rows, sheet


def attribute_vectors(latents: Latents) -> Tensor:
    """Mean encoding with each attribute minus mean encoding without it, `(K, *latent_shape)`."""
    mean, labels = latents.mean, latents.labels
    if labels is None:
        return mean.new_empty(0, *mean.shape[1:])
    present, absent = (
        torch.einsum("bk,b...->k...", holds / holds.sum(0).clamp_min(1), mean)
        for holds in ((labels > 0.5).float(), (labels <= 0.5).float())
    )
    return present - absent


def table(
    rows: list[dict[str, Any]], columns: dict[str, str]
) -> tuple[list[str], list[list[object]]]:
    """Headings and cells, without columns that have no value."""
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    return [columns[key] for key in keys], [[row.get(key) for key in keys] for row in rows]
