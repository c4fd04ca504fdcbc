"""Edit one attribute of a face and hold the others: `accelerate launch recipes/edit_identity.py`.

Takes a pack, the decoder that it was made for, and faces. Each attribute of each face is flipped
from its value in the reconstruction, and every edit has a receipt: whether it is satisfied, the
leakage into held attributes, the shift of the latent, and whose probabilities these are.

    --pack DIR                                  from Conditional.save_pretrained
    --pretrained_model_name_or_path DIR_OR_ID   its decoder, a reference VAE
    --decoder FILE.py:FUNCTION                  or your own model
    --images DIR                                photographs of faces
    --train_data_dir DIR, --dataset_name NAME   or the test split of a data set; else drawn faces

    --attributes Smiling Male=1                 flip this one, and make all faces have that one
    --where "(Smiling & Eyeglasses) | ~Male"    satisfy a logical expression
    --from_examples DIR                         or what the images in DIR/with have and those in
                                                DIR/without lack; or pairs, in before and after
    --hold Male Young                           hold these alone; `all` or `none` of them
    --strength 0 0.5 1                          the same edits at several strengths
    --refine_with DIR ...                       refine edits on networks on pixels
    --evaluator DIR                             score them by another, independent network

In `--output_dir`: `report.html`, `edits.png`, a strip for each face in `faces/` and, of several
strengths, for each request in `strengths/`, `receipts.csv`, `receipts.json` and `config.json`. Each
edit is in `edited/`, with its receipt, and what made them is in `pack/`, for `latentctl verify`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from latentctl_adapters import embedded
from support.edit_identity.faces import PART, FaceFlags, learn, read_faces
from support.edit_identity.receipts import Edited, receipts, save_edits, write_receipts
from support.edit_identity.report import Sources, write_report
from support.faces import Faces, direction, reconstruct
from support.models import DecoderFlags, load_decoder, load_network
from support.run import OutputFlags, run, write_json
from torch import Tensor

import latentctl
from latentctl import Ascent, Conditional, PixelCritic
from latentctl.conditional import Outcome
from latentctl.critics import Critic
from latentctl.critics.expression import parse
from latentctl.errors import InputError, UnknownNameError
from latentctl.progress import track

HOLDS: dict[tuple[str, ...], bool | str] = {(): "untied", ("all",): True, ("none",): False}
VALUES = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}


@dataclass(kw_only=True)
class ModelFlags(DecoderFlags):
    """The models that edit and evaluate."""

    pack: str | None = None
    """A folder written by Conditional.save_pretrained; if not given, the pack of drawn faces that
    ships with the package."""
    controller: Literal["ascent", "paper", "pack"] = "ascent"
    """Ascent with a shift penalty, the paper's ascent, or the pack's own editor."""
    refine_with: tuple[str, ...] = ()
    """Folders of networks on pixels (PixelClassifier), on which edits are refined: slow, better."""
    evaluator: str | None = None
    """A folder of one that no edit ascends; receipts then have its scores, not the critic's."""


@dataclass
class EditFlags:
    """The requests."""

    attributes: tuple[str, ...] = ()
    """The attributes to change, one at a time; else all of the pack. `Smiling` flips it in each
    face, `Smiling=1` and `Smiling=0` ask for one value."""
    where: str | None = None  # An expression to satisfy, with & | ~ and parentheses.
    from_examples: str | None = None
    """A folder with `with/` and `without/`, or `before/` and `after/`, of an attribute to add."""
    hold: tuple[str, ...] = ()
    """The attributes to hold; `all` for all, `none` for none; if not given, those that are not tied
    to what is requested."""
    num_faces: int = 8  # Faces, the first ones of the folder or of the data set.
    strength: tuple[float, ...] = (1.0,)  # Shares of the move: 0 the reconstruction, 1 all of it.
    threshold: float | None = None
    """Probability with which a request must hold; the pack's own, or 0.8 with an evaluator."""


@dataclass(kw_only=True)
class Flags(OutputFlags):
    """Edit one attribute of a face and hold the others."""

    output_dir: str = "outputs/edit_identity"  # Folder of all results.
    model: ModelFlags
    edit: EditFlags = field(default_factory=EditFlags)
    data: FaceFlags = field(default_factory=FaceFlags)


@dataclass(frozen=True)
class Change:
    """An attribute to change, or, where `where` is given, an expression to satisfy."""

    name: str
    where: Critic | None = None
    value: bool | None = None
    """The value that is asked for; None flips the attribute."""
    expression: str | None = None
    """The text of `where`, if it was one."""

    @property
    def label(self) -> str:
        """The change in words."""
        if self.where is not None:
            return self.name
        return f"{self.name} flipped" if self.value is None else direction(self.name, self.value)


def read_requests(flags: EditFlags, data: FaceFlags, pack: Conditional, seed: int) -> list[Change]:
    """The requests of the flags."""
    if not flags.strength:
        raise InputError("--strength needs at least one value, such as 1.")
    other = flags.where is not None or flags.from_examples is not None
    requests = [read_change(text) for text in flags.attributes or (() if other else pack.names)]
    for name in (*(r.name for r in requests), *(() if flags.hold in HOLDS else flags.hold)):
        if name not in pack.names:
            raise UnknownNameError("attribute in the pack", name, pack.names)
    if flags.where is not None:
        if not pack.names:
            raise InputError("--where needs a pack with named attributes.")
        where = parse(flags.where, pack.critic)
        requests.append(Change(flags.where, where, expression=flags.where))
    if flags.from_examples is not None:
        learned = learn(Path(flags.from_examples), pack, data, seed)
        requests.append(Change(learned.names[0], learned))
    return requests


def read_change(text: str) -> Change:
    """The request of `NAME` or `NAME=VALUE`.

    Raises:
        InputError: If the value is neither yes nor no.
    """
    name, equals, word = text.partition("=")
    if not equals:
        return Change(name)
    if word.lower() not in VALUES:
        raise InputError(f"--attributes takes NAME, NAME=1 or NAME=0; found {text!r}.")
    return Change(name, value=VALUES[word.lower()])


@torch.no_grad()
def calibrate(evaluator: PixelCritic, decoder: latentctl.Decoder, faces: Faces) -> float:
    """Calibrates an evaluator on reconstructions; its accuracy on their labels after that."""
    x = reconstruct(faces.images, decoder, PART)
    evaluator.calibrate(x, faces.labels)
    predicted = evaluator.score_samples(x, batch_size=PART) > 0
    return (predicted == (faces.labels > 0.5)).float().mean().item()


def build_editor(
    flags: Flags, pack: Conditional, labelled: Faces | None
) -> tuple[Conditional, Sources]:
    """The conditional that edits, and a description of it for the report."""
    model, decoder = flags.model, pack.decoder
    folders = [Path(folder).resolve() for folder in model.refine_with]
    if model.evaluator is not None and Path(model.evaluator).resolve() in folders:
        raise InputError(
            f"The network at {model.evaluator} would both refine edits and evaluate them. An "
            f"evaluator must be independent of the edits: name another one with --evaluator."
        )
    refine_with = evaluator = accuracy = None
    if model.refine_with:
        networks = [load_network(folder, pack.names) for folder in model.refine_with]
        refine_with = PixelCritic(decoder, *networks, names=pack.names)
    if model.evaluator is not None:
        network = load_network(model.evaluator, pack.names)
        evaluator = PixelCritic(decoder, network, names=pack.names)
        if labelled is not None:
            accuracy = calibrate(evaluator, decoder, labelled)
    controllers = {
        "ascent": None,
        "paper": Ascent(pack.critic if pack.names else None, pack.realism),
        "pack": pack.editor,
    }
    threshold = flags.edit.threshold
    if threshold is None and evaluator is None:
        threshold = pack.threshold
    editor = latentctl.condition(
        decoder,
        pack.critic,
        editor=controllers[model.controller],
        refine_with=refine_with,
        evaluator=evaluator,
        realism=pack.realism if model.controller == "paper" else None,
        prior=pack.prior,
        threshold=threshold,
    )
    how = {
        "ascent": "gradient ascent with a shift penalty on the pack's critic",
        "paper": "the paper's gradient ascent on the pack's critics",
        "pack": f"the pack's own {type(pack.editor).__name__}",
    }
    count = 0 if labelled is None else len(labelled)
    sources = Sources(how[model.controller], model.refine_with, model.evaluator, count, accuracy)
    return editor, sources


@torch.no_grad()
def make(
    request: Change,
    editor: Conditional,
    x: Tensor,
    start: Outcome,
    flags: EditFlags,
    seed: int,
) -> Edited:
    """One request for every face at every strength."""
    where = request.where
    scored = where if where is None or editor.evaluator is None else where.of(editor.evaluator)

    def probability(out: Outcome) -> Tensor:
        if scored is None:
            return out.probability[:, editor.names.index(request.name)]
        return scored.score(out.z, batch_size=PART).sigmoid()[:, 0]

    before, target = probability(start), {}
    requested = torch.ones_like(before)
    if where is None:
        requested = (before <= 0.5).float() if request.value is None else requested * request.value
        target["y"] = torch.full_like(start.probability, torch.nan)
        target["y"][:, editor.names.index(request.name)] = requested
    outcomes = [
        editor.edit(
            x,
            where=request.expression or where,
            hold=HOLDS.get(flags.hold, flags.hold),
            strength=strength,
            seed=seed,
            **target,
        )
        for strength in flags.strength
    ]
    known = where is None or where.attributes <= set(editor.names)
    evaluated_by = "critic" if editor.evaluator is None or not known else "evaluator"
    after = [probability(out) for out in outcomes]
    name = request.name if where is None else None
    return Edited(request.label, name, requested, before, after, outcomes, evaluated_by)


def main(flags: Flags) -> Path | None:
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    accelerator = Accelerator()
    if not accelerator.is_main_process:  # it takes seconds: there is nothing to distribute
        return None
    folder, decoder = Path(flags.output_dir), load_decoder(flags.model)
    if flags.model.pack is None and decoder is not None:
        raise InputError("Name the --pack that was made for this decoder.")
    decoder = (decoder or embedded.decoder()).to(accelerator.device)
    if flags.model.pack is None:
        pack = embedded.pack()
    else:
        pack = Conditional.from_pretrained(flags.model.pack, decoder)
    requests = read_requests(flags.edit, flags.data, pack, flags.seed)
    labels = () if flags.model.evaluator is None else pack.names
    x, files, labelled = read_faces(flags.data, decoder, flags.edit.num_faces, labels, flags.seed)
    editor, sources = build_editor(flags, pack, labelled)
    start = editor.edit(x)  # nothing is requested: the reconstruction
    edits: list[Edited] = []
    rows: list[dict[str, Any]] = []
    for request in track(requests, "Edit", "request"):
        edits.append(make(request, editor, x, start, flags.edit, flags.seed))
        rows += receipts(files, edits[-1], flags.edit.strength, start)

    write_json(folder / "config.json", flags)
    write_receipts(folder, rows)
    editor.save_pretrained(folder / "pack")
    save_edits(folder, files, edits, flags.edit.strength)
    settings = dataclasses.asdict(flags)
    report = write_report(folder, settings, editor, sources, x, files, start, edits, rows)
    print(f"{len(rows)} edits of {len(files)} faces. The report is {report}.")
    return report


if __name__ == "__main__":
    run(main, Flags)
