r"""Attributes and rules for a diffusion pipeline: `accelerate launch recipes/steer_pipeline.py`.

The pipeline stays as it is: what is searched is the noise that it starts from. A network is
followed by ascent through the sampler, on the sphere of the noise; a rule, which has no gradient,
by drawing candidates. With `--images`, real inputs are edited: their noise is found by the inverse
of the sampler's steps, and moved by the same ascent.

    --pretrained_model_name_or_path DIR_OR_ID   a pipeline of diffusers
    --decoder FILE.py:FUNCTION                  or your own, as latentctl.wrap returns it
    --vae FILE.py:FUNCTION                      an autoencoder in place of the pipeline's own
    --condition "a portrait" --guidance 4       what every sample is generated for

    --networks DIR ...                          PixelClassifiers of the attributes
    --scorer FILE.py:FUNCTION                   or a network with `names`, x in [0, 1] to log-odds
    --rule FILE.py:FUNCTION                     or a function of samples in [0, 1] to 0 or 1 each
    --evaluator DIR                             a PixelClassifier that nothing follows

    --attributes Smiling Male=0                 one request each; all attributes if not given
    --images DIR                                inputs to edit, as in edit_identity.py

In `--output_dir`: `samples/` and `edits/` with a picture and its receipt for each request,
`results.json`, `report.html` and `config.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from edit_identity import read_change
from support.faces import direction
from support.models import load_network
from support.report import Report
from support.run import OutputFlags, run, write_json
from torch import Tensor, nn

import latentctl
from latentctl import Conditional, Decoder, PixelCritic
from latentctl.cli import load_function
from latentctl.conditional import Outcome
from latentctl.controllers import Rejection
from latentctl.critics import prior_labels
from latentctl.critics.ties import ties_in
from latentctl.decoder import read_samples
from latentctl.errors import InputError, UnknownNameError
from latentctl.latents import shared_pattern, typicality
from latentctl.progress import track

TYPICAL = 0.01  # p-value
TIED = 300  # samples in whose labels the ties of attributes are found
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass
class PipelineFlags:
    """The pipeline."""

    pretrained_model_name_or_path: str | None = None  # A folder or an id on the hub.
    decoder: str | None = None  # Or FILE.py:FUNCTION that returns a Decoder.
    vae: str | None = None  # FILE.py:FUNCTION that returns an autoencoder or a Decoder of grids.
    steps: int = 4  # Steps of the scheduler.
    condition: str | None = None  # A prompt, the same for all samples.
    guidance: float = 1.0  # Scale of classifier-free guidance.


@dataclass
class ScorerFlags:
    """What is asked for, and who judges it."""

    networks: tuple[str, ...] = ()  # Folders of PixelClassifiers.
    scorer: str | None = None  # FILE.py:FUNCTION that returns a network with `names`.
    rule: str | None = None  # FILE.py:FUNCTION of samples `(B, C, h, w)` to `(B,)`.
    evaluator: str | None = None  # Folder of a PixelClassifier that nothing follows.


@dataclass
class SteerFlags:
    """The requests."""

    attributes: tuple[str, ...] = ()  # NAME, NAME=1 or NAME=0; one request each.
    count: int = 16  # Samples of each request.
    candidates: int = 64  # Most candidates of a sample, for a rule.
    images: str | None = None  # A folder of pictures to edit.
    num_images: int = 8  # How many of them.


@dataclass
class Flags(OutputFlags):
    """Attributes and rules for a diffusion pipeline."""

    output_dir: str = "outputs/steer_pipeline"  # Folder of all results.
    pipeline: PipelineFlags = field(default_factory=PipelineFlags)
    scorer: ScorerFlags = field(default_factory=ScorerFlags)
    steer: SteerFlags = field(default_factory=SteerFlags)


class Rule(nn.Module):
    """A function of samples as a network: its probabilities are 0 and 1, or what it returns."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.names = function, (function.__name__,)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.function(x)).float().to(x.device).reshape(len(x), 1)


def load_pipeline(flags: PipelineFlags) -> Decoder:
    if bool(flags.decoder) == bool(flags.pretrained_model_name_or_path):
        raise InputError("Name one of --pretrained_model_name_or_path and --decoder.")
    if flags.decoder:
        found = load_function(flags.decoder, "--decoder")()
        return found if isinstance(found, Decoder) else latentctl.wrap(found, steps=flags.steps)
    options: dict[str, Any] = {"condition": flags.condition, "guidance": flags.guidance}
    if flags.vae:
        options["vae"] = load_function(flags.vae, "--vae")()
    where = {"pretrained_model_name_or_path": flags.pretrained_model_name_or_path}
    return latentctl.load("diffusers-pipeline", **where, steps=flags.steps, **options)


def load_critic(flags: ScorerFlags, decoder: Decoder) -> PixelCritic:
    given = [name for name in ("networks", "scorer", "rule") if getattr(flags, name)]
    if len(given) != 1:
        raise InputError(f"Name one of --networks, --scorer and --rule; found {given or 'none'}.")
    if flags.rule:
        rule = Rule(load_function(flags.rule, "--rule"))
        return PixelCritic(decoder, rule, probabilities=True)
    if flags.scorer:
        return PixelCritic(decoder, load_function(flags.scorer, "--scorer")())
    return PixelCritic(decoder, *(load_network(folder) for folder in flags.networks))


def conditional(flags: Flags, decoder: Decoder) -> Conditional:
    """The pipeline with its critic, by the default controllers where there is a gradient."""
    critic = load_critic(flags.scorer, decoder)
    evaluator = None
    if flags.scorer.evaluator:
        network = load_network(flags.scorer.evaluator, critic.names)
        evaluator = PixelCritic(decoder, network, names=critic.names)
    if flags.steer.images and len(critic.names) > 1:  # what excludes each other is not held
        critic.ties = ties_in(prior_labels(critic, TIED, seed=flags.seed), critic)
    draw = None
    if flags.scorer.rule or not decoder.differentiable:
        draw = Rejection(critic, candidates=flags.steer.candidates)
    return latentctl.condition(decoder, critic, draw, evaluator=evaluator)


def row(what: str, out: Outcome, asked: bool = True) -> list[Any]:
    """A row of the table of results."""
    return [
        *(what, out.satisfied.float().mean().item() if asked else None),
        out.evaluations.float().mean().item(),
        torch.pdist(out.x.flatten(1)).mean().item() if len(out) > 1 else None,
        (typicality(out.z) >= TYPICAL).float().mean().item(),
        shared_pattern(out.z),
    ]


COLUMNS = ("request", "satisfied", "evaluations", "diversity", "typical", "shared pattern, p")


def main(flags: Flags) -> Path:
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    folder, decoder = Path(flags.output_dir), load_pipeline(flags.pipeline)
    steered = conditional(flags, decoder)
    changes = [read_change(text) for text in flags.steer.attributes or steered.names]
    for change in changes:
        if change.name not in steered.names:
            raise UnknownNameError("attribute", change.name, steered.names)
    seed, count = flags.seed, flags.steer.count
    plain = steered.sample(count, seed=seed, strength=0)
    pictures = {"samples/plain": ("Samples of the pipeline", plain)}
    rows = [row("samples of the pipeline", plain, asked=False)]
    x = _inputs(flags.steer, decoder)
    if x is not None:
        pictures["edits/inputs"] = ("Inputs, reconstructed", steered.edit(x))
    for change in track(changes, "Steer", "request"):
        value = change.value is not False
        words = direction(change.name, value)
        out = steered.sample(count, seed=seed, **{change.name: value})
        pictures[f"samples/{words}"] = (f"{words}: samples", out)
        rows.append(row(f"{words}: samples", out))
        if x is not None:
            out = steered.edit(x, **{change.name: value})
            pictures[f"edits/{words}"] = (f"{words}: edits", out)
            rows.append(row(f"{words}: edits", out))
    for name, (_, out) in pictures.items():
        out.save(folder / f"{name}.png")
    results = [dict(zip(COLUMNS, values, strict=True)) for values in rows]
    write_json(folder / "config.json", flags)
    write_json(folder / "results.json", results)
    return _report(flags, folder, steered, pictures, rows)


def _inputs(flags: SteerFlags, decoder: Decoder) -> Tensor | None:
    """Samples of the first pictures in the folder, which have the decoder's size."""
    if flags.images is None:
        return None
    folder = Path(flags.images)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"--images {folder} holds none of {', '.join(PICTURES)}.")
    return read_samples(files[: flags.num_images], decoder)


def _report(
    flags: Flags,
    folder: Path,
    steered: Conditional,
    pictures: dict[str, tuple[str, Outcome]],
    rows: Sequence[Sequence[Any]],
) -> Path:
    report = Report("A pipeline, steered", repr(steered.decoder))
    judge = "an independent network" if steered.evaluator is not None else "what was followed"
    report.section(
        "Results",
        f"Satisfied by {judge}. Diversity is the mean distance of two samples. Typical is the "
        f"share of noises with a p-value of at least {TYPICAL} under N(0, I). A small p of a "
        f"shared pattern says that the noises of a request resemble one another.",
    )
    report.table(COLUMNS, rows)
    for name, (caption, _) in pictures.items():
        report.picture(folder / f"{name}.png", caption)
    report.settings(dataclasses.asdict(flags))
    path = report.save(folder / "report.html")
    print(f"{len(rows)} rows of results. The report is {path}.")
    return path


if __name__ == "__main__":
    run(main, Flags)
