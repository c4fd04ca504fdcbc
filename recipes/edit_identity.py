"""Change one thing about a face and hold the rest: `accelerate launch recipes/edit_identity.py`.

Takes a pack, the decoder that it was made for, and faces. Each attribute of each face is flipped
from what is seen in its reconstruction, and every flip gets a receipt: whether it holds, how far
the attributes that should have stayed have moved, how far the latent went, and who says so.

    --pack DIR                                  from Conditional.save_pretrained
    --pretrained_model_name_or_path DIR_OR_ID   its decoder, a reference VAE
    --decoder FILE.py:FUNCTION                  or your own model
    --images DIR                                photographs of faces
    --train_data_dir DIR, --dataset_name NAME   or the test split of a data set; else drawn faces

    --where "(Smiling & Eyeglasses) | ~Male"    ask for a logical expression
    --from_examples DIR                         or for what the images in DIR/with have and those in
                                                DIR/without lack; or pairs, in before and after
    --hold Male Young                           hold these alone; `--hold none` holds nothing
    --strength 0 0.5 1                          the same edits at several strengths
    --teacher DIR ...                           refine edits on networks on pixels
    --audit DIR                                 and let another one, which no edit climbs, sign

In `--output_dir`: `report.html`, `edits.png`, a strip for each face in `faces/` and, of several
strengths, for each request in `strengths/`, `receipts.csv`, `receipts.json` and `config.json`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from support.edit_identity.examples import learn
from support.edit_identity.faces import PART, FaceFlags, read_faces
from support.edit_identity.receipts import Edited, receipts, write_receipts
from support.edit_identity.report import Sources, write_report
from support.faces import Faces, as_samples
from support.models import load_decoder, load_networks
from support.run import run
from torch import Tensor

import latentctl
from latentctl import Ascent, Conditional, PixelCritic
from latentctl.conditional import Outcome
from latentctl.critics import Critic
from latentctl.critics.expression import parse
from latentctl.errors import InputError, UnknownNameError


@dataclass
class ModelFlags:
    """What edits, and who signs."""

    pack: str
    """A folder written by Conditional.save_pretrained."""
    pretrained_model_name_or_path: str | None = None
    """A folder or hub id of the reference VAE that it was made for."""
    revision: str | None = None
    """Its revision on the hub."""
    decoder: str | None = None
    """FILE.py:FUNCTION that returns the model that it was made for."""
    controller: Literal["ascent", "paper", "pack"] = "ascent"
    """Gentle ascent on the pack's critic; the ascent of the paper; or what the pack edits with."""
    teacher: tuple[str, ...] = ()
    """Folders of networks on pixels (PixelClassifier), on which edits are refined: slow, better."""
    evaluator: str | None = None
    """A folder of one that no edit climbs: receipts are its word, and not the critic's own."""


@dataclass
class EditFlags:
    """What is asked for."""

    attributes: tuple[str, ...] = ()
    """The attributes to flip, one at a time; all of the pack if nothing is asked."""
    where: str | None = None
    """A logical expression over attributes to satisfy, with & | ~ and parentheses."""
    from_examples: str | None = None
    """A folder with `with/` and `without/`, or `before/` and `after/`: what they show is put on."""
    hold: tuple[str, ...] = ()
    """The attributes to hold; all that are not asked for if none is given, `none` for none."""
    num_faces: int = 8
    """Faces, the first ones of the folder or of the data set."""
    strength: tuple[float, ...] = (1.0,)
    """Share of each move, one or several: 0 is the reconstruction, 1 the whole move."""
    threshold: float | None = None
    """Probability with which a request must hold; the pack's own, or 0.8 with an evaluator."""


@dataclass
class Flags:
    """Change one thing about a face and hold the rest."""

    model: ModelFlags
    edit: EditFlags = field(default_factory=EditFlags)
    data: FaceFlags = field(default_factory=FaceFlags)
    output_dir: str = "outputs/edit_identity"
    """Where everything goes."""
    seed: int = 0
    """Decides which faces are drawn, and the noise of a controller that uses any."""


@dataclass(frozen=True)
class Request:
    """An attribute to flip, or, where `where` is given, an expression to satisfy."""

    label: str
    hold: bool | list[str]
    where: Critic | None = None


def read_requests(flags: EditFlags, data: FaceFlags, pack: Conditional, seed: int) -> list[Request]:
    """What the flags ask for; whatever is asked is not held."""
    for name in (*flags.attributes, *(() if flags.hold == ("none",) else flags.hold)):
        if name not in pack.names:
            raise UnknownNameError("attribute in the pack", name, pack.names)
    if not flags.strength:
        raise InputError("--strength needs at least one value, such as 1.")

    def hold(asked: frozenset[str]) -> bool | list[str]:
        names = [name for name in flags.hold if name not in asked]
        return names if flags.hold and flags.hold != ("none",) else not flags.hold

    other = flags.where is not None or flags.from_examples is not None
    wanted = flags.attributes or (() if other else pack.names)
    requests = [Request(name, hold(frozenset({name}))) for name in wanted]
    if flags.where is not None:
        if pack.attributes is None:
            raise InputError("--where needs a pack with named attributes.")
        where = parse(flags.where, pack.attributes)
        requests.append(Request(flags.where, hold(where.attributes), where))
    if flags.from_examples is not None:
        learned = learn(Path(flags.from_examples), pack, data, seed)
        (name,) = learned.attributes
        requests.append(Request(name, hold(learned.attributes), learned))
    return requests


@torch.no_grad()
def calibrated(evaluator: PixelCritic, decoder: latentctl.Decoder, faces: Faces) -> float:
    """Calibrates an evaluator on reconstructions; the share of labels on which it then agrees."""
    parts = as_samples(faces.images, decoder).split(PART)
    x = torch.cat([decoder.decode(decoder.encode(part).mean) for part in parts])
    evaluator.calibrate(x, faces.labels)
    said = torch.cat([evaluator.of_samples(part) for part in x.split(PART)]).cpu() > 0
    return (said == (faces.labels > 0.5)).float().mean().item()


def build_editor(
    flags: Flags, pack: Conditional, labelled: Faces | None
) -> tuple[Conditional, Sources]:
    """What edits, and what is to be said of it."""
    model, decoder = flags.model, pack.decoder
    folders = [Path(folder).resolve() for folder in model.teacher]
    if model.evaluator is not None and Path(model.evaluator).resolve() in folders:
        raise InputError(
            f"The network at {model.evaluator} is to refine edits and to audit them. What was climbed "
            f"on is no outside judge: name another one by --audit."
        )
    teacher = audit = agreement = None
    if model.teacher:
        teacher = PixelCritic(decoder, *load_networks(model.teacher, pack.names))
    if model.evaluator is not None:
        audit = PixelCritic(decoder, *load_networks([model.evaluator], pack.names))
        if labelled is not None:
            agreement = calibrated(audit, decoder, labelled)
    controllers = {
        "ascent": None,
        "paper": Ascent(pack.attributes, pack.realism),
        "pack": pack.editor,
    }
    threshold = flags.edit.threshold
    if threshold is None and audit is None:
        threshold = pack.threshold
    editor = latentctl.condition(
        decoder,
        pack.critic,
        controllers[model.controller],
        teacher=teacher,
        evaluator=audit,
        realism=pack.realism if model.controller == "paper" else None,
        prior=pack.prior,
        threshold=threshold,
    )
    how = {
        "ascent": "gentle gradient ascent on the pack's critic",
        "paper": "the paper's gradient ascent on the pack's critics",
        "pack": f"the pack's own {type(pack.editor).__name__}",
    }
    count = 0 if labelled is None else len(labelled)
    return editor, Sources(how[model.controller], model.teacher, model.evaluator, count, agreement)


@torch.no_grad()
def make(
    request: Request, editor: Conditional, x: Tensor, start: Outcome, flags: EditFlags, seed: int
) -> Edited:
    """One request of every face at every strength."""
    where = request.where
    said = where if where is None or editor.evaluator is None else where.of(editor.evaluator)

    def seen(out: Outcome) -> Tensor:
        if said is None:
            return out.probability[:, editor.names.index(request.label)]
        return torch.cat([said.probability(part) for part in out.z.split(PART)])

    before, asked = seen(start), {}
    requested = torch.ones_like(before)
    if where is None:
        requested = (before <= 0.5).float()
        asked["y"] = torch.full_like(start.probability, torch.nan)
        asked["y"][:, editor.names.index(request.label)] = requested
    outcomes = [
        editor.edit(x, where=where, hold=request.hold, strength=strength, seed=seed, **asked)
        for strength in flags.strength
    ]
    known = where is None or where.attributes <= set(editor.names)
    signed_by = "critic" if editor.evaluator is None or not known else "evaluator"
    after = [seen(out) for out in outcomes]
    return Edited(request.label, requested, before, after, outcomes, signed_by)


def main(flags: Flags) -> Path | None:
    from accelerate import Accelerator
    from accelerate.utils import tqdm

    logging.basicConfig(format="%(message)s")
    accelerator = Accelerator()
    if not accelerator.is_main_process:  # seconds of work: nothing to share out
        return None
    model, folder = flags.model, Path(flags.output_dir)
    decoder = load_decoder(model.decoder, model.pretrained_model_name_or_path, model.revision)
    if decoder is None:
        raise InputError(
            "A pack holds no decoder. Name the one that it was made for by "
            "--pretrained_model_name_or_path or --decoder."
        )
    decoder.to(accelerator.device)
    pack = Conditional.from_pretrained(model.pack, decoder)
    requests = read_requests(flags.edit, flags.data, pack, flags.seed)
    labels = () if model.evaluator is None else pack.names
    x, files, labelled = read_faces(flags.data, decoder, flags.edit.num_faces, labels, flags.seed)
    editor, sources = build_editor(flags, pack, labelled)
    start = editor.edit(x)  # nothing is asked: the reconstruction
    edits: list[Edited] = []
    rows: list[dict[str, Any]] = []
    for request in tqdm(requests, desc="Edit", unit="request"):
        edits.append(make(request, editor, x, start, flags.edit, flags.seed))
        rows += receipts(files, edits[-1], flags.edit.strength, start)

    folder.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.asdict(flags)
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    write_receipts(folder, rows)
    report = write_report(folder, settings, editor, sources, x, files, start, edits, rows)
    print(f"{len(rows)} edits of {len(files)} faces. The report is {report}.")
    return report


if __name__ == "__main__":
    run(main, Flags)
