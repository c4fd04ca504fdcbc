"""Flip one attribute at a time, hold all others: `accelerate launch recipes/edit_identity.py`.

Takes a pack, the decoder that it was made for, and faces. Each attribute of each face is flipped
from what the critic sees in its reconstruction, and every flip gets a receipt: whether it holds,
how far the attributes that should have stayed have moved, how far the latent went.

    --pack DIR                                  from Conditional.save_pretrained
    --pretrained_model_name_or_path DIR_OR_ID   its decoder, a reference VAE
    --decoder FILE.py:FUNCTION                  or your own model
    --images DIR                                photographs of faces
    --train_data_dir DIR, --dataset_name NAME   or the test split of a data set; else drawn faces

In `--output_dir`: `report.html`, `edits.png`, a strip for each face in `faces/`, `receipts.csv`,
`receipts.json` and `config.json`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from command import run
from edit_report import receipts, write_receipts, write_report
from face_data import DataFlags, SourceFlags, load_faces, read_images
from loading import load_decoder
from torch import Tensor

import latentctl
from latentctl import Ascent, Conditional, Outcome
from latentctl.errors import InputError, UnknownNameError


@dataclass
class ModelFlags:
    """What edits."""

    pack: str
    """A folder written by Conditional.save_pretrained."""
    pretrained_model_name_or_path: str | None = None
    """A folder or hub id of the reference VAE that it was made for."""
    revision: str | None = None
    """Its revision on the hub."""
    decoder: str | None = None
    """FILE.py:FUNCTION that returns the model that it was made for."""
    controller: Literal["ascent", "pack"] = "ascent"
    """Gradient ascent on the pack's critics, or the pack's own controller."""


@dataclass
class EditFlags:
    """What is asked for."""

    attributes: tuple[str, ...] = ()
    """The attributes to flip, one at a time; all of the pack if none is given."""
    num_faces: int = 8
    """Faces, the first ones of the folder or of the data set."""
    strength: float = 1.0
    """Share of each move: 0 is the reconstruction."""
    threshold: float | None = None
    """Probability with which a flip must hold; the pack's own if not given."""


@dataclass
class FaceFlags(SourceFlags):
    """Where the faces come from."""

    images: str | None = None
    """A folder of image files; comes before a data set."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What to do with a file in it that cannot be read."""


@dataclass
class Flags:
    """Flip one attribute at a time, hold all others."""

    model: ModelFlags
    edit: EditFlags = field(default_factory=EditFlags)
    data: FaceFlags = field(default_factory=FaceFlags)
    output_dir: str = "outputs/edit_identity"
    """Where everything goes."""
    seed: int = 0
    """Decides which faces are drawn, and the noise of a controller that uses any."""


def read_faces(flags: Flags, decoder: latentctl.Decoder) -> tuple[Tensor, list[str]]:
    """Faces as the decoder takes them, `(N, 3, h, w)`, and what each is called."""
    shape, count = decoder.sample_shape, flags.edit.num_faces
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise InputError(f"Faces are square and in colour; {decoder.name} has samples {shape}.")
    if count < 1:
        raise InputError(f"--num_faces is 1 or more, it was given as {count}.")
    if flags.data.images is not None:
        skip = flags.data.on_bad_sample == "skip"
        folder, crop = Path(flags.data.images), flags.data.center_crop
        images, names = read_images(folder, count, shape[1], crop, skip_bad=skip)
    else:
        source = {f.name: getattr(flags.data, f.name) for f in dataclasses.fields(SourceFlags)}
        limits: dict[str, Any] = {"max_train_samples": 0, "max_test_samples": count}
        data = DataFlags(**source, attributes=(), resolution=shape[1], **limits)
        images = load_faces(data, flags.seed)["test"].images
        names = [f"test_{row:05d}" for row in range(len(images))]
    low, high = decoder.value_range or (0.0, 1.0)
    return low + (high - low) * images.float() / 255, names


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
    wanted = flags.edit.attributes or pack.names
    for name in wanted:
        if name not in pack.names:
            raise UnknownNameError("attribute in the pack", name, pack.names)
    ascent = Ascent(pack.attributes, pack.realism)
    editor = latentctl.condition(
        decoder,
        pack.critic,
        ascent if model.controller == "ascent" else pack.controller,
        realism=pack.realism,
        prior=pack.prior,
        threshold=pack.threshold if flags.edit.threshold is None else flags.edit.threshold,
    )
    x, files = read_faces(flags, decoder)
    start = editor.edit(x)  # nothing is asked: the reconstruction
    outcomes: dict[str, Outcome] = {}
    rows: list[dict[str, Any]] = []
    for name in tqdm(wanted, desc="Edit", unit="attribute"):
        requested = (start.probability[:, pack.names.index(name)] <= 0.5).float()
        asked: dict[str, Any] = {name: requested}
        out = editor.edit(x, strength=flags.edit.strength, seed=flags.seed, **asked)
        outcomes[name] = out
        rows += receipts(files, name, requested, start.probability, out)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
    write_receipts(folder, rows)
    report = write_report(
        folder, dataclasses.asdict(flags), editor, x, files, start, outcomes, rows
    )
    print(f"{len(rows)} edits of {len(files)} faces. The report is {report}.")
    return report


if __name__ == "__main__":
    run(main, Flags)
